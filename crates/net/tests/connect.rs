//! Connections: made, refused, doubled, lost, ended.

mod common;

use backmesh_format::NodeId;
use backmesh_format::keys::KeyPair;
use backmesh_net::{
    DialError, DialFailure, DisconnectReason, Net, NetConfig, NetError, NetEvent, OpenError, Presence, Protocol, peer_id_text,
};
use common::{Line, Mode, PATIENCE, node, node_with, pair, pair_with};
use std::time::{Duration, Instant};

fn stranger() -> NodeId {
    NodeId(KeyPair::from_secret(&[99; 32]).public().0)
}

#[tokio::test]
async fn both_sides_learn_of_a_connection_and_of_its_end() {
    let (mut a, mut b) = pair().await;
    let outbound = |event| match event {
        NetEvent::Connected { peer, outbound, .. } => Some((peer, outbound)),
        _ => None,
    };
    assert_eq!(a.event(outbound).await, (b.id(), true));
    assert_eq!(b.event(outbound).await, (a.id(), false));
    assert_eq!((a.net.peers(), b.net.peers()), (vec![b.id()], vec![a.id()]));
    assert_eq!((a.net.presence(&b.id()), a.net.presence(&stranger())), (Presence::Connected, Presence::Unknown));
    a.net.disconnect(b.id()).await;
    assert_eq!(a.disconnected().await, (b.id(), DisconnectReason::Requested));
    assert_eq!(b.disconnected().await, (a.id(), DisconnectReason::ByPeer));
    assert_eq!((a.net.presence(&b.id()), b.net.presence(&a.id())), (Presence::Left, Presence::Left));
    assert!(a.net.peers().is_empty() && b.net.peers().is_empty());
    assert!(matches!(a.net.open(b.id(), Protocol::Mesh).await, Err(OpenError::NotConnected(peer)) if peer == b.id()));
    b.net.dial(&a.address(), Some(a.id())).await.unwrap();
    assert_eq!(a.event(outbound).await, (b.id(), false));
    a.net.open(b.id(), Protocol::Mesh).await.unwrap();
}

#[tokio::test]
async fn a_dial_checks_who_answers() {
    let (a, b) = (node(1).await, node(2).await);
    let (plain, _) = b.address().split_once("/p2p/").map(|(place, id)| (place.to_owned(), id.to_owned())).unwrap();
    match a.net.dial(&plain, Some(stranger())).await {
        Err(DialError::WrongPeer { expected, found, address }) => {
            assert_eq!((expected, found, address), (stranger(), b.id(), plain.clone()));
        }
        other => panic!("{other:?}"),
    }
    let elsewhere = format!("{plain}/p2p/{}", peer_id_text(&stranger()));
    assert!(matches!(a.net.dial(&elsewhere, None).await, Err(DialError::WrongPeer { .. })));
    assert!(matches!(a.net.dial(&elsewhere, Some(b.id())).await, Err(DialError::OtherNode { .. })));
    assert!(matches!(a.net.dial(&a.address(), None).await, Err(DialError::Itself)));
    let (own, _) = a.address().split_once("/p2p/").map(|(place, id)| (place.to_owned(), id.to_owned())).unwrap();
    assert!(matches!(a.net.dial(&own, None).await, Err(DialError::Itself)));
    assert_eq!(a.net.dial(&b.address(), Some(b.id())).await.unwrap(), b.id());
}

#[tokio::test]
async fn an_address_without_a_node_is_said_so() {
    let a = node_with(1, |limits| limits.connect_timeout = Duration::from_millis(500)).await;
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = free.local_addr().unwrap().port();
    // A listener that never says a word.
    match a.net.dial(&format!("127.0.0.1:{port}"), None).await {
        Err(DialError::Unreachable { reason, .. }) => assert_eq!(reason, DialFailure::NoAnswer),
        other => panic!("{other:?}"),
    }
    drop(free);
    match a.net.dial(&format!("127.0.0.1:{port}"), None).await {
        Err(DialError::Unreachable { address, reason }) => {
            assert_eq!(address, format!("/ip4/127.0.0.1/tcp/{port}"));
            assert_eq!(reason, DialFailure::Refused);
        }
        other => panic!("{other:?}"),
    }
    // Someone else's service.
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut socket, _) = other.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut socket, b"220 mail.example ESMTP\r\n").await.unwrap();
    });
    match a.net.dial(&address, None).await {
        Err(DialError::Unreachable { reason: DialFailure::NoNode(text), .. }) => assert_ne!(text, "", "it says why"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(a.net.dial("127.0.0.1:0", None).await, Err(DialError::Address(_))));
    assert!(matches!(a.net.dial("nothing.invalid", None).await, Err(DialError::Address(_))));
}

