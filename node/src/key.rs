//! The key that opens the vault, in a running agent: locked away and put back. The file is `crate::state`'s; here it is what memory
//! holds.

use crate::node::Node;
use crate::serve::failed;
use crate::state::State;
use backmesh_control::{ExitCode, Failure, KeyAction, KeyResult};
use std::sync::Arc;

/// What is said wherever something has to be read while the key is locked away.
pub(crate) fn locked() -> Failure {
    let hint = "backmesh key unlock --phrase-file FILE puts it back; backups go on without it";
    Failure::new(ExitCode::WrongKey, "the key that opens the vault is locked away on this machine").with_hint(hint)
}

/// Does it, for the agent.
///
/// # Errors
/// Where the state folder cannot be changed, or a takeover still needs the key.
pub async fn key(node: &Arc<Node>, action: KeyAction) -> Result<KeyResult, Failure> {
    let node = Arc::clone(node);
    let work = tokio::task::spawn_blocking(move || {
        let before = node.vault.unsealing.is_empty();
        match action {
            KeyAction::Status => {}
            KeyAction::Lock => {
                if node.taking_over {
                    return Err(taking_over());
                }
                // The disk first: what fails there leaves everything as it was.
                let removed = node.files().remove_unsealing_key().map_err(Failure::from)?;
                // A backup that runs has the list of snapshots in hand, a restore much more: the process ends, and takes it along.
                if removed || !before {
                    node.spoil_memory();
                }
                node.vault.lock().map_err(failed)?;
                node.fetcher.forget();
                tracing::info!("the key that opens the vault was locked away");
            }
            KeyAction::Unlock => {
                node.vault.unlock(node.files()).map_err(failed)?;
                tracing::info!("the key that opens the vault is back");
            }
        }
        let after = node.vault.unsealing.is_empty();
        let writer = &node.vault.writer.certificate;
        Ok(KeyResult { vault: writer.vault.to_string(), generation: writer.generation, locked: after, changed: before != after })
    });
    work.await.map_err(failed)?
}

/// Does it to a state that no agent uses; its lock is held.
///
/// # Errors
/// Where the state folder cannot be changed, or a takeover still needs the key.
pub fn without_agent(state: &State, lock: bool) -> Result<KeyResult, Failure> {
    if lock && state.takeover_pending()? {
        return Err(taking_over());
    }
    let changed = lock && state.remove_unsealing_key()?;
    let writer = state.writer()?;
    let locked = !state.has_unsealing_key()?;
    Ok(KeyResult { vault: writer.vault.to_string(), generation: writer.generation, locked, changed })
}

fn taking_over() -> Failure {
    Failure::new(ExitCode::Failed, "this machine is still taking the vault over, and needs the key for that")
        .with_hint("lock it when `backmesh status` shows no more of it")
}
