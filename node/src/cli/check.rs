//! `backmesh check`.

use super::{Context, client, ls};
use backmesh_control::{ExitCode, Request};
use clap::Args;

/// Check that everything can be restored: the head, all stripes at their holders, the index, the catalogues
///
/// Asks the holders and repairs nothing. Exits 3 where something is wrong, each named, and 13 where too few members are on to tell.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// Whose catalogues to read: latest, latest~1, the first 8 digits of an id or more; without any, those of all snapshots
    #[arg(value_name = "SNAP")]
    snapshots: Vec<String>,
    /// Fetch and open the contents too, of all packs or of PERCENT in a hundred; the following runs read the following ones
    #[arg(long, value_name = "PERCENT", num_args = 0..=1, default_missing_value = "100",
          value_parser = clap::value_parser!(u8).range(1..=100))]
    read_data: Option<u8>,
    /// Read what run number RUN reads, instead of what follows on the run before
    #[arg(long, value_name = "RUN", requires = "read_data")]
    run: Option<u64>,
}

impl Check {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        let snapshots = self.snapshots.into_iter().map(ls::snapshot_name).collect::<Result<_, _>>()?;
        client::ask(cx, &Request::Check { snapshots, read_percent: self.read_data, run: self.run })
    }
}
