//! Backups that run by themselves. What is due and what it waits for is decided in [`backmesh_policy::schedule`]; here the clock is
//! read, the machine looked at, the backup started in the background, and its person warned where none has succeeded for days.
//!
//! `schedule.json` remembers what must survive a restart: since when something is protected, what failed, when the last warning was
//! given. It is the agent's own; a damaged one is begun anew, which costs a warning that comes once more or later.

mod kept;
#[cfg(test)]
mod tests;

use crate::backup::{self, BackupError};
use crate::node::Node;
use crate::os::desktop::Desktop;
use crate::outbox::OutboxError;
use crate::report::Report;
use crate::serve::Conversations;
use crate::state::State;
use backmesh_control::{BackupResult, BackupsStatus, Event, ScheduleResult, Time, WaitsFor};
use backmesh_format::UnixMillis;
use backmesh_policy::schedule::{
    self as policy, Clock, Decision, History, Hold, Idle, SETTLE_MS, Schedule, Surroundings, When, offset_ms, warning_due,
};
use jiff::tz::TimeZone;
use kept::Kept;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

pub use kept::without_agent;

/// How often the agent looks. A slot is met, and a reason to stop heeded, within this time.
const EVERY: Duration = Duration::from_secs(15);
/// How long an answer of the network's manager holds: asking starts a program.
const METERED_HOLDS: Duration = Duration::from_secs(60);
/// How much further the clock must go than the time that passed for the machine to have slept.
const SLEPT: Duration = Duration::from_secs(30);

/// The schedule of a running node.
pub struct Scheduler {
    files: State,
    desktop: Desktop,
    kept: Mutex<Kept>,
    live: Mutex<Live>,
    changed: Notify,
}

/// What is known only while the agent runs.
struct Live {
    settled_at: Instant,
    /// Since when a folder is protected that no backup has.
    new_since: Option<UnixMillis>,
    /// What the newest backup of this run of the agent had.
    backed_up: Vec<PathBuf>,
    first_look: bool,
    /// The backup that was started here.
    running: Option<Report>,
    metered: Option<(Instant, bool)>,
    awake: Awake,
}

/// Two clocks, of which one stands still while the machine sleeps.
struct Awake {
    wall: UnixMillis,
    running: Instant,
}

impl Awake {
    fn now() -> Self {
        Self { wall: crate::os::now(), running: Instant::now() }
    }

