//! Limits of speed: a bucket of tokens for each direction that a person may limit, shared by all streams that use it.
//!
//! Bytes are paid for after they were moved, and whoever pays waits until the debt is gone; so no piece is too large for the bucket,
//! and nothing waits for tokens that never come. Streams pay in the order in which they come, a piece of each at a time, so that none
//! starves. What a limit slows down is not to be taken for dead: a [`Motion`] tells whether nothing moves *although it might*.

use crate::units::{self, RateError};
use backmesh_net::Pace;
use backmesh_policy::schedule::{Hours, TimeOfDayError};
use jiff::tz::TimeZone;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout};

/// The lowest limit, in bytes a second. With less, tens of streams that share it would each move too little for their peers to
/// tell them from dead ones.
pub const RATE_MIN: u64 = 64 << 10;
/// What is moved at once under a limit, in bytes.
const PIECE_BYTES: usize = 16 << 10;
/// How much may be moved at once after a pause, as a part of a second.
const BURST: f64 = 0.125;

/// A limit as a person sets it: a rate, always or for a part of the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Bytes a second, at least [`RATE_MIN`].
    pub rate: u64,
    /// When it holds; none for always.
    pub hours: Option<Hours>,
}

/// A text that is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LimitError {
    /// Not a rate.
    #[error(transparent)]
    Rate(#[from] RateError),
    /// Not a part of the day.
    #[error(transparent)]
    Hours(#[from] TimeOfDayError),
    /// Too little to work with.
    #[error(
        "\"{0}\" is less than 64 KiB/s, with which nothing would ever be done; to stop backups there is `backmesh schedule --pause`"
    )]
    TooLow(String),
}

impl FromStr for Limit {
    type Err = LimitError;
    fn from_str(text: &str) -> Result<Self, LimitError> {
        let (rate, hours) = text.split_once('@').map_or((text, None), |(rate, hours)| (rate, Some(hours)));
        let limit = Self { rate: units::parse_rate(rate)?, hours: hours.map(|hours| hours.trim().parse()).transpose()? };
        if limit.rate < RATE_MIN { Err(LimitError::TooLow(backmesh_control::escape(rate.as_bytes()))) } else { Ok(limit) }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = units::exact_size(self.rate);
        match self.hours {
            None => write!(f, "{rate}/s"),
            Some(hours) => write!(f, "{rate}/s @ {hours}"),
        }
    }
}

impl Limit {
    /// The rate that holds at a moment; none for no limit.
    pub fn rate_at(&self, now: u64, zone: &TimeZone) -> Option<u64> {
        self.hours.is_none_or(|hours| hours.has_moment(now, zone)).then_some(self.rate)
    }
}

/// What a person has limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Own shards and heads on their way to holders.
    pub upload: Option<Limit>,
    /// Own shards on their way back.
    pub download: Option<Limit>,
    /// Others' shards, each way.
    pub serving: Option<Limit>,
}

/// The buckets of a node.
#[derive(Debug, Default)]
pub struct Throttles {
    /// Own shards and heads on their way to holders.
    pub upload: Arc<Throttle>,
    /// Own shards on their way back.
    pub download: Arc<Throttle>,
    /// Others' shards on their way to this node.
    pub serving_in: Arc<Throttle>,
    /// Others' shards on their way back.
    pub serving_out: Arc<Throttle>,
}

impl Throttles {
    /// Sets what holds now.
    pub fn set(&self, limits: &Limits, now: u64, zone: &TimeZone) {
        let rate = |limit: Option<Limit>| limit.and_then(|limit| limit.rate_at(now, zone));
        self.upload.set(rate(limits.upload));
        self.download.set(rate(limits.download));
        self.serving_in.set(rate(limits.serving));
        self.serving_out.set(rate(limits.serving));
    }
}

/// A bucket.
#[derive(Debug)]
pub struct Throttle {
    /// Bytes a second; 0 for no limit.
    rate: watch::Sender<u64>,
    /// Whoever waits holds it, and others queue for it.
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// Below zero is debt.
    tokens: f64,
    filled_at: Instant,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { rate: watch::Sender::new(0), bucket: Mutex::new(Bucket { tokens: 0.0, filled_at: Instant::now() }) }
    }
}

