//! The admin's command line: the built program, offline, in an environment of its own.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use backmesh_format::charter::{Charter, check_charter};
use backmesh_format::token::Token;
use backmesh_format::{Signed, Wire};
use serde_json::Value;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backmesh-admin"));
        command.env_clear().env("HOME", self.folder.path()).env("XDG_CONFIG_HOME", self.path("config"));
        command.current_dir(self.folder.path()).args(arguments).output().unwrap()
    }

    #[track_caller]
    fn result(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[&["--json"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let line: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(line["type"], "result");
        line
    }

    #[track_caller]
    fn fails(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(&[&["--json"], arguments].concat());
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let line: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&line["type"], &line["code"]), (&Value::from("error"), &Value::from(code)));
        line["message"].as_str().unwrap().to_owned()
    }
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o777
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

const NODE: &str = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";

#[test]
fn a_workgroup_is_a_key_and_a_charter() {
    let home = Home::new();
    let result = home.result(&["create", "friends", "--level", "high"]);
    let (key, charter) = (home.path("config/backmesh-admin/friends.key"), home.path("config/backmesh-admin/friends.charter"));
    assert_eq!(text(&result["key_file"]["path"]), key.to_str().unwrap());
    assert_eq!((mode(&key), mode(&charter), mode(key.parent().unwrap())), (0o600, 0o600, 0o700));
    assert!(std::fs::read_to_string(&key).unwrap().starts_with("backmesh admin key 1\n"));

    let charter = Signed::<Charter>::from_wire(&std::fs::read(charter).unwrap()).unwrap();
    assert_eq!(check_charter(&charter).unwrap().to_string(), text(&result["workgroup"]));
    assert_eq!((charter.name.as_str(), charter.level.name(), charter.number), ("friends", "high", 1));
    assert_eq!(charter.admins[0].to_string(), text(&result["admin"]));

    let shown = home.result(&["charter"]);
    assert_eq!((&shown["workgroup"], text(&shown["level"])), (&result["workgroup"], "high"));
    assert!(home.run(&["charter"]).status.success());
}

#[test]
fn nothing_is_overwritten() {
    let home = Home::new();
    home.result(&["create", "friends"]);
    let key = home.path("config/backmesh-admin/friends.key");
    let before = std::fs::read(&key).unwrap();
    assert!(home.fails(&["create", "friends"], 1).contains("exists"));
    assert_eq!(std::fs::read(&key).unwrap(), before);

    std::fs::write(home.path("a.charter"), "mine").unwrap();
    home.fails(&["create", "others", "--key", "a.key"], 1);
    assert!(!home.path("a.key").exists());
    std::os::unix::fs::symlink("nowhere", home.path("b.key")).unwrap();
    home.fails(&["create", "others", "--key", "b.key"], 1);
    assert!(!home.path("nowhere").exists());
    home.fails(&["create", "others", "--key", "config/backmesh-admin/friends.charter"], 1);
}

#[test]
fn the_token_stands_alone_on_standard_output() {
    let home = Home::new();
    home.result(&["create", "friends"]);
    let output = home.run(&[
        "invite",
        "--uses",
        "5",
        "--site",
        "attic",
        "--seed",
        &format!("/ip4/192.0.2.1/tcp/47770/p2p/{NODE}"),
        "--seed",
        "192.0.2.2",
    ]);
    assert!(output.status.success());
    let line = String::from_utf8(output.stdout).unwrap();
    assert_eq!(line.lines().count(), 1);
    let token = Token::from_text(line.trim()).unwrap();
    assert_eq!((token.invitation.uses, token.invitation.site.as_str(), token.charter.name.as_str()), (5, "attic", "friends"));
    assert_eq!(token.invitation.seeds[0].address, "/ip4/192.0.2.1/tcp/47770");
    assert!(token.invitation.seeds[0].node.is_some());
    assert_eq!(token.invitation.seeds[1].address, "/ip4/192.0.2.2/tcp/47770");
    assert_eq!(token.invitation.expires_at, token.invitation.written_at + 7 * 86_400_000);
    assert!(String::from_utf8(output.stderr).unwrap().contains("5 nodes"));
}

#[test]
fn invitations_end_when_they_should() {
    let home = Home::new();
    home.result(&["create", "friends"]);
    let result = home.result(&["invite", "--expires", "12h"]);
    let token = Token::from_text(text(&result["token"])).unwrap();
    assert_eq!(token.invitation.expires_at, token.invitation.written_at + 12 * 3_600_000);
    assert!(text(&result["expires_at"]).ends_with('Z'));
    assert_eq!(result["uses"], 1);

    let result = home.result(&["invite", "--expires", "never"]);
    assert_eq!(Token::from_text(text(&result["token"])).unwrap().invitation.expires_at, 0);
    assert!(result.get("expires_at").is_none());
    let again = home.result(&["invite", "--expires", "never"]);
    assert_ne!(again["token"], result["token"]);
}

#[test]
fn the_key_is_found_or_asked_for() {
    let home = Home::new();
    assert!(home.fails(&["invite"], 1).contains("no admin key"));
    home.result(&["create", "one"]);
    home.result(&["create", "two"]);
    assert!(home.fails(&["invite"], 1).contains("several"));
    let key = home.path("config/backmesh-admin/two.key");
    assert_eq!(home.result(&["invite", "--key", key.to_str().unwrap()])["name"], "two");
    let mut command = Command::new(env!("CARGO_BIN_EXE_backmesh-admin"));
    let output = command.env_clear().env("BACKMESH_ADMIN_KEY", &key).args(["--json", "invite"]).output().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["name"], "two");

    std::fs::copy(home.path("config/backmesh-admin/one.key"), &key).unwrap();
    assert!(home.fails(&["invite", "--key", key.to_str().unwrap()], 12).contains("two"));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(home.fails(&["invite", "--key", key.to_str().unwrap()], 1).contains("0644"));
    let one = home.path("config/backmesh-admin/one.key");
    std::fs::write(&one, "backmesh node key 1\n").unwrap();
    assert!(home.fails(&["invite", "--key", one.to_str().unwrap()], 1).contains("admin key file"));
}

#[test]
fn a_command_line_that_makes_no_sense() {
    let home = Home::new();
    home.result(&["create", "friends"]);
    let commands: [&[&str]; 10] = [
        &[],
        &["create"],
        &["create", ""],
        &["create", "a\u{202e}b"],
        &["create", "x", "--level", "extreme"],
        &["invite", "--uses", "0"],
        &["invite", "--expires", "soon"],
        &["invite", "--expires", "0d"],
        &["invite", "--seed", "somewhere"],
        &["invite", "--seed", "/ip4/192.0.2.1/tcp/47770/p2p/QmX"],
    ];
    for command in commands {
        home.fails(command, 2);
    }
    assert!(home.run(&["--help"]).status.success());
    assert!(home.run(&["--version"]).status.success());
}

#[test]
fn a_key_may_be_kept_anywhere() {
    let home = Home::new();
    for key in ["own.key", "new/folder/own"] {
        home.result(&["create", "friends", "--key", key]);
        assert_eq!(mode(&home.path(key)), 0o600);
        assert_eq!(home.result(&["invite", "--key", key])["name"], "friends");
    }
    assert!(home.path("own.charter").exists() && home.path("new/folder/own.charter").exists());
}
