//! One state on two machines, and a state that came back from an older copy: two processes with one key are one member, and would hide
//! each other's snapshots.

use super::lab::{LIMIT, Lab, copy_folder, must, must_say, same};
use super::{Counts, Options};
use crate::tree::Numbers;
use crate::{Node, text, wait_for};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::time::Duration;

/// How long a second process may take to find out that it is the second.
const NOTICED_WITHIN: Duration = Duration::from_secs(60);

type Case = fn(&mut Lab, &mut Numbers) -> Result<()>;

const CASES: [(&str, Case); 6] = [
    ("copy on another machine", on_another_machine),
    ("copy that runs at once, fresh", |lab, numbers| runs_twice(lab, numbers, true)),
    ("copy that runs at once, older", |lab, numbers| runs_twice(lab, numbers, false)),
    ("copy of before, put back", |lab, numbers| put_back(lab, numbers, false)),
    ("copy of before, put back and locked", |lab, numbers| put_back(lab, numbers, true)),
    ("copy that backed up too", forked),
];

pub(super) fn run(options: &Options, counts: &mut Counts) -> Result<()> {
    let mut lab = None;
    for (name, case) in CASES {
        // Each of those that run at once takes half a minute of waiting.
        if !options.wants(name) || (options.share && name.ends_with("at once, older")) {
            continue;
        }
        let lab = match &mut lab {
            Some(lab) => lab,
            none => none.insert(Lab::open(4, options.seed)?),
        };
        let mut numbers = Numbers::new(options.seed);
        counts.attempt(name, || {
            if lab.owner().pid().is_none() {
                lab.start()?;
            }
            case(lab, &mut numbers)
        });
    }
    Ok(())
}

/// A node beside the owner with the same name, machine and, once copied, state.
fn twin(lab: &Lab, folder: &str) -> Node {
    let mut twin = lab.group.blank(&lab.owner().name);
    twin.state = lab.group.folder.path().join(folder);
    fs::remove_dir_all(&twin.state).ok();
    twin
}

/// Copies the owner's state as it is on the disk, while no agent uses it.
fn copied(lab: &mut Lab, folder: &str) -> Result<Node> {
    lab.owner_mut().stop();
    let twin = twin(lab, folder);
    copy_folder(&lab.owner().state, &twin.state)?;
    Ok(twin)
}

fn snapshots(node: &Node) -> Result<Vec<String>> {
    let answer = must(node, &["--json", "snapshots"])?.lines();
    let all = answer.iter().flat_map(|line| line["snapshots"].as_array().cloned().unwrap_or_default());
    let mut ids: Vec<String> = all.filter_map(|snapshot| Some(snapshot["snapshot"].as_str()?.to_owned())).collect();
    ids.sort_unstable();
    Ok(ids)
}

fn on_another_machine(lab: &mut Lab, _: &mut Numbers) -> Result<()> {
    let mut other = copied(lab, "moved")?;
    lab.start()?;
    other.env.push(("BACKMESH_MACHINE_ID", Some("another machine".to_owned())));
    let said = other.run(&["agent", "--listen", "/ip4/127.0.0.1/tcp/0"]);
    must_say(&said, 11, &["was made on another machine", "join TOKEN", "--phrase-file", "--only-copy"])?;
    // The machine is gone for good: its disk is in another one.
    lab.owner_mut().stop();
    let log = other.state.with_extension("log");
    let agent = other.command(&["agent", "--only-copy", "--listen", "/ip4/127.0.0.1/tcp/0"]);
    let mut agent = quietly(agent, &log)?;
    let answers = wait_for("the moved agent", LIMIT, || Ok(other.run(&["backup"]).code == Some(0)));
    crate::signal(&agent, crate::Signal::TERM);
    agent.wait()?;
    answers?;
    // From now on it needs no word for it.
    other.start()?;
    other.stop();
    Ok(())
}

fn quietly(mut command: std::process::Command, log: &std::path::Path) -> Result<std::process::Child> {
    let log = fs::File::options().create(true).append(true).open(log)?;
    Ok(command.stdout(std::process::Stdio::null()).stderr(log).spawn()?)
}

