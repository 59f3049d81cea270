//! `backmesh-admin charter`.

use crate::Done;
use crate::key::AdminFiles;
use backmesh_control::{CharterResult, Event, Time, escape};
use clap::Args;
use std::path::Path;

/// Show the workgroup's settings
#[derive(Debug, Args)]
pub(crate) struct Show {}

impl Show {
    pub(crate) fn run(self, key: Option<&Path>) -> anyhow::Result<Done> {
        let charter = AdminFiles::find(key)?.read_charter()?;
        let result = CharterResult {
            workgroup: charter.workgroup_id().to_string(),
            name: charter.name.clone(),
            number: charter.number,
            admins: charter.admins.iter().map(ToString::to_string).collect(),
            level: charter.level.name().to_owned(),
            site_safe: charter.site_safe,
            retention_floor_secs: charter.retention_floor_secs,
            lease_term_secs: charter.lease_term_secs,
            quota_bytes: charter.quota_bytes,
            written_at: Time(charter.written_at),
        };
        Ok(Done { output: text(&result), explanation: String::new(), event: Event::result(result) })
    }
}

fn text(result: &CharterResult) -> String {
    let quota = if result.quota_bytes == 0 { "none".to_owned() } else { format!("{} bytes", result.quota_bytes) };
    format!(
        "workgroup {}\nname      {}\nversion   {} of {}\nadmins    {}\nlevel     {}\nsite-safe {}\nretention {} days\nlease     {} days\nquota     {quota}\n",
        result.workgroup,
        escape(result.name.as_bytes()),
        result.number,
        result.written_at,
        result.admins.join("\n          "),
        result.level,
        if result.site_safe { "yes" } else { "no" },
        result.retention_floor_secs / 86_400,
        result.lease_term_secs / 86_400,
    )
}
