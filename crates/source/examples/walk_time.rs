//! How long a walk takes: `cargo run --release -p backmesh-source --example walk_time -- DIR... [--read]`.
#![allow(clippy::print_stdout, reason = "it is what an example is for")]

use std::io::Read;
use std::path::PathBuf;
use std::time::Instant;

use backmesh_source::{Owners, WalkOptions, complete, open_file, walk};

fn main() {
    let (options, roots): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|argument| argument.starts_with("--"));
    let roots: Vec<PathBuf> = roots.iter().map(PathBuf::from).collect();
    let started = Instant::now();
    let (mut entries, mut problems, mut key_bytes, mut bytes) = (0_u64, 0_u64, 0, 0_u64);
    let owners = Owners::default();
    let mut buffer = vec![0; 1 << 20];
    for found in walk(&roots, &WalkOptions::default()) {
        let Ok(item) = found else {
            problems += 1;
            continue;
        };
        entries += 1;
        key_bytes += item.key.len();
        if !options.is_empty() && item.stat.is_file() {
            let Ok(mut file) = open_file(&item) else { continue };
            problems += file.complete(&owners).problems.len() as u64;
            while let Ok(count @ 1..) = file.read(&mut buffer) {
                bytes += count as u64;
            }
            problems += u64::from(!file.finish().is_ok_and(|reading| !reading.is_torn()));
        } else if !options.is_empty() {
            problems += u64::from(complete(&item, &owners).is_err());
        }
    }
    println!("{entries} entries, {key_bytes} bytes of keys, {bytes} bytes read, {problems} problems, {:?}", started.elapsed());
}
