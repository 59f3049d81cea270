//! Which segments to write as one.

use std::ops::Range;

/// How many segments of a size become one of the next.
pub const MERGE_FAN: usize = 8;
/// The most rows of one segment, so that its root fits a page.
pub const SEGMENT_ROWS_MAX: u64 = 1 << 24;
/// Segments with fewer rows are all of the smallest size.
const SMALLEST_ROWS: u64 = 4096;
/// Size 0 is below 4,096 rows, then 32,768, 262,144 and 2,097,152; from there on all are of this size.
const LARGE: u32 = 4;
/// Rewriting two million rows is worth it only for a few segments less.
const LARGE_MERGE_MIN: usize = 4;

/// Says which of a vault's segments to merge: `rows` counts those of each, the newest segment first, and each range of the
/// answer becomes one segment in the same place. Apart from the ranges nothing changes; no range overlaps another or has one
/// segment only.
///
/// Segments have sizes, each eight times the one before. A segment that lies behind (is older than) a larger one counts as
/// large as that. Eight of a size are merged: where some of them lie there as smaller ones side by side, only these. Of the
/// largest size, from two million rows on, those are merged that are at least four side by side and together not above
/// [`SEGMENT_ROWS_MAX`]. Ranges are always neighbours in age, so that newer rows go on hiding older ones of the same chunk.
///
/// So a vault has at most seven segments of each of the four smaller sizes, and of the largest one for every four million rows,
/// or seven. A row is rewritten about once for each size; every time it is stored again while its old page is kept for the retention
/// floor, which is why the fan is wide.
pub fn plan_merge(rows: &[u64]) -> Vec<Range<usize>> {
    let mut groups: Vec<Group> = rows.iter().enumerate().map(|(at, rows)| Group { range: at..at + 1, rows: *rows }).collect();
    while let Some(run) = next_run(&groups) {
        let merged = Group {
            range: groups[run.start].range.start..groups[run.end - 1].range.end,
            rows: groups[run.clone()].iter().map(|group| group.rows).sum(),
        };
        groups.splice(run, [merged]);
    }
    groups.into_iter().map(|group| group.range).filter(|range| range.len() > 1).collect()
}

struct Group {
    range: Range<usize>,
    rows: u64,
}

fn size(rows: u64) -> u32 {
    (0..LARGE).find(|size| rows < SMALLEST_ROWS << (3 * size)).unwrap_or(LARGE)
}

/// The first run that is to be merged.
fn next_run(groups: &[Group]) -> Option<Range<usize>> {
    let mut start = 0;
    while start < groups.len() {
        let largest_before = groups[..start].iter().map(|group| size(group.rows)).max().unwrap_or(0);
        let as_large = size(groups[start].rows).max(largest_before);
        let end = (start + 1..groups.len()).find(|at| size(groups[*at].rows) > as_large).unwrap_or(groups.len());
        if end - start >= MERGE_FAN
            && let Some(run) = best_run(groups, start..end, as_large)
        {
            return Some(run);
        }
        start = end;
    }
    None
}

/// Of a run of segments that count as one size: the longest run of smaller ones in it, else all.
fn best_run(groups: &[Group], run: Range<usize>, as_large: u32) -> Option<Range<usize>> {
    let smaller = |group: &Group| size(group.rows) < as_large;
    let mut best = 0..0;
    let mut from = run.start;
    for part in groups[run.clone()].chunk_by(|a, b| smaller(a) == smaller(b)) {
        let range = from..from + part.len();
        from = range.end;
        if smaller(&part[0]) && range.len() > best.len() {
            best = range;
        }
    }
    match (best.len(), as_large) {
        (2.., _) => longest_within_limit(groups, best, 2),
        (_, LARGE) => longest_within_limit(groups, run, LARGE_MERGE_MIN),
        _ => longest_within_limit(groups, run, 2),
    }
}

/// As many neighbours of the run as one segment can hold together, but at least `count_min`.
fn longest_within_limit(groups: &[Group], run: Range<usize>, count_min: usize) -> Option<Range<usize>> {
    let held_from = |start: usize| {
        let mut sum = 0;
        let held = groups[start..run.end].iter().take_while(|group| {
            sum += group.rows;
            sum <= SEGMENT_ROWS_MAX
        });
        start..start + held.count()
    };
    run.clone().map(held_from).filter(|held| held.len() >= count_min).max_by_key(|held| held.len())
}
