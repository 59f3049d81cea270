//! What the lying member does unasked: to its victim, and in the victim's name to others. All of it ends when it turns to something else.

use super::{Behaviour, Core, dialled, tcp_place};
use anyhow::{Context, Result};
use backmesh_format::copyset::{Copyset, Release};
use backmesh_format::keyfile;
use backmesh_format::keys::KeyPair;
use backmesh_format::membership::{MemberState, Revocation};
use backmesh_format::vault::VaultPointer;
use backmesh_format::wire::Bytes;
use backmesh_format::{NodeId, PackId, Signed};
use backmesh_mesh::directory::DirectoryRecord;
use backmesh_mesh::message::{Hello, MESH_FRAME_BYTES_MAX, Message, RawRecord, ReadRequest, Reader, StoreRequest};
use backmesh_net::{FrameReader, FrameWriter, Net, NetConfig, Protocol};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Streams that are opened.
const STREAMS: usize = 10_000;
/// Tiny records, and tiny requests.
const TINY: usize = 1_000_000;
/// Connections that say nothing.
const SILENT: usize = 400;
/// How long one step may take: what is not read is not waited for.
const STEP: Duration = Duration::from_secs(20);
/// Between one attack and the next of its kind.
const AGAIN: Duration = Duration::from_secs(1);

