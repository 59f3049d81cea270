//! Streams and frames between two nodes: pipelined, bounded, refused by name, ended.

mod common;

use backmesh_net::{FrameError, OpenError, Protocol, Refusal};
use common::{PATIENCE, pair, pair_with};
use std::time::Duration;

#[tokio::test]
async fn frames_go_both_ways_in_order() {
    let (a, b) = pair().await;
    let peer = b.id();
    let _b = b.echo();
    let (mut reader, mut writer) = a.net.open(peer, Protocol::Store).await.unwrap().split();
    assert_eq!((reader.peer(), writer.peer()), (peer, peer));
    let sizes: Vec<usize> = (0..400).map(|n| [0, 1, 17, 4_000, 16_380, 16_384, 70_000, 300_000][n % 8]).collect();
    let to_send = sizes.clone();
    let sending = tokio::spawn(async move {
        for (n, size) in to_send.into_iter().enumerate() {
            let frame = vec![n as u8; size];
            let (head, tail) = frame.split_at(size / 3);
            writer.send_parts(&[head, &[], tail]).await.unwrap();
        }
        writer.close().await.unwrap();
    });
    for (n, size) in sizes.into_iter().enumerate() {
        let frame = reader.next(300_000).await.unwrap().unwrap();
        assert!(frame.len() == size && frame.iter().all(|byte| *byte == n as u8), "frame {n}");
    }
    assert!(reader.next(0).await.unwrap().is_none());
    assert!(reader.next(0).await.unwrap().is_none(), "the end stays the end");
    sending.await.unwrap();
}

