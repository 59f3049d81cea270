//! `backmesh schedule`.

use super::protect::tell_agent;
use super::{Context, client, usage};
use crate::schedule::{settings, without_agent};
use crate::state::manners::{interval, times_of_day};
use crate::state::{Config, State};
use crate::units::parse_duration;
use backmesh_control::{Event, ExitCode, Request};
use backmesh_policy::schedule::{Hours, Schedule as Settings, TimeOfDay, When};
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};

/// Show or set when this machine backs up by itself, and tell why the next backup waits
///
/// The agent backs up every hour unless told otherwise: a few minutes behind the full hour, at a minute that differs from machine to
/// machine. What was missed while the machine slept or the others were away is made up for once, and the hours stay where they are.
/// A running agent takes changes at once.
#[derive(Debug, Args)]
pub(super) struct Schedule {
    /// Back up at this interval, from 5m to 7d
    #[arg(long, value_name = "TIME", value_parser = interval, conflicts_with_all = ["at", "off"])]
    every: Option<When>,
    /// Back up at these times of the day, such as 12:00,18:00
    #[arg(long, value_name = "TIMES", value_delimiter = ',', conflicts_with = "off")]
    at: Vec<TimeOfDay>,
    /// Back up only when told to
    #[arg(long)]
    off: bool,
    /// Never back up by itself during this part of the day, such as 22:00-06:00
    #[arg(long, value_name = "HOURS", conflicts_with = "no_quiet_hours")]
    quiet_hours: Option<Hours>,
    /// Back up at any time of the day
    #[arg(long)]
    no_quiet_hours: bool,
    /// Whether to back up on battery [default: no]
    #[arg(long, value_name = "YES|NO", value_parser = BoolishValueParser::new(), hide_possible_values = true, action = ArgAction::Set)]
    on_battery: Option<bool>,
    /// Whether to back up on a network that is paid by volume [default: no]
    #[arg(long, value_name = "YES|NO", value_parser = BoolishValueParser::new(), hide_possible_values = true, action = ArgAction::Set)]
    on_metered: Option<bool>,
    /// Back up only when told to for so long, such as 30m, 2h or 1d
    #[arg(long, value_name = "TIME", value_parser = parse_duration, conflicts_with = "resume")]
    pause: Option<u64>,
    /// End a pause
    #[arg(long)]
    resume: bool,
}

impl Schedule {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        let state = State::open(&cx.folder)?;
        let mut told = ExitCode::Done;
        let config = if self.is_change() {
            let config = state.edit_config(|config| self.change(&mut config.schedule))?;
            (told, _) = tell_agent(cx, &state);
            config
        } else {
            state.config()?
        };
        let shown = client::try_ask(&state, &Request::Schedule, &mut |event| cx.output.event(event))?;
        if shown.is_none() {
            without(cx, &state, &config);
        }
        Ok(shown.filter(|code| *code != ExitCode::Done).unwrap_or(told))
    }

    fn is_change(&self) -> bool {
        let when = self.every.is_some() || !self.at.is_empty() || self.off;
        let manners = self.quiet_hours.is_some() || self.no_quiet_hours || self.on_battery.is_some() || self.on_metered.is_some();
        when || manners || self.pause.is_some() || self.resume
    }

    fn change(&self, settings: &mut Settings) -> anyhow::Result<()> {
        if let Some(when) = &self.every {
            settings.when = when.clone();
        } else if !self.at.is_empty() {
            settings.when = times_of_day(self.at.clone());
        } else if self.off {
            settings.when = When::Off;
        }
        if self.quiet_hours.is_some() || self.no_quiet_hours {
            settings.quiet = self.quiet_hours;
        }
        settings.on_battery = self.on_battery.unwrap_or(settings.on_battery);
        settings.on_metered = self.on_metered.unwrap_or(settings.on_metered);
        if let Some(millis) = self.pause {
            if settings.when == When::Off {
                return Err(usage("the schedule is off, so there is nothing to pause"));
            }
            settings.paused_until = Some(crate::os::now() + millis);
        } else if self.resume {
            settings.paused_until = None;
        }
        Ok(())
    }
}

/// What the state folder says.
fn without(cx: &mut Context, state: &State, config: &Config) {
    let mut result = settings(&config.schedule);
    result.backups = without_agent(state, !config.protect.is_empty());
    cx.output.event(Event::result(result));
    cx.output.advice(&format!("No agent is running. Next: {}", cx.suggest("agent")));
}
