//! A peer's stream, cut into frames: whatever comes, in whatever pieces.

use super::{choose, chosen};
use backmesh_mesh::message::{MESH_FRAME_BYTES_MAX, Message, READ_REQUEST_FRAME_BYTES_MAX, STORE_REPLY_FRAME_BYTES_MAX};
use backmesh_net::{Begun, FrameError, Intake};

/// What a reader allows of one frame, in bytes: as the streams do, and as none does.
const ALLOWED: [usize; 5] = [MESH_FRAME_BYTES_MAX, READ_REQUEST_FRAME_BYTES_MAX, STORE_REPLY_FRAME_BYTES_MAX, 0, usize::MAX];

/// How a stream goes on behind its whole frames.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// With its end mark.
    Well,
    /// In the middle of a header or of a frame.
    CutOff,
    /// With a longer frame than is allowed.
    TooLong,
}

/// What the bytes are, read at one go.
fn expected(mut rest: &[u8], bytes_max: usize) -> (Vec<&[u8]>, Ended) {
    let mut frames = Vec::new();
    loop {
        let Some((length, behind)) = rest.split_first_chunk() else { return (frames, Ended::CutOff) };
        let length = u32::from_le_bytes(*length);
        if length == u32::MAX {
            return (frames, Ended::Well);
        }
        if length as usize > bytes_max {
            return (frames, Ended::TooLong);
        }
        let Some((frame, behind)) = behind.split_at_checked(length as usize) else { return (frames, Ended::CutOff) };
        frames.push(frame);
        rest = behind;
    }
}

/// The first byte says what is allowed and how long the pieces are; the rest is the stream.
pub fn run(bytes: &[u8]) {
    let (choice, stream) = choose(bytes);
    let bytes_max = ALLOWED[usize::from(choice) % ALLOWED.len()];
    let piece_bytes = 1 << (usize::from(choice) / ALLOWED.len() % 20);
    let (mut intake, mut rest) = (Intake::default(), stream);
    let (mut frames, mut told) = (Vec::new(), None);
    let ended = loop {
        let begun = match intake.begin(bytes_max) {
            Ok(Some(Begun::End)) => break Ended::Well,
            Err(FrameError::TooLong { bytes, .. }) => {
                assert!(bytes > bytes_max as u64);
                break Ended::TooLong;
            }
            Err(error) => panic!("{error}"),
            Ok(begun) => begun,
        };
        assert!(told.is_none() || told == begun, "a frame that has begun stays the next one");
        assert!(begun.is_none() || intake.has_begun());
        told = begun;
        let room = intake.room();
        if room.is_empty() {
            let frame = intake.take().expect("where there is no room for more, the frame is whole");
            assert!(told.take() == Some(Begun::Frame(frame.len())), "it is as long as was told");
            frames.push(frame);
            continue;
        }
        let count = room.len().min(piece_bytes).min(rest.len());
        if count == 0 {
            break Ended::CutOff;
        }
        let (piece, behind) = rest.split_at(count);
        room[..count].copy_from_slice(piece);
        intake.arrived(count);
        rest = behind;
    };
    let (whole, then) = expected(stream, bytes_max);
    assert!(frames == whole && ended == then, "{} frames of {}, {ended:?} for {then:?}", frames.len(), whole.len());
}

/// Streams as peers write them, and some that end too early or announce too much.
pub fn seeds() -> Vec<Vec<u8>> {
    let frame = |bytes: &[u8]| [&(bytes.len() as u32).to_le_bytes()[..], bytes].concat();
    let end = u32::MAX.to_le_bytes().to_vec();
    let talk: Vec<u8> = super::messages::mesh_messages().iter().flat_map(|message| frame(&Message::encode(message))).collect();
    let small = [frame(b""), frame(b"a"), frame(&[7; 300]), end.clone()].concat();
    let large = [frame(&[1; 70_000]), frame(&vec![2; 140_000]), end.clone()].concat();
    let announced = [frame(b"whole"), (1_u32 << 30).to_le_bytes().to_vec(), vec![3; 200]].concat();
    let streams = [[&talk[..], &end].concat(), small, large, talk[..talk.len() - 3].to_vec(), announced];
    let (allowed, pieces) = (ALLOWED.len() as u8, [0, 4, 13, 16]);
    let choices = pieces.into_iter().flat_map(|piece| (0..allowed).map(move |which| piece * allowed + which));
    choices
        .flat_map(|choice| chosen(choice, streams.iter().filter(|stream| choice / allowed > 3 || stream.len() < 20_000).cloned()))
        .collect()
}
