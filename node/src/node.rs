//! All parts of a running node, as the agent holds them together.

use crate::catch_up::Heard;
use crate::fetch::Fetcher;
use crate::holder::Holder;
use crate::lanes::{Dialect, Lanes};
use crate::library::Library;
use crate::members::Members;
use crate::outbox::Outbox;
use crate::running::Running;
use crate::schedule::Scheduler;
use crate::serve::failed;
use crate::sets::Sets;
use crate::state::{Config, State};
use crate::throttle::Throttles;
use crate::vault::Vault;
use backmesh_control::Failure;
use backmesh_format::{NodeId, PackId};
use backmesh_mesh::message::{STORE_REPLY_FRAME_BYTES_MAX, StoreReply};
use backmesh_net::{Net, Protocol};
use backmesh_store::{
    ChunkIndex, ChunkIndexOptions, LogError, Records, SharedDisk, Spool, SpoolError, StatCache, StatCacheReader, StatCacheWriter,
};
use jiff::tz::TimeZone;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Whether the agent goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Going {
    /// It does.
    On,
    /// It ends.
    Stop,
    /// It ends, and begins anew as a new process in its place.
    Again,
}

/// A running node.
pub struct Node {
    /// The state folder.
    pub state: PathBuf,
    /// The network.
    pub net: Net,
    /// The workgroup, as it is known here.
    pub members: Arc<Members>,
    /// What is kept for others.
    pub holder: Arc<Holder>,
    /// The node's own vault.
    pub vault: Arc<Vault>,
    /// Its copysets.
    pub sets: Arc<Sets>,
    /// Which of its chunks lies where.
    pub index: Arc<ChunkIndex>,
    /// Its packs on their way.
    pub outbox: Arc<Outbox>,
    /// Streams to its holders.
    pub outgoing: Arc<Lanes<StoreReply>>,
    /// Who reads it.
    pub fetcher: Arc<Fetcher>,
    /// How fast it may be.
    pub throttles: Arc<Throttles>,
    /// When it backs up by itself.
    pub schedule: Scheduler,
    /// Held by the backup that runs.
    pub backing_up: Running,
    /// Who was asked since the start for a newer state of the vault than this folder's.
    pub heard: Heard,
    /// What the node waits for before it can back up; none in everyday life.
    pub taking_over: bool,
    files: State,
    config: Mutex<Config>,
    stat_cache: StatCache,
    ending: watch::Sender<Going>,
    spoilt: AtomicBool,
    heads: Mutex<HashMap<NodeId, u64>>,
}

impl Node {
    /// Opens everything below the state folder. The network runs already.
    ///
    /// # Errors
    /// What cannot be opened, and why.
    pub fn open(
        disk: SharedDisk,
        files: State,
        net: Net,
        members: Arc<Members>,
        records: Arc<Records>,
        ending: watch::Sender<Going>,
    ) -> anyhow::Result<Self> {
        let config = files.config()?;
        let throttles = Arc::new(Throttles::default());
        throttles.set(&config.limits, crate::os::now(), &TimeZone::system());
        let vault = Arc::new(Vault::open(&files, Arc::clone(&records))?);
        let sets = Arc::new(Sets::open(Arc::clone(&records), Arc::clone(&members), Arc::clone(&vault.writer))?);
        let index = Arc::new(open_index(&disk, &files.index_path(), &vault)?);
        let dialect = Dialect {
            protocol: Protocol::Store,
            answer_bytes_max: STORE_REPLY_FRAME_BYTES_MAX,
            decode: |frame| StoreReply::decode(&frame).ok().map(|reply| (reply.call(), reply)),
            greeting: None,
        };
        let outgoing = Arc::new(
            Lanes::new(net.clone(), dialect).limited(Arc::clone(&throttles.upload), Arc::default()).watched(members.conducts()),
        );
        let (spool, damaged) = open_spool(&disk, &files)?;
        damaged.iter().for_each(|problem| tracing::warn!("{problem}"));
        let spool = Arc::new(spool);
        let outbox = Arc::new(Outbox::open(spool, Arc::clone(&index), Arc::clone(&outgoing), Arc::clone(&sets))?);
        let fetcher = Fetcher::new(net.clone(), vault.prover(), vault.unsealing.clone(), vault.id_key.clone());
        let kept = Arc::clone(&outbox);
        let acknowledged = Box::new(move |pack: &PackId, shard| kept.is_acknowledged(pack, shard));
        let fetcher = fetcher.limited(&throttles.download).watched(members.conducts(), acknowledged);
        fetcher.learn_sets(sets.all().iter().map(|set| (**set).clone()));
        let holder = Holder::open(&disk, &files, records, Arc::clone(&members), config.offer_bytes)?;
        Ok(Self {
            state: files.folder().to_owned(),
            net,
            members,
            holder: Arc::new(holder.limited(&throttles)),
            sets,
            index,
            outbox,
            outgoing,
            fetcher: Arc::new(fetcher),
            throttles,
            schedule: Scheduler::open(&files),
            backing_up: Running::default(),
            heard: Heard::default(),
            taking_over: files.takeover_pending()?,
            stat_cache: StatCache::open(disk, &files.stat_cache_path(), vault.id_key.stat_cache_key())?,
            vault,
            files,
            config: Mutex::new(config),
            ending,
            spoilt: AtomicBool::new(false),
            heads: Mutex::default(),
        })
    }

