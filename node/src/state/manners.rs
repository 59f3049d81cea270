//! The tables `[schedule]` and `[limits]` of `config.toml`: when this machine backs up by itself, and how fast it may be.

use super::config::ConfigError;
use crate::throttle::{Limit, Limits};
use crate::units::{exact_duration, parse_duration};
use backmesh_control::Time;
use backmesh_policy::schedule::{EVERY_MS, Schedule, TimeOfDay, When};
use std::str::FromStr;
use toml_edit::{Array, DocumentMut, Item, TableLike, Value, table, value};

/// Reads `[schedule]`.
pub(super) fn schedule(item: &Item) -> Result<Schedule, ConfigError> {
    let mut schedule = Schedule::default();
    let (mut every, mut at) = (None, None);
    for (key, item) in entries(item, "schedule")? {
        match key {
            "every" => every = Some(interval(text(item, "schedule.every")?).map_err(|what| setting("schedule.every", what))?),
            "at" => at = Some(times(item)?),
            "quiet" => schedule.quiet = Some(parsed(item, "schedule.quiet")?),
            "on_battery" => schedule.on_battery = yes(item, "schedule.on_battery")?,
            "on_metered" => schedule.on_metered = yes(item, "schedule.on_metered")?,
            "paused_until" => {
                let time = Time::try_from(text(item, "schedule.paused_until")?.to_owned());
                schedule.paused_until = Some(time.map_err(|error| setting("schedule.paused_until", error))?.0);
            }
            other => return Err(unknown("schedule", other)),
        }
    }
    match (every, at) {
        (Some(_), Some(_)) => return Err(setting("schedule", "there are both \"every\" and \"at\": leave one out")),
        (Some(when), None) | (None, Some(when)) => schedule.when = when,
        (None, None) => {}
    }
    Ok(schedule)
}

/// Reads an interval such as `1h`, or `off`.
///
/// # Errors
/// What is wrong with it.
pub fn interval(text: &str) -> Result<When, String> {
    if text == "off" {
        return Ok(When::Off);
    }
    let millis = parse_duration(text).map_err(|error| error.to_string())?;
    if (EVERY_MS.0..=EVERY_MS.1).contains(&millis) {
        Ok(When::Every(millis))
    } else {
        Err(format!("every {text} makes no sense: from 5m to 7d does, or off"))
    }
}

/// The word for when backups are due, where they are due at intervals or never.
pub fn interval_text(when: &When) -> Option<String> {
    match when {
        When::Off => Some("off".to_owned()),
        When::Every(millis) => Some(exact_duration(*millis)),
        When::At(_) => None,
    }
}

/// The times of the day at which backups are due, as they are kept: sorted, each once.
pub fn times_of_day(mut times: Vec<TimeOfDay>) -> When {
    times.sort_unstable();
    times.dedup();
    When::At(times)
}

fn times(item: &Item) -> Result<When, ConfigError> {
    let wrong =
        || ConfigError::Kind { setting: "schedule.at", expected: "a list of times of the day, such as [\"12:00\", \"18:00\"]" };
    let list = item.as_array().filter(|list| !list.is_empty()).ok_or_else(wrong)?;
    let times = list.iter().map(|time| {
        let time = time.as_str().ok_or_else(wrong)?;
        time.parse::<TimeOfDay>().map_err(|error| setting("schedule.at", error))
    });
    Ok(times_of_day(times.collect::<Result<_, _>>()?))
}

/// Reads `[limits]`.
pub(super) fn limits(item: &Item) -> Result<Limits, ConfigError> {
    let mut limits = Limits::default();
    for (key, item) in entries(item, "limits")? {
        match key {
            "upload" => limits.upload = Some(parsed(item, "limits.upload")?),
            "download" => limits.download = Some(parsed(item, "limits.download")?),
            "serving" => limits.serving = Some(parsed(item, "limits.serving")?),
            other => return Err(unknown("limits", other)),
        }
    }
    Ok(limits)
}

/// The same file with another schedule.
pub(super) fn with_schedule(text: &str, schedule: &Schedule) -> Result<String, ConfigError> {
    with_table(text, "schedule", |table| {
        set(table, "every", interval_text(&schedule.when).map(Value::from));
        let at = if let When::At(times) = &schedule.when { Some(times) } else { None };
        set(table, "at", at.map(|times| Value::Array(times.iter().map(ToString::to_string).collect::<Array>())));
        set(table, "quiet", schedule.quiet.map(|quiet| quiet.to_string().into()));
        set(table, "on_battery", Some(schedule.on_battery.into()));
        set(table, "on_metered", Some(schedule.on_metered.into()));
        set(table, "paused_until", schedule.paused_until.map(|until| Time(until).to_string().into()));
    })
}

/// The same file with other limits.
pub(super) fn with_limits(text: &str, limits: &Limits) -> Result<String, ConfigError> {
    with_table(text, "limits", |table| {
        let limit = |limit: Option<Limit>| limit.map(|limit| limit.to_string().into());
        set(table, "upload", limit(limits.upload));
        set(table, "download", limit(limits.download));
        set(table, "serving", limit(limits.serving));
    })
}