/// Attacks the node at an address until the member turns to something else.
pub(super) async fn begin(core: Arc<Core>, behaviour: Behaviour, victim: String) {
    let mut turned = core.behaviour.subscribe();
    if *turned.borrow_and_update() != behaviour {
        return;
    }
    let attacking = async {
        loop {
            let step = match behaviour {
                Behaviour::HalfOpen => half_open(&victim).await,
                Behaviour::Streams => streams(&core, &victim).await,
                Behaviour::Endless => endless(&core, &victim).await,
                Behaviour::Tiny => tiny(&core, &victim).await,
                Behaviour::Forges => forge(&core, &victim).await,
                Behaviour::Replays => replay(&core).await,
                Behaviour::Foreign => foreign(&core, &victim).await,
                Behaviour::Revoked => revoked(&core, &victim).await,
                _ => return,
            };
            // Being thrown out is the point of it.
            drop(step);
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::select! { () = attacking => {}, _ = turned.changed() => {} }
}

/// Connections that say nothing, and others that stop in the middle of a handshake; held for a while.
async fn half_open(victim: &str) -> Result<()> {
    let place = tcp_place(victim)?;
    let mut held = Vec::new();
    for number in 0..SILENT {
        let Ok(mut socket) = TcpStream::connect(&place).await else { continue };
        if number % 2 == 1 {
            socket.write_all(b"\x13/multistream/1.0.0\n\x07/noise\n").await.ok();
        }
        held.push(socket);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    Ok(())
}

async fn streams(core: &Core, victim: &str) -> Result<()> {
    let peer = dialled(core, victim).await?;
    let mut held = Vec::new();
    for number in 0..STREAMS {
        let protocol = if number % 2 == 0 { Protocol::Store } else { Protocol::Read };
        match timeout(Duration::from_millis(200), core.net.open(peer, protocol)).await {
            Ok(Ok(stream)) => held.push(stream),
            _ => tokio::task::yield_now().await,
        }
    }
    Ok(())
}

async fn endless(core: &Core, victim: &str) -> Result<()> {
    let peer = dialled(core, victim).await?;
    let part = vec![0x55; 16 << 20];
    let parts: Vec<&[u8]> = (0..200).map(|_| &part[..]).collect();
    for protocol in [Protocol::Store, Protocol::Read, Protocol::Mesh] {
        let (_reader, mut writer) = core.net.open(peer, protocol).await?.split();
        timeout(STEP, writer.send_parts(&parts)).await.ok();
    }
    Ok(())
}

/// A stream of the mesh on which it has greeted.
async fn greeted(core: &Core, net: &Net, peer: NodeId) -> Result<(FrameReader, FrameWriter)> {
    let (mut reader, mut writer) = net.open(peer, Protocol::Mesh).await?.split();
    let hello = Hello {
        program: "liar".to_owned(),
        workgroup: core.state.charter()?.workgroup_id(),
        certificate: Some(core.state.certificate()?),
        admissions: Vec::new(),
        charter: Some(core.state.charter()?),
        observed: String::new(),
    };
    writer.send(&Message::Hello(Box::new(hello)).encode()).await?;
    writer.flush().await?;
    timeout(STEP, reader.next(MESH_FRAME_BYTES_MAX)).await??;
    Ok((reader, writer))
}

async fn tiny(core: &Core, victim: &str) -> Result<()> {
    let peer = dialled(core, victim).await?;
    let (_reader, mut mesh) = greeted(core, &core.net, peer).await?;
    let record = |number: usize| RawRecord { kind: 5, bytes: Bytes((number as u32).to_le_bytes().to_vec()) };
    for batch in 0..TINY / 10_000 {
        let records = (0..10_000).map(|at| record(batch * 10_000 + at)).collect();
        let sent = timeout(STEP, mesh.send(&Message::Records { records }.encode())).await;
        if !matches!(sent, Ok(Ok(()))) {
            break;
        }
    }
    timeout(STEP, mesh.flush()).await.ok();
    // Requests that mean nothing, each of one byte.
    let (_reader, mut store) = core.net.open(peer, Protocol::Store).await?.split();
    for _ in 0..TINY {
        let sent = timeout(STEP, store.send(&[0])).await;
        if !matches!(sent, Ok(Ok(()))) {
            break;
        }
    }
    Ok(())
}

/// Records in the names of others: for the directory of the victim, and for the other holders of its vault.
async fn forge(core: &Core, victim: &str) -> Result<()> {
    let peer = dialled(core, victim).await?;
    let own = KeyPair::from_secret(&[0x66; 32]);
    let workgroup = core.state.charter()?.workgroup_id();
    let state = |number: u8| MemberState {
        workgroup,
        node: peer,
        sequence: 1_000_000 + u64::from(number),
        addresses: vec!["/ip4/127.0.0.1/tcp/9".to_owned()],
        offered_bytes: 0,
        free_bytes: 0,
        uptime_permille: 0,
        program: String::new(),
        written_at: 1,
    };
    let (_reader, mut mesh) = greeted(core, &core.net, peer).await?;
    let records: Vec<RawRecord> =
        (0..64).map(|number| DirectoryRecord::State(Box::new(Signed::new(state(number), &[&own]))).to_raw()).collect();
    mesh.send(&Message::Records { records }.encode()).await?;
    mesh.flush().await?;
    let sets: Vec<Signed<Copyset>> = core.kept().sets.values().cloned().collect();
    let pointers = sets.iter().map(|set| {
        let pointer =
            VaultPointer { workgroup, writer: set.writer.clone(), sequence: 1_000_000, holders: vec![core.members.me()] };
        DirectoryRecord::Pointer(Box::new(Signed::new(pointer, &[&own]))).to_raw()
    });
    mesh.send(&Message::Records { records: pointers.collect() }.encode()).await?;
    mesh.flush().await?;
    for set in &sets {
        let plan = Copyset { sequence: set.sequence + 1000, closed: true, ..(**set).clone() };
        let release = Release {
            writer: set.writer.clone(),
            sequence: 1_000_000,
            packs: core.kept().shards.keys().map(|(pack, _)| *pack).take(100).collect::<Vec<PackId>>(),
            first_shard: 0,
        };
        let requests = [
            StoreRequest::Copyset { call: 1, copyset: Box::new(Signed::new(plan, &[&own])) },
            StoreRequest::Release { call: 2, release: Box::new(Signed::new(release, &[&own])) },
        ];
        for holder in set.slots.iter().filter(|holder| **holder != core.members.me()) {
            let Ok(stream) = core.net.open(*holder, Protocol::Store).await else { continue };
            let (_reader, mut writer) = stream.split();
            for request in &requests {
                writer.send(&request.encode_parts().0).await.ok();
            }
            writer.flush().await.ok();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

/// What an owner sent here, sent to everyone else.
async fn replay(core: &Core) -> Result<()> {
    let captured = core.kept().captured.clone();
    let others: Vec<NodeId> = core.net.peers();
    for other in others {
        for frame in &captured {
            let is_proof =
                matches!(ReadRequest::decode(frame), Ok(ReadRequest::Prove { how: Reader::Writer(_) | Reader::Root, .. }));
            let protocol = if is_proof { Protocol::Read } else { Protocol::Store };
            let Ok(stream) = core.net.open(other, protocol).await else { break };
            let (mut reader, mut writer) = stream.split();
            if timeout(STEP, writer.send(frame)).await.is_err() || writer.flush().await.is_err() {
                continue;
            }
            timeout(Duration::from_millis(200), reader.next(MESH_FRAME_BYTES_MAX)).await.ok();
        }
    }
    Ok(())
}

/// A stranger who shows this member's certificate, and its own.
async fn foreign(core: &Core, victim: &str) -> Result<()> {
    let mut config = NetConfig::new(KeyPair::from_secret(&[0x67; 32]));
    config.listen = Vec::new();
    let (net, _events) = Net::start(config).await?;
    let peer = net.dial(victim, None).await?;
    greeted(core, &net, peer).await?;
    let (_reader, mut writer) = net.open(peer, Protocol::Store).await?.split();
    let captured = core.kept().sets.values().next().cloned();
    if let Some(copyset) = captured {
        writer.send(&StoreRequest::Copyset { call: 1, copyset: Box::new(copyset) }.encode_parts().0).await?;
        writer.flush().await?;
    }
    net.shutdown().await;
    Ok(())
}

/// Tells the victim that it is revoked, as an admin would, and then goes on as before.
async fn revoked(core: &Core, victim: &str) -> Result<()> {
    let peer = dialled(core, victim).await?;
    let folder = core.state.folder().parent().context("the group's folder")?;
    let admin = keyfile::parse("admin key", &std::fs::read_to_string(folder.join("admin.key"))?)?;
    let admin = KeyPair::from_secret(admin.first().context("a key")?);
    let revocation = Revocation {
        workgroup: core.state.charter()?.workgroup_id(),
        node: core.members.me(),
        reason: "a test".to_owned(),
        written_at: 1,
    };
    let record = DirectoryRecord::Revocation(Box::new(Signed::new(revocation, &[&admin]))).to_raw();
    if let Ok((_reader, mut mesh)) = greeted(core, &core.net, peer).await {
        mesh.send(&Message::Records { records: vec![record] }.encode()).await?;
        mesh.flush().await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    greeted(core, &core.net, peer).await?;
    Ok(())
}
