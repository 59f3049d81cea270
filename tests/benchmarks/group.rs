//! A workgroup of real processes: an owner, whose processes are measured, and holders.

use crate::Context;
use crate::measure::{self, Used};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the nodes may take to start and meet.
const MEETING_LIMIT: Duration = Duration::from_secs(120);
/// How long the last shards may take to reach their holders.
const DELIVERY_LIMIT: Duration = Duration::from_secs(600);

/// Where a node runs.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// A network namespace; none for the machine's own network.
    pub(crate) namespace: Option<String>,
    /// The address to listen on.
    pub(crate) address: String,
}

impl Site {
    /// This machine, where nobody else can reach it.
    pub(crate) fn loopback() -> Self {
        Self { namespace: None, address: "127.0.0.1".to_owned() }
    }

    /// A program that runs there.
    pub(crate) fn program(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        match &self.namespace {
            None => Command::new(program),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
        }
    }
}

/// One node.
pub(crate) struct Node {
    /// Its name.
    pub(crate) name: String,
    /// Its state folder.
    pub(crate) state: PathBuf,
    site: Site,
    programs: PathBuf,
    agent: Option<Child>,
}

impl Node {
    /// A command of this node's, with its result on standard output.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.site.program(self.programs.join("backmesh"));
        command.env("BACKMESH_STATE", &self.state).env("BACKMESH_MACHINE_ID", format!("machine {}", self.name));
        command.arg("--json").args(args).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end: what it used, and its result.
    pub(crate) fn run(&self, args: &[&str]) -> Result<(Used, Value)> {
        let (used, said) = measure::run(&mut self.command(args)).with_context(|| format!("backmesh {}", args[0]))?;
        let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let result = lines.into_iter().rfind(|line| line["type"] == "result").context("a command had no result")?;
        Ok((used, result))
    }

    /// Starts the agent; the seconds until it answered.
    pub(crate) fn start(&mut self) -> Result<f64> {
        let began = Instant::now();
        let log = fs::File::options().create(true).append(true).open(self.state.with_extension("log"))?;
        let mut command = self.command(&["agent", "--listen", &format!("/ip4/{}/tcp/0", self.site.address)]);
        self.agent = Some(measure::start(command.stdout(Stdio::null()).stderr(log))?);
        wait_for("a node to start", MEETING_LIMIT, || {
            let up = self.run(&["status"]).is_ok_and(|(_, status)| status["node"]["addresses"][0].is_string());
            Ok(up)
        })?;
        Ok(began.elapsed().as_secs_f64())
    }

    /// The agent's process id.
    pub(crate) fn pid(&self) -> Result<u32> {
        self.agent.as_ref().map(Child::id).with_context(|| format!("{} is not running", self.name))
    }

    /// Where others can meet it.
    pub(crate) fn address(&self) -> Result<String> {
        let (_, status) = self.run(&["status"])?;
        Ok(status["node"]["addresses"][0].as_str().context("a node has no address")?.to_owned())
    }

    /// Ends the agent without a word of warning.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut agent) = self.agent.take() {
            agent.kill()?;
            agent.wait()?;
        }
        Ok(())
    }

    /// Ends the agent as a system that shuts down does.
    pub(crate) fn stop(&mut self) -> Result<()> {
        if let Some(mut agent) = self.agent.take() {
            measure::said("kill", &["-TERM", &agent.id().to_string()]);
            agent.wait()?;
        }
        Ok(())
    }

    /// Runs a command and counts what both it and the agent use, until everything is delivered. `wall` is the command's.
    pub(crate) fn work(&self, args: &[&str]) -> Result<(Used, Value)> {
        let agent = self.pid()?;
        measure::forget_peak(agent)?;
        let before = measure::cpu(agent)?;
        let (used, result) = self.run(args)?;
        wait_for("the last shards to be delivered", DELIVERY_LIMIT, || {
            // Asking costs the agent something, so seldom.
            Ok(self.run(&["status"])?.1["vault"]["shards_pending"] == 0)
        })?;
        let cpu = used.cpu + measure::cpu(agent)? - before;
        Ok((Used { cpu, wall: used.wall, peak: used.peak.max(measure::memory(agent, "VmHWM")?) }, result))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A process that cannot be killed has ended by itself.
        self.kill().ok();
    }
}

