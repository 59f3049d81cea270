//! A workgroup in which one machine is treated badly: an owner, four holders, and a folder that changes.

use crate::tree::{Numbers, differences, files_below, make_tree};
use crate::{Group, Node, Outcome, text, wait_for};
use anyhow::{Context, Result, ensure};
use backmesh_store::{RealDisk, Spool};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long the agent may take for what it has to do by itself.
pub(super) const LIMIT: Duration = Duration::from_secs(60);
/// The bytes of each file that a change writes.
const NEW_BYTES: usize = 2 << 20;
/// So many files of changes stay.
const CHANGES_KEPT: u64 = 4;

/// The workgroup; the owner joined last, so that its token names a member that is always on.
pub(super) struct Lab {
    pub(super) group: Group,
    pub(super) source: PathBuf,
    /// Where everything is restored to, to be compared.
    pub(super) restored: PathBuf,
    changes: u64,
}

impl Lab {
    /// Starts one with so many holders, protects a folder and backs it up once.
    pub(super) fn open(holders: usize, seed: u64) -> Result<Self> {
        let group = Group::start(holders + 1)?;
        let source = group.folder.path().join("source");
        make_tree(&source, seed, 4 << 20)?;
        let restored = group.folder.path().join("restored");
        let lab = Self { group, source, restored, changes: 0 };
        lab.owner().protect(&lab.source);
        lab.owner().back_up();
        Ok(lab)
    }

    pub(super) fn owner(&self) -> &Node {
        &self.group.nodes[self.group.nodes.len() - 1]
    }

    pub(super) fn owner_mut(&mut self) -> &mut Node {
        let last = self.group.nodes.len() - 1;
        &mut self.group.nodes[last]
    }

    /// The others.
    pub(super) fn holders(&self) -> &[Node] {
        &self.group.nodes[..self.group.nodes.len() - 1]
    }

    /// The file with the owner's recovery phrase.
    pub(super) fn phrase_file(&self) -> PathBuf {
        self.group.phrase_file(&self.owner().name)
    }

    /// Changes the folder: new files of some size, old ones gone, one changed inside.
    pub(super) fn change(&mut self, numbers: &mut Numbers) -> Result<()> {
        self.changes += 1;
        for part in 0..3 {
            fs::write(self.source.join(format!("new {} {part}", self.changes)), numbers.bytes(NEW_BYTES))?;
            if self.changes > CHANGES_KEPT {
                fs::remove_file(self.source.join(format!("new {} {part}", self.changes - CHANGES_KEPT)))?;
            }
        }
        let files = files_below(&self.source);
        let file = &files[numbers.number() as usize % files.len()];
        let mut content = fs::read(file)?;
        content.extend_from_slice(&numbers.bytes(100));
        Ok(fs::write(file, content)?)
    }

    /// Starts the owner's agent and waits until it knows its holders again.
    pub(super) fn start(&mut self) -> Result<()> {
        self.owner_mut().start()?;
        self.wait_for_holders()
    }

    pub(super) fn wait_for_holders(&self) -> Result<()> {
        let others = self.holders().iter().filter(|node| node.pid().is_some()).count();
        wait_for("the owner to be connected", LIMIT, || {
            Ok(self.owner().peers().iter().filter(|peer| peer["connected"] == true && peer["me"] != true).count() >= others)
        })
    }

    /// Backs up, and checks that all went well.
    pub(super) fn back_up(&self) -> Result<serde_json::Value> {
        let outcome = self.owner().run(&["--json", "backup"]);
        ensure!(outcome.code == Some(0), "the backup after it: {outcome:?}");
        Ok(outcome.result())
    }

    /// Restores the newest snapshot and compares it with the folder; what an earlier one left there stays to be brought up to date.
    pub(super) fn check_restore(&self) -> Result<()> {
        let words = ["--json", "restore", "latest", "--delete", "--to", text(&self.restored)];
        let outcome = self.owner().run(&words);
        ensure!(outcome.code == Some(0), "the restore after it: {outcome:?}");
        same(&self.source, &self.restored)
    }

    /// The bytes of shards that no holder has acknowledged, as the owner's folder says while no agent runs.
    pub(super) fn unacknowledged_bytes(&self) -> Result<u64> {
        let (spool, problems) = Spool::open(Arc::new(RealDisk), &self.owner().state.join("spool"))?;
        ensure!(problems.is_empty(), "the spool after it: {problems:?}");
        let missing = |pack: backmesh_store::PendingPack| pack.missing.len() as u64 * u64::from(pack.shard_bytes);
        Ok(spool.pending().into_iter().map(missing).sum())
    }

    /// What the holders have, once nothing more arrives.
    pub(super) fn held_bytes(&self) -> Result<u64> {
        let sum =
            || self.holders().iter().flat_map(Node::shards).filter_map(|file| file.metadata().ok()).map(|it| it.len()).sum();
        let mut before: u64 = sum();
        wait_for("the holders to be done", LIMIT, || {
            std::thread::sleep(Duration::from_millis(200));
            let now = sum();
            Ok(std::mem::replace(&mut before, now) == now)
        })?;
        Ok(before)
    }
}

/// Checks that a folder came back below a target, and that nothing lies there beside it.
pub(super) fn same(source: &Path, target: &Path) -> Result<()> {
    let found = differences(source, target);
    ensure!(found.is_empty(), "what was restored differs: {found:?}");
    let litter: Vec<PathBuf> = files_below(target)
        .into_iter()
        .filter(|file| file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".backmesh-")))
        .collect();
    ensure!(litter.is_empty(), "files under temporary names stayed: {litter:?}");
    Ok(())
}

/// Runs a command that has to succeed.
pub(super) fn must(node: &Node, words: &[&str]) -> Result<Outcome> {
    let outcome = node.run(words);
    ensure!(outcome.code == Some(0), "{}: {outcome:?}", words[0]);
    Ok(outcome)
}

/// Checks that a command failed with this code, and that it says what happened (each of `parts` is in it) and what to do next.
pub(super) fn must_say(outcome: &Outcome, code: i32, parts: &[&str]) -> Result<()> {
    ensure!(outcome.code == Some(code), "exit code {code} was expected: {outcome:?}");
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    for part in parts {
        ensure!(said.contains(part), "\"{part}\" is not said: {outcome:?}");
    }
    ensure!(!said.contains("panicked"), "it panicked: {outcome:?}");
    Ok(())
}

/// Copies a folder with all that is in it, sockets left out.
pub(super) fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let copied = std::process::Command::new("cp").args(["-a", "--sparse=always", "--"]).args([from, to]).output()?;
    ensure!(copied.status.success(), "cp: {}", String::from_utf8_lossy(&copied.stderr));
    fs::remove_file(to.join("control.sock"))
        .or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
        .context("the copied socket")
}
