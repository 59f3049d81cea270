//! What a person can do about an error of the system that met a file of the state: the same few things go wrong with all of them.

use backmesh_control::{ExitCode, Failure};
use std::error::Error;
use std::io::{self, ErrorKind};

/// What to do about an error, as far as the system's own errors below it tell.
pub(crate) fn advice(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(advice) = error.downcast_ref::<io::Error>().and_then(of_io) {
            return Some(advice.to_owned());
        }
        next = error.source();
    }
    None
}

/// What kept the state from being opened, with what to do about it; one that knows that itself stays as it is.
pub(crate) fn of_state(error: anyhow::Error) -> anyhow::Error {
    let knows = error.is::<Failure>() || error.is::<crate::state::StateError>() || error.is::<crate::vault::VaultError>();
    match advice(error.as_ref()).filter(|_| !knows) {
        Some(hint) => Failure::new(ExitCode::Failed, chain(&error)).with_hint(hint).into(),
        None => error,
    }
}

/// An error and what led to it, each said once: many of ours name their cause themselves.
fn chain(error: &anyhow::Error) -> String {
    error
        .chain()
        .skip(1)
        .map(ToString::to_string)
        .fold(error.to_string(), |said, cause| if said.ends_with(&cause) { said } else { format!("{said}: {cause}") })
}

const FULL: &str = "free some space on that disk, then try again: nothing that is stored is lost";

fn of_io(error: &io::Error) -> Option<&'static str> {
    if crate::os::has_no_locks(error) {
        return Some(
            "its file system has no locks, without which two agents could undo each other's work: keep the state on a disk of this machine, with --state DIR",
        );
    }
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some(FULL),
        ErrorKind::PermissionDenied => Some(
            "it belongs to another user, or its mode keeps this one out: run this as its owner, or give it back with chown -R USER and the state folder",
        ),
        ErrorKind::ReadOnlyFilesystem => Some(
            "its disk is mounted read-only, which the system also does after errors of the disk (dmesg tells): mount it for writing, then try again",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StateError;

    #[test]
    fn the_system_s_error_is_found_below_ours() {
        let io = |kind| StateError::Io { doing: "write", path: "/x".into(), source: io::Error::from(kind) };
        assert!(advice(&io(ErrorKind::StorageFull)).unwrap().contains("free some space"));
        assert!(advice(&io(ErrorKind::PermissionDenied)).unwrap().contains("chown"));
        assert!(advice(&io(ErrorKind::ReadOnlyFilesystem)).unwrap().contains("mount"));
        assert_eq!(advice(&io(ErrorKind::BrokenPipe)), None);
    }
}
