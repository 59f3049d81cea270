//! Backups by themselves, with the manners of a desktop: in the background, within limits, stopped and taken up again.

use anyhow::Result;
use backmesh_tests::{Group, text, wait_for};
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Makes a file that no compression makes smaller.
fn write_noise(path: &Path, bytes: u64) -> Result<()> {
    let mut noise = fs::File::open("/dev/urandom")?.take(bytes);
    let mut file = fs::File::create(path)?;
    std::io::copy(&mut noise, &mut file)?;
    Ok(file.flush()?)
}

/// The niceness of all threads of a process that are called so.
fn niceness(pid: u32, name: &str) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok);
    let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    let named = stats.filter(|stat| stat.contains(&format!("({name})")));
    // proc(5): the name in brackets is the second field, niceness the nineteenth.
    let nice = |stat: String| stat.rsplit_once(") ")?.1.split(' ').nth(16)?.parse().ok();
    named.filter_map(nice).collect()
}

#[test]
#[expect(clippy::zombie_processes, reason = "where the test fails, its processes end with it")]
fn an_agent_backs_up_by_itself_in_the_background_within_limits_and_stops_when_asked_to() -> Result<()> {
    let group = Group::start(3)?;
    let owner = &group.nodes[0];
    let data = group.folder.path().join("data");
    fs::create_dir(&data)?;
    write_noise(&data.join("noise"), 100 << 20)?;
    owner.protect(&data);
    let backups = || owner.status()["backups"].clone();
    assert_eq!((&backups()["waits_for"], &backups()["freshness"]), (&"switched_off".into(), &"waiting".into()));

    owner.run(&["limits", "--upload", "1MiB/s"]).expect(0);
    let set = owner.run(&["--json", "schedule", "--every", "1h"]).expect(0).result();
    assert_eq!((&set["every"], &set["agent"]), (&"1h".into(), &true.into()));
    // Its machine has just been started, and what is protected is new.
    wait_for("a backup to start", Duration::from_secs(180), || Ok(backups()["running"] == true))?;
    // A person who asks for a backup now waits for this one, and hears how it ends.
    let attending = owner.spawn(&["--json", "backup"]);
    let own = niceness(std::process::id(), "").first().copied().unwrap_or(0);
    wait_for("threads in the background", Duration::from_secs(60), || {
        Ok(niceness(owner.pid().unwrap_or_default(), "background").iter().all(|nice| *nice == own.max(15)))
    })?;

    // What came while the first look was taken belongs to none of them.
    let (_, before) = group.held();
    let began = Instant::now();
    std::thread::sleep(Duration::from_secs(10));
    let (_, after) = group.held();
    let rate = (after - before) as f64 / began.elapsed().as_secs_f64();
    let most = f64::from(1 << 20) * 1.1 + f64::from(3 << 20) / 10.0;
    assert!(rate <= most, "{rate} bytes a second with a limit of 1 MiB/s");

    owner.run(&["schedule", "--pause", "1h"]).expect(0);
    wait_for("the backup to stop", Duration::from_secs(60), || Ok(backups()["running"] == false))?;
    let attended = attending.wait_with_output()?;
    let heard = String::from_utf8_lossy(&attended.stdout);
    assert_eq!(attended.status.code(), Some(130), "{heard}");
    assert!(heard.contains("\"type\":\"progress\""), "it heard nothing of it: {heard}");
    assert_eq!((&backups()["waits_for"], &backups()["failures"]), (&"pause".into(), &0.into()));
    assert_eq!(owner.status()["vault"]["snapshots"], 0);

    owner.run(&["limits", "--none"]).expect(0);
    owner.run(&["schedule", "--resume"]).expect(0);
    wait_for("the backup to go on", Duration::from_secs(120), || Ok(owner.status()["vault"]["snapshots"] == 1))?;
    wait_for("its end", Duration::from_secs(60), || Ok(backups()["running"] == false))?;
    let now = backups();
    assert_eq!((&now["freshness"], &now["waits_for"]), (&"fresh".into(), &"time".into()), "{now}");
    assert!(now["next_run"].is_string() && now["last_success"].is_string());
    Ok(())
}