fn runs_twice(lab: &mut Lab, numbers: &mut Numbers, fresh: bool) -> Result<()> {
    let mut twin = copied(lab, "twin")?;
    lab.start()?;
    if !fresh {
        lab.change(numbers)?;
        lab.back_up()?;
    }
    // The first was there before the second: by half a minute, as two machines that are switched on by people are.
    let told = |node: &Node| node.log().matches("runs with a copy of this state").count();
    let before = told(lab.owner());
    std::thread::sleep(Duration::from_secs(32));
    twin.start().ok();
    let ended = twin.ended(NOTICED_WITHIN).with_context(|| format!("first: {}\nsecond: {}", lab.owner().log(), twin.log()))?;
    ensure!(ended == Some(11), "the second ended with {ended:?}: {}", twin.log());
    for part in ["runs with a copy of", "was there first", "--only-copy", "join TOKEN"] {
        ensure!(twin.log().contains(part), "\"{part}\" is not said: {}", twin.log());
    }
    ensure!(told(lab.owner()) <= before + 1, "the first says so at most once");
    // A service manager starts it again and again.
    let again = twin.run(&["agent", "--listen", "/ip4/127.0.0.1/tcp/0"]);
    must_say(&again, 11, &["runs with a copy of", "--only-copy"])?;
    // The first goes on as if nothing had been.
    lab.change(numbers)?;
    lab.wait_for_holders()?;
    lab.back_up()?;
    lab.check_restore()
}

/// What a virtual machine does that goes back to a snapshot of itself.
fn put_back(lab: &mut Lab, numbers: &mut Numbers, lock: bool) -> Result<()> {
    lab.back_up()?;
    let before = copied(lab, "before")?;
    lab.start()?;
    for _ in 0..3 {
        lab.change(numbers)?;
        lab.back_up()?;
    }
    let all = snapshots(lab.owner())?;
    lab.owner_mut().stop();
    fs::remove_dir_all(&lab.owner().state)?;
    copy_folder(&before.state, &lab.owner().state)?;
    let phrase = lab.phrase_file();
    if lock {
        must(lab.owner(), &["key", "lock"])?;
        lab.start()?;
        let said = lab.owner().run(&["backup"]);
        must_say(&said, 12, &["older copy", "key unlock --phrase-file"])?;
        must(lab.owner(), &["key", "unlock", "--phrase-file", text(&phrase)])?;
    } else {
        lab.start()?;
    }
    lab.change(numbers)?;
    lab.back_up()?;
    let after = snapshots(lab.owner())?;
    ensure!(all.iter().all(|id| after.contains(id)), "of {} snapshots {} are left", all.len(), after.len() - 1);
    ensure!(after.len() == all.len() + 1, "{} snapshots became {}", all.len(), after.len());
    let seed = lab.holders()[2].address();
    let stranger = lab.group.blank("stranger");
    let listed = must(&stranger, &["--json", "recover", "--list", "--phrase-file", text(&phrase), "--seed", &seed])?.stdout;
    ensure!(after.iter().all(|id| listed.contains(id)), "a recovery does not find all: {listed}");
    lab.check_restore()
}

/// Two copies that each made a snapshot while only their own holders could be reached; then one of them is left, and meets all.
fn forked(lab: &mut Lab, numbers: &mut Numbers) -> Result<()> {
    lab.back_up()?;
    let mut twin = copied(lab, "fork")?;
    // Stopped as it was copied, so that both go on from the same.
    let other = lab.group.folder.path().join("other folder");
    fs::create_dir_all(&other)?;
    fs::write(other.join("of the twin"), numbers.bytes(200_000))?;
    twin.start()?;
    wait_for("the twin to be connected", LIMIT, || {
        Ok(twin.peers().iter().filter(|peer| peer["connected"] == true && peer["me"] != true).count() >= 4)
    })?;
    must(&twin, &["protect", text(&other)])?;
    must(&twin, &["backup"])?;
    let theirs = snapshots(&twin)?;
    twin.stop();
    lab.start()?;
    lab.change(numbers)?;
    lab.back_up()?;
    let all = snapshots(lab.owner())?;
    ensure!(theirs.iter().all(|id| all.contains(id)), "the twin's snapshot was hidden: {theirs:?} {all:?}");
    let target = lab.group.folder.path().join("of both");
    must(lab.owner(), &["restore", "latest~1", text(&other), "--to", text(&target)])?;
    same(&other, &target)?;
    lab.check_restore()
}