    /// The state folder's files.
    pub fn files(&self) -> &State {
        &self.files
    }

    /// How many shards of the vault each holder keeps, as far as it was acknowledged.
    pub fn shards_by_holder(&self) -> HashMap<NodeId, u64> {
        let missing = self.outbox.missing_by_holder();
        let mut held: HashMap<NodeId, u64> = HashMap::new();
        for pack in self.index.packs(0..u32::MAX).unwrap_or_default() {
            for holder in self.sets.get(&pack.place.copyset).iter().flat_map(|set| &set.slots) {
                *held.entry(*holder).or_default() += 1;
            }
        }
        for (holder, count) in missing {
            held.entry(holder).and_modify(|held| *held = held.saturating_sub(count));
        }
        held
    }

    /// A holder has accepted the head of this number.
    pub(crate) fn note_head(&self, holder: NodeId, sequence: u64) {
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        let known = heads.entry(holder).or_default();
        *known = sequence.max(*known);
    }

    /// Whether a holder has accepted the head of this number, or a later one, since the agent started.
    pub(crate) fn has_head(&self, holder: &NodeId, sequence: u64) -> bool {
        let heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        heads.get(holder).is_some_and(|known| *known >= sequence)
    }

    /// What the configuration says now.
    pub fn config(&self) -> Config {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the configuration again.
    ///
    /// # Errors
    /// Where it makes no sense; the one before stays.
    pub fn reload(&self) -> Result<(), Failure> {
        let config = self.files.config().map_err(failed)?;
        self.holder.set_offer(config.offer_bytes);
        self.throttles.set(&config.limits, crate::os::now(), &TimeZone::system());
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
        self.schedule.note_change();
        Ok(())
    }

    /// Asks the agent to end.
    pub fn stop(&self) {
        self.ending.send(Going::Stop).ok();
    }

    /// Notes that memory holds what it should not: keys of packs, names and contents that were read before the key was locked away. To be
    /// followed by [`Node::begin_anew`], once that was answered.
    pub fn spoil_memory(&self) {
        self.spoilt.store(true, Ordering::Relaxed);
    }

    /// Whether memory holds what it should not.
    pub fn is_to_begin_anew(&self) -> bool {
        self.spoilt.load(Ordering::Relaxed)
    }

    /// Asks the agent to begin anew: nothing that its memory holds outlives that.
    pub fn begin_anew(&self) {
        self.ending.send_if_modified(|going| *going == Going::On && std::mem::replace(going, Going::Again) == Going::On);
    }

    /// The cache of the backup before, and a new one to be written.
    ///
    /// # Errors
    /// Where none can be written.
    pub fn stat_cache(&self) -> Result<(StatCacheReader, StatCacheWriter), backmesh_store::StatCacheError> {
        let epoch = self.index.epoch();
        Ok((self.stat_cache.reader(&epoch), self.stat_cache.writer(&epoch, rand::random())?))
    }

    /// Gives back the memory that a backup or a restore has taken; what is asked for next is read from the disk again.
    pub async fn rest(self: &Arc<Self>) {
        let node = Arc::clone(self);
        node.outbox.shrink();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || node.index.rest()).await {
            tracing::warn!("the index of chunks goes on using memory: {error}");
        }
    }

