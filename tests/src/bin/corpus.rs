//! The inputs that libFuzzer begins with: written as one file each, and packed again, small, as the repository keeps them.
//!
//! `corpus targets` names the targets; `corpus write TARGET FOLDER` writes what the repository keeps and the valid examples;
//! `corpus pack TARGET FOLDER` keeps what is in the folder.

use anyhow::{Context, Result, bail};
use backmesh_tests::fuzzing::{TARGETS, corpora, target};
use std::fs;
use std::path::Path;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["targets"] => TARGETS.iter().for_each(|target| println!("{}", target.name)),
        ["write", name, folder] => {
            let target = target(name).context("there is no such target")?;
            fs::create_dir_all(folder)?;
            for input in (target.seeds)().into_iter().chain(corpora::kept(name)) {
                fs::write(Path::new(folder).join(blake3::hash(&input).to_hex().as_str()), input)?;
            }
        }
        ["pack", name, folder] => {
            let mut inputs = Vec::new();
            for file in fs::read_dir(folder)? {
                inputs.push(fs::read(file?.path())?);
            }
            println!("{name}: {} inputs in {} bytes", inputs.len(), corpora::keep(name, inputs)?);
        }
        _ => bail!("corpus targets | corpus write TARGET FOLDER | corpus pack TARGET FOLDER"),
    }
    Ok(())
}
