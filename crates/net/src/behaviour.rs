//! The node's part in libp2p's swarm: which connections are let in, and what they report.

use crate::address;
use crate::handler::{Handler, HandlerEvent};
use crate::links::{Links, Unwanted};
use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::{
    CloseConnection, ConnectionClosed, ConnectionDenied, ConnectionId, DialFailure, FromSwarm, ListenFailure, NetworkBehaviour,
    THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Lets connections in within the bounds, and passes on what they report.
pub(crate) struct Behaviour {
    links: Arc<Links>,
    pending_inbound: HashMap<ConnectionId, Option<IpAddr>>,
    pending_outbound: HashSet<ConnectionId>,
    /// Connections closed for their silence.
    silent: HashSet<ConnectionId>,
    reports: VecDeque<ToSwarm<Report, std::convert::Infallible>>,
    waker: Option<Waker>,
}

/// What a connection reported.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) peer: PeerId,
    pub(crate) event: HandlerEvent,
}

impl Behaviour {
    pub(crate) fn new(links: Arc<Links>) -> Self {
        Self {
            links,
            pending_inbound: HashMap::new(),
            pending_outbound: HashSet::new(),
            silent: HashSet::new(),
            reports: VecDeque::new(),
            waker: None,
        }
    }

    /// Whether a connection that has ended was ended for its silence. Asked once.
    pub(crate) fn take_silent(&mut self, id: ConnectionId) -> bool {
        self.silent.remove(&id)
    }

    fn established(
        &mut self,
        id: ConnectionId,
        peer: &PeerId,
        remote: &Multiaddr,
        outbound: bool,
    ) -> Result<Handler, ConnectionDenied> {
        self.pending_inbound.remove(&id);
        self.pending_outbound.remove(&id);
        let end = self.links.add(id, peer, remote, outbound).map_err(ConnectionDenied::new)?;
        Ok(Handler::new(self.links.clone(), end))
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Report;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let limits = &self.links.limits;
        let ip = address::ip_addr(remote);
        let of_same = self.pending_inbound.values().filter(|other| **other == ip).count();
        let full = self.pending_inbound.len() >= limits.pending_inbound_max || self.links.is_flooded();
        if full || of_same >= limits.pending_inbound_per_address_max {
            return Err(ConnectionDenied::new(Unwanted::TooManyPending));
        }
        self.pending_inbound.insert(id, ip);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.established(id, &peer, remote, false)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        _: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if self.pending_outbound.len() >= self.links.limits.pending_outbound_max {
            return Err(ConnectionDenied::new(Unwanted::TooManyPending));
        }
        self.pending_outbound.insert(id);
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.established(id, &peer, remote, true)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                self.links.remove(connection_id, &peer_id);
            }
            FromSwarm::DialFailure(DialFailure { connection_id, .. }) => {
                self.pending_outbound.remove(&connection_id);
            }
            FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.pending_inbound.remove(&connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.reports.push_back(match event {
            HandlerEvent::Silent => {
                self.silent.insert(id);
                ToSwarm::CloseConnection { peer_id: peer, connection: CloseConnection::One(id) }
            }
            event @ HandlerEvent::Inbound { .. } => ToSwarm::GenerateEvent(Report { peer, event }),
        });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.reports.pop_front() {
            Some(report) => Poll::Ready(report),
            None => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