    /// The vault, to read in.
    ///
    /// # Errors
    /// Where there is no snapshot, or the vault is locked.
    pub fn library(&self) -> Result<Library, Failure> {
        if self.vault.unsealing.is_empty() {
            return Err(crate::key::locked());
        }
        self.fetcher.learn_sets(self.sets.all().iter().map(|set| (**set).clone()));
        Ok(Library::new(Arc::clone(&self.fetcher), self.vault.body(), Some(Arc::clone(&self.index)), Handle::current()))
    }
}

/// Without what was acknowledged, shards that holders have are offered to them once more, and nothing is lost.
fn open_spool(disk: &SharedDisk, files: &State) -> anyhow::Result<(Spool, Vec<SpoolError>)> {
    let folder = files.spool_path();
    match Spool::open(Arc::clone(disk), &folder) {
        Err(SpoolError::Log(error @ LogError::Damaged { .. })) => {
            tracing::warn!("what holders have acknowledged is damaged and is learnt again: {error}");
            Spool::forget_acknowledged(disk, &folder)?;
            Ok(Spool::open(Arc::clone(disk), &folder)?)
        }
        opened => Ok(opened?),
    }
}

/// The local index is a cache of what the vault's own index says: a damaged one is begun anew. What is stored already is then stored
/// once more, which costs space and loses nothing. One look may fail where the next does not, so there are two.
fn open_index(disk: &SharedDisk, folder: &Path, vault: &Vault) -> anyhow::Result<ChunkIndex> {
    let open = || ChunkIndex::open(Arc::clone(disk), folder, ChunkIndexOptions::default());
    let index = match open().or_else(|error| if error.is_damage() { open() } else { Err(error) }) {
        Err(error) if error.is_damage() => {
            tracing::warn!("the index of chunks is damaged and is begun anew: {error}");
            // First of all: a new index counts from the beginning, and what it counts up to the old one's end has no segment yet.
            vault.disown_segments(0)?;
            ChunkIndex::discard(disk, folder)?;
            open()?
        }
        opened => opened?,
    };
    // A person may have moved it away.
    vault.disown_segments(index.next_pack())?;
    Ok(index)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::holder::tests::{joined, net};
    use crate::vault::Listed;
    use backmesh_format::index::{FramePlace, PackPlace, Place, SegmentRef};
    use backmesh_format::pack::SizeClass;
    use backmesh_format::stripe::Purpose;
    use backmesh_format::{ChunkId, CopysetId};
    use backmesh_store::faulty::{Fault, FaultyDisk};

    const FOLDER: &str = "/index";

    /// A member, of whose nodes' folders only the keys stay the same.
    pub(crate) struct Machine {
        state: State,
        pub(crate) members: Arc<Members>,
        pub(crate) net: Net,
        _folder: tempfile::TempDir,
    }

    impl Machine {
        pub(crate) async fn new(seed: u8) -> Self {
            let (folder, state) = joined(seed);
            let (net, mut events) = net(state.node_key().unwrap()).await;
            let records = Arc::new(Records::open(Arc::new(FaultyDisk::new()), Path::new("/members")).unwrap());
            let (members, drive) = Members::open(&state, net.clone(), records).unwrap();
            tokio::spawn(drive.run());
            let told = Arc::clone(&members);
            tokio::spawn(async move {
                while let Some(event) = events.recv().await {
                    told.tell(event).await;
                }
            });
            Self { state, members, net, _folder: folder }
        }

        /// Its node, with what is on a disk.
        pub(crate) fn node(&self, disk: &FaultyDisk) -> Arc<Node> {
            self.try_node(disk).unwrap()
        }

        pub(crate) fn try_node(&self, disk: &FaultyDisk) -> anyhow::Result<Arc<Node>> {
            let shared: SharedDisk = Arc::new(disk.clone());
            let records = Arc::new(Records::open(Arc::clone(&shared), Path::new("/records"))?);
            let (members, (ending, _)) = (Arc::clone(&self.members), watch::channel(Going::On));
            Ok(Arc::new(Node::open(shared, self.state.clone(), self.net.clone(), members, records, ending)?))
        }
    }

    /// A vault whose segments cover what the local index has.
    fn with_a_segment(disk: &FaultyDisk) -> (tempfile::TempDir, State, Arc<Records>) {
        let (folder, state) = joined(7);
        let shared: SharedDisk = Arc::new(disk.clone());
        let records = Arc::new(Records::open(Arc::clone(&shared), Path::new("/records")).unwrap());
        let vault = Vault::open(&state, Arc::clone(&records)).unwrap();
        let index = open_index(&shared, Path::new(FOLDER), &vault).unwrap();
        let pack = PackPlace { pack: PackId([1; 32]), copyset: CopysetId([2; 32]), class: SizeClass::K4 };
        let at = FramePlace { frame: 0, frame_offset: 0, frame_sealed_bytes: 100, offset: 0, bytes: 50 };
        index.insert_pack(pack, Purpose::Data, &[(ChunkId([3; 32]), at)]).unwrap();
        let root = ChunkId([4; 32]);
        let reference = SegmentRef { purpose: Purpose::Data, domain: 0, rows: 1, root, place: Place { pack, at } };
        vault.set_segments(Purpose::Data, vec![Listed { reference, first_pack: 0, end_pack: 1, local: true }]);
        let head = vault.sign_head(&vault.body()).unwrap();
        vault.accept_head(&head, vault.body()).unwrap();
        (folder, state, records)
    }

    /// The segments as the next start finds them, after the index was opened.
    fn segments(disk: &FaultyDisk, state: &State, records: &Arc<Records>) -> Vec<Listed> {
        let shared: SharedDisk = Arc::new(disk.clone());
        let vault = Vault::open(state, Arc::clone(records)).unwrap();
        open_index(&shared, Path::new(FOLDER), &vault).unwrap();
        let segments = vault.segments(Purpose::Data);
        assert_eq!(Vault::open(state, Arc::clone(records)).unwrap().segments(Purpose::Data), segments, "it is remembered");
        segments
    }

    #[test]
    fn an_index_that_is_begun_anew_is_covered_by_no_segment() {
        let disk = FaultyDisk::new();
        let (_folder, state, records) = with_a_segment(&disk);
        let before = segments(&disk, &state, &records);
        assert!(before[0].local && before[0].end_pack == 1);
        disk.set_bytes_of(&Path::new(FOLDER).join("journal.log"), vec![7; 100]);
        let after = segments(&disk, &state, &records);
        assert_eq!(after[0].reference, before[0].reference, "the segment is still the vault's");
        assert!(!after[0].local && after[0].end_pack == 0, "packs of the new index would come into no segment");

        // The same where a person moved it away.
        let disk = FaultyDisk::new();
        let (_folder, state, records) = with_a_segment(&disk);
        disk.files().iter().filter(|path| path.starts_with(FOLDER)).for_each(|path| disk.remove(path));
        let after = segments(&disk, &state, &records);
        assert!(!after[0].local && after[0].end_pack == 0);
    }

    #[test]
    fn one_short_read_does_not_cost_the_index() {
        let whole = FaultyDisk::new();
        let (_folder, state, records) = with_a_segment(&whole);
        let calls = whole.calls();
        segments(&whole, &state, &records);
        for ahead in 0..whole.calls() - calls {
            let disk = FaultyDisk::new();
            let (_folder, state, records) = with_a_segment(&disk);
            let shared: SharedDisk = Arc::new(disk.clone());
            let vault = Vault::open(&state, Arc::clone(&records)).unwrap();
            disk.fail_at(disk.calls() + ahead, Fault::Short);
            let opened = open_index(&shared, Path::new(FOLDER), &vault);
            assert!(
                opened.is_err() || opened.is_ok_and(|index| index.next_pack() == 1),
                "call {ahead}: the index was begun anew"
            );
        }
    }
}