#[test]
fn limits_slow_a_restore_and_its_holders_down_and_nothing_is_taken_for_dead() -> Result<()> {
    let group = Group::start(3)?;
    let owner = &group.nodes[0];
    let data = group.folder.path().join("data");
    fs::create_dir(&data)?;
    write_noise(&data.join("noise"), 8 << 20)?;
    owner.protect(&data);
    owner.run(&["limits", "--upload", "2MiB/s"]).expect(0);
    let slowly = |what: &str, bytes: u64, rate: u64, work: &dyn Fn() -> serde_json::Value| {
        let began = Instant::now();
        let result = work();
        let least = bytes as f64 / rate as f64 * 0.9 - 2.0;
        assert!(began.elapsed().as_secs_f64() >= least, "{what} took {:?}, at least {least} s are due", began.elapsed());
        result
    };
    // Two holders take the whole each, one of them is enough.
    slowly("a backup", 8 << 20, 2 << 20, &|| owner.back_up());
    wait_for("all to be delivered", Duration::from_secs(60), || Ok(owner.status()["vault"]["shards_pending"] == 0))?;
    let restore = |name: &str| -> Result<()> {
        let target = group.folder.path().join(name);
        let words = ["--json", "restore", "--to", text(&target), "latest"];
        let result = slowly("a restore", 8 << 20, 1 << 20, &|| owner.run(&words).expect(0).result());
        assert_eq!(result["problems"], 0);
        let back = target.join(data.strip_prefix("/")?).join("noise");
        assert!(fs::read(back)? == fs::read(data.join("noise"))?);
        Ok(())
    };
    owner.run(&["limits", "--download", "1MiB/s"]).expect(0);
    restore("its own limit")?;
    owner.run(&["limits", "--none"]).expect(0);
    for holder in &group.nodes[1..] {
        holder.run(&["limits", "--serving", "512KiB/s"]).expect(0);
    }
    restore("that of its holders")?;
    Ok(())
}

#[test]
fn settings_are_kept_without_an_agent_and_what_makes_no_sense_is_refused() -> Result<()> {
    let group = Group::found()?;
    let node = group.blank("node0");
    node.run(&["schedule"]).expect(10);
    node.run(&["limits"]).expect(10);
    let joined =
        node.run(&["--json", "join", &group.token(&[]), "--name", "node0", "--save-phrase", text(&group.phrase_file("node0"))]);
    joined.expect(0);

    let shown = |words: &[&str]| node.run(&[&["--json"], words].concat()).expect(0).result();
    let first = shown(&["schedule"]);
    assert_eq!((&first["every"], &first["on_battery"], &first["on_metered"]), (&"1h".into(), &false.into(), &false.into()));
    assert_eq!((&first["agent"], &first["backups"]["waits_for"]), (&false.into(), &"agent".into()));
    assert_eq!(first["backups"]["freshness"], "nothing_protected");
    let words = ["schedule", "--at", "18:00,6:30", "--quiet-hours", "22:00-06:00", "--on-battery", "yes", "--pause", "2h"];
    let set = shown(&words);
    assert_eq!(set["at"], serde_json::json!(["06:30", "18:00"]));
    assert!(
        set["every"].is_null() && set["quiet"] == "22:00-06:00" && set["on_battery"] == true && set["paused_until"].is_string()
    );
    let after = shown(&["schedule", "--every", "90m", "--no-quiet-hours", "--resume"]);
    assert_eq!(after["every"], "90m");
    assert!(after["at"].is_null() && after["quiet"].is_null() && after["paused_until"].is_null() && after["on_battery"] == true);
    shown(&["schedule", "--off"]);
    assert!(node.run(&["schedule"]).stdout.contains("off"));

    let limits = shown(&["limits", "--upload", "10Mbit@08:00-18:00", "--serving", "2MiB/s"]);
    assert_eq!(limits["upload"], serde_json::json!({"bytes_per_second": 1_250_000, "hours": "08:00-18:00"}));
    assert_eq!(limits["serving"]["bytes_per_second"], 2 << 20);
    let limits = shown(&["limits", "--upload", "none"]);
    assert!(limits["upload"].is_null() && limits["serving"].is_object());
    assert!(shown(&["limits", "--none"])["serving"].is_null());

    for words in [
        &["schedule", "--every", "1m"][..],
        &["schedule", "--every", "8d"],
        &["schedule", "--every", "often"],
        &["schedule", "--every", "1h", "--at", "12:00"],
        &["schedule", "--at", "12:00,25:00"],
        &["schedule", "--quiet-hours", "22:00-22:00"],
        &["schedule", "--quiet-hours", "night"],
        &["schedule", "--on-battery", "perhaps"],
        &["schedule", "--pause", "0h"],
        &["schedule", "--pause", "1h"],
        &["schedule", "--pause", "1h", "--resume"],
        &["limits", "--upload", "1KiB/s"],
        &["limits", "--upload", "fast"],
        &["limits", "--upload", "2MiB/s@noon"],
        &["limits", "--none", "--upload", "2MiB/s"],
    ] {
        let refused = node.run(&[&["--json"], words].concat()).expect(2);
        assert_eq!(refused.lines()[0]["type"], "error", "{words:?}: {refused:?}");
    }
    fs::write(node.state.join("config.toml"), "[schedule]\nevery = \"1m\"\n")?;
    let refused = node.run(&["schedule"]).expect(1);
    assert!(refused.stderr.contains("schedule.every"), "{refused:?}");
    Ok(())
}
