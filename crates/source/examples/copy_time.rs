//! How long the writer of restores takes, against `cp -r`: walks DIR and restores it below TARGET at once, then compares.
//! `cargo run --release -p backmesh-source --example copy_time -- DIR TARGET`.

use std::error::Error;
use std::io::Read;
use std::path::PathBuf;
use std::time::Instant;

use backmesh_source::compare::{CompareOptions, compare};
use backmesh_source::{
    Owners, RestoreOptions, RestoreWriter, SourceFile, Step, WalkItem, WalkOptions, complete, open_file, walk,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [source, target] = &arguments[..] else { return Err("DIR and TARGET are needed".into()) };
    let started = Instant::now();
    let writer = RestoreWriter::create(target, RestoreOptions { sync: false, ..RestoreOptions::default() })?;
    let owners = Owners::default();
    let mut buffer = vec![0; 1 << 20];
    let mut problems = 0;
    for item in walk(std::slice::from_ref(source), &WalkOptions::default()) {
        problems += copy(&writer, &item?, &owners, &mut buffer)?;
    }
    let finished = writer.finish();
    println!("restored in {:?}, {} problems", started.elapsed(), problems + finished.problems.len());

    let started = Instant::now();
    let source = std::fs::canonicalize(source)?;
    let found = compare(&source, &target.join(source.strip_prefix("/")?), &CompareOptions::default())?;
    println!("compared {} entries, {} bytes in {:?}", found.entries, found.bytes, started.elapsed());
    found.differences.iter().for_each(|difference| println!("{difference}"));
    if found.is_identical() { Ok(()) } else { Err(format!("{} differences", found.differences_total).into()) }
}

fn copy(writer: &RestoreWriter, item: &WalkItem, owners: &Owners, buffer: &mut [u8]) -> Result<usize, Box<dyn Error>> {
    let file: Option<SourceFile> = item.stat.is_file().then(|| open_file(item)).transpose()?;
    let completed = match &file {
        Some(file) => file.complete(owners),
        None => complete(item, owners)?,
    };
    let applied = writer.apply(&item.key, &completed.entry)?;
    let mut problems = completed.problems.len() + applied.problems.len();
    if let Some(mut file) = file.filter(|_| !matches!(applied.step, Step::Keep | Step::Link)) {
        let mut sink = writer.begin_file(&item.key, &completed.entry)?;
        while let count @ 1.. = file.read(buffer)? {
            sink.append(&buffer[..count])?;
        }
        problems += sink.finish()?.len();
    }
    Ok(problems)
}
