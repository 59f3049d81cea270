//! How fast a piece of work goes, and how long the rest of it takes. No clock: the time since the beginning is an argument.

use backmesh_control::{Phase, Progress};
use std::time::Duration;

/// Older than this counts little: pauses are forgotten within a minute, and the numbers do not jump.
const MEMORY: f64 = 15.0;
/// Before that nothing is foretold.
const FORETOLD_AFTER: Duration = Duration::from_secs(2);
/// What a file costs beside its bytes, in bytes: opening, writing and naming it.
const FILE_COST: f64 = 24.0 * 1024.0;
/// Times beyond are as good as unknown.
const FORETOLD_MAX: f64 = 100.0 * 86_400.0;

/// The pace of one piece of work.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    phase: Option<Phase>,
    began: Duration,
    at: Duration,
    bytes: u64,
    work: f64,
    /// Bytes a second, smoothed.
    rate: f64,
    /// Work a second, smoothed: bytes, and where it is known how many files there are, [`FILE_COST`] for each.
    speed: f64,
}

impl Pace {
    /// Takes notice of how far the work is at a moment, and fills in what follows from it: rate and time left.
    pub(crate) fn note(&mut self, now: Duration, progress: &mut Progress) {
        (progress.files_done, progress.bytes_done) = (progress.files, progress.bytes);
        let work = work(progress.files, progress.bytes, progress.files_total.is_some());
        if self.phase != Some(progress.phase) || progress.bytes < self.bytes {
            *self = Self { phase: Some(progress.phase), began: now, at: now, bytes: progress.bytes, work, rate: 0.0, speed: 0.0 };
            return;
        }
        let passed = (now.saturating_sub(self.at)).as_secs_f64();
        if passed > 0.0 {
            let weight = 1.0 - (-passed / MEMORY).exp();
            self.rate += weight * ((progress.bytes - self.bytes) as f64 / passed - self.rate);
            self.speed += weight * ((work - self.work).max(0.0) / passed - self.speed);
            (self.at, self.bytes, self.work) = (now, progress.bytes, work);
        }
        let since = now.saturating_sub(self.began);
        // What was before the beginning counts as standing still; this takes its share out again.
        let known = 1.0 - (-since.as_secs_f64() / MEMORY).exp();
        if known > 0.0 && self.rate > 0.0 {
            progress.rate = Some((self.rate / known) as u64);
        }
        if since >= FORETOLD_AFTER {
            progress.seconds_left = self
                .left(progress)
                .map(|work| work / (self.speed / known))
                .filter(|left| *left < FORETOLD_MAX)
                .map(|left| left.ceil() as u64);
        }
    }

    /// The work that is left, where that is known and goes on.
    fn left(&self, progress: &Progress) -> Option<f64> {
        let total = work(progress.files_total.unwrap_or(0), progress.bytes_total?, progress.files_total.is_some());
        let done = work(progress.files, progress.bytes, progress.files_total.is_some());
        (self.speed > 0.0).then(|| (total - done).max(0.0))
    }
}

fn work(files: u64, bytes: u64, files_count: bool) -> f64 {
    bytes as f64 + if files_count { files as f64 * FILE_COST } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(files: u64, bytes: u64, totals: Option<(u64, u64)>) -> Progress {
        let mut progress = Progress::new(Phase::Storing);
        (progress.files, progress.bytes) = (files, bytes);
        (progress.files_total, progress.bytes_total) = totals.unzip();
        progress
    }

    /// What is told after so many steps of 200 ms, of so many bytes each.
    fn after(steps: u64, bytes: u64, total: u64) -> Progress {
        let mut pace = Pace::default();
        let mut told = progress(0, 0, None);
        for step in 0..=steps {
            told = progress(0, step * bytes, Some((0, total)));
            pace.note(Duration::from_millis(200 * step), &mut told);
        }
        told
    }

    #[test]
    fn a_steady_pace_is_foretold_from_the_first_seconds_on() {
        for steps in [10, 50, 500] {
            let told = after(steps, 2000, 2_000_000);
            let left = (2_000_000 - steps * 2000) / 10_000;
            assert!(told.rate.unwrap().abs_diff(10_000) <= 10, "{told:?}");
            assert!(told.seconds_left.unwrap().abs_diff(left) <= 1, "{told:?}");
            assert_eq!((told.bytes_done, told.files_done), (steps * 2000, 0));
        }
        assert_eq!(after(5, 2000, 2_000_000).seconds_left, None, "too early");
        assert_eq!(after(50, 0, 2_000_000).seconds_left, None, "nothing moves");
        assert_eq!(after(50, 2000, 50_000).seconds_left, Some(0), "more than was expected");
    }

    #[test]
    fn small_files_count_too() {
        let mut pace = Pace::default();
        let mut told = progress(0, 0, None);
        for step in 0..=50 {
            told = progress(step * 100, step * 1000, Some((10_000, 500_000_000)));
            pace.note(Duration::from_millis(200 * step), &mut told);
        }
        // 500 files a second weigh 12 MB/s, so that the 475 MB to come are not taken for days.
        let left = told.seconds_left.unwrap();
        assert!((40..60).contains(&left), "{left}");
    }

    #[test]
    fn a_pause_is_forgotten_and_a_new_phase_begins_anew() {
        let mut pace = Pace::default();
        let at = |pace: &mut Pace, seconds: u64, bytes| {
            let mut told = progress(0, bytes, Some((0, 1_000_000)));
            pace.note(Duration::from_secs(seconds), &mut told);
            told
        };
        (0..10).for_each(|second| drop(at(&mut pace, second, second * 1000)));
        let paused = at(&mut pace, 60, 9000).rate.unwrap();
        assert!(paused < 100, "{paused}");
        let again = (61..120).map(|second| at(&mut pace, second, 9000 + (second - 60) * 1000)).last().unwrap();
        assert!(again.rate.unwrap().abs_diff(1000) < 60, "{again:?}");
        let mut other = Progress::new(Phase::Delivering);
        pace.note(Duration::from_secs(121), &mut other);
        assert_eq!((other.rate, other.seconds_left), (None, None));
    }
}
