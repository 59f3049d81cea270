//! Sealing: XChaCha20-Poly1305 for frames and heads, HPKE (RFC 9180, base mode; X25519, HKDF-SHA256, ChaCha20-Poly1305) for the
//! keys of packs and heads. Every key is fresh and random, so nonces may be the numbers of frames.
//!
//! XChaCha20-Poly1305 is ChaCha20-Poly1305 under a key that HChaCha20 makes of the key and the first 16 bytes of the nonce
//! (draft-irtf-cfrg-xchacha). `chacha20poly1305` seals, and for frames the two crates that it is made of, by `seal_pieces`; `ring` opens, in
//! one pass. What is checked before it is signed is so opened by another implementation than the one that sealed it: an error in one of
//! them cannot become permanent.

use crate::frame::{self, FrameCompressor};
use backmesh_format::pack::{HEAD_FRAME, TAG_BYTES, frame_nonce};
use backmesh_format::record::{from_envelope, to_envelope};
use backmesh_format::stripe::KeySlot;
use backmesh_format::vault::{Head, HeadBody, WriterCert};
use backmesh_format::{Bytes, DecodeError, Reader, SealingKey, Writer, limits};
use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use chacha20::{R20, XChaCha20, hchacha};
use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305};
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use poly1305::Poly1305;
use poly1305::universal_hash::UniversalHash;
use rand_core::CryptoRng;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use std::io;
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

type HpkeKem = hpke::kem::X25519HkdfSha256;
type HpkeKdf = hpke::kdf::HkdfSha256;
type HpkeAead = hpke::aead::ChaCha20Poly1305;

/// What keeps a sealed key of ours from passing for anything else sealed to the same recipient.
const KEY_SLOT_INFO: &[u8] = b"backmesh 1 key slot";

/// The key of one pack or of one head's body. Erased from memory when dropped; never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PackKey([u8; 32]);

impl PackKey {
    /// A fresh key.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut key = Self([0; 32]);
        rng.fill_bytes(&mut key.0);
        key
    }

    /// The key that is these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key's bytes, for a spool that only its owner can read.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What opens under one nonce, and what is left of the nonce.
    #[expect(clippy::expect_used, reason = "the subkey has 32 bytes, as the cipher wants")]
    fn opener(&self, number: u64) -> (LessSafeKey, Nonce) {
        let nonce = frame_nonce(number);
        let (mut first, mut rest) = ([0; 16], [0; 12]);
        first.copy_from_slice(&nonce[..16]);
        rest[4..].copy_from_slice(&nonce[16..]);
        let subkey = Zeroizing::new(<[u8; 32]>::from(hchacha::<R20>(&self.0.into(), &first.into())));
        let unbound = UnboundKey::new(&CHACHA20_POLY1305, &subkey[..]).expect("32 bytes");
        (LessSafeKey::new(unbound), Nonce::assume_unique_for_key(rest))
    }
}

impl std::fmt::Debug for PackKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PackKey(..)")
    }
}

/// Seals bytes where they lie; what is returned belongs behind them.
#[expect(clippy::expect_used, reason = "the cipher refuses only more than 256 GiB, and a pack has at most 16 MiB")]
pub(crate) fn seal_in_place(key: &PackKey, number: u64, associated_data: &[u8], bytes: &mut [u8]) -> [u8; TAG_BYTES] {
    let cipher = XChaCha20Poly1305::new((&key.0).into());
    let tag = cipher.encrypt_inout_detached(&frame_nonce(number).into(), associated_data, bytes.into());
    tag.expect("within the cipher's limit").into()
}

/// ChaCha20 makes so many bytes of keystream at once; those before the first sealed byte are Poly1305's key.
const BLOCK_BYTES: u64 = 64;
/// Poly1305 takes so many bytes at once, or a quarter of them at a fraction of the speed.
const STRIDE_BYTES: usize = 64;

