//! What comes from those who are no nodes, or behave like none.

mod common;

use backmesh_net::{NetEvent, Protocol};
use common::{Line, Mode, PATIENCE, node, node_with};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Whether the node ends the connection within a few seconds.
async fn is_closed(socket: &mut TcpStream) -> bool {
    let mut sink = vec![0; 64 << 10];
    let drained = async { while socket.read(&mut sink).await.is_ok_and(|read| read > 0) {} };
    tokio::time::timeout(PATIENCE, drained).await.is_ok()
}

#[tokio::test]
async fn garbage_on_the_port_is_hung_up_on() {
    let mut a = node_with(1, |limits| limits.connect_timeout = Duration::from_secs(1)).await;
    let garbage: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[0xff; 100_000],
        &[0; 100_000],
        b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xffgarbage instead of a handshake",
        b"\x13/multistream/1.0.0\n\x0b/tls/1.0.0\n\x16\x03\x01\x00\x20garbage instead of a handshake",
        b"\x13/multistream/1.0.0\n\x0b/tls/1.0.0\n\x17\x03\x03\xff\xff",
        b"\x13/multistream/1.0.0\n\x0d/plaintext/1\n",
        b"\x13/multistream/1.0.0\n",
    ];
    for bytes in garbage {
        let mut socket = TcpStream::connect(("127.0.0.1", a.port())).await.unwrap();
        let _ = socket.write_all(bytes).await;
        assert!(is_closed(&mut socket).await, "{:?}", &bytes[..20.min(bytes.len())]);
    }
    let b = node(2).await;
    b.net.dial(&a.address(), Some(a.id())).await.unwrap();
    assert_eq!(a.connected().await, b.id(), "nobody else ever was connected");
}

#[tokio::test]
async fn callers_that_say_nothing_do_not_keep_others_out() {
    let a = node_with(1, |limits| {
        limits.connect_timeout = Duration::from_secs(1);
        limits.pending_inbound_max = 8;
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..30 {
        silent.push(TcpStream::connect(("127.0.0.1", a.port())).await.unwrap());
    }
    // Those beyond the bound are hung up on at once, the others when their time is over.
    let begun = Instant::now();
    assert!(is_closed(&mut silent[29]).await);
    assert!(begun.elapsed() < Duration::from_millis(800), "{:?}", begun.elapsed());
    for socket in &mut silent {
        assert!(is_closed(socket).await);
    }
    let b = node(2).await;
    b.net.dial(&a.address(), Some(a.id())).await.unwrap();
}

#[tokio::test]
async fn bytes_changed_on_the_way_end_the_connection() {
    let (a, mut b) = (node(1).await, node(2).await);
    let line = Line::to(b.port()).await;
    a.net.dial(&line.address, Some(b.id())).await.unwrap();
    let (mut reader, mut writer) = a.net.open(b.id(), Protocol::Store).await.unwrap().split();
    let (mut inbound, mut back) = b.inbound().await.2.split();
    back.send(b"before").await.unwrap();
    back.flush().await.unwrap();
    assert_eq!(reader.next(10).await.unwrap().unwrap(), b"before");
    line.set(Mode::Corrupt);
    let _ = writer.send(&[1; 1000]).await;
    let _ = writer.flush().await;
    assert!(inbound.next(1000).await.is_err(), "nothing that was changed is delivered");
    assert_eq!(b.disconnected().await.0, a.id());
}

#[tokio::test]
async fn a_node_whose_events_nobody_reads_keeps_its_streams() {
    let (a, mut b) = common::pair().await;
    let (mut reader, mut writer) = a.net.open(b.id(), Protocol::Mesh).await.unwrap().split();
    let (mut inbound, mut back) = b.inbound().await.2.split();
    // From here on no one reads b's events; peers come and go.
    for seed in 50..60 {
        let passer_by = node(seed).await;
        for _ in 0..5 {
            passer_by.net.dial(&b.address(), None).await.unwrap();
            passer_by.net.disconnect(b.id()).await;
            while !passer_by.net.peers().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        passer_by.net.shutdown().await;
    }
    writer.send(b"still").await.unwrap();
    writer.flush().await.unwrap();
    assert_eq!(inbound.next(10).await.unwrap().unwrap(), b"still");
    back.send(b"here").await.unwrap();
    back.flush().await.unwrap();
    assert_eq!(reader.next(10).await.unwrap().unwrap(), b"here");
    // And every arrival and departure is told in the end, in order.
    let mut connected = std::collections::HashMap::new();
    for _ in 0..100 {
        match b.events.recv().await.unwrap() {
            NetEvent::Connected { peer, .. } => assert!(connected.insert(peer, ()).is_none()),
            NetEvent::Disconnected { peer, .. } => assert!(connected.remove(&peer).is_some()),
            other => panic!("{other:?}"),
        }
    }
    assert!(connected.is_empty());
}

#[tokio::test]
async fn a_node_whose_events_were_thrown_away_goes_on() {
    let (a, mut b) = common::pair().await;
    b.connected().await;
    drop(a.events);
    for _ in 0..300 {
        let _ = b.net.open(a.net.local(), Protocol::Mesh).await.unwrap();
    }
    a.net.open(b.id(), Protocol::Mesh).await.unwrap();
}
