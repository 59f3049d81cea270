//! What libFuzzer found worth keeping, as `tests/fuzz/corpora` has it: for each target one file of inputs, each behind its length (u32),
//! compressed.

use std::fs;
use std::io;
use std::path::PathBuf;

/// The most that is kept of one target, in bytes before compression: the shortest inputs.
const KEPT_BYTES_MAX: usize = 1 << 20;
/// The longest input that is kept, in bytes.
const INPUT_BYTES_MAX: usize = 16 << 10;

fn path(target: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpora")).join(format!("{target}.zst"))
}

/// The inputs that are kept of a target; none where there is no file.
pub fn kept(target: &str) -> Vec<Vec<u8>> {
    let Ok(file) = fs::read(path(target)) else { return Vec::new() };
    let bytes = zstd::bulk::decompress(&file, 2 * KEPT_BYTES_MAX).expect("a corpus decompresses");
    let (mut inputs, mut rest) = (Vec::new(), &bytes[..]);
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (input, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
        inputs.push(input.to_vec());
        rest = behind;
    }
    inputs
}

/// Keeps inputs, the shortest first, as many as fit; how long the file is.
///
/// # Errors
/// Where it cannot be written.
pub fn keep(target: &str, mut inputs: Vec<Vec<u8>>) -> io::Result<usize> {
    inputs.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    inputs.dedup();
    let mut bytes = Vec::new();
    for input in inputs.iter().filter(|input| input.len() <= INPUT_BYTES_MAX) {
        if bytes.len() + input.len() + 4 > KEPT_BYTES_MAX {
            break;
        }
        bytes.extend((input.len() as u32).to_le_bytes());
        bytes.extend(input);
    }
    let packed = zstd::bulk::compress(&bytes, 19)?;
    let path = path(target);
    fs::create_dir_all(path.parent().unwrap_or(&path))?;
    fs::write(path, &packed)?;
    Ok(packed.len())
}
