//! A state that has fallen behind its vault: a folder that was put back from an older copy, a virtual machine that went back to a
//! snapshot, or a second process with the same keys. Holders then keep heads of this very writer that this state does not know. What
//! they name is taken over before anything is written: a head that began from an older one would hide it.
//!
//! Also found here is what this node itself wrote just before it was killed: a head that holders have and it had not yet remembered.

use crate::fetch::{FetchError, Heads};
use crate::node::Node;
use crate::vault::SignHeadError;
use backmesh_format::vault::Head;
use backmesh_format::{NodeId, Signed};
use backmesh_store::RecordsError;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// How long all holders together may take to say which heads they have. Who is slower is heard the next time.
const HEARING_LIMIT: Duration = Duration::from_secs(15);

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
    /// It cannot be remembered.
    #[error(transparent)]
    Vault(#[from] SignHeadError),
    /// Its copysets cannot be remembered.
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// Asks the holders that can be reached for the vault's newest heads and takes over what this state does not know; whether there was
/// anything. No backup may be running but the one that asks.
///
/// # Errors
/// [`BehindError`]; nothing is changed then.
pub async fn catch_up(node: &Arc<Node>) -> Result<bool, BehindError> {
    let heads = hear(node).await;
    let Some(newest) = newest_unknown(node, heads) else { return Ok(false) };
    let known = node.vault.head().map_or(0, |head| head.sequence);
    let body = match node.vault.unsealing.open_head(&newest) {
        Ok(body) => body,
        // A number that was given out here is of a backup that was cut off; it never counted, and the next one has its files.
        Err(_) if node.vault.unsealing.is_empty() && newest.sequence <= node.vault.reserved()? => return Ok(false),
        Err(_) if node.vault.unsealing.is_empty() => return Err(BehindError::Locked { theirs: newest.sequence, ours: known }),
        Err(error) => return Err(BehindError::Unreadable { theirs: newest.sequence, error }),
    };
    let sets = node.fetcher.sets();
    let vault = Arc::clone(node);
    let sequence = newest.sequence;
    let merged = tokio::task::spawn_blocking(move || vault.vault.merge_head(&newest, body)).await;
    merged
        .map_err(|_| FetchError::DamagedHead { what: "it was not taken over".to_owned() })
        .map_or_else(|error| Err(BehindError::Unreadable { theirs: sequence, error }), |merged| Ok(merged?))?;
    node.sets.adopt_unknown(sets)?;
    tracing::warn!(known, sequence, "holders knew a newer state of the vault than this folder, and it was taken over");
    Ok(true)
}

/// What holders that can be reached keep of this writer: those whom the own copysets name, and those whom the directory does, as the
/// state may be older than its newest set.
async fn hear(node: &Arc<Node>) -> Vec<Signed<Head>> {
    let mut holders: BTreeSet<NodeId> = node.sets.holders().into_iter().collect();
    holders.extend(node.members.locate(&node.vault.id).0.iter().flat_map(|pointer| pointer.holders.iter().copied()));
    let mut asking: FuturesUnordered<_> = holders
        .into_iter()
        .filter(|holder| node.members.is_connected(holder))
        .map(|holder| async move {
            let heads = node.fetcher.heads_of(holder, Heads::Newest).await.unwrap_or_default();
            if !heads.is_empty() {
                node.fetcher.learn_sets_of(holder).await;
            }
            heads
        })
        .collect();
    let mut heads = Vec::new();
    let until = tokio::time::Instant::now() + HEARING_LIMIT;
    while let Ok(Some(some)) = tokio::time::timeout_at(until, asking.next()).await {
        heads.extend(some);
    }
    heads
}

/// The newest head of this writer, where it is not the one that is known here.
fn newest_unknown(node: &Node, heads: Vec<Signed<Head>>) -> Option<Signed<Head>> {
    let (own, known) = (&node.vault.writer.certificate, node.vault.head());
    let of_this_writer =
        heads.into_iter().filter(|head| head.writer.writer == own.writer && head.writer.generation == own.generation);
    let known_at = known.as_ref().map_or(0, |head| head.sequence);
    let newest = of_this_writer
        .filter(|head| head.sequence >= known_at && known.as_ref().is_none_or(|known| known.hash() != head.hash()))
        .max_by_key(|head| (head.sequence, head.hash()))?;
    (newest.sequence > known_at || known.is_some()).then_some(newest)
}
