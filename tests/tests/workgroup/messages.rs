//! What a person reads when something is wrong: what happened, to what, what to do next. All of it stands in `docs/messages.md`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

use backmesh_tests::messages::Book;
use backmesh_tests::{Group, Node, Outcome, text, wait_for};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// The state of a node, ready to be damaged: a copy of its folder under the name of another node.
fn copy_of(group: &Group, node: &Node, name: &str) -> Node {
    let mut copy = group.blank(name);
    // It stands for the same machine in another condition.
    copy.env.push(("BACKMESH_MACHINE_ID", Some(format!("machine of {}", node.name))));
    let copied = std::process::Command::new("cp").arg("-a").args([&node.state, &copy.state]).status().unwrap();
    assert!(copied.success());
    copy
}

fn words(phrase: &Path, change: impl FnOnce(&mut Vec<String>)) -> String {
    let kept = fs::read_to_string(phrase).unwrap();
    let mut words: Vec<String> = kept.split_whitespace().map(str::to_owned).collect();
    change(&mut words);
    words.join(" ")
}

/// A file for a secret, as they have to be.
fn private(path: &Path, contents: &str) {
    fs::write(path, contents).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

struct Scene {
    group: Group,
    book: Book,
}

impl Scene {
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.group.folder.path().join(name)
    }

    fn note(&mut self, title: &str, outcome: Outcome, code: i32) {
        self.book.note(title, &outcome, code);
    }

    /// Before there is a workgroup.
    fn joining(&mut self) {
        let node = self.group.blank("new");
        self.note("a command for an agent where none runs", node.run(&["backup"]), 10);
        self.note("an agent before the machine has joined", node.run(&["agent"]), 10);
        self.note("protect before the machine has joined", node.run(&["protect", "/etc"]), 10);
        self.note("a command that does not exist", node.run(&["bakcup"]), 2);
        self.note("an option that does not exist", node.run(&["backup", "--fast"]), 2);

        let token = self.group.token(&[]);
        let phrase = self.path("new.phrase");
        let join = |token: &str, args: &[&str]| node.run(&[&["join", token, "--name", "new"], args].concat());
        let save = ["--save-phrase", text(&phrase)];
        self.note("a token that is none", join("hello", &save), 2);
        self.note("a token that was not copied whole", join(&token[..token.len() - 9], &save), 2);
        self.note("joining without a terminal or a file for the phrase", join(&token, &[]), 2);
        fs::write(&phrase, "something of mine").unwrap();
        self.note("a file for the phrase that exists", join(&token, &save), 1);
        self.note("an offer that is no size", join(&token, &["--offer", "much", "--save-phrase", "/x"]), 2);
        let nowhere = self.path("no/such/folder/phrase");
        self.note("a file for the phrase that cannot be made", join(&token, &["--save-phrase", text(&nowhere)]), 1);
        self.note("an invitation that lasts for no time", self.group.admin(&["invite", "--expires", "soon"]), 2);
        self.note("a second workgroup under the same key", self.group.admin(&["create", "again"]), 1);
    }

    fn phrases(&mut self) {
        let kept = self.group.phrase_file("node0");
        let seed = self.group.nodes[0].address();
        let (file, target) = (self.path("tried.phrase"), self.path("recovered"));
        let stranger = self.group.blank("stranger");
        let recover = |phrase: &Path, seed: &str| {
            stranger.run(&["recover", "--phrase-file", text(phrase), "--seed", seed, "--to", text(&target)])
        };
        let unknown = ["abandon"; 23].join(" ") + " art";
        for (title, phrase, code) in [
            ("a phrase with a word too few", words(&kept, |words| drop(words.pop())), 12),
            ("a phrase with a word that is not in the list", words(&kept, |words| words[3] = "abondon".into()), 12),
            ("a phrase of a vault that nobody knows", unknown, 12),
        ] {
            private(&file, &phrase);
            self.note(title, recover(&file, &seed), code);
        }
        self.note("a file with a phrase that is not there", recover(&self.path("missing.phrase"), &seed), 1);
        self.note("a recovery whose seed does not answer", recover(&kept, "/ip4/127.0.0.1/tcp/9"), 13);
        self.note("a seed that is no address", recover(&kept, "over there"), 2);
        self.note("a recovery before the first backup", recover(&kept, &seed), 12);
    }

    fn protecting(&mut self, source: &Path) {
        let node = &self.group.nodes[0];
        let file = source.join("a file");
        let outcomes = [
            ("a backup of nothing", node.run(&["backup"]), 2),
            ("protecting what is not there", node.run(&["protect", "/no/such/folder"]), 1),
            ("protecting a file", node.run(&["protect", text(&file)]), 1),
            ("unprotecting what is not protected", node.run(&["unprotect", "/usr"]), 1),
            ("a pattern that cannot match", node.run(&["protect", text(source), "--exclude", "a//b"]), 2),
            ("a file of patterns that is not there", node.run(&["protect", text(source), "--exclude-file", "/no/patterns"]), 1),
            ("a schedule at no time", node.run(&["schedule", "--quiet-hours", "night"]), 2),
            ("a limit that is no rate", node.run(&["limits", "--upload", "fast"]), 2),
            ("a restore before the first backup", node.run(&["restore", "latest", "--to", "/tmp"]), 1),
            ("a check before the first backup", node.run(&["check"]), 1),
        ];
        outcomes.into_iter().for_each(|(title, outcome, code)| self.book.note(title, &outcome, code));
    }

    fn snapshots(&mut self, source: &Path) {
        let node = &self.group.nodes[0];
        node.protect(source);
        node.back_up();
        let taken = source.with_extension("taken");
        fs::write(&taken, "a file").unwrap();
        let outcomes = [
            ("a snapshot that does not exist", node.run(&["ls", "ffffffff"]), 1),
            ("the name of a snapshot that makes no sense", node.run(&["ls", "yesterday"]), 2),
            ("fewer snapshots than that", node.run(&["ls", "latest~9"]), 1),
            ("a path that is not in the snapshot", node.run(&["ls", "latest", text(&source.join("a fille"))]), 1),
            ("the contents of a folder", node.run(&["dump", "latest", text(source)]), 1),
            ("a restore into a file", node.run(&["restore", "latest", "--to", text(&taken)]), 1),
            ("a restore without a target", node.run(&["restore", "latest"]), 2),
            ("a restore to its place that nobody confirms", node.run(&["restore", "latest", "--in-place"]), 2),
            ("a restore of what no pattern fits", node.run(&["restore", "latest", "--to", "/tmp/x", "--include", "["]), 2),
            ("finding with a pattern that is not finished", node.run(&["find", "["]), 2),
        ];
        outcomes.into_iter().for_each(|(title, outcome, code)| self.book.note(title, &outcome, code));
    }

    fn locked(&mut self) {
        let other = self.group.phrase_file("node1");
        let node = &self.group.nodes[0];
        node.run(&["key", "lock"]).expect(0);
        let outcomes = [
            ("a restore on a locked machine", node.run(&["restore", "latest", "--to", "/tmp/x"]), 12),
            ("unlocking with another vault's phrase", node.run(&["key", "unlock", "--phrase-file", text(&other)]), 12),
        ];
        node.run(&["key", "unlock", "--phrase-file", text(&self.group.phrase_file("node0"))]).expect(0);
        outcomes.into_iter().for_each(|(title, outcome, code)| self.book.note(title, &outcome, code));
    }

    /// Of machines that are off.
    fn alone(&mut self, source: &Path) {
        (1..4).for_each(|number| self.group.nodes[number].kill());
        let node = &self.group.nodes[0];
        wait_for("the others to be missed", Duration::from_secs(60), || {
            Ok(node.peers().iter().filter(|peer| peer["connected"] == true).count() <= 1)
        })
        .unwrap();
        fs::write(source.join("new"), "new").unwrap();
        let backup = node.run(&["backup"]);
        let restore = node.run(&["restore", "latest", "--to", text(&source.with_extension("restored"))]);
        self.note("a backup while the others are off", backup, 13);
        self.note("a restore while the others are off", restore, 13);
        let (phrase, seed) = (self.group.phrase_file("node0"), self.group.nodes[0].address());
        let stranger = self.group.blank("stranger");
        let recover = ["recover", "--phrase-file", text(&phrase), "--seed", &seed, "--to", "/tmp/x"];
        let recovery = stranger.run(&recover);
        self.note("a recovery while the others are off", recovery, 13);
    }

    /// Of state folders that are not as they should be.
    fn states(&mut self) {
        let mut node = copy_of(&self.group, &self.group.nodes[1], "kept");
        node.kill();
        let agent = |node: &Node| node.run(&["agent", "--listen", "/ip4/127.0.0.1/tcp/0"]);
        self.note("an agent where one runs", self.group.nodes[0].run(&["agent"]), 11);
        let port = self.group.nodes[0].address();
        let port = port.split("/p2p/").next().unwrap().to_owned();
        self.note("a port that is taken", node.run(&["agent", "--listen", &port]), 1);
        self.note(
            "joining with a state that belongs to a workgroup",
            node.run(&["join", &self.group.token(&[]), "--save-phrase", "/dev/null/x"]),
            1,
        );

        let mut moved = copy_of(&self.group, &self.group.nodes[1], "moved");
        moved.env.push(("BACKMESH_MACHINE_ID", Some("a new machine".to_owned())));
        self.note("an agent with a state that another machine made", agent(&moved), 11);
        let copied = node.state.join("copied");
        private(&copied, "");
        self.note("an agent that has stopped for one with a copy of its state", agent(&node), 11);
        fs::remove_file(&copied).unwrap();

        let config = node.state.join("config.toml");
        let kept = fs::read_to_string(&config).unwrap();
        for (title, contents) in [
            ("a configuration that is no TOML", "protect = [".to_owned()),
            ("a setting that does not exist", format!("ofer = \"1GiB\"\n{kept}")),
            ("a setting of the wrong kind", "protect = 7\n".to_owned()),
        ] {
            fs::write(&config, contents).unwrap();
            let outcome = agent(&node);
            self.note(title, outcome, 1);
        }
        fs::write(&config, kept).unwrap();
        let key = node.state.join("node.key");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        let outcome = agent(&node);
        self.note("a key that others can read", outcome, 1);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let mut bytes = fs::read(&key).unwrap();
        let last = bytes.len() - 3;
        bytes[last] = b'x';
        fs::write(&key, bytes).unwrap();
        let outcome = agent(&node);
        self.note("a key that is damaged", outcome, 1);
    }
}

#[test]
fn every_message_says_what_happened_and_what_to_do() {
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("a file"), "contents").unwrap();
    let group = Group::start(4).unwrap();
    let mut book = Book::default();
    for node in &group.nodes {
        let place = node.address();
        let port = place.split('/').nth(4).unwrap().to_owned();
        book.hide(format!("/tcp/{port}"), "/tcp/PORT");
        book.hide(format!("127.0.0.1:{port}"), "127.0.0.1:PORT");
    }
    // Which of them hold something is drawn by lot.
    (1..4).for_each(|number| book.hide(format!("node{number}"), "MEMBER"));
    book.hide(text(group.folder.path()), "GROUP");
    book.hide(text(source.path()), "SOURCE");
    let mut scene = Scene { group, book };
    scene.joining();
    scene.phrases();
    scene.protecting(source.path());
    scene.snapshots(source.path());
    scene.locked();
    scene.alone(source.path());
    scene.states();
    scene.book.compare(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/messages.md"));
}
