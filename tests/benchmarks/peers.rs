//! The programs to compare with: restic, Borg and rustic, each with a repository on the local disk and its usual settings.

use crate::measure::{self, Used};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// One of the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// restic, repository version 2 where it knows it (compression on).
    Restic,
    /// Borg with a key in the repository and zstd 3; its default lz4 would store more.
    Borg,
    /// rustic.
    Rustic,
}

/// All of them.
pub(crate) const ALL: [Kind; 3] = [Kind::Restic, Kind::Borg, Kind::Rustic];

/// Those that are installed.
pub(crate) fn found() -> Vec<Kind> {
    ALL.into_iter().filter(|kind| !kind.version().is_empty()).collect()
}

impl Kind {
    /// Its name, and its program's.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Restic => "restic",
            Self::Borg => "borg",
            Self::Rustic => "rustic",
        }
    }

    /// What it says it is; empty where it is not installed.
    pub(crate) fn version(self) -> String {
        let word = if self == Self::Restic { "version" } else { "--version" };
        measure::said(self.name(), &[word])
    }
}

/// A program with a repository.
pub(crate) struct Peer {
    /// Which.
    pub(crate) kind: Kind,
    folder: PathBuf,
    snapshots: usize,
}

impl Peer {
    /// Makes an empty repository in a new folder.
    pub(crate) fn create(kind: Kind, folder: &Path) -> Result<Self> {
        let folder = folder.join(kind.name());
        std::fs::create_dir_all(&folder)?;
        let peer = Self { kind, folder, snapshots: 0 };
        let mut init = peer.command();
        match kind {
            Kind::Restic | Kind::Rustic => init.arg("init"),
            Kind::Borg => init.args(["init", "--encryption=repokey"]),
        };
        measure::run(&mut init)?;
        Ok(peer)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.kind.name());
        command.env("HOME", &self.folder).env_remove("XDG_CACHE_HOME").env_remove("XDG_CONFIG_HOME");
        let (repository, password) = match self.kind {
            Kind::Restic => ("RESTIC_REPOSITORY", "RESTIC_PASSWORD"),
            Kind::Borg => ("BORG_REPO", "BORG_PASSPHRASE"),
            Kind::Rustic => ("RUSTIC_REPOSITORY", "RUSTIC_PASSWORD"),
        };
        command.env(repository, self.repository()).env(password, "benchmark");
        command
    }

    fn repository(&self) -> PathBuf {
        self.folder.join("repository")
    }

    /// Backs a folder up.
    pub(crate) fn back_up(&mut self, folder: &Path) -> Result<Used> {
        self.snapshots += 1;
        let mut backup = self.command();
        match self.kind {
            Kind::Restic => backup.args(["backup", "--quiet"]),
            Kind::Borg => backup.args(["create", "--compression", "zstd,3"]).arg(format!("::{}", self.snapshots)),
            Kind::Rustic => backup.args(["backup", "--no-progress"]),
        };
        Ok(measure::run(backup.arg(folder))?.0)
    }

    /// Restores the latest backup below a new folder.
    pub(crate) fn restore(&self, to: &Path) -> Result<Used> {
        std::fs::create_dir_all(to)?;
        let mut restore = self.command();
        match self.kind {
            Kind::Restic => restore.args(["restore", "latest", "--quiet", "--target"]).arg(to),
            Kind::Borg => restore.arg("extract").arg(format!("::{}", self.snapshots)).current_dir(to),
            Kind::Rustic => restore.args(["restore", "--no-progress", "latest"]).arg(to),
        };
        Ok(measure::run(&mut restore)?.0)
    }

    /// The bytes of its repository.
    pub(crate) fn stored(&self) -> Result<u64> {
        measure::folder_bytes(&self.repository()).context("the repository cannot be measured")
    }
}