    /// Whether the machine has slept since the last look, or its clock was set forward by as much.
    fn has_slept(&mut self) -> bool {
        let before = std::mem::replace(self, Self::now());
        let by_wall = Duration::from_millis(self.wall.saturating_sub(before.wall));
        by_wall > self.running.duration_since(before.running) + SLEPT
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs until the task is dropped. Backups that it starts end as conversations do.
pub async fn run(node: Arc<Node>, conversations: Conversations) {
    let scheduler = &node.schedule;
    loop {
        scheduler.look(&node);
        scheduler.warn(&node).await;
        if scheduler.running().is_some() {
            scheduler.heed(&node).await;
        } else if scheduler.decide(&node).await == Decision::Run {
            scheduler.start(&node, &conversations);
        }
        timeout(EVERY, scheduler.changed.notified()).await.ok();
    }
}

impl Scheduler {
    /// Takes up what an earlier run remembered.
    pub fn open(files: &State) -> Self {
        let live = Live {
            settled_at: Instant::now() + Duration::from_millis(SETTLE_MS),
            new_since: None,
            backed_up: Vec::new(),
            first_look: true,
            running: None,
            metered: None,
            awake: Awake::now(),
        };
        Self {
            kept: Mutex::new(Kept::read(files)),
            files: files.clone(),
            desktop: Desktop::default(),
            live: Mutex::new(live),
            changed: Notify::new(),
        }
    }

    /// What is set has changed.
    pub fn note_change(&self) {
        self.changed.notify_one();
    }

    /// Learns of a backup of these folders that has succeeded, whoever asked for it.
    pub fn succeeded(&self, finished_at: UnixMillis, roots: Vec<PathBuf>) {
        lock(&self.live).backed_up = roots;
        self.remember(|kept| kept.succeed(finished_at));
    }

    /// Whether shards should not be sent now, because the network is paid by volume.
    pub fn spares_network(&self, node: &Node) -> bool {
        let metered = lock(&self.live).metered.is_some_and(|(_, metered)| metered);
        metered && !node.config().schedule.on_metered
    }

    /// When backups run by themselves, and how they go.
    pub async fn result(&self, node: &Arc<Node>) -> ScheduleResult {
        self.look(node);
        ScheduleResult { agent: true, backups: self.status(node).await, ..settings(&node.config().schedule) }
    }

    /// How backups go.
    pub async fn status(&self, node: &Arc<Node>) -> BackupsStatus {
        let running = node.backing_up.is_running();
        let waits_for = match self.decide(node).await {
            _ if running => WaitsFor::Nothing,
            Decision::Never(Idle::Off) => WaitsFor::SwitchedOff,
            Decision::Never(Idle::NothingProtected) => WaitsFor::Protection,
            Decision::Wait(_) => WaitsFor::Time,
            Decision::Hold(Hold::TooFewHolders) if node.taking_over => WaitsFor::Takeover,
            Decision::Hold(hold) => waits_for(hold),
            Decision::Run => WaitsFor::Nothing,
        };
        let (config, zone) = (node.config(), TimeZone::system());
        let clock = clock(node, &config.schedule, &zone);
        let next_run = config.schedule.next_run(&clock, !config.protect.is_empty(), &self.history());
        let kept = lock(&self.kept);
        BackupsStatus { running, next_run: next_run.filter(|_| !running).map(Time), waits_for, ..kept.status(clock.now) }
    }

    /// Looks at the clocks, the settings and the vault.
    fn look(&self, node: &Node) {
        let (now, config) = (crate::os::now(), node.config());
        node.throttles.set(&config.limits, now, &TimeZone::system());
        // None of a vault whose key is locked away.
        let snapshots = node.vault.body().snapshots;
        let seat = node.vault.writer.certificate.seat;
        let newest = snapshots.iter().rev().find(|snapshot| snapshot.seat == seat);
        let listed =
            |root: &PathBuf| newest.is_some_and(|it| it.roots.iter().any(|known| known.0 == crate::os::path_bytes(root)));
        let ever = newest.is_some() || lock(&self.kept).last_success.is_some();
        {
            let mut live = lock(&self.live);
            let first_look = std::mem::take(&mut live.first_look);
            if first_look && ever && newest.is_none() {
                // What was protected meanwhile waits for its slot.
                live.backed_up.clone_from(&config.protect);
            }
            let is_new = config.protect.iter().any(|root| !live.backed_up.contains(root) && !listed(root));
            live.new_since = is_new.then(|| live.new_since.unwrap_or(now));
            if live.awake.has_slept() {
                live.settled_at = Instant::now() + Duration::from_millis(SETTLE_MS);
                live.metered = None;
            }
        }
        self.remember(|kept| kept.see(now, !config.protect.is_empty(), newest.map(|snapshot| snapshot.finished_at)));
    }

    fn history(&self) -> History {
        let live = lock(&self.live);
        let settling = live.settled_at.saturating_duration_since(Instant::now());
        let kept = lock(&self.kept);
        History {
            last_success: kept.last_success,
            new_since: live.new_since,
            failed: kept.failed_at.map(|at| (at, kept.failures)),
            settling_ms: u64::try_from(settling.as_millis()).unwrap_or(u64::MAX),
        }
    }

    async fn decide(&self, node: &Arc<Node>) -> Decision {
        let (config, zone, history) = (node.config(), TimeZone::system(), self.history());
        let clock = clock(node, &config.schedule, &zone);
        let protected = !config.protect.is_empty();
        let mut asked = false;
        let first = config.schedule.decide(&clock, protected, &history, || {
            asked = true;
            Surroundings { reachable: true, ..Surroundings::default() }
        });
        if asked {
            let around = self.surroundings(node).await;
            return config.schedule.decide(&clock, protected, &history, || around);
        }
        if node.outbox.shards_pending() > 0 {
            // What is left to be delivered has to know too.
            self.on_metered().await;
        }
        first
    }

    async fn surroundings(&self, node: &Node) -> Surroundings {
        Surroundings {
            on_battery: self.desktop.on_battery(),
            on_metered: self.on_metered().await,
            reachable: !node.taking_over && node.sets.check().is_ok(),
        }
    }

    async fn on_metered(&self) -> bool {
        let known = lock(&self.live).metered.filter(|(at, _)| at.elapsed() < METERED_HOLDS);
        if let Some((_, metered)) = known {
            return metered;
        }
        let metered = self.desktop.on_metered().await;
        lock(&self.live).metered = Some((Instant::now(), metered));
        metered
    }

    fn running(&self) -> Option<Report> {
        lock(&self.live).running.clone()
    }

    /// Stops the backup that runs by itself where it should not go on now; what is stored stays, and the next one goes on from there.
    async fn heed(&self, node: &Node) {
        let (schedule, zone) = (node.config().schedule, TimeZone::system());
        let around = self.surroundings(node).await;
        let hold = schedule.interrupt(&clock(node, &schedule, &zone), &around);
        if let (Some(hold), Some(report)) = (hold, self.running()) {
            tracing::info!(?hold, "the backup that runs by itself stops, and goes on later");
            report.stop();
        }
    }

    fn start(&self, node: &Arc<Node>, conversations: &Conversations) {
        let Some((place, ending)) = conversations.begin() else { return };
        let (report, mut events) = Report::until(ending);
        let report = report.in_background();
        lock(&self.live).running = Some(report.clone());
        let node = Arc::clone(node);
        tokio::spawn(async move {
            let listening = tokio::spawn(async move {
                while let Some(event) = events.recv().await {
                    if let Event::Problem(problem) = event {
                        tracing::debug!("a backup by itself: {}", problem.message);
                    }
                }
            });
            // In a task of its own: should it panic, the schedule goes on.
            let done = {
                let (node, report) = (Arc::clone(&node), report.clone());
                tokio::spawn(async move { backup::back_up(&node, &report).await }).await
            };
            drop(report);
            node.schedule.ended(&done.unwrap_or(Err(BackupError::Broken)));
            listening.await.ok();
            drop(place);
        });
    }

    fn ended(&self, done: &Result<BackupResult, BackupError>) {
        match done {
            Ok(done) if done.problems > 0 => {
                tracing::warn!(problems = done.problems, "a backup by itself left something out; `backmesh backup` names it");
            }
            // Told by the backup itself; and a person's own backup counts as well as ours.
            Ok(_) | Err(BackupError::Running) => {}
            Err(BackupError::Interrupted | BackupError::Outbox(OutboxError::Interrupted)) => {}
            Err(error) => {
                tracing::warn!("a backup by itself failed: {error}");
                let now = crate::os::now();
                self.remember(|kept| kept.fail(now, error.to_string()));
            }
        }
        lock(&self.live).running = None;
        self.changed.notify_one();
    }

    /// Tells the log and the desktop, once a day, that nothing has been backed up for days.
    async fn warn(&self, node: &Node) {
        let now = crate::os::now();
        let (freshness, since) = {
            let kept = lock(&self.kept);
            let since = kept.last_success.or(kept.protected_since);
            if !warning_due(now, kept.warned_at) {
                return;
            }
            (policy::freshness(now, kept.protected_since, kept.last_success), since)
        };
        let (policy::Freshness::Overdue, Some(since)) = (freshness, since) else { return };
        self.remember(|kept| kept.warned_at = Some(now));
        let days = now.saturating_sub(since) / (24 * 3600 * 1000);
        tracing::warn!(days, "nothing has been backed up for days; `backmesh schedule` tells what it waits for");
        // Who has switched it off knows.
        if node.config().schedule.when != When::Off {
            let text = format!("This machine was last backed up {days} days ago. \"backmesh schedule\" tells why.");
            self.desktop.notice("No backup for days", &text).await;
        }
    }

    /// Changes what is remembered; written only where something differs. What cannot be written is remembered until the agent ends.
    fn remember(&self, change: impl FnOnce(&mut Kept)) {
        let mut kept = lock(&self.kept);
        let before = kept.clone();
        change(&mut kept);
        if *kept != before
            && let Err(error) = kept.write(&self.files)
        {
            tracing::warn!("{error}");
        }
    }
}

fn clock<'a>(node: &Node, schedule: &Schedule, zone: &'a TimeZone) -> Clock<'a> {
    Clock { now: crate::os::now(), zone, offset_ms: offset_ms(&node.members.me(), &schedule.when) }
}

const fn waits_for(hold: Hold) -> WaitsFor {
    match hold {
        Hold::Paused => WaitsFor::Pause,
        Hold::Quiet => WaitsFor::QuietHours,
        Hold::Settling => WaitsFor::Settling,
        Hold::Retry => WaitsFor::Retry,
        Hold::Battery => WaitsFor::Mains,
        Hold::Metered => WaitsFor::UnmeteredNetwork,
        Hold::TooFewHolders => WaitsFor::Holders,
    }
}

/// What is set, in words.
pub fn settings(schedule: &Schedule) -> ScheduleResult {
    let at = if let When::At(times) = &schedule.when { times.iter().map(ToString::to_string).collect() } else { Vec::new() };
    ScheduleResult {
        agent: false,
        every: crate::state::manners::interval_text(&schedule.when),
        at,
        quiet: schedule.quiet.map(|quiet| quiet.to_string()),
        on_battery: schedule.on_battery,
        on_metered: schedule.on_metered,
        paused_until: schedule.paused(crate::os::now()).map(Time),
        backups: BackupsStatus::default(),
    }
}
