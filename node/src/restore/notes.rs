//! What a restore says once for all entries, where a problem for each would bury the problems that somebody can do something about.

use crate::units::count;
use backmesh_source::Finished;

/// What is not as it was because it cannot be, for all entries together.
pub(super) fn notes(finished: &Finished, sockets: u64, torn: u64) -> Vec<String> {
    let notes = [
        (finished.owners_not_set, "given to whoever restored instead of to the owner: only root can give files away"),
        (finished.labels_not_set, "without labels of the system's security that only root can set"),
        (
            finished.flags_not_set,
            "without a file flag (chattr): the target's file system has no such flag, or only root may set it",
        ),
        (finished.attributes_not_set, "without extended attributes or access control lists: the target's file system keeps none"),
        (torn, "changed while they were backed up, and may be as they never were; backmesh ls names them"),
        (finished.names_apart, "restored as files of their own: there are too many files with several names to keep in mind"),
        (finished.problems_untold, "with more problems of the same kind as those that were told"),
        (sockets, "left out, being a socket: the program that it belongs to makes it anew"),
    ];
    let counted = |(number, what): &(u64, &str)| (*number > 0).then(|| format!("{} {what}", count(*number, "entry", "entries")));
    notes.iter().filter_map(counted).collect()
}
