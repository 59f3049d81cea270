//! `backmesh recover`.

use super::{Context, absolute, ls, secret, usage};
use crate::recover::RecoverOptions;
use backmesh_control::{ExitCode, parse_seed, seed_text};
use backmesh_format::UnixMillis;
use clap::Args;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use std::path::PathBuf;

/// Restore after a total loss: with the recovery phrase and the address of one member
///
/// Only reads; needs neither membership nor state, and changes nothing for anyone.
#[derive(Debug, Args)]
pub(super) struct Recover {
    /// The file with the recovery phrase; - reads it from standard input
    #[arg(long, value_name = "FILE")]
    phrase_file: PathBuf,
    /// Where a member may be met, such as 192.0.2.1 or /ip4/192.0.2.1/tcp/47770; may be repeated
    #[arg(long = "seed", value_name = "ADDR", required = true)]
    seeds: Vec<String>,
    /// Only list the snapshots
    #[arg(long)]
    list: bool,
    /// Another snapshot than the newest: at least the first 8 digits of its id
    #[arg(long, value_name = "SNAP", conflicts_with_all = ["list", "as_of"])]
    snapshot: Option<String>,
    /// The newest snapshot begun by then, such as 2026-11-21, "2026-11-21 14:30" or 2026-11-21T14:30:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    as_of: Option<UnixMillis>,
    /// The folder to restore to; made where it is missing
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    to: Option<PathBuf>,
}

impl Recover {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        let seeds = self.seeds.iter().map(|seed| parse_seed(seed).map(|seed| seed_text(&seed))).collect::<Result<_, _>>();
        let options = RecoverOptions {
            seeds: seeds.map_err(usage)?,
            list: self.list,
            snapshot: self.snapshot.map(ls::snapshot_name).transpose()?,
            as_of: self.as_of,
            to: self.to.map(|folder| absolute(&folder)).transpose()?,
            phrase: secret::read_phrase(&self.phrase_file)?,
            sink: &mut |event| cx.output.event(event),
        };
        crate::recover::run(options)
    }
}

/// A moment: exact, or in local time; a day means its end.
fn moment(text: &str) -> Result<UnixMillis, String> {
    let local = |time: DateTime| time.to_zoned(TimeZone::system()).map(|zoned| zoned.timestamp());
    let exact = text.parse::<Timestamp>();
    let time = exact.or_else(|_| match text.len() {
        10 => text.parse::<Date>().and_then(|date| date.checked_add(1.day())).and_then(|next| local(next.at(0, 0, 0, 0))),
        _ => text.parse::<DateTime>().and_then(local),
    });
    let millis = time.ok().and_then(|time| UnixMillis::try_from(time.as_millisecond()).ok());
    let day_end = u64::from(text.len() == 10);
    millis
        .map(|millis| millis - day_end)
        .ok_or_else(|| "write 2026-11-21, \"2026-11-21 14:30\" or 2026-11-21T14:30:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_as_people_write_them() {
        assert_eq!(moment("2026-11-21T14:30:00Z"), Ok(1_795_271_400_000));
        assert_eq!(moment("2026-11-21T15:30:00+01:00"), Ok(1_795_271_400_000));
        let day_end = moment("2026-11-20").unwrap();
        assert_eq!(moment("2026-11-21 00:00"), Ok(day_end + 1));
        assert_eq!(moment("2026-11-21T00:00:30"), Ok(day_end + 30_001));
        for text in ["", "yesterday", "2026-13-01", "21.11.2026", "1960-01-01T00:00:00Z"] {
            assert!(moment(text).is_err(), "{text}");
        }
    }
}
