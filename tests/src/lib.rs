//! What the end-to-end tests share: workgroups of real processes, each with a state folder and a machine id of its own.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The program `name`, built in the profile of the running test.
pub fn program(name: &str) -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    static PATHS: OnceLock<[PathBuf; 2]> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| build_programs().expect("the programs build"));
    let [node, admin] = PATHS.get_or_init(|| [folder.join("backmesh"), folder.join("backmesh-admin")]);
    if name == "backmesh" { node } else { admin }
}

fn build_programs() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent).context("tests run from target/PROFILE/deps")?;
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "-p", "backmesh", "-p", "backmesh-admin", "--bins"]);
    build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    if folder.file_name() == Some(OsStr::new("release")) {
        build.arg("--release");
    }
    ensure!(build.status()?.success(), "cargo build failed");
    Ok(folder.to_owned())
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Outcome {
    /// The lines of `--json` output.
    pub fn lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// The object of type `result`.
    pub fn result(&self) -> Value {
        self.lines().into_iter().find(|line| line["type"] == "result").unwrap_or_else(|| panic!("no result in {self:?}"))
    }

    /// Checks the exit code, showing everything where it is another.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "exit code of {self:#?}");
        self
    }
}

/// One node of a workgroup.
pub struct Node {
    /// Its state folder.
    pub state: PathBuf,
    /// Its name.
    pub name: String,
    agent: Option<Child>,
}

impl Node {
    /// A command on this node, with nothing of the environment that could lead elsewhere.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program("backmesh"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", &self.state).env("BACKMESH_STATE", &self.state);
        command.env("BACKMESH_MACHINE_ID", format!("machine of {}", self.name));
        command.args(args).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> Outcome {
        self.command(args).output().expect("the program starts").into()
    }

    /// Starts the agent and waits until it answers.
    pub fn start(&mut self) -> Result<()> {
        self.start_on("/ip4/127.0.0.1/tcp/0")
    }

    /// Starts the agent on an address of choice and waits until it answers.
    pub fn start_on(&mut self, listen: &str) -> Result<()> {
        ensure!(self.agent.is_none(), "{} runs already", self.name);
        let log = fs::File::options().create(true).append(true).open(self.state.with_extension("log"))?;
        let mut command = self.command(&["agent", "--listen", listen]);
        self.agent = Some(command.stdout(Stdio::null()).stderr(log).spawn()?);
        let name = self.name.clone();
        wait_for(&format!("the agent of {name}"), Duration::from_secs(30), || {
            Ok(self.status()["agent"] == true && self.status()["node"]["addresses"].as_array().is_some_and(|list| !list.is_empty()))
        })
    }

    /// What `status` says.
    pub fn status(&self) -> Value {
        self.run(&["--json", "status"]).lines().into_iter().find(|line| line["type"] == "result").unwrap_or_default()
    }

    /// An address at which others meet it.
    pub fn address(&self) -> String {
        self.status()["node"]["addresses"][0].as_str().expect("an address").to_owned()
    }

