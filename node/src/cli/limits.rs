//! `backmesh limits`.

use super::Context;
use super::protect::tell_agent;
use crate::state::State;
use crate::throttle::{Limit, Limits as Settings};
use backmesh_control::{Event, ExitCode, LimitInfo, LimitsResult};
use clap::Args;

/// Show or set how fast this node may move shards
///
/// A RATE is a size a second such as 2MiB/s, or bits such as 10Mbit, at least 64KiB/s; followed by @08:00-18:00 it holds during that
/// part of the day only; none takes the limit away. A running agent takes changes at once.
#[derive(Debug, Args)]
pub(super) struct Limits {
    /// For own backups on their way to holders
    #[arg(long, value_name = "RATE", value_parser = limit)]
    upload: Option<Change>,
    /// For own restores
    #[arg(long, value_name = "RATE", value_parser = limit)]
    download: Option<Change>,
    /// For what others store here and get back, each way
    #[arg(long, value_name = "RATE", value_parser = limit)]
    serving: Option<Change>,
    /// Take all limits away
    #[arg(long, conflicts_with_all = ["upload", "download", "serving"])]
    none: bool,
}

/// What a limit becomes.
#[derive(Debug, Clone, Copy)]
struct Change(Option<Limit>);

fn limit(text: &str) -> Result<Change, String> {
    match text {
        "none" => Ok(Change(None)),
        text => text.parse().map(|limit| Change(Some(limit))).map_err(|error: crate::throttle::LimitError| error.to_string()),
    }
}

impl Limits {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        let state = State::open(&cx.folder)?;
        let is_change = self.none || self.upload.is_some() || self.download.is_some() || self.serving.is_some();
        if !is_change {
            let limits = state.config()?.limits;
            cx.output.event(Event::result(result(&limits, false)));
            return Ok(ExitCode::Done);
        }
        let config = state.edit_config(|config| {
            if self.none {
                config.limits = Settings::default();
            }
            let Settings { upload, download, serving } = &mut config.limits;
            for (limit, change) in [(upload, self.upload), (download, self.download), (serving, self.serving)] {
                if let Some(Change(changed)) = change {
                    *limit = changed;
                }
            }
            anyhow::Ok(())
        })?;
        let (code, agent) = tell_agent(cx, &state);
        cx.output.event(Event::result(result(&config.limits, agent)));
        Ok(code)
    }
}

fn result(limits: &Settings, agent: bool) -> LimitsResult {
    let info = |limit: Limit| LimitInfo { bytes_per_second: limit.rate, hours: limit.hours.map(|hours| hours.to_string()) };
    LimitsResult {
        agent,
        upload: limits.upload.map(info),
        download: limits.download.map(info),
        serving: limits.serving.map(info),
    }
}
