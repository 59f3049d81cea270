//! What is backed up: Debian's kernel sources, and data that is made up, the same for the same seed.

use crate::{Context, measure};
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE: &str = "linux-source-6.1";
const INSTALLED: &str = "/usr/src/linux-source-6.1.tar.xz";
/// What `--quick` takes of the tree.
const QUICK: [&str; 6] = ["fs", "include", "kernel", "lib", "mm", "net"];
/// So many files are edited where no second release can be had: as many as differ between releases six apart.
const EDITED_FILES: usize = 1342;

/// Two releases of a kernel tree.
pub(crate) struct Kernel {
    /// The earlier one.
    pub(crate) first: PathBuf,
    /// The later one.
    pub(crate) next: PathBuf,
    /// What they are.
    pub(crate) about: String,
}

impl Kernel {
    /// The oldest release that apt offers and the next one that it has; else the installed one, and the same with edits.
    pub(crate) fn find(cx: &Context) -> Result<Self> {
        let folder = cx.work.join("inputs");
        fs::create_dir_all(&folder)?;
        let offered = measure::said("apt-cache", &["madison", PACKAGE]);
        let mut releases: Vec<&str> = offered.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim).collect();
        releases.dedup_by_key(|release| release.split('-').next());
        releases.reverse();
        let both = match releases[..] {
            [first, next, ..] => {
                fetch(cx, &folder, first).and_then(|one| Ok((one, fetch(cx, &folder, next)?, format!("{first}, {next}"))))
            }
            _ => Err(anyhow::anyhow!("apt offers one release only")),
        };
        let (first, next, name) = match both {
            Ok(both) => both,
            Err(error) => {
                eprintln!("   {error:#}: taking {INSTALLED}, and edits of {EDITED_FILES} files for the next release");
                let first = unpack(cx, Path::new(INSTALLED), &folder.join("installed"))?;
                let next = folder.join(if cx.quick { "edited-quick" } else { "edited" });
                edited(&first, &next)?;
                (first, next, "the installed release, and edits of our own".to_owned())
            }
        };
        let about = format!("{PACKAGE} {name}: {} files, {} differ", files(&first)?.len(), differences(&first, &next)?);
        Ok(Self { first, next, about })
    }
}

fn fetch(cx: &Context, folder: &Path, release: &str) -> Result<PathBuf> {
    let to = folder.join(release);
    fs::create_dir_all(&to)?;
    let tar = to.join(INSTALLED.trim_start_matches('/'));
    if !tar.exists() {
        measure::run(Command::new("apt-get").args(["download", &format!("{PACKAGE}={release}")]).current_dir(&to))?;
        let package = fs::read_dir(&to)?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "deb"));
        measure::run(Command::new("dpkg-deb").arg("-x").arg(package.context("apt-get brought no package")?).arg(&to))?;
    }
    unpack(cx, &tar, &to.join("tree"))
}

/// Unpacks the sources, or what `--quick` wants of them, unless an earlier run left them.
fn unpack(cx: &Context, tar: &Path, to: &Path) -> Result<PathBuf> {
    let to = if cx.quick { to.with_extension("quick") } else { to.to_path_buf() };
    if !to.exists() {
        if !tar.exists() {
            bail!("{} is not there: apt-get install {PACKAGE}", tar.display());
        }
        let unfinished = to.with_extension("unfinished");
        fs::remove_dir_all(&unfinished).ok();
        fs::create_dir_all(&unfinished)?;
        let mut untar = Command::new("tar");
        untar.args(["--strip-components=1", "-xJf"]).arg(tar).arg("-C").arg(&unfinished);
        if cx.quick {
            untar.args(QUICK.map(|part| format!("{PACKAGE}/{part}")));
        }
        measure::run(&mut untar)?;
        fs::rename(&unfinished, &to)?;
    }
    Ok(to)
}

/// A copy in which some C files have a line more near their beginning, their middle and their end.
fn edited(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        return Ok(());
    }
    let unfinished = to.with_extension("unfinished");
    fs::remove_dir_all(&unfinished).ok();
    measure::run(Command::new("cp").arg("-a").arg(from).arg(&unfinished))?;
    let sources: Vec<PathBuf> =
        files(&unfinished)?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "c")).collect();
    let every = (sources.len() / EDITED_FILES).max(1);
    for (number, path) in sources.iter().step_by(every).take(EDITED_FILES).enumerate() {
        let text = fs::read(path)?;
        let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        let mut changed = Vec::with_capacity(text.len() + 300);
        for (at, line) in lines.iter().enumerate() {
            changed.extend_from_slice(line);
            if [lines.len() / 10, lines.len() / 2, lines.len() * 9 / 10].contains(&at) {
                changed.extend_from_slice(format!("/* change {number} of the next release, at line {at} */\n").as_bytes());
            }
        }
        fs::write(path, changed)?;
    }
    Ok(fs::rename(&unfinished, to)?)
}