impl Throttle {
    /// Sets the rate, in bytes a second; none for no limit. Who waits now goes on at the new one.
    pub fn set(&self, rate: Option<u64>) {
        let rate = rate.unwrap_or(0);
        self.rate.send_if_modified(|known| std::mem::replace(known, rate) != rate);
    }

    /// The rate in bytes a second; none for no limit.
    pub fn rate(&self) -> Option<u64> {
        Some(*self.rate.borrow()).filter(|rate| *rate > 0)
    }

    /// Pays for bytes that were moved.
    pub async fn pay(&self, bytes: usize) {
        let mut changes = self.rate.subscribe();
        let mut bucket = self.bucket.lock().await;
        bucket.take(bytes);
        loop {
            // A new rate holds from now on, for what is left of the debt.
            let rate = *changes.borrow_and_update();
            let Some(wait) = bucket.wait(Instant::now(), rate) else { return };
            tokio::select! { () = sleep(wait) => {}, _ = changes.changed() => {} }
            bucket.fill(Instant::now(), rate);
        }
    }
}

impl Bucket {
    fn take(&mut self, bytes: usize) {
        self.tokens -= bytes as f64;
    }

    /// How long until the debt is gone; none where there is none.
    fn wait(&mut self, now: Instant, rate: u64) -> Option<Duration> {
        self.fill(now, rate);
        let debt = -self.tokens;
        (debt > 0.0).then(|| Duration::from_secs_f64((debt / rate as f64).clamp(0.001, 3600.0)))
    }

    /// Adds the tokens of the time since the last look. Without a rate nobody owes anything.
    fn fill(&mut self, now: Instant, rate: u64) {
        let filled = match rate {
            0 => 0.0,
            rate => self.tokens + now.duration_since(self.filled_at).as_secs_f64() * rate as f64,
        };
        *self = Self { tokens: filled.min(rate as f64 * BURST), filled_at: now };
    }
}

/// Whether something moves, on one stream or on several: what waits for its own limit moves too.
#[derive(Debug, Default)]
pub struct Motion {
    moved: AtomicU64,
    held: AtomicUsize,
}

impl Motion {
    /// Bytes moved so far.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Whether a limit of this node holds something back now.
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed) > 0
    }

    /// Awaits `work` for as long as something moves at least once in each `limit`, or is held back by a limit of this node; none
    /// where neither was so.
    pub async fn while_moving<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        let mut before = self.moved();
        loop {
            if let Ok(done) = timeout(limit, &mut work).await {
                return Some(done);
            }
            let moved = self.moved();
            if moved == before && !self.is_held() {
                return None;
            }
            before = moved;
        }
    }

    /// Lets `time` pass, again and again for as long as a limit of this node holds something back.
    pub async fn pass(&self, time: Duration) {
        sleep(time).await;
        while self.is_held() {
            sleep(time).await;
        }
    }
}

/// One direction of a stream, under a limit that it shares with others.
#[derive(Debug)]
pub struct PacedWay {
    throttle: Arc<Throttle>,
    /// That of the stream, and that of all streams it belongs to.
    motions: [Arc<Motion>; 2],
}

impl PacedWay {
    /// A direction that counts in two motions.
    pub fn new(throttle: &Arc<Throttle>, motions: [&Arc<Motion>; 2]) -> Arc<Self> {
        Arc::new(Self { throttle: Arc::clone(throttle), motions: motions.map(Arc::clone) })
    }

    /// A direction nobody waits for.
    pub fn alone(throttle: &Arc<Throttle>) -> Arc<Self> {
        let motion = Arc::new(Motion::default());
        Self::new(throttle, [&motion, &motion])
    }

    async fn hold(&self, bytes: usize) {
        let _held = self.motions.each_ref().map(|motion| Held::new(&motion.held));
        self.throttle.pay(bytes).await;
    }
}

struct Held<'a>(&'a AtomicUsize);

