//! Finding each other on the local network, by mDNS (RFC 6762), with nobody asked and nothing configured.
//!
//! What is found is a hint: an address and a name that anyone can have copied. Who is there a connection proves, and what a record says
//! its signature. Whatever others send here costs at most a look at some packets a second; what is kept of it is for the layers above.

mod packet;

use crate::Net;
use crate::address::{self, Address};
use backmesh_format::{NodeId, WorkgroupId};
use if_addrs::IfAddr;
use packet::{Heard, Id};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

const PORT: u16 = 5353;
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
/// The longest packet that mDNS allows, in bytes.
const PACKET_BYTES_MAX: usize = 9_000;
/// Packets that are looked at in a second; the system throws away what comes beyond that.
const PACKETS_PER_SECOND: u32 = 100;
/// Sightings that nobody has taken yet; further ones are dropped, and come again.
const SIGHTINGS_MAX: usize = 64;
/// Between two questions, and between two answers.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// After which times from the start it asks and speaks of itself unasked.
const AT_START: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(1_300), Duration::from_secs(4)];
/// Within this time after a question of its own, what a node hears asked is that question itself.
const ECHO: Duration = Duration::from_secs(1);
/// How often interfaces are looked at that came without an address changing.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// Interfaces that are used; a machine with more has containers.
const INTERFACES_MAX: usize = 16;

/// Whom to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seeking {
    /// Nodes of this workgroup; this node speaks of itself to them.
    Workgroup(WorkgroupId),
    /// Every node, of whichever workgroup, without a word of this one: a stranger's way.
    Anyone,
}

/// A node was seen, or someone says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Who it says it is; none where it is not of the workgroup that is looked for.
    pub node: Option<NodeId>,
    /// Where it says it is, at most eight; the first is where its packet came from.
    pub addresses: Vec<String>,
}

/// Looks for others, and lets itself be found, until it is dropped.
#[derive(Debug)]
pub struct Nearby {
    ask: Arc<Notify>,
    /// When someone else asked.
    asked_by_others: watch::Receiver<Option<Instant>>,
    task: tokio::task::JoinHandle<()>,
}

impl Nearby {
    /// Begins, on the interfaces that the node listens on; on all where it listens on none. A node that only its own machine can
    /// reach neither speaks nor hears.
    ///
    /// # Errors
    /// Where the system gives no socket for it.
    pub fn start(net: &Net, seeking: Seeking) -> io::Result<(Self, mpsc::Receiver<Sighting>)> {
        let (sightings, receiver) = mpsc::channel(SIGHTINGS_MAX);
        let v4 = socket_v4()?;
        let v6 = socket_v6().inspect_err(|error| tracing::debug!("no mDNS over IPv6: {error}")).ok();
        let ask = Arc::new(Notify::new());
        let (others_asked, asked_by_others) = watch::channel(None);
        let speaker = Speaker {
            seeking,
            node: net.local(),
            listening: net.listening(),
            sockets: Sockets { v4, v6, interfaces: BTreeMap::new() },
            sightings,
            ask: Arc::clone(&ask),
            others_asked,
            voice: None,
            answer_at: None,
            ask_at: None,
            answered_at: None,
            asked_at: None,
        };
        Ok((Self { ask, asked_by_others, task: tokio::spawn(speaker.run()) }, receiver))
    }

    /// Asks again who is there; once a second at most. Not if someone else has asked within this time: everyone hears the answers.
    pub fn ask(&self, unless_within: Duration) {
        let asked = *self.asked_by_others.borrow();
        if asked.is_none_or(|asked| asked.elapsed() >= unless_within) {
            self.ask.notify_one();
        }
    }
}

