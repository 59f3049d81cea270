//! How long a walk takes: `cargo run --release -p backmesh-source --example walk_time -- DIR... [--read | --rules | --gitignore]`.
//! `--rules` counts defaults, ignore files and thirty patterns; `--gitignore` the `.gitignore` files too.
#![allow(clippy::print_stdout, reason = "it is what an example is for")]

use std::io::Read;
use std::path::PathBuf;
use std::time::Instant;

use backmesh_source::{FileSystems, Owners, Patterns, Rules, WalkOptions, complete, open_file, walk};

fn main() {
    let (options, roots): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|argument| argument.starts_with("--"));
    let roots: Vec<PathBuf> = roots.iter().map(PathBuf::from).collect();
    let started = Instant::now();
    let (mut entries, mut problems, mut key_bytes, mut bytes) = (0_u64, 0_u64, 0, 0_u64);
    let owners = Owners::default();
    let mut buffer = vec![0; 1 << 20];
    let has = |wanted: &str| options.iter().any(|option| option == wanted);
    let mut walk_options = WalkOptions::default();
    if has("--rules") || has("--gitignore") {
        let thirty = (0..10).flat_map(|number| [format!("*.x{number}"), format!("/a{number}/b*"), format!("none{number}/")]);
        let rules = Rules {
            patterns: Patterns::new(thirty).unwrap_or_default(),
            use_defaults: true,
            use_ignore_files: true,
            use_gitignore: has("--gitignore"),
            skip_nodump: false,
            file_systems: FileSystems::Local,
        };
        walk_options.rules = roots.iter().map(|root| (root.clone(), rules.clone())).collect();
    }
    let mut walking = walk(&roots, &walk_options);
    for found in &mut walking {
        let Ok(item) = found else {
            problems += 1;
            continue;
        };
        entries += 1;
        key_bytes += item.key.len();
        if has("--read") && item.stat.is_file() {
            let Ok(mut file) = open_file(&item) else { continue };
            problems += file.complete(&owners).problems.len() as u64;
            while let Ok(count @ 1..) = file.read(&mut buffer) {
                bytes += count as u64;
            }
            problems += u64::from(!file.finish().is_ok_and(|reading| !reading.is_torn()));
        } else if has("--read") {
            problems += u64::from(complete(&item, &owners).is_err());
        }
    }
    let left_out: u64 = walking.left_out().iter().map(|row| row.files + row.folders).sum();
    println!("{left_out} left out");
    println!("{entries} entries, {key_bytes} bytes of keys, {bytes} bytes read, {problems} problems, {:?}", started.elapsed());
}
