//! A state that has fallen behind its vault: a folder that was put back from an older copy, a virtual machine that went back to a
//! snapshot, or a second process with the same keys. Holders then keep heads of this very writer that this state does not know. What
//! they name is taken over before anything is written: a head that began from an older one would hide it.
//!
//! Also found here is what this node itself wrote just before it was killed: a head that holders have and it had not yet remembered.
//!
//! Each holder is heard once a start, when it can first be reached, and again whenever it refuses a head as outdated. So what only some
//! holders know is found when they come, also if this state has given out higher numbers meanwhile.

#[cfg(test)]
pub(crate) mod tests;

use crate::fetch::{FetchError, Heads};
use crate::library::Library;
use crate::node::Node;
use crate::vault::{HeadIs, Older, SignHeadError, is_within, pages_to_read};
use backmesh_format::vault::{Head, HeadBody};
use backmesh_format::{NodeId, RecordHash, Signed};
use backmesh_store::RecordsError;
use futures::StreamExt;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::runtime::Handle;

/// How long all holders together may take to say which heads they have. Who is slower is heard the next time.
const HEARING_LIMIT: Duration = Duration::from_secs(15);
/// Once more than half have answered a state that knows a head, the others have so many times as long as these took, within these bounds.
const GRACE: u32 = 5;
const GRACE_BOUNDS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How long a holder that did not answer is left alone.
const SILENT_PAUSE: Duration = Duration::from_secs(60);
/// Holders asked side by side, each of which may answer with 1 MiB.
const ASKED_AT_ONCE: usize = 16;
/// How often the copysets of those who were heard may name others to be heard.
const ROUNDS_MAX: usize = 3;
/// Members that are asked where the vault lies, where this state should know and does not.
const GUIDES_MAX: usize = 16;

/// Why the vault's newer state could not be taken over.
#[derive(Debug, Error)]
pub enum BehindError {
    /// It is sealed to a key that is locked away.
    #[error(
        "holders have head {theirs} of this vault and this machine remembers {ours}: its state folder is an older copy, and what was \
         backed up since cannot be read while the key is locked away"
    )]
    Locked {
        /// The newest that holders have.
        theirs: u64,
        /// The newest that is known here.
        ours: u64,
    },
    /// It does not open.
    #[error("holders have head {theirs} of this vault, which this machine does not know and cannot read: {error}")]
    Unreadable {
        /// The newest that holders have.
        theirs: u64,
        /// Why.
        error: FetchError,
    },
    /// This state has lost what it knew of the vault, and those who know it cannot be reached.
    #[error(
        "this machine's folder has lost what it knew of its vault, and most of the members that know it cannot be reached: {}",
        .silent.join(", ")
    )]
    Unheard {
        /// Who was not heard, as people know them.
        silent: Vec<String>,
    },
    /// This state may have lost what it knew of the vault, and nobody says who knows it.
    #[error(
        "this machine's folder has packs of a vault and no state of it, and no member that can be reached says who knows one"
    )]
    Unguided,
    /// It cannot be remembered.
    #[error(transparent)]
    Vault(#[from] SignHeadError),
    /// Its copysets cannot be remembered.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// A defect of the program ended it.
    #[error("taking over what holders know broke off because of a defect of the program; its log says where")]
    Broken,
}

