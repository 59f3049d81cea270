//! Which snapshot and which path a person means; and where it is none, what may have been meant.

use crate::fetch::FetchError;
use crate::library::Library;
use crate::restore::{shown, unreadable};
use backmesh_control::{ExitCode, Failure, SelectError, Selector, escape};
use backmesh_format::catalogue::Entry;
use backmesh_format::vault::Snapshot;

/// Entries of a folder that are looked at for a similar name.
const NEIGHBOURS_MAX: usize = 20_000;
/// Similar names that are told.
const NEAR_MAX: usize = 3;
/// How alike two names must be, from 0 to 1.
const ALIKE: f64 = 0.8;

/// The snapshot of a vault that a name means.
///
/// # Errors
/// `Usage` for what is no name, else where no snapshot or several are meant, or the list of them cannot be read.
pub(crate) fn pick(library: &mut Library, name: &str) -> Result<Snapshot, Failure> {
    let selector = selector(name)?;
    let snapshots = library.snapshots().map_err(|error| unreadable(&error))?;
    pick_of(&snapshots, &selector).cloned()
}

/// A name that can be one.
///
/// # Errors
/// `Usage` where it cannot.
pub(crate) fn selector(name: &str) -> Result<Selector, Failure> {
    name.parse().map_err(|error: SelectError| Failure::new(ExitCode::Usage, error.to_string()))
}

/// The one of `snapshots`, oldest first, that is meant.
///
/// # Errors
/// Where none or several are.
pub(crate) fn pick_of<'a>(snapshots: &'a [Snapshot], selector: &Selector) -> Result<&'a Snapshot, Failure> {
    let picked = selector.pick(snapshots, |snapshot| (snapshot.id(), snapshot.started_at));
    picked.map_err(|error| Failure::new(ExitCode::Failed, error.to_string()))
}

/// What lies at a path; none for the root folder, which has no entry.
///
/// # Errors
/// Where nothing does, with similar paths that are there.
pub(crate) fn entry_at(library: &mut Library, snapshot: &Snapshot, path: &[u8]) -> Result<Option<Entry>, Failure> {
    let found = library.catalogue(snapshot.catalogue.clone()).lookup(path).map_err(|error| unreadable(&error))?;
    if found.is_some() || path.iter().all(|byte| *byte == b'/') {
        return Ok(found);
    }
    let failure =
        Failure::new(ExitCode::Failed, format!("/{} is not in the snapshot", escape(path.strip_prefix(b"/").unwrap_or(path))));
    // Where the neighbours cannot be read there is no advice.
    let near = near(library, snapshot, path).unwrap_or_default();
    Err(match near.as_slice() {
        [] => failure.with_hint("backmesh ls SNAPSHOT, without a path, shows what is"),
        near => failure.with_hint(format!("did you mean {}?", near.join(" or "))),
    })
}

/// Paths like one that is not there: the nearest folder above that is, with the names in it that are like the one that is not.
fn near(library: &mut Library, snapshot: &Snapshot, path: &[u8]) -> Result<Vec<String>, FetchError> {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
    let mut catalogue = library.catalogue(snapshot.catalogue.clone());
    let mut depth = parts.len().saturating_sub(1);
    while depth > 0 && catalogue.lookup(&parts[..depth].join(&b'/'))?.is_none() {
        depth -= 1;
    }
    let (folder, wanted) = (parts[..depth].join(&b'/'), parts.get(depth).copied().unwrap_or_default());
    let mut alike: Vec<(f64, String)> = Vec::new();
    for found in catalogue.list(&folder).take(NEIGHBOURS_MAX) {
        let path = shown(&found?.0);
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let score = likeness(wanted, name);
        if score >= ALIKE {
            alike.push((score, escape(&path)));
        }
    }
    alike.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    alike.truncate(NEAR_MAX);
    Ok(alike.into_iter().map(|(_, path)| path).collect())
}

fn likeness(a: &[u8], b: &[u8]) -> f64 {
    let text = |name: &[u8]| String::from_utf8_lossy(name).to_lowercase();
    let (a, b) = (text(a), text(b));
    // One slip in a short name weighs much there, and is the likeliest mistake all the same.
    let one_slip = a.chars().count() > 2 && strsim::damerau_levenshtein(&a, &b) == 1;
    strsim::jaro_winkler(&a, &b).max(if one_slip { ALIKE } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_may_have_been_meant() {
        for (wanted, name) in
            [("Repotr.odt", "report.odt"), ("photos", "Photos"), ("notes", "notes.txt"), ("größe", "grösse"), ("ood", "odd")]
        {
            assert!(likeness(wanted.as_bytes(), name.as_bytes()) >= ALIKE, "{wanted} {name}");
        }
        for (wanted, name) in [("report.odt", "budget.ods"), ("a", "b"), ("photos", "music")] {
            assert!(likeness(wanted.as_bytes(), name.as_bytes()) < ALIKE, "{wanted} {name}");
        }
    }
}
