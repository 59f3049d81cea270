//! The demonstration: a workgroup of real node processes on loopback backs a folder up, loses its owner and some holders, and gives
//! everything back to a fresh machine that has only the recovery phrase and one address.

use crate::cli::output::Output;
use anyhow::{Context, bail};
use backmesh_control::{
    Answer, BackupResult, DemoHolder, DemoReport, DemoStep, Event, ExitCode, Failure, PathText, PeerInfo, Phase, Progress,
    StatusResult,
};
use backmesh_format::charter::{Charter, Level};
use backmesh_format::keys::KeyPair;
use backmesh_format::membership::{Invitation, Role, Seed};
use backmesh_format::token::Token;
use backmesh_format::{PublicKey, Signed};
use backmesh_source::compare::{CompareOptions, compare};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// What the command line knows.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// What to back up.
    pub folder: PathBuf,
    /// How many nodes, the owner included.
    pub nodes: usize,
    /// How many holders are lost beside the owner.
    pub lose: usize,
    /// The redundancy level.
    pub level: Level,
    /// Where to leave everything; else a temporary folder that is removed.
    pub keep: Option<PathBuf>,
    /// JSON lines instead of text; see [`Output`].
    pub json: bool,
    /// No progress and no story.
    pub quiet: bool,
}

/// How long the nodes may take to meet.
const MEETING_LIMIT: Duration = Duration::from_secs(60);
/// How many differences a report names.
const DIFFERENCES_MAX: usize = 100;

/// Runs it, and leaves nothing behind unless told so, however it ends.
///
/// # Errors
/// What kept it from starting, or stopped it.
pub fn run(options: DemoOptions) -> anyhow::Result<ExitCode> {
    let folder = options.folder.canonicalize().with_context(|| format!("{} cannot be read", options.folder.display()))?;
    if !folder.is_dir() {
        bail!("{} is not a folder: give the folder to back up", folder.display());
    }
    if options.nodes < 2 || options.lose + 1 >= options.nodes {
        let message = format!(
            "{} nodes cannot lose their owner and {} holders: at least one holder must be left",
            options.nodes, options.lose
        );
        return Err(Failure::new(ExitCode::Usage, message).into());
    }
    let stage = Stage::create(options.keep.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut output = Output::quiet_or_not(options.json, options.quiet);
        tokio::select! {
            ended = play(&options, &folder, stage.path(), &mut output) => ended,
            // Whatever ends the play drops it, which kills the nodes; the stage is removed with them.
            () = interrupted() => Ok(ExitCode::Interrupted),
        }
    })
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return std::future::pending().await;
    };
    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
}

