//! What commands say: JSON lines on standard output, or text for people with a progress bar on a terminal.

use super::recite;
use crate::units::{count, display_seconds, display_size};
use backmesh_control::{Answer, Event, ExitCode, Phase, Problem, Progress, escape};
use backmesh_format::UnixMillis;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Where events go. Clones share one terminal.
#[derive(Debug, Clone)]
pub struct Output {
    json: bool,
    /// No progress, no advice, no sums of what went well.
    quiet: bool,
    /// Standard output carries something else.
    aside_only: Arc<AtomicBool>,
    bar: ProgressBar,
    shown: Arc<Mutex<Shown>>,
}

/// What has been shown so far.
#[derive(Debug, Default)]
struct Shown {
    /// The phase that the bar speaks of.
    phase: Option<Phase>,
    /// A list's heading has been printed.
    heading: bool,
}

impl Output {
    /// JSON lines, or text.
    pub fn new(json: bool) -> Self {
        Self::quiet_or_not(json, false)
    }

    /// As [`Output::new`]; where it is quiet, nothing but what was asked for, problems and errors.
    pub fn quiet_or_not(json: bool, quiet: bool) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Self { json, quiet, aside_only: Arc::default(), bar, shown: Arc::default() }
    }

    /// Whether it is JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether it is quiet.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// From now on everything is shown on standard error: what a command writes to standard output is not text.
    pub fn keep_standard_output_free(&self) {
        self.aside_only.store(true, Ordering::Relaxed);
    }

    /// Shows an event.
    pub fn event(&mut self, event: Event) {
        if self.quiet && matches!(event, Event::Progress(_)) {
            return;
        }
        if self.json {
            return self.print(&event.to_line());
        }
        match event {
            Event::Progress(progress) => self.progress(&progress),
            Event::Data { .. } => {}
            Event::Problem(problem) => self.aside(&problem_text(&problem)),
            Event::Error(failure) => {
                self.finish();
                self.aside(&failure.text());
            }
            Event::Result { more, answer } => {
                let heading = {
                    let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
                    !std::mem::replace(&mut shown.heading, more)
                };
                if !more {
                    self.finish();
                }
                if self.quiet && is_summary(&answer) {
                    return;
                }
                self.bar.suspend(|| self.print(&recite::answer(&answer, heading, more)));
            }
        }
    }

    /// Tells a person, on standard error, what to do next; JSON has no advice.
    pub fn advice(&mut self, text: &str) {
        if !self.json && !self.quiet {
            self.aside(text.trim_end());
        }
    }

    /// Takes the progress bar away.
    pub fn finish(&mut self) {
        self.bar.finish_and_clear();
    }

    fn print(&self, text: &str) {
        // A reader that has seen enough, such as `head`, is no failure of ours.
        let aside_only = self.aside_only.load(Ordering::Relaxed);
        let _ = if aside_only { write(&mut std::io::stderr().lock(), text) } else { write(&mut std::io::stdout().lock(), text) };
    }

    fn aside(&self, text: &str) {
        // Where standard error is closed there is nobody to tell.
        self.bar.suspend(|| drop(writeln!(std::io::stderr(), "{text}")));
    }

    fn progress(&mut self, progress: &Progress) {
        if !std::io::stderr().is_terminal() {
            return;
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.phase.is_none() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.bar.enable_steady_tick(Duration::from_millis(200));
        }
        if shown.phase != Some(progress.phase) {
            shown.phase = Some(progress.phase);
            self.bar.reset();
        }
        let measure = progress.bytes_total.map(|total| (progress.bytes, total));
        let measure = measure.or(progress.files_total.map(|total| (progress.files, total)));
        self.bar.set_style(style(measure.is_some()));
        if let Some((done, total)) = measure {
            self.bar.set_length(total);
            self.bar.set_position(done);
        }
        self.bar.set_prefix(progress.phase.word());
        self.bar.set_message(progress_text(progress));
    }
}

