//! What must hold whatever happens to the disk: each scenario is run once for every call that it makes, with that call failing,
//! finding no space, or being the last before kill -9 or a power cut.

mod chunk_index;
mod damage;
mod fixtures;
mod log;
mod records;
mod shelf;
mod spool;
mod stat_cache;
mod unconfirmed;

use crate::SharedDisk;
use crate::faulty::{Fault, FaultyDisk};
use backmesh_format::id::{ChunkId, CopysetId, PackId, VaultId};
use backmesh_format::index::{FramePlace, PackPlace};
use backmesh_format::pack::SizeClass;
use std::path::Path;
use std::sync::Arc;

/// Seeds of power cuts tried at each call.
const POWER_CUTS: u64 = 2;

fn dir() -> &'static Path {
    Path::new("/state")
}

fn shared(disk: &FaultyDisk) -> SharedDisk {
    Arc::new(disk.clone())
}

/// Runs `work` on a fresh disk once for every call it makes and every way in which that call can fail; then restarts the disk and
/// lets `check` compare what `work` returned with what is there.
fn at_every_call<T>(work: impl Fn(&FaultyDisk) -> T, check: impl Fn(&FaultyDisk, T, &str)) {
    let whole = FaultyDisk::new();
    let done = work(&whole);
    let calls = whole.calls();
    whole.kill();
    check(&whole, done, "nothing failed");
    for call in 0..calls {
        for fault in [Fault::Fail, Fault::Full, Fault::Stop] {
            for cut in 0..=POWER_CUTS {
                let disk = FaultyDisk::new();
                disk.fail_at(call, fault);
                let done = work(&disk);
                if cut == 0 {
                    disk.kill();
                } else {
                    disk.cut_power(call * 31 + cut);
                }
                check(&disk, done, &format!("call {call} of {calls}, {fault:?}, {cut}"));
            }
        }
    }
}

/// Whether an error tells people to start the machine again, so that a scenario must not go on.
fn ends_the_run<T, E: std::error::Error>(result: &Result<T, E>) -> bool {
    result.as_ref().is_err_and(|error| error.to_string().contains("start the machine again"))
}

fn id(number: u64) -> [u8; 32] {
    *blake3::hash(&number.to_le_bytes()).as_bytes()
}

fn pack(number: u64) -> PackId {
    PackId(id(number))
}

fn chunk(number: u64) -> ChunkId {
    ChunkId(id(number + (1 << 32)))
}

fn vault(number: u64) -> VaultId {
    VaultId(id(number + (2 << 32)))
}

fn copyset(number: u64) -> CopysetId {
    CopysetId(id(number + (3 << 32)))
}

fn place(number: u64) -> PackPlace {
    PackPlace { pack: pack(number), copyset: copyset(number % 3), class: SizeClass::M1 }
}

fn frame_place(number: u64) -> FramePlace {
    let number = number as u32;
    FramePlace { frame: number, frame_offset: number * 100, frame_sealed_bytes: 1000, offset: number, bytes: 77 }
}
