//! Where and how the program is run: names, folders, limits, terminals.

use super::super::lab::{copy_folder, must, must_say};
use super::{Bench, Case, said, try_start};
use crate::disk::root_and_tools_or_skip;
use crate::text;
use anyhow::{Result, ensure};
use std::fs;
use std::process::{Command, Stdio};

pub(super) const CASES: &[(&str, Case)] = &[
    ("host name changed", host_name),
    ("home moved", home_moved),
    ("no home", no_home),
    ("path of the socket too long", long_path),
    ("agent runs already", twice),
    ("stale socket", stale_socket),
    ("locale C and names that are not ASCII", locale),
    ("no terminal at all", no_terminal),
    ("standard output closed", closed_output),
    ("few open files allowed", few_files),
];

fn started(bench: &mut Bench, wrapper: &[&str]) -> Result<()> {
    let ended = try_start(bench.lab.owner_mut(), wrapper)?;
    ensure!(ended.is_none(), "the agent ended: {ended:?}");
    Ok(())
}

fn host_name(bench: &mut Bench) -> Result<()> {
    if !root_and_tools_or_skip("host_name", &["unshare", "hostname"]) {
        return Ok(());
    }
    started(bench, &["unshare", "--uts", "sh", "-c", "hostname elsewhere; exec \"$@\"", "sh"])?;
    bench.goes_on()
}

fn home_moved(bench: &mut Bench) -> Result<()> {
    let moved = bench.lab.group.folder.path().join("new home/of this user");
    fs::create_dir_all(&moved)?;
    let state = moved.join("state");
    fs::rename(&bench.lab.owner().state, &state)?;
    bench.lab.owner_mut().state = state;
    bench.works()?;
    bench.lab.owner_mut().stop();
    fs::remove_dir_all(moved)?;
    Ok(())
}

