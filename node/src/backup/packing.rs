//! From frames of chunks to stripes in the outbox: threads that compress, seal, code and check, each with packs of its own.

use super::BackupError;
use crate::outbox::Outbox;
use crate::report::Report;
use crate::sets::Sets;
use crate::vault::Writer;
use backmesh_codec::buffer::Buffers;
use backmesh_codec::frame::FrameDraft;
use backmesh_codec::pack::{FinishedPack, PackAssembler, pack_overhead_bytes};
use backmesh_codec::stripe::{StripeTemplate, build};
use backmesh_format::index::{PackPlace, Place};
use backmesh_format::keys::ChunkIdKey;
use backmesh_format::pack::SizeClass;
use backmesh_format::stripe::Purpose;
use backmesh_format::{ChunkId, SealingKey};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

/// What all packing of one backup shares.
pub(crate) struct Packing {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) sets: Arc<Sets>,
    pub(crate) writer: Arc<Writer>,
    pub(crate) id_key: ChunkIdKey,
    pub(crate) recipients: Vec<SealingKey>,
    /// Memory for frames, packs and shards.
    pub(crate) buffers: Buffers,
    /// Sealed bytes, with padding, before redundancy.
    pub(crate) bytes_added: AtomicU64,
    /// Who asked for the backup, and may ask it to stop.
    pub(crate) report: Report,
    /// Set when one thread fails, so that the others stop.
    pub(crate) failed: AtomicBool,
}

/// Frames on their way to the packing threads.
pub(crate) type Frames = mpsc::SyncSender<FrameDraft>;

/// Packs all frames that come through `frames`, shared with other threads, until there are no more or one thread has failed.
pub(crate) fn pack_frames(
    packing: &Packing,
    purpose: Purpose,
    frames: &Mutex<mpsc::Receiver<FrameDraft>>,
) -> Result<(), BackupError> {
    let packed = pack_until_end(packing, purpose, frames);
    if packed.is_err() {
        packing.failed.store(true, Ordering::Relaxed);
    }
    packed
}

fn pack_until_end(packing: &Packing, purpose: Purpose, frames: &Mutex<mpsc::Receiver<FrameDraft>>) -> Result<(), BackupError> {
    let mut packs = Packs::new(packing, purpose)?;
    let next = || frames.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
    while let Some(draft) = next() {
        if packing.failed.load(Ordering::Relaxed) {
            return Err(BackupError::Stopped);
        }
        packs.push(draft)?;
    }
    packs.finish()
}

/// One assembler and what becomes of its packs.
pub(crate) struct Packs<'a> {
    packing: &'a Packing,
    purpose: Purpose,
    assembler: PackAssembler,
    placed: Option<Vec<(ChunkId, Place)>>,
}

impl<'a> Packs<'a> {
    pub(crate) fn new(packing: &'a Packing, purpose: Purpose) -> Result<Self, BackupError> {
        let shape = packing.sets.shape_of(purpose)?;
        let assembler =
            PackAssembler::new(target_class(shape.k), pack_overhead_bytes(shape.k, shape.n))?.within(packing.buffers.clone());
        Ok(Self { packing, purpose, assembler, placed: None })
    }

    /// Remembers where each chunk was put instead of listing it in the index, for those who name it by place.
    pub(crate) fn unlisted(mut self) -> Self {
        self.placed = Some(Vec::new());
        self
    }

    pub(crate) fn push(&mut self, draft: FrameDraft) -> Result<(), BackupError> {
        self.assembler.push(draft)?;
        while let Some(pack) = self.assembler.take_full(&mut rand::rng())? {
            self.send(pack)?;
        }
        Ok(())
    }

    /// Seals what is left; where everything was put, if that was to be remembered.
    pub(crate) fn flush(&mut self) -> Result<Vec<(ChunkId, Place)>, BackupError> {
        for pack in self.assembler.flush(&mut rand::rng())? {
            self.send(pack)?;
        }
        Ok(self.placed.as_mut().map(std::mem::take).unwrap_or_default())
    }

    fn finish(mut self) -> Result<(), BackupError> {
        self.flush().map(|_| ())
    }

    fn send(&mut self, pack: FinishedPack) -> Result<(), BackupError> {
        let Packing { outbox, sets, writer, id_key, recipients, buffers, bytes_added, report, .. } = self.packing;
        let (set, shape) = sets.for_pack(self.purpose, pack.class)?;
        let certificate = &writer.certificate;
        let template = StripeTemplate {
            vault: certificate.vault,
            copyset: set.copyset,
            purpose: self.purpose,
            k: shape.k,
            n: shape.n,
            generation: certificate.generation,
            seat: certificate.seat,
        };
        let mut stripe = build(pack, &template, recipients, &writer.key, id_key, buffers, &mut rand::rng())?;
        bytes_added.fetch_add(stripe.class.bytes().into(), Ordering::Relaxed);
        if let Some(placed) = &mut self.placed {
            let pack = PackPlace { pack: stripe.record.pack, copyset: set.copyset, class: stripe.class };
            placed.extend(stripe.chunks.drain(..).map(|(id, at)| (id, Place { pack, at })));
        }
        outbox.submit(stripe, set, report)?;
        Ok(())
    }
}

/// The largest pack of a code: its shards are about 1 MiB, so that a stripe in memory stays small.
fn target_class(k: u8) -> SizeClass {
    if k < 8 { SizeClass::M4 } else { SizeClass::M16 }
}
