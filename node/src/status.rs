//! How things are: what `status` and `peers` say. Nothing is shown better than it is known to be.

use crate::node::Node;
use backmesh_control::{
    DeedInfo, DeedKind, NodeStatus, PeerInfo, PeersResult, ShelfStatus, Standing, StatusResult, Time, Treatment, VaultHealth,
    VaultStatus, WorkgroupStatus,
};
use backmesh_format::vault::HeadBody;
use backmesh_net::peer_id_text;
use backmesh_policy::{Deeds, Health, Offence, Reputation, Shape, StripeView, health, promise};
use std::sync::Arc;

/// How the node, its workgroup, its vault and its shelf are.
pub async fn status(node: &Arc<Node>) -> StatusResult {
    let view = node.members.view();
    let count = view.peers.iter().filter(|peer| peer.standing == Standing::Accepted).count();
    let vault = tokio::task::spawn_blocking({
        let node = Arc::clone(node);
        move || vault_status(&node)
    });
    let usage = node.holder.usage();
    StatusResult {
        agent: true,
        node: Some(NodeStatus {
            id: node.members.me().to_string(),
            peer_id: peer_id_text(&node.members.me()),
            name: view.name.clone(),
            addresses: node.net.addresses(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }),
        workgroup: Some(WorkgroupStatus {
            id: view.workgroup.to_string(),
            name: view.workgroup_name.clone(),
            members: count as u64,
            connected: view.peers.iter().filter(|peer| !peer.me && node.members.is_connected(&peer.node)).count() as u64,
            level: view.level.name().to_owned(),
            admitted: node.members.is_admitted(),
            notice: node.members.notice(),
            promise: node.sets.shape_now().map_or_else(
                || "nothing can be stored before another machine has joined and offers space".to_owned(),
                |shape| promise(shape, count).to_string(),
            ),
        }),
        vault: vault.await.ok(),
        backups: Some(node.schedule.status(node).await),
        shelf: Some(ShelfStatus {
            bytes_held: usage.bytes,
            shards: usage.shards,
            bytes_offered: node.holder.offered_bytes(),
            damaged: node.holder.damaged_shards() as u64,
            broken: node.holder.is_broken(),
        }),
    }
}

fn vault_status(node: &Node) -> VaultStatus {
    let body = node.vault.body();
    let packs = node.index.packs(0..u32::MAX).unwrap_or_default();
    let paged_out: u64 = body.older.len() as u64 * (backmesh_format::vault::SNAPSHOTS_INLINE_MAX as u64 / 2);
    VaultStatus {
        id: node.vault.id.to_string(),
        snapshots: body.inline_count() as u64 + paged_out,
        bytes_stored: packs.iter().map(|pack| u64::from(pack.place.class.bytes())).sum(),
        health: vault_health(node, &packs),
        shards_pending: node.outbox.shards_pending(),
        newest: newest(node, &body),
        protected: node.config().protected(),
        generation: node.vault.writer.certificate.generation,
        locked: node.vault.unsealing.is_empty(),
    }
}

/// When the newest snapshot was begun; of one that is sealed, when its head was written.
fn newest(node: &Node, body: &HeadBody) -> Option<Time> {
    let written_at = || node.vault.head().filter(|_| body.inline_count() > 0).map(|head| Time(head.written_at));
    body.snapshots.last().map(|snapshot| Time(snapshot.started_at)).or_else(written_at)
}

/// The worst of all stripes. A holder that has left the workgroup has lost its shards; one that is not connected was heard of when it
/// acknowledged them, and counts as unheard until it is there again.
fn vault_health(node: &Node, packs: &[backmesh_store::KnownPack]) -> VaultHealth {
    let missing = node.outbox.missing_by_pack();
    let stripe = |pack: &backmesh_store::KnownPack| {
        let set = node.sets.get(&pack.place.copyset)?;
        let absent = missing.get(&pack.place.pack).copied().unwrap_or(0);
        let gone = set.slots.iter().filter(|holder| !node.members.is_member(holder)).count();
        let unheard = set.slots.iter().filter(|holder| node.members.is_member(holder) && !node.members.was_heard(holder)).count();
        let held = set.slots.len().saturating_sub(absent + gone + unheard);
        let shape = Shape { k: set.k, n: u8::try_from(set.slots.len()).unwrap_or(u8::MAX) };
        Some(StripeView { shape, held, unheard, local: absent > 0 })
    };
    match health(packs.iter().filter_map(stripe)) {
        Health::Healthy => VaultHealth::Healthy,
        Health::Degraded => VaultHealth::Degraded,
        Health::Unknown => VaultHealth::Unknown,
        Health::Endangered => VaultHealth::Endangered,
        Health::Lost => VaultHealth::Lost,
    }
}

fn treatment(reputation: Reputation) -> Treatment {
    match reputation {
        Reputation::Good => Treatment::Good,
        Reputation::Slow => Treatment::Slow,
        Reputation::Untrusted => Treatment::Untrusted,
    }
}

fn deed((offence, deeds): (Offence, Deeds)) -> DeedInfo {
    let kind = match offence {
        Offence::WrongBytes => DeedKind::WrongBytes,
        Offence::Forged => DeedKind::ForgedRecords,
        Offence::Lost => DeedKind::LostShards,
        Offence::OldHead => DeedKind::OldHead,
        Offence::Protocol => DeedKind::BrokeProtocol,
        Offence::TimedOut => DeedKind::TimedOut,
        Offence::Stalled => DeedKind::Stalled,
        Offence::Refused => DeedKind::Refused,
    };
    DeedInfo { kind, count: deeds.count.into(), last: Time(deeds.last) }
}

/// All members, this node first.
pub async fn peers(node: &Arc<Node>) -> PeersResult {
    let view = node.members.view();
    let node = Arc::clone(node);
    let work = tokio::task::spawn_blocking(move || {
        let held = node.shards_by_holder();
        let info = |peer: &crate::members::Peer| PeerInfo {
            node: peer.node.to_string(),
            peer_id: peer_id_text(&peer.node),
            name: peer.name.clone(),
            site: peer.site.clone(),
            me: peer.me,
            standing: peer.standing,
            connected: peer.me || node.members.is_connected(&peer.node),
            transport: node.net.transport(&peer.node).filter(|_| !peer.me).map(|transport| transport.to_string()),
            addresses: peer.addresses.clone(),
            offered_bytes: peer.offered_bytes,
            free_bytes: peer.free_bytes,
            shards_held: held.get(&peer.node).copied().unwrap_or(0),
            seen_at: peer.seen_at.map(Time),
            treatment: treatment(node.members.conducts().reputation(&peer.node)),
            conduct: node.members.conducts().deeds(&peer.node).into_iter().map(deed).collect(),
        };
        let mut peers: Vec<PeerInfo> = view.peers.iter().map(info).collect();
        peers.sort_by(|a, b| b.me.cmp(&a.me).then_with(|| a.name.cmp(&b.name)).then_with(|| a.node.cmp(&b.node)));
        peers
    });
    PeersResult { peers: work.await.unwrap_or_default() }
}
