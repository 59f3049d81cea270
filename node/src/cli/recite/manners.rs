//! The schedule, how backups go, and limits of speed, as text for people.

use super::text;
use crate::cli::output::local_time;
use crate::units::{display_size, exact_size, parse_size};
use backmesh_control::{BackupsStatus, Freshness, LimitInfo, LimitsResult, ScheduleResult, Time, WaitsFor};

fn line(title: &str, value: &str) -> String {
    format!("{title:<11} {value}\n")
}

fn moment(time: Time) -> String {
    local_time(time.0)
}

/// The settings, the next run and why it waits.
pub(super) fn schedule(result: &ScheduleResult) -> String {
    let mut settings = match &result.every {
        Some(off) if off == "off" => "off: none by itself".to_owned(),
        Some(every) => format!("every {}", text(every)),
        None => format!("at {}", text(&result.at.join(", "))),
    };
    if let Some(quiet) = &result.quiet {
        settings.push_str(&format!(", not {}", text(quiet)));
    }
    let also = |yes: bool, what: &str| if yes { format!(", also on {what}") } else { format!(", not on {what}") };
    settings.push_str(&also(result.on_battery, "battery"));
    settings.push_str(&also(result.on_metered, "metered networks"));
    let mut lines = line("schedule", &settings);
    if let Some(until) = result.paused_until {
        lines.push_str(&line("paused", &format!("until {}", moment(until))));
    }
    lines + &backups(&result.backups)
}

/// How backups go: never better than it is known to be.
pub(super) fn backups(status: &BackupsStatus) -> String {
    let last = status.last_success.map(moment);
    let state = match (status.freshness, last) {
        (Freshness::NothingProtected, _) => "nothing is protected".to_owned(),
        (Freshness::Fresh, Some(last)) => format!("the last ended {last}"),
        (Freshness::Overdue, Some(last)) => format!("OVERDUE: the last ended {last}"),
        (Freshness::Overdue, None) => {
            let since = status.protected_since.map(|since| format!(" since {}", moment(since))).unwrap_or_default();
            format!("OVERDUE: none has succeeded{since}")
        }
        (Freshness::Waiting, _) => "none yet".to_owned(),
        (Freshness::Fresh | Freshness::Unknown, _) => "unknown: nothing is known of a backup of this machine".to_owned(),
    };
    let mut lines = line("backups", &state);
    if status.failures > 0 {
        let why = status.last_failure.as_deref().map(text).unwrap_or_default();
        let tries = if status.failures == 1 { "a try".to_owned() } else { format!("{} tries", status.failures) };
        lines.push_str(&line("failed", &format!("{tries} since then: {why}")));
    }
    let at = status.next_run.map(|at| format!("{}, ", moment(at))).unwrap_or_default();
    let waits = match status.waits_for {
        WaitsFor::Nothing if status.running => return lines + &line("next", "one runs now"),
        WaitsFor::Nothing => "starts now".to_owned(),
        WaitsFor::Time => at.trim_end_matches(", ").to_owned(),
        WaitsFor::SwitchedOff => "none by itself: the schedule is off".to_owned(),
        WaitsFor::Protection => return lines,
        WaitsFor::Agent => "none by itself: no agent runs".to_owned(),
        WaitsFor::Pause => format!("{at}paused"),
        WaitsFor::QuietHours => format!("{at}when the quiet hours are over"),
        WaitsFor::Settling => format!("{at}when the machine has settled"),
        WaitsFor::Retry => format!("{at}another try"),
        WaitsFor::Mains => "as soon as the machine is plugged in".to_owned(),
        WaitsFor::UnmeteredNetwork => "as soon as the network is not paid by volume".to_owned(),
        WaitsFor::Holders => "as soon as enough holders can be reached".to_owned(),
        WaitsFor::Takeover => "as soon as the vault is taken over".to_owned(),
    };
    lines + &line("next", &waits)
}

/// What may be moved.
pub(super) fn limits(result: &LimitsResult) -> String {
    let limit = |title, limit: &Option<LimitInfo>, what| line(title, &format!("{}, {what}", limited(limit.as_ref())));
    [
        limit("upload", &result.upload, "own backups"),
        limit("download", &result.download, "own restores"),
        limit("serving", &result.serving, "others' backups and restores, each way"),
    ]
    .concat()
}

fn limited(limit: Option<&LimitInfo>) -> String {
    let Some(limit) = limit else { return "no limit".to_owned() };
    let exact = exact_size(limit.bytes_per_second);
    // A rate that was given in bits is no round number of bytes.
    let round = exact.len() < 9 || parse_size(&exact).is_err();
    let rate = if round { exact } else { display_size(limit.bytes_per_second) };
    let hours = limit.hours.as_deref().map(|hours| format!(" during {}", text(hours))).unwrap_or_default();
    format!("{rate}/s{hours}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_sounds_better_than_it_is_known_to_be() {
        let check = |status: BackupsStatus, part: &str| assert!(backups(&status).contains(part), "{}", backups(&status));
        check(BackupsStatus::default(), "unknown");
        check(BackupsStatus::default(), "no agent runs");
        check(BackupsStatus { freshness: Freshness::Fresh, ..BackupsStatus::default() }, "unknown");
        let overdue = BackupsStatus { freshness: Freshness::Overdue, protected_since: Some(Time(0)), ..BackupsStatus::default() };
        check(overdue.clone(), "OVERDUE: none has succeeded since");
        check(BackupsStatus { last_success: Some(Time(0)), ..overdue }, "OVERDUE: the last ended");
        let failed = BackupsStatus { failures: 2, last_failure: Some("\u{1b}[31m".to_owned()), ..BackupsStatus::default() };
        check(failed, "2 tries since then: \\u{1b}[31m");
    }

    #[test]
    fn rates_stay_readable() {
        let check = |rate, expected: &str| {
            let limit = LimitInfo { bytes_per_second: rate, hours: Some("08:00-18:00".to_owned()) };
            assert_eq!(limited(Some(&limit)), format!("{expected} during 08:00-18:00"));
        };
        check(2 << 20, "2 MiB/s");
        check(1_250_000, "1.19 MiB/s");
        assert_eq!(limited(None), "no limit");
    }
}
