//! What the end-to-end tests share: workgroups of real processes, each with a state folder and a machine id of its own.

#![expect(clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking, as tests do")]

pub mod canaries;
pub mod debian;
pub mod disk;
pub mod faults;
pub mod forgery;
pub mod fuzzing;
pub mod lan;
pub mod liar;
pub mod messages;
pub mod oddities;
pub mod rsync;
pub mod tree;

use anyhow::{Context, Result, bail, ensure};
pub use rustix::process::Signal;
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The program `name`, built in the profile of the running test, or as it lies in the folder that `BACKMESH_TESTS_PROGRAMS` names.
pub fn program(name: &str) -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    static PATHS: OnceLock<[PathBuf; 2]> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| match std::env::var_os("BACKMESH_TESTS_PROGRAMS") {
        Some(folder) => folder.into(),
        None => build_programs().expect("the programs build"),
    });
    let [node, admin] = PATHS.get_or_init(|| [folder.join("backmesh"), folder.join("backmesh-admin")]);
    if name == "backmesh" { node } else { admin }
}

fn build_programs() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let inside = test.parent().context("a program is in a folder")?;
    let folder = if inside.ends_with("deps") { inside.parent().context("tests run from target/PROFILE/deps")? } else { inside };
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "-p", "backmesh", "-p", "backmesh-admin", "--bin", "backmesh", "--bin", "backmesh-admin"]);
    build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    // What describes this very test would make crates whose build scripts look at it be built anew.
    for (name, _) in std::env::vars_os() {
        let of_this_test =
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_", "CARGO_PRIMARY_", "CARGO_TARGET_TMPDIR"];
        if name.to_str().is_some_and(|name| of_this_test.iter().any(|start| name.starts_with(start))) {
            build.env_remove(name);
        }
    }
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
    /// What its programs find in their environment besides what every node has.
    pub environment: Vec<(&'static str, OsString)>,
    /// The network namespace that it runs in, if not that of the test.
    pub namespace: Option<String>,
    /// Where what its agent says may go, wherever the state is.
    pub said: PathBuf,
    /// What its environment has besides; none takes a variable away.
    pub env: Vec<(&'static str, Option<String>)>,
    agent: Option<Child>,
    runner: Option<Runner>,
}

/// Another user than the one who runs the tests.
#[derive(Debug, Clone)]
struct Runner {
    number: u32,
    /// A copy of the program where that user can run it.
    program: PathBuf,
}

impl Node {
    /// A command on this node, with nothing of the environment that could lead elsewhere.
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_in(&[], args)
    }

    /// As [`Node::command`], run by another program with these words before it.
    pub fn command_in(&self, wrapper: &[&str], args: &[&str]) -> Command {
        let program = self.runner.as_ref().map_or(program("backmesh"), |runner| &runner.program);
        let place = self.namespace.as_deref().map(|namespace| ["ip", "netns", "exec", namespace]);
        let words: Vec<&str> = place.iter().flatten().chain(wrapper).copied().collect();
        let mut command = match words.as_slice() {
            [] => Command::new(program),
            [first, words @ ..] => {
                let mut command = Command::new(first);
                command.args(words).arg(program);
                command
            }
        };
        if let Some(runner) = &self.runner {
            command.uid(runner.number).gid(runner.number).current_dir("/");
        }
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", &self.state).env("BACKMESH_STATE", &self.state);
        command.env("BACKMESH_MACHINE_ID", format!("machine of {}", self.name));
        // What its log tells is for whoever looks for a fault.
        command.envs(std::env::var_os("BACKMESH_LOG").map(|filter| ("BACKMESH_LOG", filter)));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
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
        self.start_in(&[], listen)
    }

    /// Starts the agent as a child of another program, and waits until it answers.
    pub fn start_in(&mut self, wrapper: &[&str], listen: &str) -> Result<()> {
        ensure!(self.agent.is_none(), "{} runs already", self.name);
        let log = fs::File::options().create(true).append(true).open(self.state.with_extension("log"))?;
        let mut command = self.command_in(wrapper, &["agent", "--listen", listen]);
        let mut agent = command.stdout(Stdio::null()).stderr(log).spawn()?;
        let name = self.name.clone();
        let started = wait_for(&format!("the agent of {name}"), Duration::from_secs(30), || {
            if let Some(ended) = agent.try_wait()? {
                bail!("the agent of {name} ended with {ended}");
            }
            let status = self.status();
            Ok(status["agent"] == true && status["node"]["addresses"].as_array().is_some_and(|list| !list.is_empty()))
        });
        self.agent = Some(agent);
        started.with_context(|| self.log().lines().rev().take(20).collect::<Vec<_>>().join("\n"))
    }

    /// Starts the agent under a tracer that is no parent of it, as `strace -D` is, and waits until it answers or has ended; whether it
    /// answers.
    ///
    /// # Errors
    /// Where it cannot be started, or does neither.
    pub fn start_under(&mut self, tracer: &[&str]) -> Result<bool> {
        ensure!(self.agent.is_none(), "{} runs already", self.name);
        let log = fs::File::options().create(true).append(true).open(self.state.with_extension("log"))?;
        let plain = self.command(&["agent", "--listen", "/ip4/127.0.0.1/tcp/0"]);
        let mut command = Command::new(tracer.first().context("a tracer")?);
        command.args(&tracer[1..]).arg(plain.get_program()).args(plain.get_args()).env_clear();
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let agent = self.agent.insert(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?);
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(120) {
            if agent.try_wait()?.is_some() {
                self.agent = None;
                return Ok(false);
            }
            let mut status = Command::new(program("backmesh"));
            status.args(["--json", "status"]).env("BACKMESH_STATE", &self.state);
            let outcome = Outcome::from(status.output()?);
            if outcome.lines().iter().any(|line| line["agent"] == true) {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the agent of {} neither answers nor ends", self.name)
    }

    /// Starts a command and does not wait for it.
    pub fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
    }

    /// Protects a folder.
    #[track_caller]
    pub fn protect(&self, folder: &Path) {
        self.run(&["protect", text(folder)]).expect(0);
    }

    /// Backs up, and gives the result.
    #[track_caller]
    pub fn back_up(&self) -> Value {
        self.run(&["--json", "backup"]).expect(0).result()
    }

    /// What its log says so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.state.with_extension("log")).unwrap_or_default()
    }

    /// The most memory that the agent ever had, in KiB.
    pub fn memory_peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid().expect("a running agent")));
        let status = status.expect("/proc is there");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line for the peak");
        line.trim().trim_end_matches("kB").trim().parse().expect("a number")
    }

    /// The files of the shards that it holds.
    pub fn shards(&self) -> Vec<PathBuf> {
        tree::files_below(&self.state.join("shelf/shards"))
    }

    /// What `status` says.
    pub fn status(&self) -> Value {
        self.run(&["--json", "status"]).lines().into_iter().find(|line| line["type"] == "result").unwrap_or_default()
    }

    /// The members that it knows.
    pub fn peers(&self) -> Vec<Value> {
        let answer = self.run(&["--json", "peers"]).lines().into_iter().find(|line| line["type"] == "result").unwrap_or_default();
        answer["peers"].as_array().cloned().unwrap_or_default()
    }

    /// An address at which others meet it.
    pub fn address(&self) -> String {
        self.status()["node"]["addresses"][0].as_str().expect("an address").to_owned()
    }

    /// An agent that was started otherwise is this node's from now on.
    pub fn take_over(&mut self, agent: Child) -> Result<()> {
        ensure!(self.agent.is_none(), "{} runs already", self.name);
        self.agent = Some(agent);
        Ok(())
    }

    /// Waits until the agent has ended by itself; its exit code.
    pub fn ended(&mut self, limit: Duration) -> Result<Option<i32>> {
        let mut agent = self.agent.take().context("no agent was started")?;
        let waited = wait_for("the agent to end", limit, || Ok(agent.try_wait()?.is_some()));
        if waited.is_err() {
            agent.kill().ok();
        }
        let status = agent.wait()?;
        waited.map(|()| status.code())
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
        signal(&agent, Signal::TERM);
        agent.wait().ok()?.code()
    }

    /// Ends the agent as a fault of its own would, and says how it ended.
    pub fn abort(&mut self) -> Option<ExitStatus> {
        let mut agent = self.agent.take()?;
        signal(&agent, Signal::ABORT);
        agent.wait().ok()
    }

    /// Whether the agent has not ended.
    pub fn is_alive(&mut self) -> bool {
        self.agent.as_mut().is_some_and(|agent| matches!(agent.try_wait(), Ok(None)))
    }

    /// The process id of the agent.
    pub fn pid(&self) -> Option<u32> {
        self.agent.as_ref().map(Child::id)
    }

    /// Ends the agent and moves all that the machine had to where nobody looks for it.
    pub fn move_away(&mut self) {
        self.kill();
        fs::rename(&self.state, self.state.with_extension("away")).expect("the state can be moved");
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
    runner: Option<Runner>,
}

