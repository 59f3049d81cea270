//! What commands say: JSON lines on standard output, or text for people with a progress bar on a terminal.

use super::recite;
use backmesh_control::{Event, Failure, Phase, Problem, Progress, escape};
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
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Self { json, aside_only: Arc::default(), bar, shown: Arc::default() }
    }

    /// Whether it is JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// From now on everything is shown on standard error: what a command writes to standard output is not text.
    pub fn keep_standard_output_free(&self) {
        self.aside_only.store(true, Ordering::Relaxed);
    }

    /// Shows an event.
    pub fn event(&mut self, event: Event) {
        if self.json {
            return self.print(&event.to_line());
        }
        match event {
            Event::Progress(progress) => self.progress(&progress),
            Event::Data { .. } => {}
            Event::Problem(problem) => self.aside(&problem_text(&problem)),
            Event::Error(failure) => {
                self.finish();
                self.aside(&failure_text(&failure));
            }
            Event::Result { more, answer } => {
                let heading = {
                    let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
                    !std::mem::replace(&mut shown.heading, more)
                };
                if !more {
                    self.finish();
                }
                self.bar.suspend(|| self.print(&recite::answer(&answer, heading, more)));
            }
        }
    }

    /// Tells a person, on standard error, what to do next; JSON has no advice.
    pub fn advice(&mut self, text: &str) {
        if !self.json {
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
        self.bar.set_style(style(progress.bytes_total.is_some()));
        if let Some(total) = progress.bytes_total {
            self.bar.set_length(total);
        }
        self.bar.set_position(progress.bytes);
        self.bar.set_prefix(progress.phase.word());
        self.bar.set_message(progress_text(progress));
    }
}

fn style(with_total: bool) -> ProgressStyle {
    let template = if with_total {
        "{prefix:>10} {wide_bar} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {msg}"
    } else {
        "{prefix:>10} {spinner} {binary_bytes}  {binary_bytes_per_sec}  {msg}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn progress_text(progress: &Progress) -> String {
    let files = match (progress.files, progress.files_total) {
        (0, None) => String::new(),
        (files, None) => format!("{files} files"),
        (files, Some(total)) => format!("{files}/{total} files"),
    };
    match progress.message.as_deref() {
        None => files,
        Some(message) => format!("{files}  {}", escape(message.as_bytes())).trim_start().to_owned(),
    }
}

fn problem_text(problem: &Problem) -> String {
    match problem.path.as_ref().and_then(backmesh_control::PathText::bytes) {
        Some(path) => format!("problem: {}: {}", escape(&path), escape(problem.message.as_bytes())),
        None => format!("problem: {}", escape(problem.message.as_bytes())),
    }
}

fn failure_text(failure: &Failure) -> String {
    let message = escape(failure.message.as_bytes()).replace("\\n", "\n");
    match &failure.hint {
        None => format!("error: {message}"),
        Some(hint) => format!("error: {message}\n  {}", escape(hint.as_bytes())),
    }
}

fn write(out: &mut impl Write, text: &str) -> std::io::Result<()> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// A moment for people: local time, to the minute.
pub fn local_time(time: UnixMillis) -> String {
    let zoned = i64::try_from(time).ok().and_then(|time| jiff::Timestamp::from_millisecond(time).ok());
    match zoned {
        Some(time) => time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string(),
        None => "in the far future".to_owned(),
    }
}
