//! The greeting: both sides say who they are, each judges the other, both learn the verdict.

use super::{Budget, Input, Link, LinkId, Moment, Output, Peer, PeerEvent, Phase};
use crate::directory::DirectoryRecord;
use crate::message::{Hello, Message, RefusedReason, Standing};
use backmesh_format::{DecodeError, NodeId};
use std::collections::BTreeSet;

/// Links to one node at a time: two that dialed each other at once.
const LINKS_PER_NODE_MAX: usize = 2;

impl Peer {
    pub(super) fn connected_to(&mut self, now: Moment, link: LinkId, node: NodeId, address: String, outbound: bool) {
        let at = now.monotonic_ms;
        let targets = if outbound { self.dialer.reached(&node, &address, at, &self.config, &mut self.dice) } else { Vec::new() };
        self.links.insert(
            link,
            Link {
                node,
                targets,
                outbound,
                opened_at: at,
                phase: Phase::Greeting,
                thinks: None,
                next_sync_at: at,
                quiet_ms: self.config.quiet_ms.0,
                progress: false,
                cursor: 0,
                asked: BTreeSet::new(),
                outbox: Vec::new(),
                offences: 0,
                messages: Budget::new(4_000, 400, at),
                verifications: Budget::new(40_000, 1_000, at),
                bytes_out: Budget::new(8 << 20, 4 << 20, at),
                relays: Budget::new(256, 4, at),
            },
        );
        self.replace_oldest(now, node);
        if self.links.len() > self.config.links_max {
            self.refuse(now, link, RefusedReason::Busy, "enough connections are open");
            return;
        }
        let hello = Hello {
            program: self.config.program.clone(),
            workgroup: self.directory.workgroup(),
            certificate: self.directory.own_certificate().cloned(),
            admissions: self.directory.own_admissions(),
            charter: Some(self.directory.charter().clone()),
            observed: address,
        };
        self.send(link, Message::Hello(Box::new(hello)));
    }

    /// A node that comes again has lost its links, if it does not know yet that the other side still has them: the newest count.
    fn replace_oldest(&mut self, now: Moment, node: NodeId) {
        let of_node: Vec<LinkId> = self.links.iter().filter(|(_, known)| known.node == node).map(|(id, _)| *id).collect();
        if of_node.len() > LINKS_PER_NODE_MAX {
            self.outputs.push_back(Output::Close { link: of_node[0] });
            self.drop_link(now, of_node[0]);
        }
    }

    pub(super) fn message(&mut self, now: Moment, link: LinkId, message: Message) {
        let Some(known) = self.links.get_mut(&link) else { return };
        if !known.messages.take(1, now.monotonic_ms) {
            // What is not answered now is found again by the next comparison.
            return;
        }
        match (known.phase, message) {
            (Phase::Greeting, Message::Hello(hello)) => self.hello(now, link, *hello),
            (Phase::Member, Message::Welcome { standing }) => self.welcome(link, standing),
            (_, Message::Refused { reason, text }) => self.refused(now, link, reason, text),
            (Phase::Member, message) => self.exchange(now, link, message),
            _ => self.refuse(now, link, RefusedReason::Protocol, "the message does not belong here"),
        }
    }

    fn hello(&mut self, now: Moment, link: LinkId, hello: Hello) {
        let Some(node) = self.links.get(&link).map(|known| known.node) else { return };
        if !hello.observed.is_empty() {
            self.outputs.push_back(Output::Report(PeerEvent::Observed { address: hello.observed }));
        }
        if hello.workgroup != self.directory.workgroup() {
            return self.refuse(now, link, RefusedReason::OtherWorkgroup, RefusedReason::OtherWorkgroup.advice());
        }
        let Some(certificate) = hello.certificate else { return self.greet_guest(now, link) };
        if certificate.node != node || node == self.me {
            return self.refuse(now, link, RefusedReason::Certificate, RefusedReason::Certificate.advice());
        }
        let mut records = vec![DirectoryRecord::Certificate(Box::new(certificate))];
        records.extend(hello.charter.map(|charter| DirectoryRecord::Charter(Box::new(charter))));
        records.extend(hello.admissions.into_iter().map(|admission| DirectoryRecord::Admission(Box::new(admission))));
        self.directory.merge(records, now.unix_ms);
        match self.directory.judge(&node, now.unix_ms) {
            Ok(standing) => self.greet_member(now, link, node, standing),
            Err(reason) if self.is_newcomer(link, reason) => {
                // Whom this node may believe is for its invitation to say; it is not the other who has to do something.
                self.refuse(now, link, RefusedReason::Unvouched, RefusedReason::Unvouched.advice());
            }
            Err(reason) => self.refuse(now, link, reason, reason.advice()),
        }
    }

    /// Whether it is for want of knowing anybody that this node cannot judge the other. A founder knows nobody either, but it is the
    /// joiner who dials.
    fn is_newcomer(&self, link: LinkId, reason: RefusedReason) -> bool {
        matches!(reason, RefusedReason::Expired | RefusedReason::Spent | RefusedReason::UnknownAdmin)
            && !self.directory.knows_others()
            && self.links.get(&link).is_some_and(|known| known.outbound)
    }

