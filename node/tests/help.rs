//! What `--help` says of every command.

use std::path::Path;
use std::process::Command;

/// The whole help, as a person reads it: a change of the interface shows here. Written anew with BACKMESH_WRITE_HELP set.
#[test]
fn the_help() {
    let mut help = String::new();
    let commands = [
        "",
        "join",
        "agent",
        "protect",
        "unprotect",
        "backup",
        "snapshots",
        "ls",
        "diff",
        "find",
        "dump",
        "restore",
        "check",
        "key",
        "key lock",
        "key unlock",
        "key status",
        "stats",
        "schedule",
        "limits",
        "status",
        "peers",
        "recover",
        "demo",
        "completions",
        "man",
    ];
    for command in commands {
        let arguments: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let output = Command::new(env!("CARGO_BIN_EXE_backmesh")).env_clear().args(&arguments).output().unwrap();
        assert!(output.status.success());
        help.push_str(&format!("# {}\n\n{}\n", arguments.join(" "), std::str::from_utf8(&output.stdout).unwrap()));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help.txt");
    if std::env::var_os("BACKMESH_WRITE_HELP").is_some() {
        std::fs::write(&path, &help).unwrap();
    }
    let known = std::fs::read_to_string(&path).unwrap();
    assert!(help == known, "the help has changed; if that is meant, set BACKMESH_WRITE_HELP and run the test again:\n{help}");
}