async fn play(options: &DemoOptions, folder: &Path, stage: &Path, output: &mut Output) -> anyhow::Result<ExitCode> {
    let mut clock = Clock { steps: Vec::new(), began: Instant::now() };

    say(output, Phase::Starting, format!("starting a workgroup of {} nodes on this machine", options.nodes));
    let mut nodes = start_nodes(options, stage).await?;
    meet(&nodes).await?;
    clock.lap("start the workgroup");

    say(output, Phase::Storing, format!("{} protects {} and backs it up", nodes[0].name, folder.display()));
    let all = [OsStr::new("protect"), OsStr::new("--no-defaults"), OsStr::new("--other-filesystems"), folder.as_os_str()];
    nodes[0].run(&all).await?;
    let backup = back_up(&nodes[0], output).await?;
    clock.lap("back up");

    let mut holders = survey(&nodes).await?;
    let bytes_stored = holders.iter().map(|holder| holder.bytes).sum();

    say(output, Phase::Finishing, format!("{} is killed, its state deleted: the backup must live without it", nodes[0].name));
    nodes.remove(0).destroy().await?;
    for lost in choose_victims(&holders, options.lose) {
        say(output, Phase::Finishing, format!("{} is killed, its state and its shards deleted", holders[lost].name));
        holders[lost].lost = true;
        let at = nodes.iter().position(|node| node.name == holders[lost].name).context("a holder is a node")?;
        nodes.remove(at).destroy().await?;
    }
    let shape = backmesh_policy::shape(options.level, options.nodes);
    let survives = shape.map_or(0, backmesh_policy::Shape::survives);
    if options.lose > survives {
        let level = options.level.name();
        let message = format!("that is more than level {level} survives here, {survives} holders: not everything can come back");
        say(output, Phase::Finishing, message);
    }
    clock.lap("lose machines");

    let target = stage.join("recovered");
    let phrase = stage.join("phrase");
    let seed = nodes.first().context("a holder is left")?;
    let address =
        seed.status().await?.node.and_then(|node| node.addresses.into_iter().next()).context("the seed has an address")?;
    say(output, Phase::Fetching, format!("a fresh machine knows the recovery phrase and {address}, nothing else"));
    let recovered = recover(&phrase, &address, &target, output).await?;
    clock.lap("recover");

    say(output, Phase::Comparing, "comparing every file with the original".to_owned());
    let differences = differences(folder, &target).await?;
    clock.lap("compare");

    let identical = differences.is_empty() && recovered == ExitCode::Done;
    let (k, n) = shape.map_or((0, 0), |shape| (shape.k, shape.n));
    let report = DemoReport {
        nodes: options.nodes as u64,
        level: options.level.name().to_owned(),
        k: u64::from(k),
        n: u64::from(n),
        files: backup.files,
        bytes_read: backup.bytes_read,
        bytes_added: backup.bytes_added,
        bytes_sent: backup.bytes_sent,
        bytes_stored,
        holders,
        steps: clock.steps,
        identical,
        differences,
        kept: options.keep.as_ref().map(|path| PathText::new(path.as_os_str().as_bytes())),
    };
    output.event(Event::result(report));
    Ok(if identical { ExitCode::Done } else { ExitCode::Problems })
}

/// What happens is part of the show: as progress in JSON, as lines that stay for a person.
fn say(output: &mut Output, phase: Phase, message: String) {
    if output.is_json() {
        output.event(Event::Progress(Progress::new(phase).with_message(message)));
    } else {
        output.advice(&message);
    }
}

/// The folder in which everything happens; removed with all that is in it, unless it was asked for.
enum Stage {
    Temporary(tempfile::TempDir),
    Kept(PathBuf),
}

impl Stage {
    fn create(keep: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = keep else {
            return Ok(Self::Temporary(tempfile::Builder::new().prefix("backmesh-demo-").tempdir()?));
        };
        std::fs::create_dir(path).with_context(|| format!("{} must be a new folder", path.display()))?;
        Ok(Self::Kept(path.canonicalize()?))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Kept(path) => path,
        }
    }
}

struct Clock {
    steps: Vec<DemoStep>,
    began: Instant,
}

impl Clock {
    /// Ends a step that began where the one before ended.
    fn lap(&mut self, name: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        self.steps.push(DemoStep { name: name.to_owned(), seconds });
        self.began = Instant::now();
    }
}

/// One node process and its state folder.
struct DemoNode {
    name: String,
    state: PathBuf,
    agent: Child,
}

