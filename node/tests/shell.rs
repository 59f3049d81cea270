//! What the program writes for shells and for man, tried with the real ones.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn backmesh(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_backmesh")).env_clear().args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Whether a tool is there; where tests may not be skipped, it must be.
fn has(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok();
    assert!(found || std::env::var_os("BACKMESH_TESTS_FORBID_SKIPS").is_none(), "{tool} is missing");
    if !found {
        eprintln!("skipped: {tool} is missing");
    }
    found
}

/// What bash offers for a line whose last word is being written.
fn completed(script: &Path, line: &str) -> Vec<String> {
    let words: Vec<&str> = line.split(' ').collect();
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let (last, before) = (words.len() - 1, words[words.len() - 2]);
    let program = format!(
        "source '{}'; COMP_WORDS=({}); COMP_CWORD={last}; _backmesh backmesh '{}' '{before}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        script.display(),
        quoted.join(" "),
        words[last],
    );
    let output = Command::new("bash").args(["--norc", "-c", &program]).output().unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_and_options() {
    if !has("bash") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("backmesh");
    let output = backmesh(&["completions", "bash"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    std::fs::write(&script, output.stdout).unwrap();
    assert_eq!(completed(&script, "backmesh sna"), ["snapshots"]);
    assert_eq!(completed(&script, "backmesh restore --dr"), ["--dry-run"]);
    assert!(completed(&script, "backmesh ").contains(&"recover".to_owned()));
    assert_eq!(completed(&script, "backmesh completions z"), ["zsh"]);
}

#[test]
fn the_other_shells_have_rules_too() {
    for (shell, sign) in [("zsh", "#compdef backmesh"), ("fish", "complete -c backmesh")] {
        let output = backmesh(&["completions", shell]);
        assert!(output.status.success());
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains(sign) && script.contains("snapshots"), "{script}");
    }
    assert_eq!(backmesh(&["completions", "sh"]).status.code(), Some(2));
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("share/man/man1");
    let output = backmesh(&["man", "--out", pages.to_str().unwrap()]);
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let page = |name: &str| std::fs::read_to_string(pages.join(name)).unwrap();
    assert!(page("backmesh.1").contains("backmesh\\-restore(1)") && page("backmesh.1").contains("Exit codes"));
    assert!(page("backmesh-restore.1").contains(".TH backmesh-restore 1"));
    for command in ["join", "agent", "backup", "recover", "demo", "completions", "man"] {
        page(&format!("backmesh-{command}.1"));
    }
    if has("groff") {
        for page in std::fs::read_dir(&pages).unwrap() {
            let output = Command::new("groff").args(["-man", "-Tutf8", "-ww"]).arg(page.unwrap().path()).output().unwrap();
            assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        }
    }
    let file = folder.path().join("in the way");
    std::fs::write(&file, "").unwrap();
    let output = backmesh(&["man", "--out", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("in the way"));
}