/// Seals pieces, one behind the other, into the front of `out`, with the tag behind them; how long that is together. The same bytes as of
/// [`seal_in_place`], without a copy before, and with Poly1305 at full speed: after the 40 bytes that are authenticated with a frame
/// `chacha20poly1305` goes on block by block (0.6 instead of 0.4 s/GB for both).
pub(crate) fn seal_pieces<'a>(
    key: &PackKey,
    number: u64,
    associated_data: &[u8],
    pieces: impl IntoIterator<Item = &'a [u8]>,
    out: &mut [u8],
) -> usize {
    let mut cipher = XChaCha20::new(&key.0.into(), &frame_nonce(number).into());
    let mut mac_key = Zeroizing::new([0; 32]);
    cipher.apply_keystream(&mut mac_key[..]);
    let mut mac = Poly1305::new((&*mac_key).into());
    cipher.seek(BLOCK_BYTES);
    let mut end = 0;
    for piece in pieces {
        cipher.apply_keystream_b2b(piece, &mut out[end..end + piece.len()]);
        end += piece.len();
    }
    let sealed = &out[..end];
    mac.update_padded(associated_data);
    let to_stride = associated_data.len().next_multiple_of(TAG_BYTES).wrapping_neg() % STRIDE_BYTES;
    let (first, rest) = sealed.split_at(to_stride.min(end));
    mac.update_padded(first);
    mac.update_padded(rest);
    let lengths = [associated_data.len() as u64, end as u64].map(u64::to_le_bytes);
    mac.update_padded(lengths.as_flattened());
    out[end..end + TAG_BYTES].copy_from_slice(&mac.finalize());
    end + TAG_BYTES
}

/// The bytes do not open.
#[derive(Debug)]
pub(crate) struct NotOurs;

/// Opens bytes where they lie. On failure they are of no more use.
pub(crate) fn open_in_place<'a>(
    key: &PackKey,
    number: u64,
    associated_data: &[u8],
    sealed: &'a mut [u8],
) -> Result<&'a mut [u8], NotOurs> {
    let (opener, nonce) = key.opener(number);
    opener.open_in_place(nonce, Aad::from(associated_data), sealed).map_err(|_| NotOurs)
}

/// Opens `sealed` into `plain`, whose bytes before are dropped. On failure `plain` is empty.
pub(crate) fn open_into(
    key: &PackKey,
    number: u64,
    associated_data: &[u8],
    sealed: &[u8],
    plain: &mut Vec<u8>,
) -> Result<(), NotOurs> {
    plain.clear();
    plain.extend_from_slice(sealed);
    let opened = open_in_place(key, number, associated_data, plain).map(|opened| opened.len());
    plain.truncate(*opened.as_ref().unwrap_or(&0));
    opened.map(|_| ())
}

/// Why a key could not be sealed.
#[derive(Debug, Error)]
pub enum SealKeyError {
    /// The public key is one with which no secret can be shared.
    #[error("the recipient's key {0} is not a usable X25519 key")]
    Recipient(SealingKey),
}

/// Why a key could not be opened.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum OpenKeyError {
    /// The slot is another's.
    #[error("the key was sealed to {0}, not to the key at hand")]
    OtherRecipient(SealingKey),
    /// The slot names the right recipient and does not open.
    #[error("the sealed key is damaged")]
    Damaged,
}

/// The public key that belongs to an unsealing secret.
#[expect(clippy::expect_used, reason = "any 32 bytes are an X25519 secret")]
pub fn sealing_key(secret: &[u8; 32]) -> SealingKey {
    let secret = <HpkeKem as Kem>::PrivateKey::from_bytes(secret).expect("32 bytes");
    SealingKey(HpkeKem::sk_to_pk(&secret).to_bytes().into())
}

