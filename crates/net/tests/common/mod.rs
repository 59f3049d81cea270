//! Nodes on loopback, and a line between them that can be held up or cut.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "each test uses its part")]

use backmesh_format::NodeId;
use backmesh_format::keys::KeyPair;
use backmesh_net::{Limits, Net, NetConfig, NetEvent, Protocol, Stream};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Node {
    pub net: Net,
    pub events: mpsc::Receiver<NetEvent>,
}

pub async fn node(seed: u8) -> Node {
    node_with(seed, |_| ()).await
}

pub async fn node_with(seed: u8, adjust: impl FnOnce(&mut Limits)) -> Node {
    let mut config = NetConfig::new(KeyPair::from_secret(&[seed; 32]));
    config.listen = vec!["127.0.0.1:0".to_owned()];
    adjust(&mut config.limits);
    let (net, events) = Net::start(config).await.unwrap();
    Node { net, events }
}

/// Two nodes, the first connected to the second.
pub async fn pair() -> (Node, Node) {
    pair_with(|_| ()).await
}

pub async fn pair_with(adjust: impl Fn(&mut Limits)) -> (Node, Node) {
    let (a, b) = (node_with(1, &adjust).await, node_with(2, &adjust).await);
    assert_eq!(a.net.dial(&b.address(), None).await.unwrap(), b.id());
    (a, b)
}

impl Node {
    pub fn id(&self) -> NodeId {
        self.net.local()
    }

    pub fn address(&self) -> String {
        self.net.addresses().pop().unwrap()
    }

    pub fn port(&self) -> u16 {
        self.address().parse::<backmesh_net::Address>().unwrap().port
    }

    pub async fn event<T>(&mut self, wanted: impl Fn(NetEvent) -> Option<T>) -> T {
        let search = async {
            loop {
                if let Some(found) = wanted(self.events.recv().await.expect("the events ended")) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, search).await.expect("the event did not come")
    }

    pub async fn inbound(&mut self) -> (NodeId, Protocol, Stream) {
        self.event(|event| match event {
            NetEvent::Inbound { peer, protocol, stream } => Some((peer, protocol, stream)),
            _ => None,
        })
        .await
    }

    pub async fn connected(&mut self) -> NodeId {
        self.event(|event| match event {
            NetEvent::Connected { peer, .. } => Some(peer),
            _ => None,
        })
        .await
    }

    pub async fn disconnected(&mut self) -> (NodeId, backmesh_net::DisconnectReason) {
        self.event(|event| match event {
            NetEvent::Disconnected { peer, reason } => Some((peer, reason)),
            _ => None,
        })
        .await
    }

    /// Answers every frame with itself, in the background, on every stream.
    pub fn echo(mut self) -> Net {
        let net = self.net.clone();
        tokio::spawn(async move {
            while let Some(event) = self.events.recv().await {
                if let NetEvent::Inbound { stream, .. } = event {
                    tokio::spawn(async move {
                        let (mut reader, mut writer) = stream.split();
                        while let Ok(Some(frame)) = reader.next(32 << 20).await {
                            if writer.send(&frame).await.is_err() || writer.flush().await.is_err() {
                                return;
                            }
                        }
                        let _ = writer.close().await;
                    });
                }
            }
        });
        net
    }
}

/// What a [`Line`] does with what it is given.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Carry,
    Swallow,
    Corrupt,
    Cut,
}

/// A TCP proxy in front of a node.
pub struct Line {
    pub address: String,
    mode: watch::Sender<Mode>,
}

impl Line {
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (mode, mode_end) = watch::channel(Mode::Carry);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                tokio::spawn(carry(near_read, far_write, mode_end.clone()));
                tokio::spawn(carry(far_read, near_write, mode_end.clone()));
            }
        });
        Self { address, mode }
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read.unwrap_or(0),
            _ = mode.wait_for(|mode| *mode == Mode::Cut) => return,
        };
        if *mode.borrow() == Mode::Swallow {
            continue;
        }
        if *mode.borrow() == Mode::Corrupt {
            buffer[read / 2] ^= 1;
        }
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