fn with_table(text: &str, name: &str, change: impl FnOnce(&mut dyn TableLike)) -> Result<String, ConfigError> {
    let mut document: DocumentMut = text.parse()?;
    if let Some(table) = document.entry(name).or_insert_with(table).as_table_like_mut() {
        change(table);
    }
    Ok(document.to_string())
}

/// Sets a value, keeping what a person wrote beside it, or removes it.
fn set(table: &mut dyn TableLike, key: &str, new: Option<Value>) {
    let Some(mut new) = new else {
        table.remove(key);
        return;
    };
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            *new.decor_mut() = old.decor().clone();
            *old = new;
        }
        None => drop(table.insert(key, value(new))),
    }
}

fn entries<'a>(item: &'a Item, name: &'static str) -> Result<impl Iterator<Item = (&'a str, &'a Item)> + use<'a>, ConfigError> {
    let table = item.as_table_like().ok_or(ConfigError::Kind { setting: name, expected: "a table of settings" })?;
    Ok(table.iter())
}

fn text<'a>(item: &'a Item, name: &'static str) -> Result<&'a str, ConfigError> {
    item.as_str().ok_or(ConfigError::Kind { setting: name, expected: "a text" })
}

fn yes(item: &Item, name: &'static str) -> Result<bool, ConfigError> {
    item.as_bool().ok_or(ConfigError::Kind { setting: name, expected: "true or false" })
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(item: &Item, name: &'static str) -> Result<T, ConfigError> {
    text(item, name)?.parse().map_err(|error| setting(name, error))
}

fn setting(setting: &'static str, what: impl std::fmt::Display) -> ConfigError {
    ConfigError::Value { setting, what: what.to_string() }
}

fn unknown(table: &str, key: &str) -> ConfigError {
    ConfigError::Unknown(backmesh_control::escape(format!("{table}.{key}").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn parse(text: &str) -> Config {
        Config::parse(text).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let schedules = [
            Schedule::default(),
            Schedule { when: When::Off, on_battery: true, ..Schedule::default() },
            Schedule {
                when: times_of_day(vec!["18:00".parse().unwrap(), "6:30".parse().unwrap(), "18:00".parse().unwrap()]),
                quiet: Some("22:00-06:00".parse().unwrap()),
                on_metered: true,
                paused_until: Some(1_795_259_546_000),
                ..Schedule::default()
            },
        ];
        let mut file = "# mine\nprotect = [] # none\n".to_owned();
        for schedule in schedules {
            file = with_schedule(&file, &schedule).unwrap();
            assert_eq!(parse(&file).schedule, schedule, "{file}");
        }
        assert!(file.starts_with("# mine\nprotect = [] # none\n") && file.contains("at = [\"06:30\", \"18:00\"]"), "{file}");
        let limits = Limits { upload: Some("2MiB/s@08:00-18:00".parse().unwrap()), ..Limits::default() };
        file = with_limits(&file, &limits).unwrap();
        assert!(file.contains("upload = \"2 MiB/s @ 08:00-18:00\""), "{file}");
        assert_eq!(parse(&file).limits, limits);
        assert_eq!(parse(&with_limits(&file, &Limits::default()).unwrap()).limits, Limits::default());
    }

    #[test]
    fn what_a_person_wrote_stays() {
        let file = "[schedule] # when\nevery = \"2h\" # enough\n# at night\nquiet = \"22:00-06:00\"\n";
        let config = parse(file);
        assert_eq!(config.schedule.when, When::Every(7_200_000));
        let edited = with_schedule(file, &Schedule { when: When::Every(60_000 * 90), ..config.schedule }).unwrap();
        assert!(
            edited.starts_with("[schedule] # when\nevery = \"90m\" # enough\n# at night\nquiet = \"22:00-06:00\"\n"),
            "{edited}"
        );
        assert_eq!(parse("schedule = { every = \"off\" }").schedule.when, When::Off);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let check = |text: &str, part: &str| {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check("schedule = 5", "\"schedule\"");
        check("[schedule]\nevry = \"1h\"", "schedule.evry");
        check("[schedule]\nevery = \"1m\"", "5m");
        check("[schedule]\nevery = \"often\"", "often");
        check("[schedule]\nevery = \"1h\"\nat = [\"12:00\"]", "both");
        check("[schedule]\nat = []", "schedule.at");
        check("[schedule]\nat = [\"25:00\"]", "25:00");
        check("[schedule]\nquiet = \"22:00-22:00\"", "22:00-22:00");
        check("[schedule]\non_battery = \"no\"", "true or false");
        check("[schedule]\npaused_until = \"tomorrow\"", "tomorrow");
        check("[limits]\nupload = \"1 KiB/s\"", "64 KiB/s");
        check("[limits]\nup = \"1 MiB/s\"", "limits.up");
        check("[limits]\nserving = 5", "limits.serving");
    }
}