impl Group {
    /// The admin's command line, with this group's key.
    pub fn admin(&self, args: &[&str]) -> Outcome {
        admin(self.folder.path(), args)
    }

    /// A workgroup that nobody has joined.
    pub fn found() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        admin(folder.path(), &["create", "testers"]).expect(0);
        Ok(Self { nodes: Vec::new(), folder, runner: None })
    }

    /// Starts a workgroup of `count` nodes that all know each other.
    pub fn start(count: usize) -> Result<Self> {
        Self::found()?.grow(count)
    }

    /// As [`Group::start`], with all programs run by the user of this number; root only.
    pub fn start_as(number: u32, count: usize) -> Result<Self> {
        let mut group = Self::found()?;
        let copy = group.folder.path().join("backmesh");
        fs::copy(program("backmesh"), &copy)?;
        fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
        // Another test's new process has the copy open for writing until it becomes another program.
        let busy = |error: std::io::Error| error.kind() == std::io::ErrorKind::ExecutableFileBusy;
        while Command::new(&copy).arg("--version").output().is_err_and(busy) {}
        lchown(group.folder.path(), Some(number), Some(number))?;
        group.runner = Some(Runner { number, program: copy });
        group.grow(count)
    }

    fn grow(mut self, count: usize) -> Result<Self> {
        let group = &mut self;
        for _ in 0..count {
            group.add()?;
        }
        group.settle()?;
        Ok(self)
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
        let (state, said) = (self.folder.path().join(name), self.folder.path().join(format!("{name}.said")));
        let (name, runner) = (name.to_owned(), self.runner.clone());
        Node { state, name, said, environment: Vec::new(), env: Vec::new(), namespace: None, agent: None, runner }
    }

    /// Where a node's recovery phrase is kept.
    pub fn phrase_file(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.phrase"))
    }

    /// Adds a node and starts its agent.
    pub fn add(&mut self) -> Result<()> {
        let node = self.blank(&format!("node{}", self.nodes.len()));
        self.add_node(node, "4GiB")
    }

    /// Makes a blank node a member that offers so much space, and starts its agent.
    pub fn add_node(&mut self, mut node: Node, offer: &str) -> Result<()> {
        self.join(&node, &self.token(&[]), offer).expect(0);
        node.start()?;
        self.nodes.push(node);
        Ok(())
    }

    /// Lets a node join. It backs up only when told to, since tests say when.
    pub fn join(&self, node: &Node, token: &str, offer: &str) -> Outcome {
        let phrase = self.phrase_file(&node.name);
        let words = ["--json", "join", token, "--name", &node.name, "--offer", offer, "--save-phrase", text(&phrase)];
        let joined = node.run(&words);
        if joined.code == Some(0) {
            node.run(&["schedule", "--off"]).expect(0);
        }
        joined
    }

    /// Recovers the vault of the node that was called `owner`, as a machine that has nothing but a phrase and the address of `seed`.
    pub fn recover(&self, owner: &str, seed: &Node, args: &[&str]) -> Outcome {
        let (phrase, address) = (self.phrase_file(owner), seed.address());
        let words = [&["--json", "recover", "--phrase-file", text(&phrase), "--seed", &address], args].concat();
        self.blank("stranger").run(&words)
    }

    /// How many shards all running nodes hold, and how many bytes.
    pub fn held(&self) -> (u64, u64) {
        let running = self.nodes.iter().filter(|node| node.pid().is_some());
        running.map(Node::status).fold((0, 0), |(shards, bytes), status| {
            let shelf = &status["shelf"];
            (shards + shelf["shards"].as_u64().unwrap_or(0), bytes + shelf["bytes_held"].as_u64().unwrap_or(0))
        })
    }

    /// Waits until every running node knows all members.
    pub fn settle(&self) -> Result<()> {
        let count = self.nodes.len() as u64;
        wait_for("all members to know each other", Duration::from_secs(60), || {
            let running = self.nodes.iter().filter(|node| node.pid().is_some());
            Ok(running.map(Node::status).all(|status| status["workgroup"]["members"].as_u64() == Some(count)))
        })?;
        wait_for("all members to be connected", Duration::from_secs(60), || {
            let count = |node: &Node| node.peers().iter().filter(|peer| peer["connected"] == true).count();
            let running: Vec<&Node> = self.nodes.iter().filter(|node| node.pid().is_some()).collect();
            Ok(running.iter().all(|node| count(node) >= running.len()))
        })
    }
}

/// A path of the tests as text.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("the tests' own paths are UTF-8")
}

/// Sends a signal to a process that this test started.
pub fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
    rustix::process::kill_process(pid, signal).expect("the process is there");
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
