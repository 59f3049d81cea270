//! The members, for people: a line each, and below it what this node has seen it do wrong.

use super::{count, list, short, text as plain};
use crate::cli::output::local_time;
use crate::units::display_size;
use backmesh_control::{DeedInfo, DeedKind, PeerInfo, PeersResult, Standing, Treatment};

const HEADING: &str = "node      state      by    offered    free       site        name\n";

fn peer(info: &PeerInfo) -> String {
    let state = match info.standing {
        Standing::Accepted if info.me => "me",
        Standing::Accepted if info.connected => "connected",
        Standing::Accepted => "away",
        Standing::Waiting => "waiting",
        Standing::Spent => "spent",
        Standing::Expired => "expired",
        Standing::Revoked => "revoked",
    };
    let line = format!(
        "{:<9} {:<10} {:<5} {:<10} {:<10} {:<11} {}\n",
        short(&info.node),
        state,
        plain(info.transport.as_deref().unwrap_or("-")),
        display_size(info.offered_bytes),
        display_size(info.free_bytes),
        plain(&info.site),
        plain(&info.name),
    );
    line + &conduct(info)
}

/// What it did, and what follows from it.
fn conduct(info: &PeerInfo) -> String {
    if info.conduct.is_empty() {
        return String::new();
    }
    let follows = match info.treatment {
        Treatment::Good => "",
        Treatment::Slow => "slow: ",
        Treatment::Untrusted => "not trusted: ",
    };
    let last = info.conduct.iter().map(|deed| deed.last).max().map(|last| local_time(last.0)).unwrap_or_default();
    let deeds: Vec<String> = info.conduct.iter().map(deed).collect();
    format!("          {follows}{}; last {last}\n", deeds.join(", "))
}

fn deed(deed: &DeedInfo) -> String {
    let what = match deed.kind {
        DeedKind::WrongBytes => "wrong bytes",
        DeedKind::ForgedRecords => "forged records",
        DeedKind::LostShards => "lost what it acknowledged",
        DeedKind::OldHead => "an old head",
        DeedKind::BrokeProtocol => "broke the protocol",
        DeedKind::TimedOut => "timed out",
        DeedKind::Stalled => "stalled",
        DeedKind::Refused => "refused",
    };
    format!("{what} {}", count(deed.count, "time", "times"))
}

/// The text of a list of members.
pub(super) fn text(result: &PeersResult, heading: bool) -> String {
    let lines = list(heading, HEADING, result.peers.iter().map(peer));
    let last = result.peers.iter().any(|peer| peer.treatment != Treatment::Good);
    let what_follows = "Who is slow or not trusted is asked last, and gets new shards only where others do not suffice.\n";
    if last { lines + what_follows } else { lines }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backmesh_control::Time;

    fn info() -> PeerInfo {
        PeerInfo {
            node: "\x1b]0;x".into(),
            peer_id: String::new(),
            name: "\u{202e}evil\r".into(),
            site: "\x07".into(),
            me: false,
            standing: Standing::Accepted,
            connected: true,
            transport: Some("quic".into()),
            addresses: Vec::new(),
            offered_bytes: 0,
            free_bytes: 0,
            shards_held: 0,
            seen_at: None,
            treatment: Treatment::Good,
            conduct: Vec::new(),
        }
    }

    #[test]
    fn hostile_names_cannot_draw_on_the_terminal() {
        let line = peer(&info());
        assert!(line.trim_end_matches('\n').chars().all(|c| !c.is_control()) && !line.contains('\u{202e}'), "{line:?}");
    }

    #[test]
    fn what_was_done_is_named_with_what_follows() {
        let deed = |kind, count, last| DeedInfo { kind, count, last: Time(last) };
        let conduct = vec![deed(DeedKind::WrongBytes, 1, 5), deed(DeedKind::Stalled, 12, 60_000)];
        let peer = PeerInfo { treatment: Treatment::Untrusted, conduct, ..info() };
        let shown = text(&PeersResult { peers: vec![peer, info()] }, false);
        let lines: Vec<&str> = shown.lines().collect();
        let done = format!("          not trusted: wrong bytes 1 time, stalled 12 times; last {}", local_time(60_000));
        assert_eq!(lines[1], done);
        assert!(lines.len() == 4 && lines[3].starts_with("Who is slow or not trusted is asked last"), "{shown}");
        assert_eq!(text(&PeersResult { peers: vec![info()] }, false).lines().count(), 1);
    }
}