/// Seals a key to one recipient.
///
/// # Errors
/// `Recipient` where the public key is degenerate.
pub fn seal_key(key: &PackKey, recipient: &SealingKey, rng: &mut impl CryptoRng) -> Result<KeySlot, SealKeyError> {
    let refused = |_| SealKeyError::Recipient(*recipient);
    let public = <HpkeKem as Kem>::PublicKey::from_bytes(&recipient.0).map_err(refused)?;
    let mut sealed = [0; 48];
    let (bytes, tag_bytes) = sealed.split_at_mut(32);
    bytes.copy_from_slice(&key.0);
    let (encapsulated, tag) = hpke::single_shot_seal_inout_detached_with_rng::<HpkeAead, HpkeKdf, HpkeKem>(
        &OpModeS::Base,
        &public,
        KEY_SLOT_INFO,
        bytes.into(),
        &[],
        rng,
    )
    .map_err(refused)?;
    tag_bytes.copy_from_slice(&tag.to_bytes());
    Ok(KeySlot { recipient: *recipient, encapsulated: encapsulated.to_bytes().into(), sealed })
}

/// Opens a key that was sealed to the owner of `secret`.
///
/// # Errors
/// `OtherRecipient` where it was sealed to somebody else, `Damaged` where its bytes are not what was sealed.
pub fn open_key(slot: &KeySlot, secret: &[u8; 32]) -> Result<PackKey, OpenKeyError> {
    if sealing_key(secret) != slot.recipient {
        return Err(OpenKeyError::OtherRecipient(slot.recipient));
    }
    let damaged = |_| OpenKeyError::Damaged;
    let secret = <HpkeKem as Kem>::PrivateKey::from_bytes(secret).map_err(damaged)?;
    let encapsulated = <HpkeKem as Kem>::EncappedKey::from_bytes(&slot.encapsulated).map_err(damaged)?;
    let mut key = PackKey([0; 32]);
    let (bytes, tag) = slot.sealed.split_at(32);
    key.0.copy_from_slice(bytes);
    let tag = hpke::aead::AeadTag::<HpkeAead>::from_bytes(tag).map_err(damaged)?;
    hpke::single_shot_open_inout_detached::<HpkeAead, HpkeKdf, HpkeKem>(
        &OpModeR::Base,
        &secret,
        &encapsulated,
        KEY_SLOT_INFO,
        (&mut key.0[..]).into(),
        &[],
        &tag,
    )
    .map_err(damaged)?;
    Ok(key)
}

/// Opens whichever of `slots` was sealed to the owner of `secret`.
///
/// # Errors
/// `OtherRecipient` with the first recipient where none was, `Damaged` where there are no slots at all or the right one is damaged.
pub fn open_any_key(slots: &[KeySlot], secret: &[u8; 32]) -> Result<PackKey, OpenKeyError> {
    let own = sealing_key(secret);
    match slots.iter().find(|slot| slot.recipient == own).or(slots.first()) {
        Some(slot) => open_key(slot, secret),
        None => Err(OpenKeyError::Damaged),
    }
}

/// Seals a key to each of `recipients`.
///
/// # Errors
/// As [`seal_key`].
pub fn seal_key_to_all(key: &PackKey, recipients: &[SealingKey], rng: &mut impl CryptoRng) -> Result<Vec<KeySlot>, SealKeyError> {
    recipients.iter().map(|recipient| seal_key(key, recipient, rng)).collect()
}

/// The smallest sealed body of a head, in bytes.
const HEAD_SEALED_BYTES_MIN: usize = 4 << 10;
/// The largest, in bytes: half of what a head may have in all.
const HEAD_SEALED_BYTES_MAX: usize = limits::HEAD_BYTES_MAX / 2;
/// A body before compression, in bytes.
const HEAD_BODY_BYTES_MAX: usize = limits::FRAME_BYTES_MAX as usize;