#[tokio::test]
async fn dialling_again_adds_no_connection() {
    let (a, b) = pair().await;
    let (place, _) = b.address().split_once("/p2p/").map(|(place, id)| (place.to_owned(), id.to_owned())).unwrap();
    for _ in 0..10 {
        assert_eq!(a.net.dial(&place, None).await.unwrap(), b.id());
        assert_eq!(a.net.dial(&place, Some(b.id())).await.unwrap(), b.id());
    }
    a.net.open(b.id(), Protocol::Mesh).await.unwrap();
    assert_eq!(a.net.connections(&b.id()), 1);
}

#[tokio::test]
async fn of_two_connections_dialled_at_once_one_remains() {
    for round in 0..5 {
        let quick = |limits: &mut backmesh_net::Limits| limits.extra_idle = Duration::from_millis(100);
        let (mut a, mut b) = (node_with(10 + round, quick).await, node_with(20 + round, quick).await);
        let (to_b, to_a) = (b.address(), a.address());
        let dialled = tokio::join!(a.net.dial(&to_b, None), b.net.dial(&to_a, None));
        assert_eq!((dialled.0.unwrap(), dialled.1.unwrap()), (b.id(), a.id()));
        a.connected().await;
        b.connected().await;
        let (mut at_a, mut from_a) = a.net.open(b.id(), Protocol::Mesh).await.unwrap().split();
        let (mut at_b, mut from_b) = b.inbound().await.2.split();
        // A connection is not taken from under a stream.
        tokio::time::sleep(Duration::from_millis(300)).await;
        from_a.send(b"there").await.unwrap();
        from_a.close().await.unwrap();
        assert_eq!(at_b.next(10).await.unwrap().unwrap(), b"there");
        from_b.send(b"back").await.unwrap();
        from_b.close().await.unwrap();
        assert_eq!(at_a.next(10).await.unwrap().unwrap(), b"back");
        drop((at_a, at_b));
        let begun = Instant::now();
        while a.net.connections(&b.id()) > 1 || b.net.connections(&a.id()) > 1 {
            assert!(begun.elapsed() < PATIENCE, "the extra connection stays");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!((a.net.connections(&b.id()), b.net.connections(&a.id())), (1, 1));
        a.net.open(b.id(), Protocol::Mesh).await.unwrap();
        b.net.open(a.id(), Protocol::Mesh).await.unwrap();
        assert!(a.events.try_recv().map_or(true, |event| !matches!(event, NetEvent::Disconnected { .. })));
    }
}

#[tokio::test]
async fn a_peer_that_vanishes_is_noticed() {
    let (mut a, mut b) = {
        let quick = |limits: &mut backmesh_net::Limits| limits.alive_interval = Duration::from_millis(150);
        (node_with(1, quick).await, node_with(2, quick).await)
    };
    let line = Line::to(b.port()).await;
    a.net.dial(&line.address, Some(b.id())).await.unwrap();
    let (mut reader, _writer) = a.net.open(b.id(), Protocol::Mesh).await.unwrap().split();
    let (_, _, held) = b.inbound().await;
    // Idle, but there: nothing happens.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(a.net.peers(), [b.id()]);
    line.set(Mode::Swallow);
    let begun = Instant::now();
    let read = tokio::time::timeout(PATIENCE, reader.next(10)).await.unwrap();
    assert!(matches!(read, Err(backmesh_net::FrameError::Disconnected | backmesh_net::FrameError::CutOff)), "{read:?}");
    assert_eq!(a.disconnected().await, (b.id(), DisconnectReason::Silent));
    assert_eq!(b.disconnected().await, (a.id(), DisconnectReason::Silent));
    assert!(matches!(a.net.presence(&b.id()), Presence::Vanished(at) if at.elapsed() < begun.elapsed()));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    drop(held);
}

#[tokio::test]
async fn what_this_side_writes_is_no_sign_of_life_of_the_peer() {
    let quick = |limits: &mut backmesh_net::Limits| limits.alive_interval = Duration::from_millis(300);
    let (mut a, mut b) = (node_with(1, quick).await, node_with(2, quick).await);
    let line = Line::to(b.port()).await;
    a.net.dial(&line.address, Some(b.id())).await.unwrap();
    let (_reader, mut writer) = a.net.open(b.id(), Protocol::Store).await.unwrap().split();
    let (_, _, _held) = b.inbound().await;
    line.set(Mode::Swallow);
    // Small messages that go into the system's buffer and nowhere else.
    let writing = async {
        while writer.send(b"are you there?").await.is_ok() && writer.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, writing).await.expect("the writes end");
    assert_eq!(a.disconnected().await, (b.id(), DisconnectReason::Silent));
}

#[tokio::test]
async fn the_older_link_of_a_peer_that_comes_again_is_asked_and_given_up_soon() {
    let (mut b, first) = (node(2).await, node(1).await);
    let line = Line::to(b.port()).await;
    first.net.dial(&line.address, Some(b.id())).await.unwrap();
    let _stream = first.net.open(b.id(), Protocol::Mesh).await.unwrap();
    let (_, _, held) = b.inbound().await;
    let (reader, _writer) = held.split();
    let of_first = reader.connection();
    line.set(Mode::Swallow);
    // The same node, from another address: the line to the first is dead, and nobody has said so.
    let again = node(1).await;
    again.net.dial(&b.address(), Some(b.id())).await.unwrap();
    let are_left = async |count| {
        while b.net.connections(&again.id()) != count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, are_left(2)).await.expect("both links are there");
    // Without a reason to ask it takes 24 s or more.
    tokio::time::timeout(PATIENCE, are_left(1)).await.expect("the dead link is given up");
    assert!(!of_first.is_open() && b.net.presence(&again.id()) == Presence::Connected, "what broke there is no one's fault");
    again.net.open(b.id(), Protocol::Mesh).await.unwrap();
    b.net.open(again.id(), Protocol::Mesh).await.unwrap();
}

#[tokio::test]
async fn a_line_that_is_cut_is_noticed_at_once() {
    let (mut a, mut b) = (node(1).await, node(2).await);
    let line = Line::to(b.port()).await;
    a.net.dial(&line.address, Some(b.id())).await.unwrap();
    let (mut reader, _writer) = a.net.open(b.id(), Protocol::Mesh).await.unwrap().split();
    let (_, _, stream) = b.inbound().await;
    let begun = Instant::now();
    line.set(Mode::Cut);
    assert_eq!(a.disconnected().await, (b.id(), DisconnectReason::ByPeer));
    assert_eq!(b.disconnected().await, (a.id(), DisconnectReason::ByPeer));
    assert!(reader.next(10).await.is_err(), "a broken line is no clean end");
    assert!(stream.split().0.next(10).await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn reading_ends_when_this_side_disconnects() {
    let (a, b) = pair().await;
    let (mut reader, mut writer) = a.net.open(b.id(), Protocol::Mesh).await.unwrap().split();
    let reading = tokio::spawn(async move { reader.next(10).await });
    let writing = tokio::spawn(async move {
        loop {
            if let Err(error) = writer.send(&[0; 100_000]).await {
                return error;
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    a.net.disconnect(b.id()).await;
    tokio::time::timeout(PATIENCE, reading).await.unwrap().unwrap().unwrap_err();
    tokio::time::timeout(PATIENCE, writing).await.unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_ends_everything() {
    let (mut a, mut b) = pair().await;
    let stream = a.net.open(b.id(), Protocol::Mesh).await.unwrap();
    let address = b.address();
    let begun = Instant::now();
    tokio::time::timeout(PATIENCE, b.net.shutdown()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    while tokio::time::timeout(PATIENCE, b.events.recv()).await.unwrap().is_some() {}
    assert_eq!(a.disconnected().await, (b.id(), DisconnectReason::ByPeer));
    stream.split().0.next(10).await.unwrap_err();
    assert!(matches!(b.net.dial(&a.address(), None).await, Err(DialError::Stopped)));
    b.net.disconnect(a.id()).await;
    b.net.shutdown().await;
    // The port is free again.
    let mut config = NetConfig::new(KeyPair::from_secret(&[2; 32]));
    config.listen = vec![address];
    let (again, _events) = Net::start(config).await.unwrap();
    a.net.dial(&again.addresses()[0], Some(again.local())).await.unwrap();
}

#[tokio::test]
async fn listening_says_what_is_wrong() {
    let a = node(1).await;
    let start = |listen: &str| {
        let mut config = NetConfig::new(KeyPair::from_secret(&[2; 32]));
        config.listen = vec![listen.to_owned()];
        Net::start(config)
    };
    assert!(matches!(start("bad host").await, Err(NetError::Address { .. })));
    assert!(matches!(start("192.0.2.1:5").await, Err(NetError::Listen { .. })));
    let taken = start(&format!("127.0.0.1:{}", a.port())).await;
    assert!(
        matches!(taken, Err(NetError::Listen { .. })),
        "a port that another node listens on: {:?}",
        taken.map(|(net, _)| net.addresses())
    );
}

#[tokio::test]
async fn a_wildcard_becomes_the_addresses_of_the_interfaces() {
    let mut config = NetConfig::new(KeyPair::from_secret(&[1; 32]));
    config.listen = vec!["0.0.0.0:0".to_owned()];
    let (net, mut events) = Net::start(config).await.unwrap();
    let addresses = net.addresses();
    assert!(!addresses.is_empty());
    let loopback = addresses.iter().filter(|address| address.starts_with("/ip4/127.")).count();
    assert!(loopback == 0 || loopback == addresses.len(), "{addresses:?}");
    for address in &addresses {
        assert!(address.ends_with(&format!("/p2p/{}", peer_id_text(&net.local()))) && !address.contains("/tcp/0/"), "{address}");
    }
    let NetEvent::Listening { address } = events.recv().await.unwrap() else { panic!("listening comes first") };
    let other = node(2).await;
    assert_eq!(other.net.dial(&address, None).await.unwrap(), net.local());
}

#[tokio::test]
async fn peers_beyond_the_bound_are_not_let_in() {
    let mut full = node_with(1, |limits| limits.connections_max = 1).await;
    let (first, mut second) = (node(2).await, node(3).await);
    first.net.dial(&full.address(), None).await.unwrap();
    // The dialler is connected before it learns that it is not wanted.
    if second.net.dial(&full.address(), None).await.is_ok() {
        assert_eq!(second.disconnected().await.0, full.id());
    }
    assert_eq!(full.net.peers(), [first.id()]);
    first.net.disconnect(full.id()).await;
    assert_eq!(full.disconnected().await.0, first.id());
    second.net.dial(&full.address(), None).await.unwrap();
    second.net.open(full.id(), Protocol::Read).await.unwrap();
}

#[tokio::test]
async fn many_peers_at_once() {
    let hub = node(1).await;
    let address = hub.address();
    let hub = hub.echo();
    let mut peers = tokio::task::JoinSet::new();
    for seed in 100..130 {
        let (address, hub) = (address.clone(), hub.local());
        peers.spawn(async move {
            let peer = node(seed).await;
            peer.net.dial(&address, Some(hub)).await.unwrap();
            let (mut reader, mut writer) = peer.net.open(hub, Protocol::Store).await.unwrap().split();
            writer.send(&[seed; 1000]).await.unwrap();
            writer.close().await.unwrap();
            assert_eq!(reader.next(1000).await.unwrap().unwrap(), [seed; 1000]);
            assert!(reader.next(1000).await.unwrap().is_none());
            peer.net.shutdown().await;
        });
    }
    peers.join_all().await;
}

#[tokio::test]
async fn an_idle_connection_stays() {
    let (a, b) = pair_with(|limits| {
        limits.extra_idle = Duration::from_millis(50);
        limits.alive_interval = Duration::from_millis(100);
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((a.net.connections(&b.id()), b.net.connections(&a.id())), (1, 1));
}