/// A running workgroup.
pub(crate) struct Group {
    /// Whose files are backed up.
    pub(crate) owner: Node,
    /// Who keeps them.
    pub(crate) holders: Vec<Node>,
    folder: PathBuf,
}

/// The erasure code of a group of nine members and more at the standard level.
pub(crate) const REDUNDANCY: f64 = 8.0 / 4.0;
/// So many holders have all groups here.
pub(crate) const HOLDERS: usize = 10;

impl Group {
    /// Starts an owner and ten holders on loopback.
    pub(crate) fn start(cx: &Context, name: &str) -> Result<Self> {
        Self::start_at(cx, name, &Site::loopback(), &Site::loopback())
    }

    /// Starts an owner and ten holders at two places that reach each other.
    pub(crate) fn start_at(cx: &Context, name: &str, owner: &Site, holders: &Site) -> Result<Self> {
        let folder = cx.folder(name)?;
        let key = folder.join("admin.key");
        let admin = |args: &[&str]| {
            let mut command = Command::new(cx.programs.join("backmesh-admin"));
            Ok::<_, anyhow::Error>(measure::run(command.env("BACKMESH_ADMIN_KEY", &key).args(args))?.1)
        };
        admin(&["create", "benchmark"])?;
        let token = admin(&["invite"])?;
        let owner = Self::add(cx, &folder, "owner", owner, token.trim())?;
        let address = owner.address()?;
        let token = admin(&["invite", "--uses", &HOLDERS.to_string(), "--seed", &address])?;
        let names = (1..=HOLDERS).map(|number| format!("holder{number}"));
        let holders = names.map(|name| Self::add(cx, &folder, &name, holders, token.trim())).collect::<Result<_>>()?;
        let group = Self { owner, holders, folder };
        group.meet()?;
        Ok(group)
    }

    /// Waits until the owner is connected to all holders.
    pub(crate) fn meet(&self) -> Result<()> {
        wait_for("the nodes to meet", MEETING_LIMIT, || Ok(self.owner.run(&["status"])?.1["workgroup"]["connected"] == HOLDERS))
    }

    fn add(cx: &Context, folder: &Path, name: &str, site: &Site, token: &str) -> Result<Node> {
        let state = folder.join(name);
        let phrase = state.with_extension("phrase");
        let (name, site) = (name.to_owned(), site.clone());
        let mut node = Node { name, state, site, programs: cx.programs.clone(), agent: None };
        let phrase = phrase.to_str().context("the work folder's path is not UTF-8")?;
        node.run(&["join", token, "--name", &node.name, "--offer", "40GiB", "--save-phrase", phrase])?;
        node.run(&["schedule", "--off"])?;
        node.start()?;
        Ok(node)
    }

    /// Makes the owner protect a folder.
    pub(crate) fn protect(&self, folder: &Path) -> Result<()> {
        self.owner.run(&["protect", "--no-defaults", folder.to_str().context("the path is not UTF-8")?]).map(drop)
    }

    /// CPU seconds of all holders since they were started.
    pub(crate) fn holders_cpu(&self) -> Result<f64> {
        self.holders.iter().filter_map(|holder| holder.pid().ok()).map(measure::cpu).sum()
    }

    /// Ends all processes and deletes their states.
    pub(crate) fn end(mut self) -> Result<()> {
        self.owner.kill()?;
        self.holders.iter_mut().try_for_each(Node::kill)?;
        Ok(fs::remove_dir_all(&self.folder)?)
    }
}

/// Asks again and again until the answer is yes.
pub(crate) fn wait_for(what: &str, limit: Duration, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !is()? {
        if began.elapsed() > limit {
            bail!("waited {} s for {what}", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