/// Why a head's body could not be sealed.
#[derive(Debug, Error)]
pub enum SealHeadError {
    /// More snapshots or segments than a head may name.
    #[error("the head's body of {found} bytes is longer than the {limit} allowed: move older snapshots into chunks")]
    TooLong {
        /// Its length, compressed or not.
        found: usize,
        /// The limit that it exceeds.
        limit: usize,
    },
    /// A recipient's key is unusable.
    #[error(transparent)]
    Key(#[from] SealKeyError),
    /// The compressor failed, most likely for want of memory.
    #[error("compressing failed: {0}")]
    Zstd(#[source] io::Error),
}

/// Seals a head's body: what goes into [`Head::keys`] and [`Head::sealed`].
///
/// Inside the seal: compression (u8: 0 none, 1 zstd) · length of the envelope (varint) · length of the bytes that follow (varint) ·
/// the envelope, compressed or not · zeros, so that the sealed length is a power of two.
///
/// # Errors
/// `TooLong` where a head could not hold it; `Key` where a recipient's key is unusable.
pub fn seal_head(
    body: &HeadBody,
    writer: &WriterCert,
    sequence: u64,
    recipients: &[SealingKey],
    rng: &mut impl CryptoRng,
) -> Result<(Vec<KeySlot>, Bytes), SealHeadError> {
    let envelope = to_envelope(body);
    let too_long = |found, limit| if found > limit { Err(SealHeadError::TooLong { found, limit }) } else { Ok(()) };
    too_long(envelope.len(), HEAD_BODY_BYTES_MAX)?;
    let mut compressor = FrameCompressor::new().map_err(SealHeadError::Zstd)?;
    let packed = compressor.compress(&envelope).map_err(SealHeadError::Zstd)?;
    let mut w = Writer::default();
    w.bytes(&[u8::from(packed.is_some())]);
    w.varint(envelope.len() as u64);
    w.var_bytes(packed.unwrap_or(&envelope));
    let mut sealed = w.finish();
    let sealed_bytes = (sealed.len() + TAG_BYTES).next_power_of_two().max(HEAD_SEALED_BYTES_MIN);
    too_long(sealed_bytes, HEAD_SEALED_BYTES_MAX)?;
    sealed.resize(sealed_bytes - TAG_BYTES, 0);
    let key = PackKey::random(rng);
    let tag = seal_in_place(&key, HEAD_FRAME, &Head::associated_data(writer, sequence), &mut sealed);
    sealed.extend_from_slice(&tag);
    Ok((seal_key_to_all(&key, recipients, rng)?, Bytes(sealed)))
}

/// Why a head's body could not be opened.
#[derive(Debug, Error)]
pub enum OpenHeadError {
    /// The key is not for the secret at hand, or is damaged.
    #[error("the head's key does not open: {0}")]
    Key(#[from] OpenKeyError),
    /// The body is not what was sealed for this vault, seat and sequence.
    #[error("the head's body is damaged or belongs to another head")]
    Seal,
    /// It was sealed with the right key, and still does not read: written by a faulty or a later program.
    #[error("the head's body cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// As before, in the compressed part.
    #[error("the head's body does not decompress")]
    Decompress,
}

/// Opens a head's body. Whether the head was signed by its writer is for the caller to ask before.
///
/// # Errors
/// Whatever is wrong; never panics, and memory stays within [`limits::FRAME_BYTES_MAX`] and the head's size.
pub fn open_head(head: &Head, secret: &[u8; 32]) -> Result<HeadBody, OpenHeadError> {
    let key = open_any_key(&head.keys, secret)?;
    let associated_data = Head::associated_data(&head.writer, head.sequence);
    let mut plain = Vec::new();
    open_into(&key, HEAD_FRAME, &associated_data, &head.sealed.0, &mut plain).map_err(|NotOurs| OpenHeadError::Seal)?;
    let mut r = Reader::new(&plain);
    let [compression] = r.array()?;
    let raw_bytes = r.varint_max("length of a head's body", HEAD_BODY_BYTES_MAX as u64)? as usize;
    let packed = r.var_bytes("length of a head's body", HEAD_SEALED_BYTES_MAX)?;
    match compression {
        0 => Ok(from_envelope(packed)?),
        1 => {
            let mut envelope = Vec::new();
            frame::decompress(&mut zstd::bulk::Decompressor::default(), packed, raw_bytes, &mut envelope)
                .map_err(|_| OpenHeadError::Decompress)?;
            Ok(from_envelope(&envelope)?)
        }
        _ => Err(DecodeError::Invalid("the compression of a head's body").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backmesh_format::index::ChunkRef;
    use backmesh_format::keys::{KeyPair, VaultSecret};
    use backmesh_format::{ChunkId, MachineId, NodeId, Signed};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn rng() -> StdRng {
        StdRng::seed_from_u64(1)
    }

    fn writer(secret: &VaultSecret) -> WriterCert {
        let key = KeyPair::from_secret(&[5; 32]).public();
        WriterCert {
            vault: secret.vault(),
            seat: 3,
            generation: 2,
            writer: key,
            sealing: sealing_key(&secret.unsealing_secret(2)),
            node: NodeId(key.0),
            machine: MachineId([6; 32]),
            written_at: 7,
        }
    }

    /// A body whose ids do not compress.
    fn body(chunks: usize) -> HeadBody {
        let mut rng = rng();
        let older = (0..chunks).map(|_| {
            let mut id = [0; 32];
            rng.fill_bytes(&mut id);
            ChunkRef { id: ChunkId(id), bytes: 9 }
        });
        HeadBody { older: older.collect(), ..HeadBody::default() }
    }

    fn head(secret: &VaultSecret, body: &HeadBody, sequence: u64) -> Head {
        let writer = writer(secret);
        let (keys, sealed) = seal_head(body, &writer, sequence, &[writer.sealing], &mut rng()).unwrap();
        Head { writer: Signed::new(writer, &[&secret.root()]), sequence, previous: None, written_at: 1, keys, sealed }
    }

    #[test]
    fn what_one_implementation_seals_the_other_opens() {
        let (key, mut plain) = (PackKey::random(&mut rng()), vec![0; 100_001]);
        rng().fill_bytes(&mut plain);
        for (number, bytes) in [(0, 0), (1, 1), (77, 64), (u64::MAX, 1000), (u64::MAX - 1, 100_001)] {
            let mut sealed = plain[..bytes].to_vec();
            let tag = seal_in_place(&key, number, b"with it", &mut sealed);
            let (cipher, nonce) = key.opener(number);
            let mut theirs = plain[..bytes].to_vec();
            let expected = cipher.seal_in_place_separate_tag(nonce, Aad::from(b"with it"), &mut theirs).unwrap();
            assert_eq!((&sealed, &tag[..]), (&theirs, expected.as_ref()));
            let mut opened = Vec::new();
            open_into(&key, number, b"with it", &[&sealed[..], &tag].concat(), &mut opened).unwrap();
            assert_eq!(opened, &plain[..bytes]);
        }
    }

    #[test]
    fn pieces_are_sealed_as_the_whole_is() {
        let (key, mut plain) = (PackKey::random(&mut rng()), vec![0; 3000]);
        rng().fill_bytes(&mut plain);
        for associated_data in [0, 1, 16, 40, 48, 49, 64, 100].map(|bytes| vec![9; bytes]) {
            for bytes in (0..200).chain([1024, 2999, 3000]) {
                let mut whole = plain[..bytes].to_vec();
                let tag = seal_in_place(&key, 5, &associated_data, &mut whole);
                whole.extend_from_slice(&tag);
                for cut in [0, 1, bytes / 3, bytes / 2, bytes] {
                    let cut = cut.min(bytes);
                    let mut sealed = vec![0xaa; bytes + TAG_BYTES + 1];
                    let pieces = [&plain[..cut], &plain[cut..cut], &plain[cut..bytes]];
                    let sealed_bytes = seal_pieces(&key, 5, &associated_data, pieces, &mut sealed);
                    assert_eq!(
                        sealed[..sealed_bytes],
                        whole,
                        "{bytes} bytes cut at {cut}, {} authenticated",
                        associated_data.len()
                    );
                }
            }
        }
    }

    #[test]
    fn a_key_opens_for_its_recipient_only() {
        let (key, secret) = (PackKey::random(&mut rng()), [7; 32]);
        let slot = seal_key(&key, &sealing_key(&secret), &mut rng()).unwrap();
        assert_eq!(open_key(&slot, &secret).unwrap().as_bytes(), key.as_bytes());
        assert_eq!(open_key(&slot, &[8; 32]).unwrap_err(), OpenKeyError::OtherRecipient(slot.recipient));
        let renamed = KeySlot { recipient: sealing_key(&[8; 32]), ..slot };
        assert_eq!(open_key(&renamed, &[8; 32]).unwrap_err(), OpenKeyError::Damaged);
        for at in 0..48 {
            let mut bad = slot.clone();
            bad.sealed[at] ^= 1;
            assert_eq!(open_key(&bad, &secret).unwrap_err(), OpenKeyError::Damaged);
        }
        for at in 0..32 {
            let mut bad = slot.clone();
            bad.encapsulated[at] ^= 4;
            assert_eq!(open_key(&bad, &secret).unwrap_err(), OpenKeyError::Damaged);
        }
    }

    #[test]
    fn the_right_one_of_several_slots_is_found() {
        let key = PackKey::random(&mut rng());
        let recipients: Vec<SealingKey> = (1..4).map(|byte| sealing_key(&[byte; 32])).collect();
        let slots = seal_key_to_all(&key, &recipients, &mut rng()).unwrap();
        for byte in 1..4 {
            assert_eq!(open_any_key(&slots, &[byte; 32]).unwrap().as_bytes(), key.as_bytes());
        }
        assert!(open_any_key(&slots, &[9; 32]).is_err());
        assert!(open_any_key(&[], &[9; 32]).is_err());
    }

    #[test]
    fn degenerate_recipients_are_refused() {
        assert!(matches!(seal_key(&PackKey::new([1; 32]), &SealingKey([0; 32]), &mut rng()), Err(SealKeyError::Recipient(_))));
    }

    #[test]
    fn heads_come_back_and_hide_their_length() {
        let secret = VaultSecret::new([1; 32]);
        for (chunks, expected) in [(0, 4096), (100, 4096), (130, 8192), (1100, 65536)] {
            let body = body(chunks);
            let head = head(&secret, &body, 9);
            assert_eq!(head.sealed.0.len(), expected, "{chunks}");
            assert_eq!(open_head(&head, &secret.unsealing_secret(2)).unwrap(), body);
        }
    }

    #[test]
    fn a_head_is_bound_to_its_place() {
        let secret = VaultSecret::new([1; 32]);
        let unsealing = secret.unsealing_secret(2);
        let good = head(&secret, &body(3), 9);
        let replayed = Head { sequence: 10, ..good.clone() };
        assert!(matches!(open_head(&replayed, &unsealing), Err(OpenHeadError::Seal)));
        let moved = WriterCert { seat: 4, ..writer(&secret) };
        let moved = Head { writer: Signed::new(moved, &[&secret.root()]), ..good.clone() };
        assert!(matches!(open_head(&moved, &unsealing), Err(OpenHeadError::Seal)));
        assert!(matches!(
            open_head(&good, &secret.unsealing_secret(1)),
            Err(OpenHeadError::Key(OpenKeyError::OtherRecipient(_)))
        ));
        for at in (0..good.sealed.0.len()).step_by(97) {
            let mut bad = good.clone();
            bad.sealed.0[at] ^= 0x10;
            assert!(matches!(open_head(&bad, &unsealing), Err(OpenHeadError::Seal)));
        }
        let short = Head { sealed: Bytes(vec![1; 15]), ..good };
        assert!(matches!(open_head(&short, &unsealing), Err(OpenHeadError::Seal)));
    }

    #[test]
    fn a_head_that_cannot_be_held_is_not_sealed() {
        let secret = VaultSecret::new([1; 32]);
        let writer = writer(&secret);
        let sealed = seal_head(&body(20_000), &writer, 1, &[writer.sealing], &mut rng());
        assert!(matches!(sealed, Err(SealHeadError::TooLong { .. })));
    }

    #[test]
    fn keys_are_not_printed() {
        assert_eq!(format!("{:?}", PackKey::new([0xab; 32])), "PackKey(..)");
    }
}
