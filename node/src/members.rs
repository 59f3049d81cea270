//! The workgroup, as this node knows it: drives the peer's state machine over the network and keeps what it learns.

use crate::conduct::Conducts;
use crate::sets::Sets;
use crate::state::State;
use crate::vault::Vault;
use backmesh_control::Standing;
use backmesh_format::charter::Level;
use backmesh_format::keys::KeyPair;
use backmesh_format::membership::{MemberState, Role};
use backmesh_format::vault::VaultPointer;
use backmesh_format::{DecodeError, MachineId, NodeId, Signed, UnixMillis, VaultId, WorkgroupId, limits};
use backmesh_mesh::directory::{Change, Directory, DirectoryRecord};
use backmesh_mesh::message::{MESH_FRAME_BYTES_MAX, Message, Standing as MeshStanding};
use backmesh_mesh::peer::{Announcement, DialTarget, Input, LinkId, Moment, Output, Peer as Machine, PeerConfig, PeerEvent};
use backmesh_net::{FrameError, FrameReader, FrameWriter, Net, NetEvent, Protocol, Stream};
use backmesh_policy::{Candidate, Offence};
use backmesh_store::{Records, RecordsError, Table};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};

/// Messages that wait to be sent on one link. A link that does not take them is closed.
const MESSAGES_WAITING: usize = 256;
/// Changes that wait to be written.
const CHANGES_WAITING: usize = 1024;
/// What the keys of the directory's records begin with.
const PREFIX: &[u8] = b"directory ";
/// How long a dial of one address may take.
const DIAL_LIMIT: Duration = Duration::from_secs(12);
/// How long after one address of a node the next is tried beside it.
const DIAL_STAGGER: Duration = Duration::from_millis(500);
/// How long a closed link may take to send what was still to be said.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// What is known, at one moment.
pub struct View {
    /// The workgroup.
    pub workgroup: WorkgroupId,
    /// Its name.
    pub workgroup_name: String,
    /// This node's name.
    pub name: String,
    /// This node's machine.
    pub machine: MachineId,
    /// The redundancy level.
    pub level: Level,
    /// Whether shards are spread so that any site may be lost.
    pub site_safe: bool,
    /// Members that may hold shards.
    pub candidates: Vec<Candidate>,
    /// Everyone known.
    pub peers: Vec<Peer>,
}

/// Someone known.
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub site: String,
    /// Whether it is this node.
    pub me: bool,
    /// Whether it counts as a member.
    pub standing: Standing,
    /// Where it says it can be met.
    pub addresses: Vec<String>,
    /// What it offers, in bytes.
    pub offered_bytes: u64,
    /// What of that is free, in bytes.
    pub free_bytes: u64,
    /// When it last spoke of itself, by its own clock.
    pub seen_at: Option<UnixMillis>,
}

/// The members, as others parts of the node ask for them.
pub struct Members {
    me: NodeId,
    net: Net,
    machine: Mutex<Machine>,
    /// Held while one input is handled and what follows from it is done, so that outputs keep their order.
    turn: Mutex<()>,
    woken: Notify,
    began: Instant,
    links: AtomicU64,
    writers: Mutex<HashMap<LinkId, mpsc::Sender<Message>>>,
    connected: Mutex<HashSet<NodeId>>,
    heard: Mutex<HashSet<NodeId>>,
    view: Mutex<Option<Arc<View>>>,
    announced: Mutex<Option<(u64, Vec<NodeId>)>>,
    notice: Mutex<Option<String>>,
    conducts: Arc<Conducts>,
    yields: Notify,
    changes: mpsc::Sender<Vec<Change>>,
}