/// All regular files below a folder, sorted.
pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// How many paths differ between two folders: contents, links and kinds.
pub(crate) fn differences(one: &Path, other: &Path) -> Result<usize> {
    let (_, said) = measure::run_any(Command::new("diff").args(["-rq", "--no-dereference"]).arg(one).arg(other), &[0, 1])?;
    Ok(said.lines().count())
}

/// Reads everything once, so that each program finds it in memory.
pub(crate) fn warm(folder: &Path) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    for path in files(folder)? {
        let mut file = File::open(path)?;
        while file.read(&mut buffer)? > 0 {}
    }
    Ok(())
}

/// A generator of numbers that look random: splitmix64.
pub(crate) struct Dice(u64);

impl Dice {
    /// The same numbers for the same seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Bytes that do not compress.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

/// Files of 10 MB that do not compress, as pictures and archives are.
pub(crate) fn pictures(folder: &Path, bytes: u64) -> Result<()> {
    const FILE_BYTES: usize = 10_000_000;
    fs::create_dir_all(folder)?;
    let mut dice = Dice::new(4);
    for number in 0..bytes.div_ceil(FILE_BYTES as u64) {
        fs::write(folder.join(format!("picture {number:04}.jpg")), dice.bytes(FILE_BYTES))?;
    }
    Ok(())
}

/// Many small files, a thousand in a folder.
pub(crate) fn small_files(folder: &Path, count: u64) -> Result<()> {
    let mut dice = Dice::new(6);
    for number in 0..count {
        let inside = folder.join(format!("{:04}", number / 1000));
        if number % 1000 == 0 {
            fs::create_dir_all(&inside)?;
        }
        let length = 20 + dice.below(200) as usize;
        fs::write(inside.join(format!("note {number}.txt")), dice.bytes(length))?;
    }
    Ok(())
}

/// Files of text, fifty in a folder, of a fifth to nearly twice the average length; how many bytes they have together. Words repeat, so that they compress as
/// text does, and no two files are alike.
pub(crate) fn texts(folder: &Path, count: u64, average: u64) -> Result<u64> {
    let mut dice = Dice::new(9);
    let words: Vec<Vec<u8>> = (0..4096).map(|_| (0..2 + dice.below(8)).map(|_| b'a' + dice.below(26) as u8).collect()).collect();
    let mut bytes = 0;
    for number in 0..count {
        let inside = text_folder(folder, number);
        if number % TEXTS_IN_FOLDER == 0 {
            fs::create_dir_all(&inside)?;
        }
        let length = average / 5 + dice.below(average * 8 / 5);
        let mut text = Vec::with_capacity(length as usize + 16);
        while (text.len() as u64) < length {
            // Some words are far more frequent than others.
            let frequent = 1 << (4 + dice.below(9));
            text.extend_from_slice(&words[dice.below(frequent) as usize]);
            text.push(if dice.below(12) == 0 { b'\n' } else { b' ' });
        }
        bytes += text.len() as u64;
        fs::write(inside.join(format!("text {number:07}.txt")), text)?;
    }
    Ok(bytes)
}

const TEXTS_IN_FOLDER: u64 = 50;

/// Where a text lies.
pub(crate) fn text_folder(folder: &Path, number: u64) -> PathBuf {
    let at = number / TEXTS_IN_FOLDER;
    folder.join(format!("year {:02}/project {:03}", at / 200, at % 200))
}

const PAGE_BYTES: u64 = 4096;
/// A day's new mails: this many runs of pages that were free.
const MAIL_RUNS: u64 = 24;
/// The pages of a run.
const RUN_PAGES: u64 = 24;
/// All pages that change in a day; those beyond the new mails are few together and anywhere: indexes, flags, counters.
const DAY_PAGES: usize = 859;

/// A mail store of one file: messages with headers, quotes of earlier ones, and attachments in base64, some of them sent before.
pub(crate) fn mail_store(path: &Path, bytes: u64) -> Result<()> {
    let mut writer = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut mails = Mails::new(5);
    let mut written = 0;
    while written < bytes {
        let mail = mails.next();
        let part = &mail[..mail.len().min((bytes - written) as usize)];
        writer.write_all(part)?;
        written += part.len() as u64;
    }
    Ok(writer.flush()?)
}

/// Changes the store as a day does: 859 pages of 4 KiB, in place.
pub(crate) fn mail_day(path: &Path) -> Result<()> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let pages = file.metadata()?.len() / PAGE_BYTES;
    let (mut dice, mut mails) = (Dice::new(859), Mails::new(860));
    let mut changed = BTreeSet::new();
    for _ in 0..MAIL_RUNS {
        let at = dice.below(pages - RUN_PAGES);
        let mut text = Vec::new();
        while text.len() < (RUN_PAGES * PAGE_BYTES) as usize {
            text.extend(mails.next());
        }
        file.seek(SeekFrom::Start(at * PAGE_BYTES))?;
        file.write_all(&text[..(RUN_PAGES * PAGE_BYTES) as usize])?;
        changed.extend(at..at + RUN_PAGES);
    }
    while changed.len() < DAY_PAGES {
        let first = dice.below(pages - 3);
        for page in first..first + 3 {
            if changed.len() < DAY_PAGES && changed.insert(page) {
                file.seek(SeekFrom::Start(page * PAGE_BYTES + dice.below(3800)))?;
                file.write_all(&dice.bytes(64))?;
            }
        }
    }
    Ok(())
}