    /// Ends the agent as a power cut would, except that the disk keeps what it was given.
    pub fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().ok();
            agent.wait().ok();
        }
    }

    /// Ends the agent with SIGTERM and returns its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let mut agent = self.agent.take()?;
        let pid = rustix::process::Pid::from_raw(i32::try_from(agent.id()).ok()?)?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok()?;
        agent.wait().ok()?.code()
    }

    /// The process id of the agent.
    pub fn pid(&self) -> Option<u32> {
        self.agent.as_ref().map(Child::id)
    }

    /// Ends the agent and deletes everything the machine had.
    pub fn destroy(&mut self) {
        self.kill();
        fs::remove_dir_all(&self.state).expect("the state can be deleted");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A workgroup of running nodes; node 0 is met first.
pub struct Group {
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// A folder for the test's own files, deleted at the end.
    pub folder: TempDir,
}

impl Group {
    /// The admin's command line, with this group's key.
    pub fn admin(&self, args: &[&str]) -> Outcome {
        admin(self.folder.path(), args)
    }

    /// Starts a workgroup of `count` nodes that all know each other.
    pub fn start(count: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        admin(folder.path(), &["create", "testers"]).expect(0);
        let mut group = Self { nodes: Vec::new(), folder };
        for _ in 0..count {
            group.add()?;
        }
        group.settle()?;
        Ok(group)
    }

    /// A token, with node 0 as the seed where there is one.
    pub fn token(&self, args: &[&str]) -> String {
        let mut words = vec!["invite"];
        let seed = self.nodes.first().map(Node::address);
        if let Some(seed) = &seed {
            words.extend(["--seed", seed]);
        }
        words.extend(args);
        self.admin(&words).expect(0).stdout.trim().to_owned()
    }

    /// A node that has not joined.
    pub fn blank(&self, name: &str) -> Node {
        Node { state: self.folder.path().join(name), name: name.to_owned(), agent: None }
    }

    /// Where a node's recovery phrase is kept.
    pub fn phrase_file(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.phrase"))
    }

    /// Adds a node and starts its agent.
    pub fn add(&mut self) -> Result<&mut Node> {
        let name = format!("node{}", self.nodes.len());
        let mut node = self.blank(&name);
        let phrase = self.phrase_file(&name);
        let token = self.token(&[]);
        let words = ["join", &token, "--name", &name, "--offer", "4GiB", "--save-phrase", phrase.to_str().context("a path")?];
        node.run(&words).expect(0);
        node.start()?;
        self.nodes.push(node);
        self.nodes.last_mut().context("just added")
    }

    /// Waits until every running node knows all members.
    pub fn settle(&self) -> Result<()> {
        let count = self.nodes.len() as u64;
        wait_for("all members to know each other", Duration::from_secs(60), || {
            let running = self.nodes.iter().filter(|node| node.pid().is_some());
            Ok(running.map(Node::status).all(|status| status["workgroup"]["members"].as_u64() == Some(count)))
        })?;
        wait_for("all members to be connected", Duration::from_secs(60), || {
            let peers = self.nodes[0].run(&["--json", "peers"]).lines();
            Ok(peers.iter().filter(|peer| peer["connected"] == true).count() + 1 >= self.nodes.len())
        })
    }
}

fn admin(folder: &Path, args: &[&str]) -> Outcome {
    let mut command = Command::new(program("backmesh-admin"));
    command.env_clear().env("HOME", folder).env("BACKMESH_ADMIN_KEY", folder.join("admin.key"));
    command.args(args).stdin(Stdio::null()).output().expect("the program starts").into()
}

/// Asks again and again until the answer is yes.
pub fn wait_for(what: &str, limit: Duration, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !is()? {
        if started.elapsed() > limit {
            bail!("waited {limit:?} for {what}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Fills a folder with files of many kinds, the same for the same seed; `bytes` in all, or a little more.
pub fn make_tree(folder: &Path, seed: u64, bytes: usize) -> Result<()> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words = ["mesh", "shard", "holder", "stripe", "vault", "chunk", "frame", "pack"];
    let mut written = 0;
    for number in 0.. {
        let inside = folder.join(format!("folder {}", number % 7)).join(format!("deep{}", number % 3));
        fs::create_dir_all(&inside)?;
        let length = match number % 5 {
            0 => 0,
            1 => (next() % 200) as usize,
            2 => (next() % 9_000) as usize,
            3 => (next() % 90_000) as usize,
            _ => (next() % 900_000) as usize,
        };
        let content: Vec<u8> = if number % 2 == 0 {
            (0..length).map(|_| next() as u8).collect()
        } else {
            let mut text = Vec::with_capacity(length + 8);
            while text.len() < length {
                text.extend_from_slice(words[(next() % 8) as usize].as_bytes());
                text.push(b' ');
            }
            text
        };
        written += content.len();
        fs::write(inside.join(format!("file {number}.dat")), content)?;
        if written >= bytes {
            return Ok(());
        }
    }
    Ok(())
}
