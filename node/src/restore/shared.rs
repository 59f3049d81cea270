//! Frames that more than one portion of a restore reads from, so that each is fetched once: files do not end where frames do, and files
//! that are alike often lie near each other.

use crate::fetch::{FetchError, Frame};
use backmesh_format::PackId;
use std::collections::{HashMap, VecDeque};

/// Frames kept after the last portion that was known to want them, about 1 MiB each. With fewer more is fetched again.
const FRAMES_KEPT: usize = 16;

/// A frame by its pack and its number.
pub(super) type FrameName = (PackId, u32);
/// Frames, as far as they could be had.
pub(crate) type Frames = HashMap<FrameName, Result<Frame, FetchError>>;

/// What portions have in common.
#[derive(Default)]
pub(super) struct Shared {
    /// How many portions that were not given back yet read from each frame.
    wanted: HashMap<FrameName, usize>,
    /// Frames that were fetched, while they are wanted and a little longer.
    kept: Frames,
    /// Those of them that nobody wants any more, the oldest first.
    unwanted: VecDeque<FrameName>,
}

impl Shared {
    /// Whether the portion that wants a frame has to fetch it. What a portion before fetches is there in time: they are given back in
    /// their order.
    pub(super) fn want(&mut self, frame: FrameName) -> bool {
        let count = self.wanted.entry(frame).or_default();
        *count += 1;
        self.unwanted.retain(|unwanted| *unwanted != frame);
        *count == 1 && !self.kept.contains_key(&frame)
    }

    /// Takes what a portion fetched, and gives all that it wanted.
    pub(super) fn take(&mut self, wanted: &[FrameName], fetched: Frames) -> Frames {
        self.kept.extend(fetched);
        let frames = wanted.iter().filter_map(|frame| Some((*frame, self.kept.get(frame)?.clone()))).collect();
        for frame in wanted {
            match self.wanted.get_mut(frame) {
                Some(count) if *count > 1 => *count -= 1,
                _ => {
                    self.wanted.remove(frame);
                    self.unwanted.push_back(*frame);
                }
            }
        }
        self.forget();
        frames
    }

    /// What failed is forgotten at once: it is worth another try by who comes later.
    fn forget(&mut self) {
        let failed = |frame: &FrameName| self.kept.get(frame).is_none_or(Result::is_err);
        let (failed, mut unwanted): (VecDeque<_>, VecDeque<_>) = self.unwanted.drain(..).partition(failed);
        let surplus = unwanted.len().saturating_sub(FRAMES_KEPT);
        for frame in failed.into_iter().chain(unwanted.drain(..surplus)) {
            self.kept.remove(&frame);
        }
        self.unwanted = unwanted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn frame(number: u32) -> FrameName {
        (PackId([1; 32]), number)
    }

    fn frames(numbers: std::ops::Range<u32>) -> (Vec<FrameName>, Frames) {
        let names: Vec<FrameName> = numbers.map(frame).collect();
        let fetched = names.iter().map(|name| (*name, Ok(Arc::new(vec![name.1 as u8])))).collect();
        (names, fetched)
    }

    #[test]
    fn a_frame_of_two_portions_is_fetched_once() {
        let mut shared = Shared::default();
        let (first, fetched_first) = frames(0..20);
        let (second, _) = frames(19..24);
        assert!(first.iter().all(|name| shared.want(*name)));
        let new: Vec<FrameName> = second.iter().copied().filter(|name| shared.want(*name)).collect();
        assert_eq!(new, second[1..]);
        assert_eq!(shared.take(&first, fetched_first).len(), 20);
        let had = shared.take(&second, frames(20..24).1);
        assert_eq!((had.len(), had[&frame(19)].as_ref().unwrap()[0]), (5, 19));
        assert!(shared.wanted.is_empty());
        assert_eq!((shared.kept.len(), shared.unwanted.len()), (FRAMES_KEPT, FRAMES_KEPT));
    }

    #[test]
    fn a_frame_that_was_used_lately_is_there_and_a_failed_one_is_tried_again() {
        let mut shared = Shared::default();
        let (both, mut had) = frames(1..3);
        assert!(both.iter().all(|name| shared.want(*name)));
        had.insert(frame(2), Err(FetchError::NoCopyset(PackId([1; 32]))));
        assert!(shared.take(&both, had)[&frame(2)].is_err());
        assert!(!shared.want(frame(1)));
        assert!(shared.want(frame(2)));
        assert!(shared.take(&both, frames(2..3).1).values().all(Result::is_ok));
    }
}
