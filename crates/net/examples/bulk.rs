//! How fast frames move between two nodes on loopback, and what both ends together pay for it.
//!
//! `cargo run --release -p backmesh-net --example bulk [FRAME_KIB=1024] [STREAMS=1] [GIB=2] [ROUND_TRIP_MS=0]`
//!
//! With a round trip a proxy between the two holds all bytes back for half of it in each direction; its own work is counted too.

use anyhow::{Context, Result};
use backmesh_format::keys::KeyPair;
use backmesh_net::{FrameWriter, Net, NetConfig, NetEvent, Protocol};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let numbers: Vec<usize> = std::env::args().skip(1).map(|arg| arg.parse()).collect::<Result<_, _>>()?;
    let frame_kib = numbers.first().copied().unwrap_or(1024);
    let streams = numbers.get(1).copied().unwrap_or(1);
    let gib = numbers.get(2).copied().unwrap_or(2);
    let frames = (gib << 20) / frame_kib / streams;

    let (sink, mut sink_events) = start(1, &["127.0.0.1:0"]).await?;
    let (source, _source_events) = start(2, &[]).await?;
    let mut address = sink.addresses().pop().context("no address")?;
    if let Some(round_trip_ms) = numbers.get(3) {
        let port = address.parse::<backmesh_net::Address>()?.port;
        address = delay_line(port, Duration::from_millis(*round_trip_ms as u64) / 2).await?;
    }
    let peer = source.dial(&address, None).await?;
    let reading = tokio::spawn(async move {
        let mut readers = tokio::task::JoinSet::new();
        while readers.len() < streams {
            if let Some(NetEvent::Inbound { stream, .. }) = sink_events.recv().await {
                readers.spawn(async move {
                    let (mut reader, writer) = stream.split();
                    let mut bytes = 0;
                    while let Some(frame) = reader.next(64 << 20).await? {
                        bytes += frame.len();
                    }
                    writer.close().await?;
                    anyhow::Ok(bytes)
                });
            }
        }
        readers.join_all().await.into_iter().sum::<Result<usize>>()
    });

    let (begun, cpu_begun) = (Instant::now(), cpu_seconds()?);
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..streams {
        let (mut reader, writer) = source.open(peer, Protocol::Store).await?.split();
        writers.spawn(async move {
            send(writer, frame_kib << 10, frames).await?;
            anyhow::ensure!(reader.next(0).await?.is_none(), "the sink answers with its end alone");
            Ok(())
        });
    }
    writers.join_all().await.into_iter().collect::<Result<()>>()?;
    let bytes = reading.await??;
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds()? - cpu_begun);
    anyhow::ensure!(bytes == (frames * streams * frame_kib) << 10, "{bytes} bytes arrived");
    let gigabytes = bytes as f64 / 1e9;
    println!(
        "{frame_kib} KiB frames, {streams} streams: {:.0} MB/s, {:.2} CPU s/GB for both ends, peak memory {} MiB",
        gigabytes * 1000.0 / seconds,
        cpu / gigabytes,
        peak_memory_kib()? >> 10
    );
    source.shutdown().await;
    sink.shutdown().await;
    Ok(())
}

async fn start(seed: u8, listen: &[&str]) -> Result<(Net, tokio::sync::mpsc::Receiver<NetEvent>)> {
    let mut config = NetConfig::new(KeyPair::from_secret(&[seed; 32]));
    config.listen = listen.iter().map(|address| (*address).to_owned()).collect();
    Ok(Net::start(config).await?)
}

async fn send(mut writer: FrameWriter, frame_bytes: usize, frames: usize) -> Result<()> {
    let payload = vec![0x5a; frame_bytes - 64];
    for number in 0..frames {
        let mut head = [0; 64];
        head[..8].copy_from_slice(&(number as u64).to_le_bytes());
        writer.send_parts(&[&head, &payload]).await?;
    }
    writer.close().await?;
    Ok(())
}

/// A proxy to the port that holds everything back for `delay`, each way.
async fn delay_line(port: u16, delay: Duration) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(async move {
        let (near, _) = listener.accept().await?;
        let far = TcpStream::connect(("127.0.0.1", port)).await?;
        far.set_nodelay(true)?;
        near.set_nodelay(true)?;
        let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
        tokio::try_join!(hold_back(near_read, far_write, delay), hold_back(far_read, near_write, delay))?;
        anyhow::Ok(())
    });
    Ok(address)
}

async fn hold_back(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, delay: Duration) -> Result<()> {
    // Room for what a line of 1 GB/s holds in 100 ms.
    let (entry, mut exit) = tokio::sync::mpsc::channel::<(tokio::time::Instant, Vec<u8>)>(1600);
    let writing = tokio::spawn(async move {
        while let Some((due, bytes)) = exit.recv().await {
            tokio::time::sleep_until(due).await;
            to.write_all(&bytes).await?;
        }
        anyhow::Ok(())
    });
    loop {
        let mut bytes = Vec::with_capacity(64 << 10);
        if from.read_buf(&mut bytes).await? == 0 {
            break;
        }
        entry.send((tokio::time::Instant::now() + delay, bytes)).await?;
    }
    drop(entry);
    writing.await?
}

fn cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit(") ").next().context("malformed stat")?;
    let fields: Vec<&str> = after_name.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(ticks as f64 / 100.0)
}

fn peak_memory_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
