//! Files of the state that are gone, cut off, zeroed, of a later version, or somebody else's.

use super::super::lab::{must, must_say};
use super::{Bench, Case};
use crate::tree::files_below;
use crate::{Outcome, text};
use anyhow::{Result, bail, ensure};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, lchown};

pub(super) const CASES: &[(&str, Case)] = &[
    ("state without a file or folder", |bench| each(bench, Damage::Gone)),
    ("state with a file cut in half", |bench| each(bench, Damage::Half)),
    ("state with a file of zeros", |bench| each(bench, Damage::Zeros)),
    ("state with an empty file", |bench| each(bench, Damage::Empty)),
    ("state of a later version", later),
    ("state with the wrong mode", wrong_mode),
    ("state of another owner", wrong_owner),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Gone,
    Half,
    Zeros,
    Empty,
}

/// What the state cannot do without: nothing else has it. What is to be done is said.
const NEEDED: [&str; 9] = [
    "config.toml",
    "node.key",
    "charter.bin",
    "certificate.bin",
    "vault/writer.key",
    "vault/writer.bin",
    "vault/chunk-id.key",
    "vault/unsealing.key",
    "vault",
];

fn each(bench: &mut Bench, damage: Damage) -> Result<()> {
    let state = bench.lab.owner().state.clone();
    let mut all = files_below(&state);
    all.extend(fs::read_dir(&state)?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir() && damage == Damage::Gone));
    let mut names: Vec<String> = Vec::new();
    for path in all {
        let name = path.strip_prefix(&state)?.to_string_lossy().into_owned();
        // One shard stands for all.
        if !(name.starts_with("shelf/shards") && names.iter().any(|known| known.starts_with("shelf/shards"))) {
            names.push(name);
        }
    }
    let mut wrong = Vec::new();
    for (number, name) in (0..).zip(names) {
        if bench.share && (number + bench.seed) % 4 != damage as u64 {
            continue;
        }
        bench.reset()?;
        let path = bench.file(&name);
        let length = path.metadata()?.len();
        match damage {
            Damage::Gone if path.is_dir() => fs::remove_dir_all(&path)?,
            Damage::Gone => fs::remove_file(&path)?,
            Damage::Half => fs::File::options().write(true).open(&path)?.set_len(length / 2)?,
            Damage::Empty => fs::File::options().write(true).open(&path)?.set_len(0)?,
            Damage::Zeros => fs::write(&path, vec![0; usize::try_from(length)?])?,
        }
        if length == 0 && damage != Damage::Gone {
            continue;
        }
        if let Err(error) = check(bench, &name, damage) {
            wrong.push(format!("{name}: {error:#}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n        "));
    Ok(())
}

fn check(bench: &mut Bench, name: &str, damage: Damage) -> Result<()> {
    let status = bench.lab.owner().run(&["status"]);
    ensure!(!status.stderr.contains("panicked"), "status: {status:?}");
    let (source, phrase) = (text(&bench.lab.source).to_owned(), bench.lab.phrase_file());
    match bench.try_start()? {
        None if name == "vault/unsealing.key" => {
            // As if it had been locked away.
            must(bench.lab.owner(), &["key", "unlock", "--phrase-file", text(&phrase)])?;
            bench.goes_on()
        }
        None if name == "config.toml" => {
            let said = bench.lab.owner().run(&["backup"]);
            must_say(&said, 2, &["nothing is protected any more", &source, "backmesh protect DIR"])?;
            must(bench.lab.owner(), &["protect", &source])?;
            bench.goes_on()
        }
        None => bench.goes_on(),
        Some(said) => {
            println!("        {damage:?} {name}: {}", said.stderr.trim());
            says_what_to_do(&said, name)
        }
    }
}

/// That it names the file or its folder, and the way out.
fn says_what_to_do(said: &Outcome, name: &str) -> Result<()> {
    ensure!(said.code.is_some_and(|code| code != 0), "it ended with {said:?}");
    ensure!(!said.stderr.contains("panicked"), "it panicked: {said:?}");
    if !NEEDED.contains(&name) {
        bail!("it could be had again, and is not: {said:?}");
    }
    let text = said.stderr.trim();
    let hint = text.lines().any(|line| line.starts_with("  ") && (line.contains("backmesh") || line.contains("in an editor")));
    ensure!(hint, "what to do is not said: {said:?}");
    let file = name.rsplit('/').next().unwrap_or(name);
    ensure!(text.contains(file) || name == "certificate.bin" || text.contains("vault"), "to what is not said: {said:?}");
    Ok(())
}

/// Every file with a version says that a later program wrote it, and is not touched.
fn later(bench: &mut Bench) -> Result<()> {
    let mut wrong = Vec::new();
    for name in ["charter.bin", "certificate.bin", "vault/writer.bin", "index/journal.log", "spool/acknowledged.log"] {
        bench.reset()?;
        let path = bench.file(name);
        let mut bytes = fs::read(&path)?;
        bytes[4] += 9;
        if name.ends_with(".log") {
            let check = blake3::hash(&bytes[..16]);
            bytes[16..32].copy_from_slice(&check.as_bytes()[..16]);
        }
        fs::write(&path, &bytes)?;
        match bench.try_start()? {
            None => wrong.push(format!("{name}: the agent runs")),
            Some(said) => {
                println!("        later {name}: {}", said.stderr.trim());
                let file = path.file_name().and_then(|it| it.to_str()).unwrap_or(name);
                let later = said.stderr.contains("later version") || said.stderr.contains("newer than this program");
                if !(later && said.stderr.contains(file) && said.stderr.contains("update")) {
                    wrong.push(format!("{name}: {said:?}"));
                }
            }
        }
        if fs::read(&path)? != bytes {
            wrong.push(format!("{name} was changed"));
        }
    }
    bench.reset()?;
    fs::write(bench.file("config.toml"), "protect = []\nmagic = true\n")?;
    let said = bench.try_start()?;
    match said {
        Some(said) => must_say(&said, 1, &["config.toml", "magic", "is not a setting"])?,
        None => wrong.push("config.toml: an unknown setting is passed over".to_owned()),
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n        "));
    Ok(())
}

fn wrong_mode(bench: &mut Bench) -> Result<()> {
    for name in ["node.key", "vault/writer.key", "vault/chunk-id.key", "vault/unsealing.key"] {
        bench.reset()?;
        fs::set_permissions(bench.file(name), Permissions::from_mode(0o644))?;
        let Some(said) = bench.try_start()? else { bail!("{name} with mode 0644 is taken") };
        must_say(&said, 1, &[name, "0644", "chmod 600"])?;
    }
    Ok(())
}

/// The agent of a user who does not own some of the files, as after a restore or a start by root.
fn wrong_owner(bench: &mut Bench) -> Result<()> {
    let program = bench.lab.group.folder.path().join("backmesh for others");
    fs::copy(crate::program("backmesh"), &program)?;
    let folder = bench.lab.group.folder.path().to_owned();
    lchown(&folder, Some(65534), Some(65534))?;
    let mut wrong = Vec::new();
    let files: Vec<String> = [
        "",
        "node.key",
        "certificate.bin",
        "config.toml",
        "records.redb/records.redb",
        "index/chunks.redb",
        "index/journal.log",
        "spool",
        "spool/acknowledged.log",
        "shelf",
        "statcache",
        "state.lock",
    ]
    .map(str::to_owned)
    .to_vec();
    for name in files {
        bench.reset()?;
        let state = bench.lab.owner().state.clone();
        let given = std::process::Command::new("chown").args(["-R", "65534:65534"]).arg(&state).status()?;
        ensure!(given.success(), "chown");
        let path = bench.file(&name);
        lchown(&path, Some(0), Some(0))?;
        fs::set_permissions(&path, Permissions::from_mode(if path.is_dir() { 0o700 } else { 0o600 }))?;
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        command
            .env_clear()
            .env("BACKMESH_STATE", &state)
            .env("BACKMESH_MACHINE_ID", format!("machine of {}", bench.lab.owner().name))
            .current_dir("/");
        let limited = std::process::Command::new("timeout")
            .arg("10")
            .arg(command.get_program())
            .args(command.get_args())
            .args(["agent", "--listen", "/ip4/127.0.0.1/tcp/0"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("BACKMESH_STATE", &state)
            .env("BACKMESH_MACHINE_ID", format!("machine of {}", bench.lab.owner().name))
            .current_dir("/")
            .output()?;
        let said = Outcome::from(limited);
        println!("        owner of {name:?}: {:?} {}", said.code, said.stderr.trim());
        let shown = if name.is_empty() { bench.lab.owner().name.as_str() } else { name.as_str() };
        let named = said.stderr.contains(shown.rsplit('/').next().unwrap_or(shown));
        let optional = ["statcache"].contains(&name.as_str());
        if !(optional || named && said.stderr.contains("ermission denied") && said.stderr.contains("chown")) {
            wrong.push(format!("{name}: {said:?}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n        "));
    Ok(())
}