/// Neither has a colour, so that there is nothing to leave out where `NO_COLOR` is set.
fn style(with_total: bool) -> ProgressStyle {
    let template = if with_total { "{prefix:>10} {bar:24} {msg}" } else { "{prefix:>10} {spinner} {msg}" };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// What is told beside the bar: the most important first, as a narrow terminal cuts the rest off.
fn progress_text(progress: &Progress) -> String {
    let mut parts = Vec::new();
    match (progress.bytes, progress.bytes_total) {
        (0, None) => {}
        (bytes, None) => parts.push(display_size(bytes)),
        (bytes, Some(total)) => parts.push(format!("{}/{}", display_size(bytes), display_size(total))),
    }
    parts.extend(progress.rate.map(|rate| format!("{}/s", display_size(rate))));
    parts.extend(progress.seconds_left.map(|seconds| format!("{} left", display_seconds(seconds))));
    match (progress.files, progress.files_total) {
        (0, None) => {}
        (files, None) => parts.push(count(files, "file", "files")),
        (files, Some(total)) => parts.push(format!("{files}/{}", count(total, "file", "files"))),
    }
    parts.extend(progress.message.as_deref().map(|message| escape(message.as_bytes())));
    parts.join("  ")
}

/// What a person is shown of an event, the data of a file aside.
pub fn text_of(event: &Event) -> String {
    match event {
        Event::Progress(progress) => progress_text(progress),
        Event::Data { .. } => String::new(),
        Event::Problem(problem) => problem_text(problem),
        Event::Error(failure) => failure.text(),
        Event::Result { more, answer } => recite::answer(answer, true, *more),
    }
}

/// Results that only say that all is well. What a plan shows was asked for.
fn is_summary(answer: &Answer) -> bool {
    match answer {
        Answer::Backup(_) | Answer::Demo(_) => true,
        Answer::Restore(result) => !result.dry_run,
        Answer::Check(_) => answer.exit_code() == ExitCode::Done,
        _ => false,
    }
}

fn problem_text(problem: &Problem) -> String {
    match problem.path.as_ref().and_then(backmesh_control::PathText::bytes) {
        Some(path) => format!("problem: {}: {}", escape(&path), escape(problem.message.as_bytes())),
        None => format!("problem: {}", escape(problem.message.as_bytes())),
    }
}

fn write(out: &mut impl Write, text: &str) -> std::io::Result<()> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// A moment for people: local time, to the minute.
pub fn local_time(time: UnixMillis) -> String {
    local_file_time(i64::try_from(time).unwrap_or(i64::MAX))
}

/// As [`local_time`], for what may be older than 1970.
pub fn local_file_time(time: i64) -> String {
    match jiff::Timestamp::from_millisecond(time) {
        Ok(time) => time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string(),
        Err(_) if time < 0 => "long ago".to_owned(),
        Err(_) => "in the far future".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is() {
        let mut progress = Progress::new(Phase::Storing);
        assert_eq!(progress_text(&progress), "");
        (progress.files, progress.bytes) = (1, 2048);
        assert_eq!(progress_text(&progress), "2.00 KiB  1 file");
        (progress.files_total, progress.bytes_total) = (Some(40), Some(1 << 20));
        (progress.rate, progress.seconds_left) = (Some(5 << 20), Some(75));
        progress.message = Some("a\x1b[2J".to_owned());
        assert_eq!(progress_text(&progress), "2.00 KiB/1.00 MiB  5.00 MiB/s  1 min 15 s left  1/40 files  a\\u{1b}[2J");
    }

    #[test]
    fn a_plan_is_no_summary() {
        let restore = |dry_run| Answer::Restore(backmesh_control::RestoreResult { dry_run, ..Default::default() });
        assert!(is_summary(&restore(false)) && !is_summary(&restore(true)));
        assert!(!is_summary(&Answer::Status(backmesh_control::StatusResult::default())));
    }
}
