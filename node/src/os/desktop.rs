//! What the desktop around the agent says and shows: whether the machine runs on battery, whether its network is paid by volume, and a
//! notice to its person. Wherever the system does not tell, nothing is in the way.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// How long a program may take to answer.
const PROGRAM_LIMIT: Duration = Duration::from_secs(10);

/// Where to ask.
#[derive(Debug, Clone)]
pub struct Desktop {
    /// The kernel's folder of power supplies.
    pub power_supplies: PathBuf,
    /// The program that asks NetworkManager, from systemd.
    pub busctl: PathBuf,
    /// The program that shows a notice, from libnotify.
    pub notify_send: PathBuf,
}

impl Default for Desktop {
    /// Those of this machine.
    fn default() -> Self {
        Self { power_supplies: "/sys/class/power_supply".into(), busctl: "busctl".into(), notify_send: "notify-send".into() }
    }
}

impl Desktop {
    /// Whether the machine runs on battery: no source from outside is on, and a battery of the machine itself is being emptied.
    /// Batteries of mice and the like (`scope` is `Device`) and of an UPS, whose machine is to be shut down soon and not to be saved
    /// power, do not count.
    pub fn on_battery(&self) -> bool {
        let Ok(supplies) = std::fs::read_dir(&self.power_supplies) else { return false };
        let mut emptied = false;
        for supply in supplies.filter_map(Result::ok).map(|entry| entry.path()) {
            if said(&supply, "scope").as_deref() == Some("Device") {
                continue;
            }
            match said(&supply, "type").as_deref() {
                Some("Battery") => emptied |= said(&supply, "status").as_deref() == Some("Discharging"),
                Some("Mains" | "USB" | "Wireless") => {
                    // 2 is "on, and programmable" for a charger behind USB.
                    if matches!(said(&supply, "online").as_deref(), Some("1" | "2")) {
                        return false;
                    }
                }
                _ => {}
            }
        }
        emptied
    }

    /// Whether NetworkManager takes the network that is used for the rest of the world for one that is paid by volume, or guesses so.
    pub async fn on_metered(&self) -> bool {
        const NAME: &str = "org.freedesktop.NetworkManager";
        let words = ["--system", "--timeout=5", "get-property", NAME, "/org/freedesktop/NetworkManager", NAME, "Metered"];
        let said = run(&self.busctl, words.map(OsStr::new)).await;
        // NMMetered: 0 unknown, 1 yes, 2 no, 3 guessed yes, 4 guessed no.
        matches!(said.as_deref().map(str::trim), Some("u 1" | "u 3"))
    }

    /// Shows a notice; whether a program could be asked to.
    pub async fn notice(&self, title: &str, text: &str) -> bool {
        let words = ["--app-name=Backmesh", "--icon=dialog-warning", "--", title, text];
        run(&self.notify_send, words.map(OsStr::new)).await.is_some()
    }
}

fn said(supply: &Path, what: &str) -> Option<String> {
    std::fs::read_to_string(supply.join(what)).ok().map(|text| text.trim().to_owned())
}

/// What a program says; none where it is not there, fails or takes too long.
async fn run(program: &Path, words: impl IntoIterator<Item = &OsStr>) -> Option<String> {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PROGRAM_LIMIT, command.output()).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    type Supply<'a> = (&'a str, &'a [(&'a str, &'a str)]);

    fn on_battery(supplies: &[Supply<'_>]) -> bool {
        let folder = tempfile::tempdir().unwrap();
        for (name, files) in supplies {
            fs::create_dir(folder.path().join(name)).unwrap();
            files.iter().for_each(|(file, text)| fs::write(folder.path().join(name).join(file), format!("{text}\n")).unwrap());
        }
        Desktop { power_supplies: folder.path().to_owned(), ..Desktop::default() }.on_battery()
    }

    #[test]
    fn power_as_the_kernel_tells_it() {
        const PLUGGED: Supply<'static> = ("AC", &[("type", "Mains"), ("online", "1")]);
        const UNPLUGGED: Supply<'static> = ("AC", &[("type", "Mains"), ("online", "0")]);
        const EMPTIED: Supply<'static> = ("BAT0", &[("type", "Battery"), ("status", "Discharging"), ("present", "1")]);
        const FULL: Supply<'static> = ("BAT1", &[("type", "Battery"), ("status", "Full"), ("present", "1")]);
        const MOUSE: Supply<'static> =
            ("hidpp_battery_0", &[("type", "Battery"), ("status", "Discharging"), ("scope", "Device")]);
        const UPS: Supply<'static> = ("ups", &[("type", "UPS"), ("status", "Discharging"), ("scope", "System")]);
        assert!(!on_battery(&[]), "a desktop");
        assert!(!on_battery(&[PLUGGED]) && !on_battery(&[UNPLUGGED]), "no battery at all");
        assert!(!on_battery(&[PLUGGED, FULL]) && !on_battery(&[PLUGGED, EMPTIED]), "a weak charger is a charger");
        assert!(on_battery(&[UNPLUGGED, EMPTIED]) && on_battery(&[EMPTIED]) && on_battery(&[UNPLUGGED, EMPTIED, FULL]));
        assert!(!on_battery(&[UNPLUGGED, FULL]), "nothing is emptied");
        assert!(!on_battery(&[MOUSE]) && !on_battery(&[UPS]));
        let charger = |online| ("ucsi", [("type", "USB"), ("online", online)]);
        let (on, off) = (charger("1"), charger("0"));
        assert!(!on_battery(&[EMPTIED, (on.0, &on.1)]) && on_battery(&[EMPTIED, (off.0, &off.1)]));
        assert!(!Desktop { power_supplies: "/no/such/folder".into(), ..Desktop::default() }.on_battery());
    }

    fn program(folder: &Path, text: &str) -> PathBuf {
        let path = folder.join("program");
        // Written by another process: what one of our own threads has open for writing, another's child may hold open when it starts.
        let mut written = std::process::Command::new("sh");
        written.args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\"; chmod 755 \"$1\"", "sh"]);
        assert!(written.arg(&path).arg(text).status().unwrap().success());
        path
    }

    #[tokio::test]
    async fn networks_as_their_manager_tells_them() {
        let folder = tempfile::tempdir().unwrap();
        for (said, metered) in [
            ("echo u 1", true),
            ("echo u 3", true),
            ("echo u 0", false),
            ("echo u 2", false),
            ("echo u 4", false),
            ("echo; exit 1", false),
            ("echo u 1; exit 1", false),
        ] {
            let desktop = Desktop { busctl: program(folder.path(), said), ..Desktop::default() };
            assert_eq!(desktop.on_metered().await, metered, "{said}");
        }
        assert!(!Desktop { busctl: "/no/such/program".into(), ..Desktop::default() }.on_metered().await);
    }

    #[tokio::test]
    async fn a_notice_is_shown_where_something_shows_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("said");
        let notify_send = program(folder.path(), &format!("printf '%s|' \"$@\" > {}", file.display()));
        let desktop = Desktop { notify_send, ..Desktop::default() };
        assert!(desktop.notice("a title", "--a text").await);
        assert!(fs::read_to_string(&file).unwrap().ends_with("|--|a title|--a text|"));
        assert!(!Desktop { notify_send: "/no/such/program".into(), ..desktop }.notice("a", "b").await);
    }
}