/// What runs the members.
pub struct Drive {
    members: Arc<Members>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Members {
    /// Brings the directory back from the records.
    ///
    /// # Errors
    /// Where the charter or the certificate cannot be read.
    pub fn open(files: &State, net: Net, records: Arc<Records>) -> anyhow::Result<(Arc<Self>, Drive)> {
        let key: KeyPair = files.node_key()?;
        let me = NodeId(key.public().0);
        let (charter, certificate) = (files.charter()?, files.certificate()?);
        let began = Instant::now();
        let now = Moment { monotonic_ms: 0, unix_ms: crate::os::now() };
        let stored = records.scan(Table::Node, PREFIX)?.into_iter().map(|(key, value)| (key[PREFIX.len()..].to_vec(), value));
        let directory = match Directory::load(me, charter.clone(), certificate.clone(), now.unix_ms, stored) {
            Ok(directory) => directory,
            Err(error) => {
                tracing::warn!("what was known of the workgroup is damaged and is learnt again: {error}");
                Directory::new(me, charter, certificate, now.unix_ms)?
            }
        };
        let machine = Machine::new(key, directory, PeerConfig::default(), rand::random(), now);
        let conducts = Arc::new(Conducts::open(Arc::clone(&records))?);
        let (changes, waiting) = mpsc::channel(CHANGES_WAITING);
        std::thread::Builder::new().name("directory".to_owned()).spawn(move || keep(&records, waiting))?;
        let members = Arc::new(Self {
            me,
            net,
            machine: Mutex::new(machine),
            turn: Mutex::default(),
            woken: Notify::new(),
            began,
            links: AtomicU64::new(1),
            writers: Mutex::default(),
            connected: Mutex::default(),
            heard: Mutex::default(),
            view: Mutex::default(),
            announced: Mutex::default(),
            notice: Mutex::default(),
            conducts,
            yields: Notify::new(),
            changes,
        });
        Ok((Arc::clone(&members), Drive { members }))
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// What members have done to this node.
    pub fn conducts(&self) -> &Arc<Conducts> {
        &self.conducts
    }

    /// Takes notice of what another has done, if it is a member: anyone can make any number of names for strangers.
    pub fn note(&self, node: &NodeId, offence: Offence) {
        if self.is_member(node) {
            self.conducts.note(*node, offence);
        }
    }

    /// What is known now.
    pub fn view(&self) -> Arc<View> {
        let mut cached = lock(&self.view);
        Arc::clone(cached.get_or_insert_with(|| Arc::new(self.look())))
    }

    /// Whether a node is connected and both sides have greeted.
    pub fn is_connected(&self, node: &NodeId) -> bool {
        lock(&self.connected).contains(node)
    }

    /// Whether a node has been connected since the agent started.
    pub fn was_heard(&self, node: &NodeId) -> bool {
        lock(&self.heard).contains(node)
    }

    /// Whether a node counts as a member.
    pub fn is_member(&self, node: &NodeId) -> bool {
        matches!(self.standing(node), MeshStanding::Accepted | MeshStanding::Spent)
    }

    /// What this node thinks of another.
    pub fn standing(&self, node: &NodeId) -> MeshStanding {
        lock(&self.machine).directory().standing(node)
    }

    /// What one owner may store at each holder, in bytes; 0 sets no limit.
    pub fn quota_bytes(&self) -> u64 {
        lock(&self.machine).directory().charter().quota_bytes
    }

    /// Where a vault lies, as far as the directory knows.
    pub fn locate(&self, vault: &VaultId) -> (Vec<Signed<VaultPointer>>, Vec<Signed<MemberState>>) {
        lock(&self.machine).directory().locate(vault)
    }

    /// Whether another member has countersigned this node's certificate.
    pub fn is_admitted(&self) -> bool {
        lock(&self.machine).directory().is_admitted()
    }

    /// What a person should know and do about this node's membership.
    pub fn notice(&self) -> Option<String> {
        lock(&self.notice).clone()
    }

    /// Sets what a person should know.
    pub fn set_notice(&self, text: String) {
        *lock(&self.notice) = Some(text);
    }

    /// Returns once another process with this node's key has turned out to be the one that stays.
    pub async fn yields(&self) {
        self.yields.notified().await;
    }

    /// Says what this node offers, and where it can be met.
    pub fn announce_self(self: &Arc<Self>, offered_bytes: u64, free_bytes: u64) {
        let mut addresses = self.net.addresses();
        addresses.truncate(limits::ADDRESSES_MAX);
        self.handle(Input::Announce(Announcement { addresses, offered_bytes, free_bytes, uptime_permille: 1000 }));
    }

    /// Says where the vault lies, where that has changed.
    pub fn announce_vault(self: &Arc<Self>, vault: &Vault, sets: &Sets) {
        let mut holders = sets.holders();
        holders.truncate(limits::SHARDS_MAX);
        if vault.head().is_none() || holders.is_empty() {
            return;
        }
        let certificate = &vault.writer.certificate;
        let now = (certificate.generation, holders.clone());
        if lock(&self.announced).replace(now.clone()) == Some(now) {
            return;
        }
        let (workgroup, known) = {
            let machine = lock(&self.machine);
            let directory = machine.directory();
            let own = directory.pointers(&vault.id).filter(|pointer| pointer.writer.writer == certificate.writer);
            (directory.workgroup(), own.map(|pointer| pointer.sequence).max().unwrap_or(0))
        };
        let pointer = VaultPointer { workgroup, writer: certificate.clone(), sequence: known + 1, holders };
        let pointer = Signed::new(pointer, &[&vault.writer.key]);
        self.handle(Input::Learn(Box::new(DirectoryRecord::Pointer(Box::new(pointer)))));
    }

    /// Takes in what happened on the network.
    pub async fn tell(self: &Arc<Self>, event: NetEvent) {
        if let NetEvent::Inbound { peer, protocol: Protocol::Mesh, stream } = event {
            self.link(peer, stream, false);
        }
    }

    /// Takes note of where a node is said to be on the local network.
    pub fn hear_of(self: &Arc<Self>, node: NodeId, addresses: Vec<String>) {
        self.handle(Input::Nearby { node, addresses });
    }

    fn now(&self) -> Moment {
        let monotonic_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Moment { monotonic_ms, unix_ms: crate::os::now() }
    }

    fn handle(self: &Arc<Self>, input: Input) {
        let _turn = lock(&self.turn);
        let now = self.now();
        let outputs: Vec<Output> = {
            let mut machine = lock(&self.machine);
            machine.handle(now, input);
            std::iter::from_fn(|| machine.poll()).collect()
        };
        for output in outputs {
            self.perform(output);
        }
        self.woken.notify_one();
    }

    fn perform(self: &Arc<Self>, output: Output) {
        match output {
            Output::Send { link, message } => {
                let writer = lock(&self.writers).get(&link).cloned();
                if writer.is_some_and(|writer| writer.try_send(message).is_err()) {
                    // It does not read, or is gone: without its writer the link ends.
                    lock(&self.writers).remove(&link);
                }
            }
            Output::Close { link } => {
                lock(&self.writers).remove(&link);
            }
            Output::Store(changes) => {
                lock(&self.view).take();
                if self.changes.try_send(changes).is_err() {
                    tracing::warn!("what was learnt of the workgroup could not be kept; it is learnt again after a restart");
                }
            }
            Output::Up { node, standing, thinks } => {
                if standing != MeshStanding::Guest {
                    lock(&self.connected).insert(node);
                    lock(&self.heard).insert(node);
                    lock(&self.view).take();
                }
                tracing::debug!(%node, ?standing, ?thinks, "connected");
            }
            Output::Down { node } => {
                lock(&self.connected).remove(&node);
                lock(&self.view).take();
                tracing::debug!(%node, "disconnected");
            }
            Output::Dial { target, node, addresses } => {
                tokio::spawn(Arc::clone(self).dial(target, node, addresses));
            }
            Output::Report(event) => self.report(&event),
        }
    }

    fn report(&self, event: &PeerEvent) {
        lock(&self.view).take();
        match event {
            PeerEvent::Admitted => {
                lock(&self.notice).take();
                tracing::info!("a member has admitted this node");
            }
            PeerEvent::RefusedBy { node, reason, text } => {
                tracing::warn!(%node, "a member refuses this node: {text}: {}", reason.advice());
                if !reason.passes() {
                    *lock(&self.notice) = Some(reason.advice().to_owned());
                }
            }
            PeerEvent::CopiedIdentity { yields } => {
                let text =
                    "another machine runs with a copy of this state: stop one of the two and join it with a token of its own";
                *lock(&self.notice) = Some(text.to_owned());
                tracing::error!("{text}");
                if *yields {
                    self.yields.notify_one();
                }
            }
            PeerEvent::Misbehaved { node } => {
                tracing::warn!(%node, "a member sent forged records and was cut off");
                self.note(node, Offence::Forged);
            }
            other => tracing::info!(event = ?other, "the workgroup has changed"),
        }
    }

    /// Tries all addresses, each a little after the one before: of several that a machine has, some lead nowhere, and say so late.
    async fn dial(self: Arc<Self>, target: DialTarget, node: Option<NodeId>, addresses: Vec<String>) {
        let mut dialling: FuturesUnordered<_> = (0_u32..)
            .zip(&addresses)
            .map(|(at, address)| {
                let net = &self.net;
                async move {
                    tokio::time::sleep(DIAL_STAGGER * at).await;
                    (address, tokio::time::timeout(DIAL_LIMIT, net.dial(address, node)).await)
                }
            })
            .collect();
        while let Some((address, dialled)) = dialling.next().await {
            match dialled {
                Ok(Ok(peer)) => match self.net.open(peer, Protocol::Mesh).await {
                    Ok(stream) => return self.link(peer, stream, true),
                    Err(error) => tracing::debug!(%peer, "no mesh stream: {error}"),
                },
                Ok(Err(error)) => tracing::debug!(%address, "not reached: {error}"),
                Err(_) => tracing::debug!(%address, "not reached in time"),
            }
        }
        self.handle(Input::DialFailed { target });
    }

    /// Begins a conversation on a stream.
    fn link(self: &Arc<Self>, node: NodeId, stream: Stream, outbound: bool) {
        let link = LinkId(self.links.fetch_add(1, Ordering::Relaxed));
        let (reader, writer) = stream.split();
        let (messages, waiting) = mpsc::channel(MESSAGES_WAITING);
        lock(&self.writers).insert(link, messages);
        self.handle(Input::Connected { link, node, address: String::new(), outbound });
        let members = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                () = members.read_messages(link, node, reader) => {}
                () = write_messages(writer, waiting) => {}
            }
            lock(&members.writers).remove(&link);
            members.handle(Input::Disconnected { link });
        });
    }

    async fn read_messages(self: &Arc<Self>, link: LinkId, node: NodeId, mut reader: FrameReader) {
        loop {
            match reader.next(MESH_FRAME_BYTES_MAX).await.map(|frame| frame.map(|frame| Message::decode(&frame))) {
                Ok(Some(Ok(message))) => self.handle(Input::Message { link, message }),
                Ok(Some(Err(error))) => {
                    // A later program may say what this one does not know; that is no offence.
                    if !matches!(error, DecodeError::Version { .. } | DecodeError::Flags { .. }) {
                        self.note(&node, Offence::Protocol);
                    }
                    self.handle(Input::Malformed { link, error });
                }
                Err(FrameError::TooLong { .. }) => return self.note(&node, Offence::Protocol),
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn look(&self) -> View {
        let machine = lock(&self.machine);
        let directory = machine.directory();
        let charter = directory.charter();
        let mut view = View {
            workgroup: directory.workgroup(),
            workgroup_name: charter.name.clone(),
            name: String::new(),
            machine: directory.machine(&self.me).unwrap_or(MachineId([0; 32])),
            level: charter.level,
            site_safe: charter.site_safe,
            candidates: Vec::new(),
            peers: Vec::new(),
        };
        for member in directory.members() {
            let certificate = member.certificate;
            let me = member.node == self.me;
            if me {
                view.name.clone_from(&certificate.name);
            }
            let state = member.state.map(|state| (**state).clone());
            let holds = !me && member.standing == MeshStanding::Accepted && certificate.role == Role::Member;
            if let Some(state) = state.as_ref().filter(|state| holds && state.offered_bytes > 0) {
                view.candidates.push(Candidate {
                    node: member.node,
                    machine: certificate.machine,
                    site: certificate.site.clone(),
                    free_bytes: state.free_bytes,
                    online: self.is_connected(&member.node),
                });
            }
            view.peers.push(Peer {
                node: member.node,
                name: certificate.name.clone(),
                site: certificate.site.clone(),
                me,
                standing: standing(member.standing),
                addresses: state.as_ref().map(|state| state.addresses.clone()).unwrap_or_default(),
                offered_bytes: state.as_ref().map_or(0, |state| state.offered_bytes),
                free_bytes: state.as_ref().map_or(0, |state| state.free_bytes),
                seen_at: state.map(|state| state.written_at),
            });
        }
        view
    }
}

fn standing(standing: MeshStanding) -> Standing {
    match standing {
        MeshStanding::Accepted => Standing::Accepted,
        MeshStanding::Spent => Standing::Spent,
        MeshStanding::Expired => Standing::Expired,
        MeshStanding::Revoked => Standing::Revoked,
        MeshStanding::Waiting | MeshStanding::Guest => Standing::Waiting,
    }
}

/// Sends until the link is to be closed, then what was still waiting.
async fn write_messages(mut writer: FrameWriter, mut waiting: mpsc::Receiver<Message>) {
    while let Some(message) = waiting.recv().await {
        let frame = message.encode();
        tracing::trace!(protocol = %Protocol::Mesh, kind = frame.first(), bytes = frame.len(), "says");
        if writer.send(&frame).await.is_err() || (waiting.is_empty() && writer.flush().await.is_err()) {
            return;
        }
    }
    tokio::time::timeout(CLOSE_LIMIT, writer.close()).await.ok();
}

/// Writes what the directory learns, in order, until the node ends.
fn keep(records: &Records, mut waiting: mpsc::Receiver<Vec<Change>>) {
    while let Some(mut changes) = waiting.blocking_recv() {
        while let Ok(more) = waiting.try_recv() {
            changes.extend(more);
        }
        let full = |key: Vec<u8>| [PREFIX, &key].concat();
        let changes: Vec<backmesh_store::Change> = changes
            .into_iter()
            .map(|change| match change {
                Change::Put { key, value } => backmesh_store::Change::Put(Table::Node, full(key), value),
                Change::Remove { key } => backmesh_store::Change::Delete(Table::Node, full(key)),
            })
            .collect();
        let kept: Result<(), RecordsError> = records.apply(&changes);
        if let Err(error) = kept {
            tracing::warn!("what was learnt of the workgroup could not be kept: {error}");
        }
    }
}

impl Drive {
    /// Wakes the machine when it asks for it, until the task is dropped.
    pub async fn run(self) {
        let members = self.members;
        members.handle(Input::Wake);
        loop {
            let due = lock(&members.machine).next_deadline();
            let wait = Duration::from_millis(due.saturating_sub(members.now().monotonic_ms).max(1));
            tokio::select! {
                () = tokio::time::sleep(wait.min(Duration::from_secs(3600))) => members.handle(Input::Wake),
                () = members.woken.notified() => {}
            }
        }
    }
}