impl Drop for Nearby {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Sockets {
    v4: UdpSocket,
    v6: Option<UdpSocket>,
    interfaces: Interfaces,
}

/// By index: the addresses of the interfaces that were joined.
type Interfaces = BTreeMap<u32, Vec<Place>>;

/// An address of this machine, and how many bits at its beginning are those of all addresses on the same link.
#[derive(Clone, Copy)]
struct Place {
    ip: IpAddr,
    link_bits: u8,
}

/// What a node says of itself: its name of now, its port, where it is.
struct Voice {
    id: Id,
    port: u16,
    addresses: Vec<IpAddr>,
}

struct Speaker {
    seeking: Seeking,
    node: NodeId,
    listening: watch::Receiver<Vec<SocketAddr>>,
    sockets: Sockets,
    sightings: mpsc::Sender<Sighting>,
    ask: Arc<Notify>,
    others_asked: watch::Sender<Option<Instant>>,
    voice: Option<Voice>,
    answer_at: Option<Instant>,
    ask_at: Option<Instant>,
    answered_at: Option<Instant>,
    asked_at: Option<Instant>,
}

impl Speaker {
    async fn run(mut self) {
        let mut buffers = (vec![0; PACKET_BYTES_MAX], vec![0; PACKET_BYTES_MAX]);
        let mut begun = Instant::now();
        let mut said = 0;
        let mut look_at = begun;
        self.settle();
        loop {
            let unasked = AT_START.get(said).map(|after| begun + *after);
            let next = [unasked, self.answer_at, self.ask_at, Some(look_at)].into_iter().flatten().min();
            let heard = tokio::select! {
                biased;
                () = sleep_until(next.unwrap_or(look_at)) => None,
                changed = self.listening.changed() => match changed {
                    Ok(()) => {
                        // Elsewhere, under another name.
                        self.settle();
                        (begun, said) = (Instant::now(), 0);
                        continue;
                    }
                    Err(_) => return,
                },
                () = self.ask.notified() => {
                    self.ask_at = Some(later(self.asked_at));
                    continue;
                }
                received = self.sockets.v4.recv_from(&mut buffers.0) => received.ok().map(|(bytes, from)| (packet::read(&buffers.0[..bytes], from), from)),
                received = receive(self.sockets.v6.as_ref(), &mut buffers.1) => received.ok().map(|(bytes, from)| (packet::read(&buffers.1[..bytes], from), from)),
            };
            if let Some((heard, from)) = heard {
                self.take_in(heard, from);
                sleep(Duration::from_secs(1) / PACKETS_PER_SECOND).await;
            }
            let now = Instant::now();
            if unasked.is_some_and(|due| due <= now) {
                said += 1;
                self.say_question(now).await;
                self.say_answer(now).await;
            }
            if self.ask_at.is_some_and(|due| due <= now) {
                self.say_question(now).await;
            }
            if self.answer_at.is_some_and(|due| due <= now) {
                self.say_answer(now).await;
            }
            if look_at <= now {
                self.sockets.join(&self.listening.borrow());
                look_at = now + LOOK_EVERY;
            }
        }
    }

    /// Takes a new name for the addresses that it has now.
    fn settle(&mut self) {
        let listening = self.listening.borrow_and_update().clone();
        self.sockets.join(&listening);
        let Seeking::Workgroup(workgroup) = self.seeking else { return };
        let addresses: Vec<IpAddr> = listening.iter().map(SocketAddr::ip).filter(|ip| packet::is_of_use(*ip)).collect();
        // A node that listens on several ports tells of the first; the others are in its record.
        let port = listening.iter().find(|place| packet::is_of_use(place.ip())).map(SocketAddr::port);
        self.voice = port.map(|port| Voice { id: Id::new(&workgroup, &self.node, rand::random()), port, addresses });
    }

