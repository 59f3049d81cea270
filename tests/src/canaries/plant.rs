//! What is planted: a folder with a canary in everything that a backup keeps of files, and the forms of a vault's secrets.

use super::Canary;
use crate::tree::Numbers;
use crate::{Node, Runner, program};
use anyhow::Result;
use backmesh_format::keys::VaultSecret;
use backmesh_format::phrase;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

/// A word that nothing else has.
pub(super) fn word(numbers: &mut Numbers) -> String {
    const LETTERS: &[u8] = b"bcdfghjkmnpqrstvwxz";
    (0..20).map(|_| char::from(LETTERS[(numbers.number() >> 33) as usize % LETTERS.len()])).collect()
}

/// The number of a user and of a group that only the owner's machine knows by names, of which each is a canary.
pub(super) const OWNER: u32 = 61_234;

/// Lets a node's programs know [`OWNER`] by name: they run where other files lie in the places of the system's lists.
///
/// # Errors
/// Where that cannot be made.
pub(super) fn name_owner(node: &mut Node, folder: &Path, numbers: &mut Numbers) -> Result<Vec<Canary>> {
    let [user, group] = [word(numbers), word(numbers)];
    let lists = [("passwd", format!("{user}:x:{OWNER}:{OWNER}::/:/bin/false\n")), ("group", format!("{group}:x:{OWNER}:\n"))];
    let mut script = String::from("#!/bin/sh\nexec unshare --mount sh -c '");
    for (list, line) in lists {
        let (system, own) = (format!("/etc/{list}"), folder.join(list));
        fs::write(&own, fs::read_to_string(&system)? + &line)?;
        script.push_str(&format!("mount --bind {} {system} && ", own.display()));
    }
    script.push_str(&format!("exec {} \"$@\"' sh \"$@\"\n", program("backmesh").display()));
    let file = folder.join("backmesh-with-names");
    fs::write(&file, script)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    node.runner = Some(Runner { number: 0, program: file });
    Ok(vec![Canary::new("a user's name", user), Canary::new("a group's name", group)])
}

/// How many canaries of each kind a folder gets.
const OF_EACH: usize = 10;

/// Fills a folder; what was put into it. `large_bytes` is the length of each file that has one in its middle.
///
/// # Errors
/// Where it cannot be written.
pub(super) fn plant(folder: &Path, which: &str, numbers: &mut Numbers, large_bytes: usize) -> Result<Vec<Canary>> {
    fs::create_dir_all(folder)?;
    let mut canaries = Vec::new();
    let mut fresh = |what: String| {
        let word = word(numbers);
        canaries.push(Canary::new(format!("{what} of {which}"), word.clone()));
        word
    };
    let mut inside = folder.to_owned();
    for number in 0..OF_EACH {
        inside = if number % 5 == 0 { folder.to_owned() } else { inside }.join(fresh(format!("folder {number}")));
        fs::create_dir_all(&inside)?;
        let file = inside.join(fresh(format!("file name {number}")));
        fs::write(&file, format!("small: {}\n", fresh(format!("small contents {number}"))))?;
        symlink(format!("../{}", fresh(format!("link target {number}"))), inside.join(format!("link {number}")))?;
        let text = format!("all work and no play, {}, ", fresh(format!("compressible text {number}")));
        fs::write(inside.join(format!("text {number}")), text.repeat(4000))?;
        let (name, value) = (fresh(format!("attribute name {number}")), fresh(format!("attribute value {number}")));
        let flags = rustix::fs::XattrFlags::empty();
        if number % 2 == 1 {
            chown(&file, Some(OWNER), Some(OWNER))?;
        }
        // Without attributes on this file system two kinds fewer are kept; the others are.
        rustix::fs::setxattr(&file, format!("user.{name}"), value.as_bytes(), flags).ok();
    }
    let middles: Vec<String> = (0..OF_EACH / 2).map(|number| fresh(format!("middle of a large file {number}"))).collect();
    for (number, middle) in middles.iter().enumerate() {
        let mut bytes = numbers.bytes(large_bytes);
        let at = large_bytes / 2 + number;
        bytes[at..at + middle.len()].copy_from_slice(middle.as_bytes());
        fs::write(folder.join(format!("large {number}")), bytes)?;
    }
    Ok(canaries)
}

/// The phrase: any three of its words in their order, their numbers in the list, and the 256 bits that they hold.
pub(super) fn phrase_forms(text: &str) -> Result<(VaultSecret, Vec<Canary>)> {
    let secret = phrase::parse(text)?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut canaries = Vec::new();
    for (at, three) in words.windows(3).enumerate() {
        for (how, between) in [("", " "), (" on lines", "\n"), (" in JSON", "\",\"")] {
            canaries.push(Canary::new(format!("phrase words {} to {}{how}", at + 1, at + 3), three.join(between)));
        }
    }
    let list = bip39::Language::English.word_list();
    let numbers: Vec<u16> =
        words.iter().filter_map(|word| list.iter().position(|known| known == word)).map(|at| at as u16).collect();
    for (at, six) in numbers.windows(6).enumerate() {
        let bytes: Vec<u8> = six.iter().flat_map(|number| number.to_le_bytes()).collect();
        canaries.push(Canary::new(format!("numbers of phrase words {} to {}", at + 1, at + 6), bytes));
    }
    canaries.push(Canary::new("the 256 bits of the phrase", bits(&numbers)));
    Ok((secret, canaries))
}

/// The first 256 of the bits that words of eleven each hold.
fn bits(numbers: &[u16]) -> Vec<u8> {
    let mut bytes = vec![0; 33];
    for (at, number) in numbers.iter().enumerate() {
        for bit in (0..11).filter(|bit| number >> (10 - bit) & 1 == 1) {
            bytes[(at * 11 + bit) / 8] |= 0x80 >> ((at * 11 + bit) % 8);
        }
    }
    bytes.truncate(32);
    bytes
}