impl<'a> Held<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pace for PacedWay {
    fn piece_bytes_max(&self) -> usize {
        if self.throttle.rate().is_some() { PIECE_BYTES } else { usize::MAX }
    }

    fn moved(&self, bytes: usize) -> Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>> {
        for motion in &self.motions {
            motion.moved.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        self.throttle.rate()?;
        Some(Box::pin(self.hold(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_as_people_write_them() {
        let check = |text: &str, rate, hours: Option<&str>, shown: &str| {
            let limit: Limit = text.parse().unwrap();
            assert_eq!(limit, Limit { rate, hours: hours.map(|hours| hours.parse().unwrap()) }, "{text}");
            assert_eq!(limit.to_string(), shown);
            assert_eq!(shown.parse(), Ok(limit));
        };
        check("2MiB/s", 2 << 20, None, "2 MiB/s");
        check("8Mbit", 1_000_000, None, "1000000 B/s");
        check("2MiB/s@08:00-18:00", 2 << 20, Some("08:00-18:00"), "2 MiB/s @ 08:00-18:00");
        for text in ["", "2MiB/s@", "@08:00-18:00", "0", "10KiB/s", "2MiB/m", "2MiB/s@8-18", "fast"] {
            assert!(text.parse::<Limit>().is_err(), "{text}");
        }
        let limit: Limit = "1MiB/s@08:00-18:00".parse().unwrap();
        let noon = 12 * 3600 * 1000;
        assert_eq!(limit.rate_at(noon, &TimeZone::UTC), Some(1 << 20));
        assert_eq!(limit.rate_at(2 * noon, &TimeZone::UTC), None);
    }

    #[test]
    fn a_rate_is_kept_whatever_the_pieces() {
        for (piece, lag_ms) in [(16 << 10, 0), (16 << 10, 3), (64 << 10, 20), (4 << 20, 0), (100, 1)] {
            let (began, rate) = (Instant::now(), 1 << 20);
            let mut bucket = Bucket { tokens: 0.0, filled_at: began };
            let (mut now, mut moved) = (began, 0);
            while now < began + Duration::from_secs(20) {
                moved += piece;
                bucket.take(piece);
                while let Some(wait) = bucket.wait(now, rate) {
                    // No timer is exact.
                    now += wait + Duration::from_millis(lag_ms);
                }
            }
            let reached = moved as f64 / now.duration_since(began).as_secs_f64() / rate as f64;
            assert!((0.97..=1.01).contains(&reached), "{reached} with pieces of {piece}");
        }
    }

    #[test]
    fn a_pause_saves_up_little_and_a_new_rate_holds_for_what_is_owed() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut bucket = Bucket { tokens: 0.0, filled_at: start };
        assert_eq!(bucket.wait(start + 3600 * second, 8000), None);
        bucket.take(9000);
        assert_eq!(bucket.wait(start + 3600 * second, 8000), Some(second));
        bucket.fill(start + 3600 * second + second / 2, 8000);
        assert_eq!(bucket.wait(start + 3600 * second + second / 2, 1000), Some(4 * second));
        assert_eq!(bucket.wait(start + 3600 * second + second / 2, 0), None);
        assert_eq!(bucket.wait(start + 3601 * second, 8000), None);
    }

    #[tokio::test]
    async fn a_new_rate_reaches_those_who_wait() {
        let throttle = Arc::new(Throttle::default());
        throttle.set(Some(1));
        let paying: Vec<_> = (0..3)
            .map(|_| {
                let throttle = Arc::clone(&throttle);
                tokio::spawn(async move { throttle.pay(1 << 30).await })
            })
            .collect();
        sleep(Duration::from_millis(20)).await;
        throttle.set(Some(1 << 20));
        sleep(Duration::from_millis(20)).await;
        throttle.set(None);
        for paid in paying {
            paid.await.unwrap();
        }
        throttle.pay(usize::MAX).await;
    }

    #[tokio::test]
    async fn what_a_limit_holds_back_is_not_dead() {
        let throttle = Arc::new(Throttle::default());
        throttle.set(Some(1000));
        let (motion, all) = (Arc::default(), Arc::default());
        let pace = PacedWay::new(&throttle, [&motion, &all]);
        let limit = Duration::from_millis(20);
        let slow = async { pace.moved(200).unwrap().await };
        assert!(motion.while_moving(limit, slow).await.is_some());
        assert_eq!(motion.while_moving(limit, std::future::pending::<()>()).await, None);
        throttle.set(None);
        assert!(pace.moved(1).is_none());
        assert_eq!((motion.moved(), all.moved()), (201, 201));
    }
}