    fn take_in(&mut self, heard: Heard, from: SocketAddr) {
        if !is_on_link(&self.sockets.interfaces, from) {
            return;
        }
        if heard.asks && self.asked_at.is_none_or(|asked| asked.elapsed() > ECHO) {
            self.others_asked.send_replace(Some(Instant::now()));
        }
        if heard.asks && self.voice.is_some() {
            // Many hear a question: they answer one after the other, and once where it is asked several times.
            let spread = Duration::from_millis(20 + u64::from(rand::random::<u8>()) * 100 / 255);
            self.answer_at.get_or_insert(later(self.answered_at).max(Instant::now() + spread));
        }
        for found in heard.found {
            if self.voice.as_ref().is_some_and(|voice| voice.id == found.id) {
                continue;
            }
            let node = match self.seeking {
                Seeking::Anyone => None,
                Seeking::Workgroup(workgroup) => match found.id.open(&workgroup) {
                    Some(node) if node != self.node && address::node_id(&address::peer_id(&node)).is_some() => Some(node),
                    _ => continue,
                },
            };
            let place = |ip: &IpAddr| Address::from(SocketAddr::new(*ip, found.port)).to_string();
            let sighting = Sighting { node, addresses: found.addresses.iter().map(place).collect() };
            tracing::debug!(%from, node = ?sighting.node, "a node is nearby, it says");
            // Whoever does not keep up hears of it again.
            let _ = self.sightings.try_send(sighting);
        }
    }

    async fn say_question(&mut self, now: Instant) {
        (self.ask_at, self.asked_at) = (None, Some(now));
        if let Some(packet) = packet::question() {
            self.sockets.send(&packet).await;
        }
    }

    async fn say_answer(&mut self, now: Instant) {
        (self.answer_at, self.answered_at) = (None, Some(now));
        let Some(voice) = &self.voice else { return };
        if let Some(packet) = packet::answer(&voice.id, voice.port, &voice.addresses) {
            self.sockets.send(&packet).await;
        }
    }
}

/// Now, or a pause after the last time.
fn later(last: Option<Instant>) -> Instant {
    last.map_or_else(Instant::now, |last| Instant::now().max(last + PAUSE_MIN))
}

async fn receive(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    match socket {
        Some(socket) => socket.recv_from(buffer).await,
        None => std::future::pending().await,
    }
}

impl Sockets {
    /// Joins the groups on the interfaces with one of these addresses; on all where there are none.
    fn join(&mut self, listening: &[SocketAddr]) {
        let found = match if_addrs::get_if_addrs() {
            Ok(found) => found,
            Err(error) => {
                return tracing::warn!("the network's interfaces cannot be listed, and members nearby are not found: {error}");
            }
        };
        let mut interfaces = Interfaces::new();
        for interface in found {
            let wanted = listening.is_empty() || listening.iter().any(|place| place.ip() == interface.ip());
            if let (Some(index), true, false) = (interface.index, wanted, interface.is_loopback()) {
                let link_bits = match &interface.addr {
                    IfAddr::V4(address) => address.prefixlen,
                    IfAddr::V6(address) => address.prefixlen,
                };
                interfaces.entry(index).or_default().push(Place { ip: interface.ip(), link_bits });
            }
        }
        while interfaces.len() > INTERFACES_MAX {
            interfaces.pop_last();
        }
        for (index, addresses) in &interfaces {
            for address in addresses {
                // What was joined before is joined.
                let _ = match (&address.ip, &self.v6) {
                    (IpAddr::V4(ip), _) => self.v4.join_multicast_v4(GROUP_V4, *ip),
                    (IpAddr::V6(_), Some(v6)) => v6.join_multicast_v6(&GROUP_V6, *index),
                    (IpAddr::V6(_), None) => Ok(()),
                };
            }
        }
        self.interfaces = interfaces;
    }