    fn greet_guest(&mut self, now: Moment, link: LinkId) {
        let guests = self.links.values().filter(|known| known.phase == Phase::Guest).count();
        if guests >= self.config.guests_max {
            return self.refuse(now, link, RefusedReason::Busy, "enough connections are open");
        }
        let Some(known) = self.links.get_mut(&link) else { return };
        known.phase = Phase::Guest;
        let node = known.node;
        self.send(link, Message::Welcome { standing: Standing::Guest });
        self.up.insert(node, link);
        self.outputs.push_back(Output::Up { node, standing: Standing::Guest, thinks: Standing::Guest });
    }

    fn greet_member(&mut self, now: Moment, link: LinkId, node: NodeId, standing: Standing) {
        self.directory.countersign(&self.key, &node, now.unix_ms);
        if let Some(known) = self.links.get_mut(&link) {
            known.phase = Phase::Member;
            known.next_sync_at = now.monotonic_ms;
            self.linked_at.get_or_insert(now.monotonic_ms);
        }
        self.send(link, Message::Welcome { standing });
        // Its certificate and its admission go out to everyone at once, itself included.
        self.drain_directory(now, None);
        self.mark_up(link);
    }

    fn welcome(&mut self, link: LinkId, standing: Standing) {
        if let Some(known) = self.links.get_mut(&link) {
            known.thinks = Some(standing);
        }
        self.mark_up(link);
    }

    /// Once both sides have welcomed each other, the node is up.
    fn mark_up(&mut self, link: LinkId) {
        let Some(known) = self.links.get(&link) else { return };
        let (Phase::Member, Some(thinks), node) = (known.phase, known.thinks, known.node) else { return };
        if self.up.insert(node, link).is_none() {
            let standing = self.directory.standing(&node);
            self.dialer.succeeded(&node);
            self.outputs.push_back(Output::Up { node, standing, thinks });
        }
    }

    fn refused(&mut self, now: Moment, link: LinkId, reason: RefusedReason, text: String) {
        let Some(known) = self.links.get(&link) else { return };
        let (node, targets) = (known.node, known.targets.clone());
        let doubted = self.admitted
            && matches!(
                reason,
                RefusedReason::Expired | RefusedReason::Spent | RefusedReason::UnknownAdmin | RefusedReason::Unvouched
            );
        let event = if doubted { PeerEvent::DoubtedBy { node, reason } } else { PeerEvent::RefusedBy { node, reason, text } };
        self.outputs.push_back(Output::Report(event));
        self.outputs.push_back(Output::Close { link });
        self.dialer.turned_away(&node, &targets, reason, now.monotonic_ms, &self.config, &mut self.dice);
        self.drop_link(now, link);
    }

    pub(super) fn malformed(&mut self, now: Moment, link: LinkId, error: &DecodeError) {
        let reason = match error {
            DecodeError::Version { .. } | DecodeError::Flags { .. } => RefusedReason::Version,
            _ => RefusedReason::Protocol,
        };
        self.refuse(now, link, reason, &error.to_string());
    }

    /// Ends a link and tells the other side why.
    pub(super) fn refuse(&mut self, now: Moment, link: LinkId, reason: RefusedReason, text: &str) {
        let Some((node, targets)) = self.links.get(&link).map(|known| (known.node, known.targets.clone())) else { return };
        self.send(link, Message::Refused { reason, text: text.to_owned() });
        self.outputs.push_back(Output::Close { link });
        self.outputs.push_back(Output::Report(PeerEvent::Refused { node, reason }));
        self.dialer.turned_away(&node, &targets, reason, now.monotonic_ms, &self.config, &mut self.dice);
        self.drop_link(now, link);
    }

    pub(super) fn drop_link(&mut self, now: Moment, link: LinkId) {
        let Some(gone) = self.links.remove(&link) else { return };
        if self.up.get(&gone.node) != Some(&link) {
            if gone.phase != Phase::Member {
                self.dialer.lost(&gone.node, now.monotonic_ms, &self.config, &mut self.dice);
            }
            return;
        }
        let other = self.links.iter().find(|(_, known)| {
            known.node == gone.node && (known.phase == Phase::Guest || (known.phase == Phase::Member && known.thinks.is_some()))
        });
        match other.map(|(id, _)| *id) {
            Some(other) => {
                self.up.insert(gone.node, other);
            }
            None => {
                self.up.remove(&gone.node);
                self.dialer.lost(&gone.node, now.monotonic_ms, &self.config, &mut self.dice);
                self.outputs.push_back(Output::Down { node: gone.node });
            }
        }
    }

    pub(super) fn send(&mut self, link: LinkId, message: Message) {
        self.outputs.push_back(Output::Send { link, message });
    }
}

impl Input {
    /// What a received frame means for the peer.
    pub fn from_frame(link: LinkId, frame: &[u8]) -> Self {
        match Message::decode(frame) {
            Ok(message) => Self::Message { link, message },
            Err(error) => Self::Malformed { link, error },
        }
    }
}