/// Whom this agent has heard since it started.
#[derive(Debug, Default)]
pub struct Heard(Mutex<HashMap<NodeId, Hearing>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hearing {
    /// What it knows was taken over.
    Done,
    /// It did not answer.
    Silent(Instant),
}

impl Heard {
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Hearing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_done(&self, holder: &NodeId) -> bool {
        self.lock().get(holder) == Some(&Hearing::Done)
    }

    fn is_due(&self, holder: &NodeId) -> bool {
        match self.lock().get(holder) {
            None => true,
            Some(Hearing::Done) => false,
            Some(Hearing::Silent(at)) => at.elapsed() >= SILENT_PAUSE,
        }
    }

    fn note(&self, holder: NodeId, hearing: Hearing) {
        self.lock().insert(holder, hearing);
    }

    /// A holder has something that was not known when it was heard.
    pub(crate) fn forget(&self, holder: &NodeId) {
        self.lock().remove(holder);
    }

    fn forget_silent(&self) {
        self.lock().retain(|_, hearing| *hearing == Hearing::Done);
    }
}

/// Asks the holders that can be reached and were not heard since the start for the vault's newest heads and takes over what this state
/// does not know; whether there was anything. No backup may be running but the one that asks.
///
/// # Errors
/// [`BehindError`]; the holders are asked again then.
pub async fn catch_up(node: &Arc<Node>) -> Result<bool, BehindError> {
    hear_all(node, &BTreeSet::new()).await
}

/// Whether there is anyone to be heard.
pub(crate) fn is_due(node: &Node) -> bool {
    !due(node, &BTreeSet::new()).is_empty()
}

/// As [`catch_up`], before a backup: a state that has lost its newest head must not begin a new list of snapshots while those who know
/// the old one are away, since the new one would hide it.
///
/// # Errors
/// As [`catch_up`], and where most of those who know the vault cannot be reached.
pub async fn catch_up_to_write(node: &Arc<Node>) -> Result<(), BehindError> {
    let is_blank = node.vault.head().is_none();
    if is_blank {
        node.heard.forget_silent();
    }
    catch_up(node).await?;
    if !is_blank || node.vault.head().is_some() {
        return Ok(());
    }
    let mut named = named_in_directory(node);
    if named.is_empty() {
        if node.index.next_pack() == 0 {
            return Ok(());
        }
        // The first backup was cut off, or the directory was lost with the rest.
        named = ask_where(node).await.ok_or(BehindError::Unguided)?;
        hear_all(node, &named).await?;
    }
    let silent: Vec<&NodeId> = named.iter().filter(|holder| !node.heard.is_done(holder)).collect();
    if node.vault.head().is_some() || 2 * silent.len() <= named.len() {
        return Ok(());
    }
    node.fetcher.name_holders(node.members.view().peers.iter().map(|peer| (peer.node, peer.name.clone())));
    Err(BehindError::Unheard { silent: silent.into_iter().map(|holder| node.fetcher.name_of(holder)).collect() })
}

async fn hear_all(node: &Arc<Node>, also: &BTreeSet<NodeId>) -> Result<bool, BehindError> {
    let mut changed = false;
    for _ in 0..ROUNDS_MAX {
        let due = due(node, also);
        if due.is_empty() {
            break;
        }
        let (heard, heads) = hear(node, due).await;
        let (taking, runtime) = (Arc::clone(node), Handle::current());
        let taken = tokio::task::spawn_blocking(move || take_over(&taking, &runtime, heads)).await;
        changed |= taken.map_err(|_| BehindError::Broken)??;
        heard.into_iter().for_each(|holder| node.heard.note(holder, Hearing::Done));
    }
    Ok(changed)
}

/// Those who are connected and not heard yet, of whom the own copysets name and of whom the directory does, as the state may be older
/// than its newest set.
fn due(node: &Node, also: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let mut holders = named_in_directory(node);
    holders.extend(node.sets.holders());
    holders.extend(also);
    holders.retain(|holder| node.members.is_connected(holder) && node.heard.is_due(holder));
    holders
}

fn named_in_directory(node: &Node) -> BTreeSet<NodeId> {
    node.members.locate(&node.vault.id).0.iter().flat_map(|pointer| pointer.holders.iter().copied()).collect()
}

/// Whom other members' directories name as holders of the vault; none where no member answers.
async fn ask_where(node: &Arc<Node>) -> Option<BTreeSet<NodeId>> {
    let members = node.net.peers().into_iter().filter(|peer| node.members.is_connected(peer)).take(GUIDES_MAX);
    let asking = futures::stream::iter(members).map(|member| node.fetcher.locate(member)).buffer_unordered(ASKED_AT_ONCE);
    let answers: Vec<_> = asking.filter_map(|located| async { located }).collect().await;
    let pointers = answers.iter().flat_map(|(pointers, _)| pointers);
    (!answers.is_empty()).then(|| pointers.flat_map(|pointer| pointer.holders.iter().copied()).collect())
}

/// Who said all that was asked, and the heads that they keep of this writer, each once.
async fn hear(node: &Arc<Node>, holders: BTreeSet<NodeId>) -> (Vec<NodeId>, Vec<Signed<Head>>) {
    let (heard, mut silent) = (holders.clone(), holders.clone());
    let mut asking = futures::stream::iter(holders)
        .map(|holder| async move { (holder, hear_one(node, holder).await) })
        .buffer_unordered(ASKED_AT_ONCE);
    let mut heads: HashMap<RecordHash, Signed<Head>> = HashMap::new();
    let (asked, began) = (silent.len(), tokio::time::Instant::now());
    // A state that knows no head waits for everyone: what it has to go on from may lie with the slowest.
    let knows_some = node.vault.head().is_some();
    let mut until = began + HEARING_LIMIT;
    while let Ok(Some((holder, answer))) = tokio::time::timeout_at(until, asking.next()).await {
        if let Some(some) = answer {
            silent.remove(&holder);
            heads.extend(some.into_iter().map(|head| (head.hash(), head)));
            if knows_some && 2 * silent.len() < asked {
                until = until.min(began + (GRACE * began.elapsed()).clamp(GRACE_BOUNDS.0, GRACE_BOUNDS.1));
            }
        }
    }
    silent.iter().for_each(|holder| node.heard.note(*holder, Hearing::Silent(Instant::now())));
    let heard = heard.into_iter().filter(|holder| !silent.contains(holder)).collect();
    (heard, heads.into_values().collect())
}

/// The heads that a holder keeps; none where it does not tell all that goes with them: a head whose copysets are not known names packs
/// that nobody would find.
async fn hear_one(node: &Node, holder: NodeId) -> Option<Vec<Signed<Head>>> {
    let heads = node.fetcher.heads_of(holder, Heads::Newest).await?;
    node.fetcher.learn_sets_of(holder).await.then_some(heads)
}

/// Takes over what is not known of the vault: first the copysets, without which nobody finds what the heads name. For a thread that may
/// wait.
fn take_over(node: &Node, runtime: &Handle, heads: Vec<Signed<Head>>) -> Result<bool, BehindError> {
    node.sets.adopt_unknown(node.fetcher.sets())?;
    let (mut ancestors, mut named, mut changed) = (HashSet::new(), Vec::new(), false);
    for head in of_this_writer(node, heads) {
        let (is, hash) = (node.vault.judge(&head), head.hash());
        let known = node.vault.head().map_or(0, |known| known.sequence);
        // One that was given out here belongs to a backup that was cut off; the next one has its files.
        if is == HeadIs::GivenOut && (node.vault.unsealing.is_empty() || head.sequence < known) {
            continue;
        }
        if is == HeadIs::Unknown && !ancestors.contains(&hash) || is == HeadIs::GivenOut {
            let Some(body) = open(node, &head, known)? else { continue };
            if head.sequence > known || !is_within(&body, &node.vault.body()) {
                merge(node, runtime, &head, body)?;
                changed = true;
            }
        }
        // A head names all that the one before it does.
        named.push((head.sequence, hash));
        ancestors.extend(head.previous);
    }
    node.vault.note_named(&named)?;
    Ok(changed)
}

/// The heads of this writer, the newest first. A state that knows none goes on from those of the machine before, where there are no
/// others.
fn of_this_writer(node: &Node, mut heads: Vec<Signed<Head>>) -> Vec<Signed<Head>> {
    let (own, generation) = (&node.vault.writer.certificate, node.vault.writer.certificate.generation);
    let is_own = |head: &Signed<Head>| head.writer.writer == own.writer && head.writer.generation == generation;
    let goes_on = node.vault.head().is_none() && !heads.iter().any(is_own);
    heads.retain(|head| is_own(head) || goes_on && head.writer.seat == own.seat && head.writer.generation < generation);
    heads.sort_by_cached_key(|head| std::cmp::Reverse((head.writer.generation, head.sequence, head.hash())));
    heads
}

/// A head's body; none where it is not worth stopping for.
fn open(node: &Node, head: &Head, known: u64) -> Result<Option<HeadBody>, BehindError> {
    match node.vault.unsealing.open_head(head) {
        Ok(body) => Ok(Some(body)),
        Err(_) if node.vault.unsealing.is_empty() => Err(BehindError::Locked { theirs: head.sequence, ours: known }),
        Err(error) if head.sequence < known => {
            tracing::warn!(sequence = head.sequence, "an older head that is not known here is passed over: {error}");
            Ok(None)
        }
        Err(error) => Err(BehindError::Unreadable { theirs: head.sequence, error }),
    }
}

fn merge(node: &Node, runtime: &Handle, head: &Signed<Head>, theirs: HeadBody) -> Result<(), BehindError> {
    let ours = node.vault.body();
    let older = match pages_to_read(&ours, &theirs) {
        None => Some(Older::default()),
        Some(pages) => {
            // Theirs name more than ours, which the local index has too.
            let both = HeadBody { segments: [theirs.segments.clone(), ours.segments].concat(), ..HeadBody::default() };
            let index = Some(Arc::clone(&node.index));
            let mut library = Library::new(Arc::clone(&node.fetcher), both, index, runtime.clone());
            let mut read = || Ok(Older { ours: library.on_pages(&pages.ours)?, theirs: library.on_pages(&pages.theirs)? });
            read().inspect_err(|error: &FetchError| tracing::warn!("older snapshots cannot be compared: {error}")).ok()
        }
    };
    node.vault.merge_head(head, theirs, older)?;
    let (known, sequence) = (node.vault.head().map_or(0, |known| known.sequence), head.sequence);
    tracing::warn!(known, sequence, "holders knew a state of the vault that this folder did not, and it was taken over");
    Ok(())
}
