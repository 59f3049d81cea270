//! A member that lies. It has a certificate, keeps the directory as the others do, dials and is dialled by the node's own code, and
//! holds shards; what it answers, and what it sends unasked, is bent by its [`Behaviour`], which a test changes while it runs.

mod answers;
mod attacks;
pub mod rounds;

use crate::{Group, text};
use anyhow::{Context, Result, bail};
use backmesh::members::Members;
use backmesh::state::State;
use backmesh_format::copyset::Copyset;
use backmesh_format::stripe::Stripe;
use backmesh_format::vault::Head;
use backmesh_format::{CopysetId, PackId, VaultId};
use backmesh_format::{NodeId, Signed};
use backmesh_net::{Net, NetConfig, NetEvent, Protocol};
use backmesh_store::{RealDisk, Records};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::watch;

macro_rules! behaviours {
    ($($(#[$doc:meta])* $variant:ident $name:literal,)*) => {
        /// What a member does.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Behaviour {
            $($(#[$doc])* $variant,)*
        }

        impl Behaviour {
            /// All of them, the honest one first.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// What it is called.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

behaviours! {
    /// What a member should.
    Honest "honest",
    /// Shards with a bit flipped.
    WrongBytes "wrong-bytes",
    /// The right answers, three seconds late.
    Late "late",
    /// Acknowledges shards, and throws them away.
    Drops "drops",
    /// The same, but lists all of them, and makes up bytes for whoever asks.
    Claims "claims",
    /// Takes every head, and shows only the first.
    OldHead "old-head",
    /// Shows and spreads heads, plans, stripes, pointers and states that it signed itself in the name of others.
    Forges "forges",
    /// Sends what an owner sent to it, proofs included, to everyone else.
    Replays "replays",
    /// Takes streams, and says nothing on them.
    Silent "silent",
    /// Holds hundreds of TCP connections that say nothing, or stop in the middle of the handshake.
    HalfOpen "half-open",
    /// Opens ten thousand streams.
    Streams "streams",
    /// Answers one byte a second.
    Trickles "trickles",
    /// Frames that are announced as 3 GiB, as requests and as answers.
    Endless "endless",
    /// A million tiny records and requests.
    Tiny "tiny",
    /// Comes with the certificate of another workgroup.
    Foreign "foreign",
    /// Is no longer a member, and goes on as if it were.
    Revoked "revoked",
    /// Refuses everything.
    Refuses "refuses",
    /// Lists what it has, and refuses to give it.
    RefusesRanges "refuses-ranges",
    /// Answers what nobody asked.
    Unasked "unasked",
    /// Acknowledges what has not come yet.
    Early "early",
    /// Closes the stream after each request.
    Closes "closes",
    /// Acknowledges everything a hundred thousand times.
    Floods "floods",
}

impl Behaviour {
    /// The one that is called so.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|behaviour| behaviour.name() == name)
    }

    /// As what it must be named in `peers`, as `kind` says it there: one of these; none where nothing names it, because its owner is no
    /// member or nothing reaches those who would.
    pub fn named_as(self) -> &'static [&'static str] {
        match self {
            Self::Honest | Self::Replays | Self::HalfOpen | Self::Foreign | Self::Revoked => &[],
            Self::WrongBytes | Self::Claims => &["wrong_bytes"],
            Self::Late => &["stalled"],
            Self::Silent | Self::Trickles => &["stalled", "timed_out"],
            Self::Drops => &["lost_shards"],
            Self::OldHead => &["old_head"],
            Self::Forges => &["forged_records"],
            Self::Refuses | Self::RefusesRanges => &["refused"],
            Self::Streams | Self::Endless | Self::Tiny | Self::Unasked | Self::Early | Self::Closes | Self::Floods => {
                &["broke_protocol"]
            }
        }
    }
}

/// What it keeps of others.
#[derive(Default)]
struct Kept {
    shards: BTreeMap<(PackId, u8), (Signed<Stripe>, Vec<u8>)>,
    sets: BTreeMap<(VaultId, CopysetId), Signed<Copyset>>,
    heads: Vec<Signed<Head>>,
    /// Packs that it acknowledged and threw away.
    claimed: BTreeMap<PackId, CopysetId>,
    /// Requests as they came, of every kind.
    captured: Vec<Vec<u8>>,
}

/// Its parts, as its tasks share them.
struct Core {
    state: State,
    net: Net,
    members: Arc<Members>,
    behaviour: watch::Sender<Behaviour>,
    kept: Mutex<Kept>,
}

impl Core {
    fn behaviour(&self) -> Behaviour {
        *self.behaviour.borrow()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running member that lies, or does not yet.
pub struct Liar {
    /// Its node id, as `peers` shows it.
    pub node: String,
    core: Arc<Core>,
    runtime: Runtime,
}

/// What it says it offers, in bytes: so much that everyone wants to store there.
const OFFERED_BYTES: u64 = 1 << 46;

impl Liar {
    /// Joins a workgroup, honest so far.
    ///
    /// # Errors
    /// Where it cannot join.
    pub fn join(group: &Group, name: &str) -> Result<Self> {
        let blank = group.blank(name);
        group.join(&blank, &group.token(&[]), "0").expect(0);
        let runtime = Runtime::new()?;
        let core = runtime.block_on(open(State::open(&blank.state)?))?;
        Ok(Self { node: core.members.me().to_string(), core, runtime })
    }

    /// Behaves so from now on: whatever it was in the middle of ends, and what it does unasked begins, against the node at this address.
    pub fn turn(&self, behaviour: Behaviour, victim: &str) {
        self.core.behaviour.send_replace(behaviour);
        self.runtime.spawn(attacks::begin(Arc::clone(&self.core), behaviour, victim.to_owned()));
    }

    /// Forgets all that it keeps.
    pub fn forget(&self) {
        *self.core.kept() = Kept::default();
    }

    /// Its state folder's name, for messages.
    pub fn name(&self) -> String {
        text(self.core.state.folder()).to_owned()
    }
}

async fn open(state: State) -> Result<Arc<Core>> {
    let mut config = NetConfig::new(state.node_key()?);
    config.listen = vec!["127.0.0.1:0".to_owned()];
    // What it may do to others is for them to bound.
    config.limits.streams_per_peer_max = 100_000;
    config.limits.pending_outbound_max = 4096;
    let (net, mut events) = Net::start(config).await?;
    let records = Arc::new(Records::open(Arc::new(RealDisk), &state.records_path())?);
    let (members, drive) = Members::open(&state, net.clone(), records)?;
    let core = Arc::new(Core {
        state,
        net,
        members: Arc::clone(&members),
        behaviour: watch::Sender::new(Behaviour::Honest),
        kept: Mutex::default(),
    });
    tokio::spawn(drive.run());
    tokio::spawn(async move {
        loop {
            members.announce_self(OFFERED_BYTES, OFFERED_BYTES);
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    });
    let serving = Arc::clone(&core);
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            match event {
                NetEvent::Inbound { peer, protocol: Protocol::Store, stream } => {
                    tokio::spawn(answers::until_it_turns(Arc::clone(&serving), peer, Protocol::Store, stream));
                }
                NetEvent::Inbound { peer, protocol: Protocol::Read, stream } => {
                    tokio::spawn(answers::until_it_turns(Arc::clone(&serving), peer, Protocol::Read, stream));
                }
                other => serving.members.tell(other).await,
            }
        }
    });
    Ok(core)
}

/// The IP address and port in an address of a node.
fn tcp_place(address: &str) -> Result<String> {
    let parts: Vec<&str> = address.split('/').collect();
    match parts.as_slice() {
        [_, _, ip, _, port, ..] => Ok(format!("{ip}:{port}")),
        _ => bail!("{address} is no address"),
    }
}

/// The id of the node at an address.
fn dialled(core: &Core, address: &str) -> impl Future<Output = Result<NodeId>> {
    let (net, address) = (core.net.clone(), address.to_owned());
    async move { net.dial(&address, None).await.with_context(|| format!("{address} is not reached")) }
}