/// Writes mails.
struct Mails {
    dice: Dice,
    words: Vec<String>,
    people: Vec<String>,
    earlier: Vec<Vec<u8>>,
    attachments: Vec<Vec<u8>>,
    number: u64,
}

impl Mails {
    fn new(seed: u64) -> Self {
        // The language and the people are the same in all stores.
        let mut dice = Dice::new(1);
        let syllables = ["ba", "den", "ter", "mi", "so", "ral", "un", "ke", "lo", "ver", "sta", "in", "chen", "po", "ga", "est"];
        let word = |dice: &mut Dice| -> String { (0..=dice.below(4)).map(|_| syllables[dice.below(16) as usize]).collect() };
        let words: Vec<String> = (0..12_000).map(|_| word(&mut dice)).collect();
        let people = (0..300).map(|_| format!("{}.{}@{}.example", word(&mut dice), word(&mut dice), word(&mut dice))).collect();
        Self { dice: Dice::new(seed), words, people, earlier: Vec::new(), attachments: Vec::new(), number: 0 }
    }

    /// Frequent words are frequent: the cube leans to the beginning of the list.
    fn word(&mut self) -> &str {
        let share = self.dice.below(1 << 20) as f64 / f64::from(1 << 20);
        let count = self.words.len();
        &self.words[(share * share * share * count as f64) as usize]
    }

    fn text(&mut self, words: u64) -> Vec<u8> {
        let (mut text, mut line) = (Vec::new(), 0);
        for _ in 0..words {
            let word = self.word();
            line += word.len() + 1;
            text.extend_from_slice(word.as_bytes());
            text.push(if line > 70 { b'\n' } else { b' ' });
            line = if line > 70 { 0 } else { line };
        }
        text.push(b'\n');
        text
    }

    fn person(&mut self) -> String {
        let count = self.people.len() as u64;
        self.people[self.dice.below(count) as usize].clone()
    }

    fn next(&mut self) -> Vec<u8> {
        self.number += 1;
        let (from, to, id, day) = (self.person(), self.person(), self.dice.next(), self.number / 40);
        let mut mail = format!(
            "From {from} day {day}\nReceived: from mx{}.example (192.0.2.{}) by mail.example with ESMTPS id {id:016x}\n\
             Message-ID: <{id:016x}@mail.example>\nDate: day {day}, {:02}:{:02}:{:02} +0100\nFrom: {from}\nTo: {to}\nMIME-Version: 1.0\n\
             Content-Type: multipart/mixed; boundary=\"b{id:x}\"\nSubject: ",
            id % 9, id % 250, id % 24, id % 60, (id >> 9) % 60,
        )
        .into_bytes();
        let words = 3 + self.dice.below(6);
        mail.extend(self.text(words));
        mail.push(b'\n');
        let words = 40 + self.dice.below(400);
        let body = self.text(words);
        mail.extend_from_slice(&body);
        if !self.earlier.is_empty() && self.dice.below(2) == 0 {
            let count = self.earlier.len() as u64;
            let quoted = self.earlier[self.dice.below(count) as usize].clone();
            for line in quoted.split(|byte| *byte == b'\n') {
                mail.extend_from_slice(b"> ");
                mail.extend_from_slice(line);
                mail.push(b'\n');
            }
        }
        remember(&mut self.earlier, body, self.number);
        if self.dice.below(24) == 0 {
            mail.extend_from_slice(format!("--b{id:x}\nContent-Transfer-Encoding: base64\n\n").as_bytes());
            let attachment = self.attachment();
            mail.extend_from_slice(&attachment);
        }
        mail
    }

    /// One in four was sent before.
    fn attachment(&mut self) -> Vec<u8> {
        let count = self.attachments.len() as u64;
        if count > 0 && self.dice.below(4) == 0 {
            return self.attachments[self.dice.below(count) as usize].clone();
        }
        let length = 4_000 + self.dice.below(60_000) as usize;
        let mut text = Vec::with_capacity(length + length / 70);
        for (at, byte) in self.dice.bytes(length).into_iter().enumerate() {
            text.push(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[usize::from(byte & 63)]);
            if at % 76 == 75 {
                text.push(b'\n');
            }
        }
        text.push(b'\n');
        remember(&mut self.attachments, text.clone(), self.number);
        text
    }
}

/// Keeps the latest hundred.
fn remember(list: &mut Vec<Vec<u8>>, text: Vec<u8>, number: u64) {
    if list.len() < 100 {
        list.push(text);
    } else {
        list[(number % 100) as usize] = text;
    }
}