impl DemoNode {
    /// A command of this very program, with nothing of the environment that could lead to another node's state.
    fn command(name: &str, state: &Path) -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env("BACKMESH_STATE", state).env("BACKMESH_MACHINE_ID", format!("demo machine {name}"));
        command.stdin(Stdio::null()).kill_on_drop(true);
        Ok(command)
    }

    async fn join_and_start(name: &str, stage: &Path, token: &Token, phrase: &Path) -> anyhow::Result<Self> {
        let state = stage.join(name);
        let mut join = Self::command(name, &state)?;
        join.args(["join", "-", "--name", name, "--save-phrase"]).arg(phrase).stdin(Stdio::piped());
        finish(join, Some(&token.to_text())).await.with_context(|| format!("{name} could not join"))?;
        // The demonstration says when to back up.
        let mut schedule = Self::command(name, &state)?;
        schedule.args(["--json", "schedule", "--off"]);
        finish(schedule, None).await?;
        let log = std::fs::File::create(stage.join(format!("{name}.log")))?;
        let mut agent = Self::command(name, &state)?;
        agent.args(["agent", "--listen", "/ip4/127.0.0.1/tcp/0"]).stdout(Stdio::null()).stderr(log);
        let node = Self { name: name.to_owned(), state, agent: agent.spawn()? };
        until(MEETING_LIMIT, "a node to start", async || {
            Ok(node.status().await.is_ok_and(|status| status.node.is_some_and(|node| !node.addresses.is_empty())))
        })
        .await?;
        Ok(node)
    }

    async fn run(&self, args: &[&OsStr]) -> anyhow::Result<Vec<Event>> {
        let mut command = Self::command(&self.name, &self.state)?;
        command.arg("--json").args(args);
        finish(command, None).await
    }

    async fn status(&self) -> anyhow::Result<StatusResult> {
        let events = self.run(&[OsStr::new("status")]).await?;
        let status = events.into_iter().find_map(|event| match event {
            Event::Result { answer: Answer::Status(status), .. } => Some(status),
            _ => None,
        });
        status.filter(|status| status.agent).context("the node does not answer")
    }

    async fn peers(&self) -> anyhow::Result<Vec<PeerInfo>> {
        let events = self.run(&[OsStr::new("peers")]).await?;
        Ok(events
            .into_iter()
            .flat_map(|event| match event {
                Event::Result { answer: Answer::Peers(peers), .. } => peers.peers,
                _ => Vec::new(),
            })
            .collect())
    }

    /// Ends the process without a word of warning, and its disk with it.
    async fn destroy(mut self) -> anyhow::Result<()> {
        self.agent.kill().await?;
        tokio::fs::remove_dir_all(&self.state).await?;
        Ok(())
    }
}

async fn start_nodes(options: &DemoOptions, stage: &Path) -> anyhow::Result<Vec<DemoNode>> {
    let admin = KeyPair::from_secret(&rand::random());
    let charter = charter(options.level, admin.public());
    let first = token(&charter, &admin, 1, Vec::new());
    let mut nodes = vec![DemoNode::join_and_start("node1", stage, &first, &stage.join("phrase")).await?];
    let met = nodes[0].status().await?.node.context("the first node runs")?;
    let node = backmesh_format::NodeId::from_hex(&met.id).context("a node id")?;
    let address = met.addresses.first().context("the first node listens")?;
    let address = address.split("/p2p/").next().unwrap_or(address).to_owned();
    let others = token(&charter, &admin, options.nodes as u32 - 1, vec![Seed { address, node: Some(node) }]);
    let others = (2..=options.nodes).map(|number| {
        let (name, token) = (format!("node{number}"), &others);
        async move { DemoNode::join_and_start(&name, stage, token, &stage.join(format!("{name}.phrase"))).await }
    });
    nodes.extend(futures::future::try_join_all(others).await?);
    Ok(nodes)
}

fn charter(level: Level, admin: PublicKey) -> Charter {
    Charter {
        name: "demo".to_owned(),
        number: 1,
        workgroup: None,
        previous: None,
        admins: vec![admin],
        level,
        site_safe: false,
        retention_floor_secs: Charter::RETENTION_FLOOR_SECS,
        lease_term_secs: Charter::LEASE_TERM_SECS,
        quota_bytes: 0,
        written_at: crate::os::now(),
        nonce: [0; 16],
    }
}

fn token(charter: &Charter, admin: &KeyPair, uses: u32, seeds: Vec<Seed>) -> Token {
    let secret: [u8; 32] = rand::random();
    let invitation = Invitation {
        workgroup: charter.workgroup_id(),
        key: KeyPair::from_secret(&secret).public(),
        uses,
        expires_at: 0,
        role: Role::Member,
        site: String::new(),
        seeds,
        written_at: charter.written_at,
    };
    Token { charter: Signed::new(charter.clone(), &[admin]), invitation: Signed::new(invitation, &[admin]), secret }
}

