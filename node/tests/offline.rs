//! The command line without a network: the built program, run as a person or a script would, in an environment of its own.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use backmesh::state::State;
use backmesh_control::{
    Answer, BackupResult, Event, ExitCode, Failure, PathText, Phase, Problem, Progress, REQUEST_BYTES_MAX, Request, read_line,
    serve_line,
};
use backmesh_format::charter::{Charter, Level};
use backmesh_format::keys::{KeyPair, machine_id};
use backmesh_format::membership::{Invitation, Role};
use backmesh_format::token::Token;
use backmesh_format::{NodeId, PublicKey, Signed, phrase};
use serde_json::Value;
use std::io::{BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A home of its own, with a state folder in it.
struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backmesh"));
        command.env_clear().env("BACKMESH_STATE", self.path("state")).env("BACKMESH_MACHINE_ID", "m1").env("TZ", "UTC");
        command.env("HOME", self.folder.path()).current_dir(self.folder.path()).args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn join(&self) -> Value {
        let output = self.run(&["--json", "join", &token(0), "--name", "anna", "--offer", "3GiB", "--save-phrase", "phrase"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        last_line(&output)
    }

    fn state(&self) -> State {
        State::open(&self.path("state")).unwrap()
    }
}

fn admin() -> KeyPair {
    KeyPair::from_secret(&[3; 32])
}

fn charter() -> Signed<Charter> {
    let charter = Charter {
        name: "friends".into(),
        number: 1,
        workgroup: None,
        previous: None,
        admins: vec![admin().public()],
        level: Level::Standard,
        site_safe: false,
        retention_floor_secs: Charter::RETENTION_FLOOR_SECS,
        lease_term_secs: Charter::LEASE_TERM_SECS,
        quota_bytes: 0,
        written_at: 1,
        nonce: [9; 16],
    };
    Signed::new(charter, &[&admin()])
}

fn token(expires_at: u64) -> String {
    let secret = [4; 32];
    let invitation = Invitation {
        workgroup: charter().workgroup_id(),
        key: KeyPair::from_secret(&secret).public(),
        uses: 1,
        expires_at,
        role: Role::Member,
        site: "attic".into(),
        seeds: Vec::new(),
        written_at: 1,
    };
    Token { charter: charter(), invitation: Signed::new(invitation, &[&admin()]), secret }.to_text().to_string()
}

fn last_line(output: &Output) -> Value {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    serde_json::from_str(text.lines().next_back().unwrap()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A command with `--json` that fails so; gives the message and the hint.
#[track_caller]
fn fails(home: &Home, arguments: &[&str], code: i32) -> (String, String) {
    let output = home.run(&[&["--json"], arguments].concat());
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let line = last_line(&output);
    assert_eq!(line["type"], "error");
    assert_eq!(line["code"], code);
    let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
    (text("message"), text("hint"))
}

fn assert_private(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mode = path.metadata().unwrap().mode() & 0o777;
        if path.is_dir() {
            assert_eq!(mode, 0o700, "{}", path.display());
            assert_private(&path);
        } else {
            assert_eq!(mode, 0o600, "{}", path.display());
        }
    }
}

#[test]
fn joining_makes_a_member_with_a_vault() {
    let home = Home::new();
    let result = home.join();
    let state = home.state();
    let (certificate, writer, node_key) = (state.certificate().unwrap(), state.writer().unwrap(), state.node_key().unwrap());

    assert_eq!(certificate.node, NodeId(node_key.public().0));
    assert_eq!((certificate.name.as_str(), certificate.site.as_str()), ("anna", "attic"));
    assert_eq!(certificate.machine, machine_id(&charter().workgroup_id(), "m1"));
    assert_eq!(state.machine().unwrap(), certificate.machine);
    assert_eq!(state.charter().unwrap(), charter());
    assert_eq!(state.config().unwrap().offer_bytes, 3 << 30);

    let secret = phrase::parse(&std::fs::read_to_string(home.path("phrase")).unwrap()).unwrap();
    assert_eq!(secret.vault(), writer.vault);
    assert!(writer.signed_by(&PublicKey(writer.vault.0)));
    assert_eq!((writer.generation, writer.node), (1, certificate.node));
    assert_eq!(writer.writer, state.writer_key().unwrap().public());
    let unsealing = state.unsealing_secrets().unwrap();
    assert_eq!(unsealing.len(), 1);
    assert_eq!((unsealing[0].0, *unsealing[0].1), (1, *secret.unsealing_secret(1)));
    assert_eq!(state.chunk_id_key().unwrap().as_bytes(), secret.chunk_id_key().as_bytes());
    assert!(!state.takeover_pending().unwrap());

    assert_eq!(result["command"], "join");
    assert_eq!(result["node"], certificate.node.to_string());
    assert_eq!(result["vault"], writer.vault.to_string());
    assert_eq!(result["workgroup"], charter().workgroup_id().to_string());
    assert_eq!(result["phrase_file"]["path"], home.path("phrase").to_str().unwrap());
    assert!(result["peer_id"].as_str().unwrap().starts_with("12D3KooW"));
}

#[test]
fn nothing_of_a_state_can_be_read_by_others_and_the_phrase_is_not_in_it() {
    let home = Home::new();
    home.join();
    assert_eq!(home.path("state").metadata().unwrap().mode() & 0o777, 0o700);
    assert_private(&home.path("state"));
    assert_eq!(home.path("phrase").metadata().unwrap().mode() & 0o777, 0o600);

    let secret = phrase::parse(&std::fs::read_to_string(home.path("phrase")).unwrap()).unwrap();
    let root = secret.root().secret();
    let hex: String = root.iter().map(|byte| format!("{byte:02x}")).collect();
    for name in ["node.key", "vault/writer.key", "vault/chunk-id.key", "vault/unsealing.key"] {
        let text = std::fs::read_to_string(home.path("state").join(name)).unwrap();
        assert!(text.starts_with("backmesh ") && !text.contains(&hex), "{name}");
    }
}

#[test]
fn a_secret_that_others_can_read_is_refused() {
    let home = Home::new();
    home.join();
    let key = home.path("state/node.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let error = Failure::from(home.state().node_key().unwrap_err());
    assert!(error.message.contains("0640"), "{error}");
    assert!(error.hint.unwrap().contains("chmod 600"));
}

#[test]
fn one_state_joins_once() {
    let home = Home::new();
    home.join();
    let before = std::fs::read(home.path("state/node.key")).unwrap();
    let (message, hint) = fails(&home, &["join", &token(0), "--save-phrase", "other"], 1);
    assert!(message.contains("friends"), "{message}");
    assert!(hint.contains("--state"), "{hint}");
    assert_eq!(std::fs::read(home.path("state/node.key")).unwrap(), before);
    assert!(!home.path("other").exists());
}

#[test]
fn a_state_in_use_is_left_alone() {
    let home = Home::new();
    let state = State::create(&home.path("state")).unwrap();
    let _lock = state.lock().unwrap();
    fails(&home, &["join", &token(0), "--save-phrase", "phrase"], 11);
    assert!(!home.path("phrase").exists());
}

#[test]
fn without_a_terminal_the_phrase_must_be_saved() {
    let home = Home::new();
    let (message, _) = fails(&home, &["join", &token(0)], 2);
    assert!(message.contains("--save-phrase"), "{message}");
    assert!(!home.path("state/certificate.bin").exists());

    std::fs::write(home.path("taken"), "mine").unwrap();
    let (message, _) = fails(&home, &["join", &token(0), "--save-phrase", "taken"], 1);
    assert!(message.contains("exists"), "{message}");
    assert_eq!(std::fs::read(home.path("taken")).unwrap(), b"mine");
    std::os::unix::fs::symlink("nowhere", home.path("link")).unwrap();
    fails(&home, &["join", &token(0), "--save-phrase", "link"], 1);
    assert!(!home.path("nowhere").exists() && !home.path("state/certificate.bin").exists());
}

#[test]
fn tokens_that_are_none_are_told_apart() {
    let home = Home::new();
    let good = token(0);
    let join = |text: &str, code| fails(&home, &["join", text, "--save-phrase", "phrase"], code).0;
    assert!(join("hello", 2).contains("backmesh-join-1-"));
    assert!(join(&good[..good.len() - 7], 2).contains("damaged"));
    assert!(join(&good.replacen('A', "B", 1), 2).contains("damaged"));
    assert!(join(&format!("{} {}", &good[..40], &good[40..]), 2).contains("damaged"));
    assert!(join("", 2).contains("backmesh-join-1-"));
    assert!(join(&token(1_000), 1).contains("expired at 1970-01-01"));
    assert!(!home.path("phrase").exists() && !home.path("state/certificate.bin").exists());

    let foreign = {
        let stranger = KeyPair::from_secret(&[8; 32]);
        let invitation = Invitation {
            workgroup: charter().workgroup_id(),
            key: stranger.public(),
            uses: 1,
            expires_at: 0,
            role: Role::Member,
            site: String::new(),
            seeds: Vec::new(),
            written_at: 1,
        };
        Token { charter: charter(), invitation: Signed::new(invitation, &[&stranger]), secret: [8; 32] }.to_text().to_string()
    };
    assert!(join(&foreign, 2).contains("signature"));
}

#[test]
fn the_token_may_come_from_standard_input() {
    let home = Home::new();
    let mut child =
        home.command(&["join", "-", "--save-phrase", "phrase"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{}\n", token(0)).as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    let node = home.state().certificate().unwrap();
    assert!(!node.name.is_empty());

    let home = Home::new();
    fails(&home, &["join", "-"], 2);
    let (message, _) = fails(&home, &["join", "-", "--phrase-file", "-"], 2);
    assert!(message.contains("standard input"), "{message}");
}

#[test]
fn offers_and_names() {
    let home = Home::new();
    let output = home.run(&["--json", "join", &token(0), "--offer", "0", "--save-phrase", "phrase"]);
    assert_eq!(last_line(&output)["offer_bytes"], 0);
    assert_eq!(home.state().config().unwrap().offer_bytes, 0);

    let home = Home::new();
    let output = home.run(&["--json", "join", &token(0), "--save-phrase", "phrase"]);
    let offer = last_line(&output)["offer_bytes"].as_u64().unwrap();
    assert!(offer > 0 && offer.is_multiple_of(1 << 20));
    assert!(offer <= backmesh::os::free_bytes(&home.path("state")).unwrap() / 4);

    let home = Home::new();
    fails(&home, &["join", &token(0), "--offer", "lots", "--save-phrase", "phrase"], 2);
    fails(&home, &["join", &token(0), "--name", "a\nb", "--save-phrase", "phrase"], 2);
    fails(&home, &["join", &token(0), "--name", "", "--save-phrase", "phrase"], 2);
}

#[test]
fn an_existing_vault_is_taken_over_with_its_phrase() {
    let first = Home::new();
    first.join();
    let second = Home::new();
    let words = first.path("phrase");
    let output = second.run(&["--json", "join", &token(0), "--phrase-file", words.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(last_line(&output)["takeover"], true);
    let state = second.state();
    assert_eq!(state.writer().unwrap().vault, first.state().writer().unwrap().vault);
    assert!(state.takeover_pending().unwrap());

    assert!(state.raise_generation(64).is_err());
    let writer = state.raise_generation(4).unwrap();
    assert_eq!(writer.generation, 5);
    assert_eq!(state.writer().unwrap(), writer);
    assert!(!state.takeover_pending().unwrap());
    let secret = phrase::parse(&std::fs::read_to_string(words).unwrap()).unwrap();
    let secrets = state.unsealing_secrets().unwrap();
    assert_eq!(secrets.iter().map(|(generation, _)| *generation).collect::<Vec<_>>(), [5, 4, 3, 2, 1]);
    assert!(secrets.iter().all(|(generation, known)| **known == *secret.unsealing_secret(*generation)));
    assert_private(&second.path("state"));
}

#[test]
fn wrong_phrases_are_told_apart() {
    let home = Home::new();
    let check = |words: &str, part: &str| {
        std::fs::write(home.path("words"), words).unwrap();
        let (message, _) = fails(&home, &["join", &token(0), "--phrase-file", "words"], 12);
        assert!(message.contains(part), "{message}");
        let (message, _) = fails(&home, &["recover", "--phrase-file", "words", "--seed", "127.0.0.1", "--list"], 12);
        assert!(message.contains(part), "{message}");
    };
    check("one two three", "has 3");
    check(&"abandon ".repeat(24), "do not fit together");
    check(&format!("{} abandun", "abandon ".repeat(23)), "word 24, \"abandun\"");
    fails(&home, &["join", &token(0), "--phrase-file", "missing"], 1);
    assert!(!home.path("state/certificate.bin").exists());
}

#[test]
fn rules_of_protected_folders() {
    let home = Home::new();
    std::fs::create_dir_all(home.path("docs/inner")).unwrap();
    home.join();
    let patterns = |arguments: &[&str]| {
        let output = home.run(&[&["--json", "protect"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let line = last_line(&output);
        line["protected"][0]["patterns"]
            .as_array()
            .unwrap()
            .iter()
            .map(|text| text.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    std::fs::write(home.path("list"), "# films\n*.iso\n\n\\#tmp#\n").unwrap();
    let in_order = ["--include", "a.o", "--exclude-file", "list", "--exclude", "*.o", "--include", "b.o", "docs"];
    let expected = ["!a.o", "*.iso", "\\#tmp#", "*.o", "!b.o"];
    assert_eq!(patterns(&in_order), expected);
    assert_eq!(patterns(&in_order), expected, "the same again changes nothing");
    assert_eq!(patterns(&["docs", "--exclude", "/new"]), [&expected[..], &["/new"]].concat());
    assert_eq!(patterns(&[]).len(), 6, "without a folder, they are listed");
    let text = std::fs::read_to_string(home.path("state/config.toml")).unwrap();
    assert!(text.contains("[[rules]]") && text.contains("    \"*.iso\",\n"), "{text}");

    let refused = |arguments: &[&str], code: i32, part: &str| {
        let (message, hint) = fails(&home, &[&["protect"], arguments].concat(), code);
        assert!(format!("{message} {hint}").contains(part), "{message} {hint}");
        assert_eq!(std::fs::read_to_string(home.path("state/config.toml")).unwrap(), text, "nothing changes");
    };
    refused(&["docs", "--exclude", "a[b"], 2, "--exclude 'a[b': a \"[\" has no \"]\"");
    refused(&["docs", "--include", "!x"], 2, "--include 'x'");
    refused(&["--exclude", "x"], 2, "name it");
    refused(&["docs/inner", "--exclude", "x"], 2, "--exclude '/inner/*.iso'");
    refused(&[".", "--exclude", "x"], 1, "with rules of its own");
    std::fs::write(home.path("list"), "ok\n./x\n").unwrap();
    refused(&["docs", "--exclude-file", "list"], 2, "line 2: \"./x\"");

    let output = home.run(&["protect", "docs", "--replace-rules", "--exclude", "/big", "--include", "/big/keep"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("!/big/keep takes nothing back: /big"), "{told}");
    assert_eq!(patterns(&["docs", "--replace-rules"]), [""; 0]);
    assert!(!std::fs::read_to_string(home.path("state/config.toml")).unwrap().contains("\n[[rules]]"));
    let output = home.run(&["protect", "--show-defaults"]);
    assert!(String::from_utf8(output.stdout).unwrap().contains("**/.cache/*"));
}

#[test]
fn protecting_and_no_longer() {
    let home = Home::new();
    std::fs::create_dir_all(home.path("docs/inner")).unwrap();
    std::os::unix::fs::symlink("docs", home.path("link")).unwrap();
    fails(&home, &["protect", "docs"], 10);
    home.join();

    let protected = |arguments: &[&str]| {
        let output = home.run(&[&["--json"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let line = last_line(&output);
        assert_eq!(line["agent"], false);
        line["protected"].as_array().unwrap().iter().map(|path| path["path"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let docs = home.path("docs").to_str().unwrap().to_owned();
    assert_eq!(protected(&["protect", "link/", "./docs"]), [docs.as_str()]);
    assert_eq!(protected(&["protect", "docs/inner"]), [docs.as_str()]);
    assert_eq!(home.state().config().unwrap().protect, [home.path("docs")]);
    assert_eq!(home.state().config().unwrap().offer_bytes, 3 << 30);

    let (message, _) = fails(&home, &["protect", "no such folder"], 1);
    assert!(message.contains("no such folder"), "{message}");
    let (message, _) = fails(&home, &["protect", "phrase"], 1);
    assert!(message.contains("not a folder"), "{message}");
    let (_, hint) = fails(&home, &["unprotect", "docs/inner"], 1);
    assert!(hint.contains(&docs), "{hint}");

    std::fs::remove_dir_all(home.path("docs")).unwrap();
    assert!(protected(&["unprotect", "docs"]).is_empty());
}

#[test]
fn a_name_that_is_not_utf8_stays_exact() {
    let home = Home::new();
    home.join();
    let odd = home.path("").join(std::ffi::OsStr::from_bytes(b"odd\xff\x1b[2J"));
    std::fs::create_dir(&odd).unwrap();
    let output = home.command(&["--json", "protect"]).arg(&odd).output().unwrap();
    let listed = &last_line(&output)["protected"][0];
    assert!(listed["path"].as_str().unwrap().ends_with("odd\\xff\\u{1b}[2J"));
    assert!(listed["path_base64"].is_string());
    assert_eq!(home.state().config().unwrap().protect, [odd.as_path()]);
    let output = home.command(&["unprotect", "nothing"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let output = home.command(&["protect"]).arg(&odd).output().unwrap();
    assert!(!output.stdout.contains(&0x1b) && !output.stdout.contains(&0xff), "{output:?}");
}

#[test]
fn a_damaged_configuration_is_named() {
    let home = Home::new();
    home.join();
    std::fs::write(home.path("state/config.toml"), "protect = [").unwrap();
    let (message, _) = fails(&home, &["protect", "."], 1);
    assert!(message.contains("config.toml"), "{message}");
    assert_eq!(std::fs::read(home.path("state/config.toml")).unwrap(), b"protect = [");
}

#[test]
fn without_an_agent_commands_say_how_to_start_one() {
    let home = Home::new();
    let commands: [&[&str]; 5] =
        [&["backup"], &["snapshots"], &["ls", "latest"], &["restore", "latest", "--to", "back"], &["peers"]];
    for command in commands {
        let (_, hint) = fails(&home, command, 10);
        assert!(hint.contains("backmesh join"), "{hint}");
    }
    fails(&home, &["agent"], 10);
    home.join();
    for command in commands {
        let (message, hint) = fails(&home, command, 10);
        assert!(message.contains("no agent"), "{message}");
        assert!(hint.contains("agent"), "{hint}");
    }
    assert!(!home.path("back").exists());
    let output = home.run(&["backup"]);
    assert!(output.stdout.is_empty());
    assert!(stderr(&output).contains(&format!("backmesh --state {} agent", home.path("state").display())), "{output:?}");
}

#[test]
fn status_without_an_agent() {
    let home = Home::new();
    let output = home.run(&["--json", "status"]);
    assert_eq!(output.status.code(), Some(10));
    assert_eq!(last_line(&output)["agent"], false);
    assert!(last_line(&output).get("node").is_none());

    let joined = home.join();
    let output = home.run(&["--json", "status"]);
    assert_eq!(output.status.code(), Some(10));
    let status = last_line(&output);
    assert_eq!((&status["type"], &status["agent"]), (&Value::from("result"), &Value::from(false)));
    assert_eq!(status["node"]["id"], joined["node"]);
    assert_eq!(status["workgroup"]["id"], joined["workgroup"]);
    assert_eq!(status["vault"]["health"], "unknown");
    let output = home.run(&["status"]);
    assert!(String::from_utf8(output.stdout.clone()).unwrap().contains("not running"));
    assert!(stderr(&output).contains("agent"));
}

/// Something that listens where the agent would, and answers one request with these lines.
fn agent(state: &State, answer: Vec<Event>) -> std::thread::JoinHandle<Request> {
    let socket = state.socket_path().unwrap();
    let listener = backmesh::os::bind_private(socket.path()).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let line = read_line(&mut BufReader::new(&stream), REQUEST_BYTES_MAX).unwrap().unwrap();
        answer.iter().for_each(|event| stream.write_all(event.to_line().as_bytes()).unwrap());
        serve_line(&line).unwrap()
    })
}

#[test]
fn what_an_agent_says_reaches_people_and_scripts() {
    let home = Home::new();
    home.join();
    let backup = BackupResult { snapshot: "ab".repeat(32), files: 2, problems: 1, ..BackupResult::default() };
    let events = vec![
        Event::Progress(Progress::new(Phase::Storing)),
        Event::Problem(Problem::at(b"/home/\x1b[31m\xff", "permission denied")),
        Event::result(backup),
    ];
    let ask = |arguments: &[&str], answer: &[Event]| {
        let served = agent(&home.state(), answer.to_vec());
        let output = home.run(arguments);
        let request = served.join().unwrap();
        std::fs::remove_file(home.path("state/control.sock")).unwrap();
        (output, request)
    };

    let (output, request) = ask(&["--json", "backup"], &events);
    assert_eq!((output.status.code(), request), (Some(3), Request::Backup));
    let lines: Vec<Event> =
        output.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    assert_eq!(lines, events);

    let (output, _) = ask(&["backup"], &events);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8(output.stdout.clone()).unwrap().starts_with("snapshot abababab: 2 files"));
    assert_eq!(stderr(&output), "problem: /home/\\u{1b}[31m\\xff: permission denied\n");

    let failure = Event::Error(Failure::new(ExitCode::TooFew, "2 of 4").with_hint("wake anna"));
    let (output, request) =
        ask(&["restore", "latest", "a/../b", "--to", "back", "--delete", "--dry-run", "--numeric-owners"], &[failure]);
    assert_eq!(output.status.code(), Some(13));
    assert_eq!(stderr(&output), "error: 2 of 4\n  wake anna\n");
    let path = |name: &str| PathText::new(home.path(name).as_os_str().as_bytes());
    let (snapshot, paths, to) = ("latest".to_owned(), vec![path("b")], path("back"));
    assert_eq!(
        request,
        Request::Restore {
            snapshot,
            paths,
            to,
            delete: true,
            dry_run: true,
            numeric_owners: true,
            include: Vec::new(),
            exclude: Vec::new(),
        }
    );

    let (output, _) = ask(&["--json", "peers"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(last_line(&output)["message"].as_str().unwrap().contains("before it had answered"));

    let reloaded = Event::Result { more: false, answer: Answer::Reload };
    let (output, request) = ask(&["--json", "protect", "."], &[reloaded]);
    assert_eq!((output.status.code(), request), (Some(0), Request::Reload));
    assert_eq!(last_line(&output)["agent"], true);
}

#[test]
fn a_command_line_that_makes_no_sense() {
    let home = Home::new();
    let commands: [&[&str]; 8] = [
        &[],
        &["frobnicate"],
        &["restore", "latest"],
        &["ls", "abc"],
        &["restore", "0123456", "--to", "x"],
        &["recover", "--seed", "127.0.0.1", "--list"],
        &["recover", "--phrase-file", "f", "--seed", "127.0.0.1", "--as-of", "yesterday", "--to", "x"],
        &["demo", ".", "--nodes", "1"],
    ];
    for command in commands {
        fails(&home, command, 2);
        assert_eq!(home.run(command).status.code(), Some(2), "{command:?}");
    }
    assert!(home.run(&["--help"]).status.success());
    assert!(home.run(&["--version"]).status.success());
}
