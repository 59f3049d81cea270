//! `backmesh-admin create`.

use crate::key::AdminFiles;
use crate::{Done, os, shown};
use backmesh_control::{CreateResult, Event, ExitCode, Failure, PathText};
use backmesh_format::charter::{Charter, Level};
use backmesh_format::keys::KeyPair;
use backmesh_format::{Signed, UnixMillis};
use clap::Args;
use std::path::Path;
use zeroize::Zeroizing;

/// Found a workgroup: write its first charter and the key of its first admin
///
/// Whoever has the key file can invite and put out members: keep a copy of it in a safe place. Nothing is ever overwritten.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// What people call the workgroup
    name: String,
    /// The redundancy level: economy, standard, high or paranoid
    #[arg(long, value_name = "NAME", default_value = "standard", value_parser = level)]
    level: Level,
}

impl Create {
    pub(crate) fn run(self, key: Option<&Path>) -> anyhow::Result<Done> {
        check_name(&self.name)?;
        let files = AdminFiles::of_new(key, &self.name)?;
        let admin = KeyPair::from_secret(&random_bytes());
        let charter = Signed::new(self.charter(&admin), &[&admin]);
        files.create(&admin, &charter)?;
        let workgroup = charter.workgroup_id();
        Ok(Done {
            output: format!("{workgroup}\n"),
            explanation: format!(
                "founded \"{}\" with level {}\nkey     {} (only you can read it; keep a copy in a safe place)\ncharter {}\n\
                 next: backmesh-admin invite\n",
                self.name,
                self.level.name(),
                shown(&files.key),
                shown(&files.charter),
            ),
            event: Event::result(CreateResult {
                workgroup: workgroup.to_string(),
                name: self.name,
                admin: admin.public().to_string(),
                key_file: PathText::new(os::path_bytes(&files.key)),
                charter_file: PathText::new(os::path_bytes(&files.charter)),
            }),
        })
    }

    fn charter(&self, admin: &KeyPair) -> Charter {
        let mut nonce = [0; 16];
        rand::fill(&mut nonce);
        Charter {
            name: self.name.clone(),
            number: 1,
            workgroup: None,
            previous: None,
            admins: vec![admin.public()],
            level: self.level,
            site_safe: false,
            retention_floor_secs: Charter::RETENTION_FLOOR_SECS,
            lease_term_secs: Charter::LEASE_TERM_SECS,
            quota_bytes: 0,
            written_at: now(),
            nonce,
        }
    }
}

/// The time by this machine's clock.
pub(crate) fn now() -> UnixMillis {
    UnixMillis::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}

/// A new secret.
pub(crate) fn random_bytes() -> Zeroizing<[u8; 32]> {
    let mut bytes = Zeroizing::new([0; 32]);
    rand::fill(&mut *bytes);
    bytes
}

/// Names are shown on other people's terminals.
pub(crate) fn check_name(name: &str) -> Result<(), Failure> {
    if name.trim().is_empty() || name.len() > 100 || backmesh_control::escape(name.as_bytes()) != name {
        let message = "a name has 1 to 100 bytes and no characters that cannot be seen";
        return Err(Failure::new(ExitCode::Usage, message));
    }
    Ok(())
}

fn level(text: &str) -> Result<Level, String> {
    Level::from_name(text).ok_or_else(|| format!("the levels are {}", Level::ALL.map(Level::name).join(", ")))
}