/// Waits until the owner is connected to all others, and every node knows where all are and what they offer: each of them may be the
/// one that is asked for everything later.
async fn meet(nodes: &[DemoNode]) -> anyhow::Result<()> {
    until(MEETING_LIMIT, "the nodes to meet", async || {
        for (at, node) in nodes.iter().enumerate() {
            let peers = node.peers().await?;
            let known = peers.iter().filter(|peer| !peer.addresses.is_empty() && peer.offered_bytes > 0).count();
            let connected = peers.iter().filter(|peer| peer.connected && !peer.me).count();
            if known < nodes.len() || (at == 0 && connected + 1 < nodes.len()) {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .await
}

async fn back_up(owner: &DemoNode, output: &mut Output) -> anyhow::Result<BackupResult> {
    let mut command = DemoNode::command(&owner.name, &owner.state)?;
    command.args(["--json", "backup"]);
    let (code, end) = relay(command, output).await?;
    match end {
        Some(Event::Result { answer: Answer::Backup(result), .. }) => Ok(result),
        Some(Event::Error(failure)) => Err(failure.into()),
        _ => bail!("the backup ended with exit code {code} and no result"),
    }
}

async fn recover(phrase: &Path, address: &str, target: &Path, output: &mut Output) -> anyhow::Result<ExitCode> {
    let mut command = DemoNode::command("fresh", &target.with_extension("state"))?;
    command.args(["--json", "recover", "--seed", address, "--phrase-file"]).arg(phrase).arg("--to").arg(target);
    let (code, end) = relay(command, output).await?;
    if let Some(Event::Error(failure)) = &end {
        output.event(Event::Problem(backmesh_control::Problem::new(failure.message.clone())));
    }
    Ok(ExitCode::try_from(u8::try_from(code).unwrap_or(1)).unwrap_or(ExitCode::Failed))
}

/// Runs a command with `--json` and shows its progress and problems as they come; its exit code and its last event.
async fn relay(mut command: Command, output: &mut Output) -> anyhow::Result<(i32, Option<Event>)> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("standard output is a pipe")?).lines();
    let mut end = None;
    while let Some(line) = lines.next_line().await? {
        match serde_json::from_str(&line)? {
            event @ (Event::Progress(_) | Event::Problem(_)) => output.event(event),
            event => end = Some(event),
        }
    }
    Ok((child.wait().await?.code().unwrap_or(1), end))
}

/// Runs a command with `--json` to its end; what it said, or its error.
async fn finish(mut command: Command, input: Option<&str>) -> anyhow::Result<Vec<Event>> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        tokio::io::AsyncWriteExt::write_all(&mut stdin, text.as_bytes()).await?;
    }
    let done = child.wait_with_output().await?;
    let said = String::from_utf8_lossy(&done.stdout);
    if !done.status.success() {
        let errors = String::from_utf8_lossy(&done.stderr);
        bail!("{}{}", errors.trim(), said.trim());
    }
    Ok(said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Asks every holder what it keeps.
async fn survey(nodes: &[DemoNode]) -> anyhow::Result<Vec<DemoHolder>> {
    let mut holders = Vec::new();
    for node in &nodes[1..] {
        let status = node.status().await?;
        let shelf = status.shelf.unwrap_or_default();
        let id = status.node.map(|node| node.id).unwrap_or_default();
        holders.push(DemoHolder {
            name: node.name.clone(),
            node: id,
            shards: shelf.shards,
            bytes: shelf.bytes_held,
            lost: false,
        });
    }
    Ok(holders)
}

/// Those who hold most: losing them says most.
fn choose_victims(holders: &[DemoHolder], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..holders.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(holders[*at].bytes));
    order.truncate(count);
    order
}

/// Compares what came back with the original, by code that shares nothing with the restore.
async fn differences(folder: &Path, target: &Path) -> anyhow::Result<Vec<String>> {
    let restored = target.join(folder.strip_prefix("/").unwrap_or(folder));
    let folder = folder.to_owned();
    let options = CompareOptions { differences_max: DIFFERENCES_MAX, ..CompareOptions::default() };
    let found = tokio::task::spawn_blocking(move || compare(&folder, &restored, &options)).await?;
    Ok(match found {
        Ok(comparison) => comparison.differences.iter().map(ToString::to_string).collect(),
        Err(error) => vec![format!("the trees cannot be compared: {error}")],
    })
}

async fn until(limit: Duration, what: &str, mut is: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let began = Instant::now();
    while !is().await? {
        if began.elapsed() > limit {
            bail!("waited {} seconds for {what}", limit.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
