//! The first contact of a node that has just joined: where a member named by the token can be reached, it admits the node or says why
//! not, so that a spent token is known at once and not from a log on the next day.

use crate::members::Members;
use crate::state::State;
use backmesh_net::{Net, NetConfig};
use backmesh_store::Records;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long members are waited for.
const LIMIT: Duration = Duration::from_secs(8);

/// What members said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Greeting {
    /// One has admitted the node.
    Admitted,
    /// None could be reached, or none has decided.
    Unmet,
    /// One refuses it, for this reason.
    Refused(String),
}

/// Meets the members that the token names; blocking. The state must be locked by the caller.
///
/// # Errors
/// Where the state cannot be read, or no network can be had.
pub fn greet(files: &State) -> anyhow::Result<Greeting> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let greeting = runtime.block_on(async {
        let mut config = NetConfig::new(files.node_key()?);
        config.listen = Vec::new();
        let (net, mut events) = Net::start(config).await?;
        let records = Arc::new(Records::open(Arc::clone(files.disk()), &files.records_path())?);
        let (members, drive) = Members::open(files, net.clone(), records)?;
        let greeting = tokio::select! {
            () = drive.run() => Greeting::Unmet,
            () = async { while let Some(event) = events.recv().await { members.tell(event).await } } => Greeting::Unmet,
            greeting = decided(&members) => greeting,
        };
        net.shutdown().await;
        Ok(greeting)
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    greeting
}

async fn decided(members: &Members) -> Greeting {
    let began = Instant::now();
    while began.elapsed() < LIMIT {
        if let Some(notice) = members.notice() {
            return Greeting::Refused(notice);
        }
        if members.is_admitted() {
            return Greeting::Admitted;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Greeting::Unmet
}