fn no_home(bench: &mut Bench) -> Result<()> {
    bench.lab.owner_mut().env.push(("HOME", None));
    bench.works()?;
    if !root_and_tools_or_skip("no_home", &["setpriv"]) {
        return Ok(());
    }
    // A user without a home, who names no state either.
    let program = bench.lab.group.folder.path().join("for others");
    fs::copy(crate::program("backmesh"), &program)?;
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=54321", "--regid=54321", "--clear-groups"]).arg(&program).arg("status");
    crate::tree::files_below(&program);
    fs::set_permissions(bench.lab.group.folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let outcome =
        crate::Outcome::from(nobody.env_remove("HOME").env_remove("XDG_DATA_HOME").env_remove("BACKMESH_STATE").output()?);
    println!("        nobody: {:?} {}", outcome.code, outcome.stderr.trim());
    must_say(&outcome, 1, &["there is no home folder", "--state DIR"])
}

fn long_path(bench: &mut Bench) -> Result<()> {
    let state = bench.lab.group.folder.path().join("a".repeat(90)).join("b".repeat(90)).join("state");
    fs::create_dir_all(&state)?;
    fs::remove_dir(&state)?;
    copy_folder(&bench.lab.owner().state, &state)?;
    bench.lab.owner_mut().state = state;
    bench.works()
}

fn twice(bench: &mut Bench) -> Result<()> {
    bench.works()?;
    let second = bench.lab.owner().run(&["agent"]);
    must_say(&second, 11, &["another process uses", "stop it, or give another --state"])?;
    // The first one's socket is still its own.
    must(bench.lab.owner(), &["status"]).map(drop)
}

fn stale_socket(bench: &mut Bench) -> Result<()> {
    started(bench, &[])?;
    bench.lab.owner_mut().kill();
    ensure!(bench.file("control.sock").symlink_metadata().is_ok(), "there is no stale socket to try with");
    must_say(&bench.lab.owner().run(&["backup"]), 10, &["no agent is running", "start one with"])?;
    ensure!(bench.lab.owner().run(&["status"]).code == Some(10), "status");
    bench.works()?;
    bench.lab.owner_mut().kill();
    // Something else where the socket should be.
    for other in ["file", "folder"] {
        let socket = bench.file("control.sock");
        fs::remove_file(&socket).ok();
        if other == "file" {
            fs::write(&socket, "x")?;
        } else {
            fs::create_dir(&socket)?;
        }
        let outcome = bench.lab.owner().run(&["status"]);
        ensure!(!outcome.stderr.contains("panicked"), "{outcome:?}");
        match bench.try_start()? {
            None => bench.lab.owner_mut().kill(),
            Some(said) => {
                println!("        a {other} for a socket: {}", said.stderr.trim());
                must_say(&said, 1, &["control.sock", "remove"])?;
            }
        }
        fs::remove_dir(&socket).ok();
    }
    Ok(())
}

fn locale(bench: &mut Bench) -> Result<()> {
    bench.lab.owner_mut().env.extend([("LC_ALL", Some("C".to_owned())), ("LANG", Some("C".to_owned()))]);
    fs::write(bench.lab.source.join("gr\u{fc}\u{df}e \u{65e5}\u{672c}"), "contents")?;
    bench.works()?;
    let listed = must(bench.lab.owner(), &["ls", "latest", text(&bench.lab.source)])?.stdout;
    ensure!(listed.contains("gr\u{fc}\u{df}e"), "{listed}");
    Ok(())
}

fn no_terminal(bench: &mut Bench) -> Result<()> {
    let node = bench.lab.group.blank("unattended");
    let token = bench.lab.group.token(&[]);
    let outcome = crate::Outcome::from(node.command_in(&["setsid", "--wait"], &["join", &token]).output()?);
    must_say(&outcome, 2, &["there is no terminal", "--save-phrase FILE"])?;
    let mut agent = node.command_in(&["setsid", "--wait"], &["restore", "latest", "--in-place"]);
    must_say(&crate::Outcome::from(agent.output()?), 2, &["nobody to ask", "--yes"])?;
    let mut unlock = bench.lab.owner().command_in(&["setsid", "--wait"], &["key", "unlock"]);
    must_say(&crate::Outcome::from(unlock.output()?), 2, &["--phrase-file FILE"])
}

/// A pipe whose reader has gone, and no standard output at all.
fn closed_output(bench: &mut Bench) -> Result<()> {
    bench.works()?;
    let source = text(&bench.lab.source).to_owned();
    for words in [
        vec!["ls", "-r", "latest", &source],
        vec!["--json", "ls", "-r", "latest", &source],
        vec!["status"],
        vec!["--json", "backup"],
    ] {
        for shell in
            ["\"$@\" | true; test ${PIPESTATUS[0]} -ne 101", "\"$@\" >&-; test $? -ne 101", "\"$@\" >&- 2>&-; test $? -ne 101"]
        {
            let wrapper = ["bash", "-c", shell, "bash"];
            let outcome = crate::Outcome::from(bench.lab.owner().command_in(&wrapper, &words).stdin(Stdio::null()).output()?);
            ensure!(outcome.code == Some(0) && !outcome.stderr.contains("panicked"), "{words:?} {shell}: {outcome:?}");
        }
    }
    for words in [vec!["dump", "latest", "--tar", &source], vec!["--help"], vec!["man"], vec!["completions", "bash"]] {
        let wrapper = ["bash", "-c", "\"$@\" | head -c 10 >/dev/null; test ${PIPESTATUS[0]} -ne 101", "bash"];
        let outcome = crate::Outcome::from(bench.lab.owner().command_in(&wrapper, &words).output()?);
        ensure!(outcome.code == Some(0) && !outcome.stderr.contains("panicked"), "{words:?}: {outcome:?}");
    }
    // An agent whose log has nowhere to go lives on.
    bench.lab.owner_mut().stop();
    started(bench, &["bash", "-c", "exec \"$@\" >&- 2>&-", "bash"])?;
    bench.goes_on()
}

fn few_files(bench: &mut Bench) -> Result<()> {
    started(bench, &["sh", "-c", "ulimit -n 256; exec \"$@\"", "sh"])?;
    bench.goes_on()?;
    ensure!(!said(bench.lab.owner()).contains("oo many open files"), "{}", said(bench.lab.owner()));
    Ok(())
}