#[tokio::test]
async fn a_whole_pack_is_one_frame() {
    let (a, b) = pair().await;
    let peer = b.id();
    let _b = b.echo();
    let (mut reader, mut writer) = a.net.open(peer, Protocol::Read).await.unwrap().split();
    let shard: Vec<u8> = (0..16 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    tokio::spawn(async move {
        writer.send_parts(&[b"head", &shard]).await.unwrap();
        writer.flush().await.unwrap();
    });
    let back = reader.next((16 << 20) + 4).await.unwrap().unwrap();
    assert_eq!(back.len(), (16 << 20) + 4);
    assert!(back[4..].iter().zip(0u32..).all(|(byte, n)| *byte == (n.wrapping_mul(2_654_435_761) >> 24) as u8));
}

#[tokio::test]
async fn each_protocol_arrives_under_its_name() {
    let (a, mut b) = pair().await;
    for wanted in [Protocol::Mesh, Protocol::Store, Protocol::Read] {
        let _stream = a.net.open(b.id(), wanted).await.unwrap();
        let (peer, protocol, _) = b.inbound().await;
        assert_eq!((peer, protocol), (a.id(), wanted));
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_the_sender_up() {
    let (a, mut b) = pair().await;
    let (_reader, mut writer) = a.net.open(b.id(), Protocol::Store).await.unwrap().split();
    let (_, _, stream) = b.inbound().await;
    let (progress, seen) = tokio::sync::watch::channel(0);
    let sending = tokio::spawn(async move {
        for n in 0..64u8 {
            writer.send(&vec![n; 1 << 20]).await.unwrap();
            progress.send_replace(n + 1);
        }
        writer.close().await.unwrap();
    });
    tokio::time::sleep(Duration::from_millis(700)).await;
    let accepted = *seen.borrow();
    assert!(accepted < 4, "{accepted} MiB were taken that nobody reads");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(*seen.borrow(), accepted);
    // Another stream on the same connection is not held up.
    let _other = tokio::time::timeout(Duration::from_secs(5), a.net.open(b.id(), Protocol::Mesh)).await.unwrap().unwrap();
    let (mut reader, _writer) = stream.split();
    for n in 0..64u8 {
        assert!(reader.next(1 << 20).await.unwrap().unwrap() == vec![n; 1 << 20], "frame {n}");
    }
    assert!(reader.next(0).await.unwrap().is_none());
    sending.await.unwrap();
}

#[tokio::test]
async fn a_peer_that_never_reads_is_given_up() {
    let (a, mut b) = pair().await;
    let (_reader, mut writer) = a.net.open(b.id(), Protocol::Store).await.unwrap().split();
    let _held = b.inbound().await;
    writer.set_stall_timeout(Duration::from_millis(300));
    let error = loop {
        if let Err(error) = writer.send(&[0; 1 << 20]).await {
            break error;
        }
    };
    assert!(matches!(error, FrameError::Stalled { .. }), "{error}");
    assert!(matches!(writer.send(b"more").await, Err(FrameError::Broken)));
}

#[tokio::test]
async fn a_burst_of_streams_arrives_whole() {
    let (a, b) = pair().await;
    let peer = b.id();
    let _b = b.echo();
    let mut burst = tokio::task::JoinSet::new();
    for n in 0..200u8 {
        let net = a.net.clone();
        burst.spawn(async move {
            let (mut reader, mut writer) = net.open(peer, Protocol::Store).await.unwrap().split();
            writer.send(&[n; 5000]).await.unwrap();
            writer.close().await.unwrap();
            assert_eq!(reader.next(5000).await.unwrap().unwrap(), [n; 5000]);
            assert!(reader.next(0).await.unwrap().is_none());
        });
    }
    assert_eq!(burst.join_all().await.len(), 200);
}

#[tokio::test]
async fn streams_beyond_what_may_wait_are_refused_by_name() {
    let (a, mut b) = pair_with(|limits| {
        limits.streams_per_peer_max = 200;
        limits.streams_waiting_max = 50;
    })
    .await;
    let mut burst = tokio::task::JoinSet::new();
    for n in 0..200u8 {
        let (net, peer) = (a.net.clone(), b.id());
        burst.spawn(async move {
            let mut stream = net.open(peer, Protocol::Store).await?.split();
            stream.1.send(&[n; 100]).await.unwrap();
            stream.1.flush().await.unwrap();
            Ok(stream)
        });
    }
    let (mut accepted, mut refused) = (Vec::new(), 0);
    for outcome in burst.join_all().await {
        match outcome {
            Ok(stream) => accepted.push(stream),
            Err(OpenError::Refused(Refusal::Busy)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!((50..=70).contains(&accepted.len()), "{} accepted", accepted.len());
    assert_eq!(accepted.len() + refused, 200);
    // Every one that was accepted is there, whole.
    for _ in 0..accepted.len() {
        let (_, _, stream) = b.inbound().await;
        assert_eq!(stream.split().0.next(100).await.unwrap().unwrap().len(), 100);
    }
    a.net.open(b.id(), Protocol::Store).await.unwrap();
}

#[tokio::test]
async fn one_peer_cannot_have_every_stream() {
    let (a, mut b) = pair_with(|limits| {
        limits.streams_per_peer_max = 3;
        limits.open_timeout = Duration::from_millis(500);
    })
    .await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(a.net.open(b.id(), Protocol::Mesh).await.unwrap());
        open.push(b.inbound().await.2);
    }
    assert!(matches!(a.net.open(b.id(), Protocol::Mesh).await, Err(OpenError::TooManyStreams(3))));
    // The other direction has its own.
    open.push(b.net.open(a.id(), Protocol::Mesh).await.unwrap());
    open.truncate(2);
    open.clear();
    a.net.open(b.id(), Protocol::Mesh).await.unwrap();
}

#[tokio::test]
async fn a_node_with_more_allowed_is_told_by_the_one_with_less() {
    let a = common::node(1).await;
    let b = common::node_with(2, |limits| limits.streams_per_peer_max = 2).await;
    a.net.dial(&b.address(), None).await.unwrap();
    let _held = (a.net.open(b.id(), Protocol::Mesh).await.unwrap(), a.net.open(b.id(), Protocol::Read).await.unwrap());
    let refused = a.net.open(b.id(), Protocol::Mesh).await;
    assert!(matches!(refused, Err(OpenError::Refused(Refusal::TooManyStreams))), "{refused:?}");
}

#[tokio::test]
async fn an_end_and_a_break_are_told_apart() {
    let (a, mut b) = pair().await;
    let (_, mut writer) = a.net.open(b.id(), Protocol::Mesh).await.unwrap().split();
    let (mut reader, back) = b.inbound().await.2.split();
    writer.send(b"last").await.unwrap();
    writer.close().await.unwrap();
    assert_eq!(reader.next(10).await.unwrap().unwrap(), b"last");
    assert!(reader.next(10).await.unwrap().is_none());
    drop((reader, back));

    let (_, mut writer) = a.net.open(b.id(), Protocol::Mesh).await.unwrap().split();
    let (mut reader, _back) = b.inbound().await.2.split();
    writer.send(b"last").await.unwrap();
    writer.flush().await.unwrap();
    drop(writer);
    assert_eq!(reader.next(10).await.unwrap().unwrap(), b"last");
    assert!(matches!(reader.next(10).await, Err(FrameError::CutOff)));
}

#[tokio::test]
async fn one_direction_may_end_before_the_other() {
    let (a, mut b) = pair().await;
    let (mut answers, mut writer) = a.net.open(b.id(), Protocol::Mesh).await.unwrap().split();
    let (mut reader, mut back) = b.inbound().await.2.split();
    writer.send(b"question").await.unwrap();
    writer.close().await.unwrap();
    while reader.next(10).await.unwrap().is_some() {}
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answering = tokio::spawn(async move {
        back.send(&vec![1; 2 << 20]).await.unwrap();
        back.close().await.unwrap();
    });
    assert_eq!(answers.next(2 << 20).await.unwrap().unwrap().len(), 2 << 20);
    assert!(answers.next(0).await.unwrap().is_none());
    answering.await.unwrap();
}

#[tokio::test]
async fn a_frame_that_is_too_long_is_refused_by_its_length() {
    let (a, mut b) = pair().await;
    let (_, mut writer) = a.net.open(b.id(), Protocol::Mesh).await.unwrap().split();
    let (mut reader, _back) = b.inbound().await.2.split();
    writer.send(&[1; 1001]).await.unwrap();
    writer.flush().await.unwrap();
    assert!(matches!(reader.next(1000).await, Err(FrameError::TooLong { bytes: 1001, bytes_max: 1000 })));
    assert!(matches!(reader.next(2000).await, Err(FrameError::Broken)));
}

#[tokio::test]
async fn waiting_for_a_frame_may_be_given_up_and_taken_up_again() {
    let (a, mut b) = pair().await;
    let (_, mut writer) = a.net.open(b.id(), Protocol::Mesh).await.unwrap().split();
    let (mut reader, _back) = b.inbound().await.2.split();
    reader.set_idle_timeout(Some(Duration::from_millis(50)));
    assert!(matches!(reader.next(10).await, Err(FrameError::Idle { .. })));
    let sending = tokio::spawn(async move {
        for n in 0..50u8 {
            writer.send(&vec![n; 400_000]).await.unwrap();
            writer.flush().await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        writer
    });
    reader.set_idle_timeout(None);
    for n in 0..50u8 {
        let frame = tokio::time::timeout(PATIENCE, async {
            loop {
                // Dropped in the middle of frames again and again.
                if let Ok(frame) = tokio::time::timeout(Duration::from_micros(300), reader.next(400_000)).await {
                    return frame.unwrap().unwrap();
                }
            }
        });
        assert!(frame.await.unwrap() == vec![n; 400_000], "frame {n}");
    }
    sending.await.unwrap();
}
