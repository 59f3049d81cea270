//! QUIC, where TCP does not connect: behind a wall that lets only UDP through.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod common;

use backmesh_net::{DialError, DialFailure, DisconnectReason, Protocol, Transport};
use common::{Mode, PATIENCE, node, node_with, pair};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;

/// A wall in front of a node: it carries UDP, and TCP finds nobody or only silence.
struct Wall {
    address: String,
    mode: watch::Sender<Mode>,
    _mute: Option<TcpListener>,
}

impl Wall {
    async fn before(port: u16, mute: bool) -> Self {
        let (outside, listener) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()).await {
                break (Arc::new(socket), listener);
            }
        };
        let address = outside.local_addr().unwrap().to_string();
        let (mode, mode_end) = watch::channel(Mode::Carry);
        tokio::spawn(carry(outside, SocketAddr::from(([127, 0, 0, 1], port)), mode_end));
        Self { address, mode, _mute: mute.then_some(listener) }
    }
}

/// Carries datagrams between the node and whoever comes, each behind a socket of its own.
async fn carry(outside: Arc<UdpSocket>, node: SocketAddr, mode: watch::Receiver<Mode>) {
    let mut inside: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut buffer = vec![0; 65_536];
    while let Ok((bytes, from)) = outside.recv_from(&mut buffer).await {
        if let Entry::Vacant(place) = inside.entry(from) {
            let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
            place.insert(Arc::clone(&socket));
            let (outside, mode) = (Arc::clone(&outside), mode.clone());
            tokio::spawn(async move {
                let mut buffer = vec![0; 65_536];
                while let Ok((bytes, _)) = socket.recv_from(&mut buffer).await {
                    if *mode.borrow() == Mode::Carry {
                        let _ = outside.send_to(&buffer[..bytes], from).await;
                    }
                }
            });
        }
        if *mode.borrow() == Mode::Carry {
            let _ = inside[&from].send_to(&buffer[..bytes], node).await;
        }
    }
}

#[tokio::test]
async fn tcp_is_taken_where_it_connects() {
    let (mut a, mut b) = pair().await;
    b.connected().await;
    assert_eq!(a.net.transport(&b.id()), Some(Transport::Tcp));
    assert_eq!(b.net.transport(&a.id()), Some(Transport::Tcp));
    a.net.disconnect(b.id()).await;
    assert_eq!(a.disconnected().await.0, b.id());
    assert_eq!(a.net.transport(&b.id()), None);
}

#[tokio::test]
async fn where_tcp_is_refused_or_swallowed_quic_connects_and_carries_all() {
    for mute in [false, true] {
        let (a, b) = (node(1).await, node(2).await);
        let wall = Wall::before(b.port(), mute).await;
        assert_eq!(a.net.dial(&wall.address, Some(b.id())).await.unwrap(), b.id());
        assert_eq!(a.net.transport(&b.id()), Some(Transport::Quic));
        let peer = b.id();
        let _b = b.echo();
        let mut streams = Vec::new();
        for protocol in [Protocol::Mesh, Protocol::Store, Protocol::Read] {
            let (mut reader, mut writer) = a.net.open(peer, protocol).await.unwrap().split();
            streams.push(tokio::spawn(async move {
                let frame: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
                let sent = frame.clone();
                let sending = tokio::spawn(async move {
                    for _ in 0..4 {
                        writer.send(&sent).await.unwrap();
                    }
                    writer.close().await.unwrap();
                });
                for _ in 0..4 {
                    assert!(reader.next(frame.len()).await.unwrap().unwrap() == frame);
                }
                assert!(reader.next(0).await.unwrap().is_none());
                sending.await.unwrap();
            }));
        }
        for stream in streams {
            tokio::time::timeout(3 * PATIENCE, stream).await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn who_answers_is_checked_over_quic_too() {
    let (a, b, c) = (node(1).await, node(2).await, node(3).await);
    let wall = Wall::before(b.port(), false).await;
    match a.net.dial(&wall.address, Some(c.id())).await {
        Err(DialError::WrongPeer { expected, found, .. }) => assert_eq!((expected, found), (c.id(), b.id())),
        other => panic!("{other:?}"),
    }
    assert!(a.net.peers().is_empty());
    wall.mode.send_replace(Mode::Swallow);
    match a.net.dial(&wall.address, Some(b.id())).await {
        Err(DialError::Unreachable { reason: DialFailure::Refused, address }) => assert!(address.contains("/tcp/"), "{address}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_peer_that_falls_silent_on_quic_is_noticed() {
    let quick = |limits: &mut backmesh_net::Limits| limits.alive_interval = Duration::from_millis(300);
    let (mut a, b) = (node_with(1, quick).await, node_with(2, quick).await);
    let wall = Wall::before(b.port(), false).await;
    a.net.dial(&wall.address, None).await.unwrap();
    wall.mode.send_replace(Mode::Swallow);
    assert_eq!(a.disconnected().await, (b.id(), DisconnectReason::Silent));
    // The wall lets it through again, and so does the node.
    wall.mode.send_replace(Mode::Carry);
    assert_eq!(a.net.dial(&wall.address, None).await.unwrap(), b.id());
}

#[tokio::test]
async fn the_end_of_a_peer_is_its_own_doing_over_quic_too() {
    let (mut a, b) = (node(1).await, node(2).await);
    let wall = Wall::before(b.port(), false).await;
    a.net.dial(&wall.address, None).await.unwrap();
    b.net.shutdown().await;
    assert_eq!(a.disconnected().await, (b.id(), DisconnectReason::ByPeer));
}

#[tokio::test]
async fn of_two_connections_both_sides_use_the_one_over_tcp() {
    for (first, second) in [(1, 2), (2, 1)] {
        let (a, b) = (node(first).await, node(second).await);
        // One side lets only UDP in, the other TCP as well.
        let wall = Wall::before(b.port(), false).await;
        a.net.dial(&wall.address, None).await.unwrap();
        b.net.dial(&format!("127.0.0.1:{}", a.port()), None).await.unwrap();
        let tcp = Some(Transport::Tcp);
        let both = || (a.net.transport(&b.id()), b.net.transport(&a.id())) == (tcp, tcp);
        let agreed = async {
            while !both() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, agreed).await.unwrap();
    }
}