    /// Sends to everyone on each interface; one that is down loses it.
    async fn send(&self, packet: &[u8]) {
        for (index, addresses) in &self.interfaces {
            let v4 = addresses.iter().find_map(|address| match address.ip {
                IpAddr::V4(ip) => Some(ip),
                IpAddr::V6(_) => None,
            });
            if let Some(ip) = v4
                && SockRef::from(&self.v4).set_multicast_if_v4(&ip).is_ok()
            {
                let sent = self.v4.send_to(packet, (GROUP_V4, PORT)).await;
                sent.inspect_err(|error| tracing::debug!(%ip, "not said: {error}")).ok();
            }
            if let Some(v6) = self.v6.as_ref().filter(|_| addresses.iter().any(|address| address.ip.is_ipv6()))
                && SockRef::from(v6).set_multicast_if_v6(*index).is_ok()
            {
                let sent = v6.send_to(packet, (GROUP_V6, PORT)).await;
                sent.inspect_err(|error| tracing::debug!(index, "not said: {error}")).ok();
            }
        }
    }
}

/// Whether a packet came over an interface that was joined, as far as its sender's address tells. The sockets are everybody's: packets
/// from far away reach them, too, and in some systems those to groups that other programs joined elsewhere.
fn is_on_link(interfaces: &Interfaces, from: SocketAddr) -> bool {
    if let SocketAddr::V6(from) = from
        && from.ip().is_unicast_link_local()
    {
        return interfaces.contains_key(&from.scope_id());
    }
    interfaces.values().flatten().any(|place| place.shares_link_with(from.ip()))
}

impl Place {
    fn shares_link_with(&self, other: IpAddr) -> bool {
        let alike = match (self.ip, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (own.to_bits() ^ other.to_bits()).leading_zeros(),
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits() ^ other.to_bits()).leading_zeros(),
            _ => return false,
        };
        alike >= u32::from(self.link_bits)
    }
}

/// Other programs speak mDNS on this machine, too, and several nodes may: the port is shared.
fn socket(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    Ok(socket)
}

fn socket_v4() -> io::Result<UdpSocket> {
    let socket = socket(Domain::IPV4)?;
    socket.set_multicast_ttl_v4(255)?;
    socket.set_multicast_loop_v4(true)?;
    // Only the groups that this socket joined; where that cannot be said, what else comes is left out by its sender's address.
    #[cfg(target_os = "linux")]
    let _ = socket.set_multicast_all_v4(false);
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
    UdpSocket::from_std(socket.into())
}

fn socket_v6() -> io::Result<UdpSocket> {
    let socket = socket(Domain::IPV6)?;
    socket.set_only_v6(true)?;
    socket.set_multicast_hops_v6(255)?;
    socket.set_multicast_loop_v6(true)?;
    #[cfg(target_os = "linux")]
    let _ = socket.set_multicast_all_v6(false);
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)).into())?;
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_over_an_interface_that_was_joined_is_heard() {
        let place = |ip: &str, link_bits| Place { ip: ip.parse().unwrap(), link_bits };
        let lan = vec![place("192.0.2.9", 24), place("2001:db8:0:1::9", 64)];
        let interfaces = Interfaces::from([(2, lan), (5, vec![place("10.1.0.7", 32)])]);
        let heard = |from: &str| is_on_link(&interfaces, from.parse().unwrap());
        for near in ["192.0.2.77:5353", "192.0.2.9:5353", "[2001:db8:0:1::5]:5353", "[fe80::1%2]:5353", "10.1.0.7:5353"] {
            assert!(heard(near), "{near}");
        }
        for far in ["192.0.3.77:5353", "10.1.0.8:5353", "[2001:db8:0:2::5]:5353", "[fe80::1%3]:5353", "127.0.0.1:5353"] {
            assert!(!heard(far), "{far}");
        }
        // A node that only its own machine can reach has joined none.
        assert!(!is_on_link(&Interfaces::new(), "192.0.2.77:5353".parse().unwrap()));
    }

    #[tokio::test]
    async fn nobody_asks_what_was_just_asked() {
        let (others_asked, asked_by_others) = watch::channel(None);
        let nearby = Nearby { ask: Arc::default(), asked_by_others, task: tokio::spawn(async {}) };
        let asks = async |unless_within| {
            nearby.ask(Duration::from_secs(unless_within));
            tokio::select! { biased; () = nearby.ask.notified() => true, () = std::future::ready(()) => false }
        };
        assert!(asks(3_600).await);
        others_asked.send_replace(Some(Instant::now()));
        assert!(!asks(3_600).await && asks(0).await);
    }
}
