//! The book of messages: what people read when something is wrong, each provoked and noted under a title, compared as a whole with a file.
//! Whoever changes a message, or adds one, sees here how it reads.

use crate::Outcome;
use std::fs;
use std::path::Path;

/// How the book begins.
const HEAD: &str = "# Messages

What Backmesh says when something is wrong, as a person reads it on standard error. A test provokes each of them with the real programs and
compares. Below the error, indented, stands what to do next. With `--json` the same comes as one object with `message` and `hint`.

";

/// Messages as they are noted.
#[derive(Debug, Default)]
pub struct Book {
    text: String,
    hidden: Vec<(String, &'static str)>,
    wrong: Vec<String>,
}

impl Book {
    /// From now on `what`, which differs from run to run, stands in the book as `name`.
    pub fn hide(&mut self, what: impl Into<String>, name: &'static str) {
        self.hidden.push((what.into(), name));
        self.hidden.sort_by_key(|(what, _)| std::cmp::Reverse(what.len()));
    }

    /// Notes what a command said on standard error, and with which exit code it should have ended.
    pub fn note(&mut self, title: &str, outcome: &Outcome, code: i32) {
        if outcome.code != Some(code) || outcome.stderr.trim().is_empty() || outcome.stderr.contains("panicked") {
            self.wrong.push(format!("{title}: {outcome:#?}, expected is exit code {code}"));
        }
        let said: Vec<String> = outcome.stderr.trim_end().lines().map(|line| self.hide_in(line)).collect();
        self.text.push_str(&format!("## {title} (exit {code})\n\n```text\n{}\n```\n\n", said.join("\n")));
    }

    fn hide_in(&self, line: &str) -> String {
        let line = self.hidden.iter().fold(line.to_owned(), |line, (what, name)| line.replace(what.as_str(), name));
        let mut out = String::new();
        let mut rest = line.as_str();
        while let Some(first) = rest.chars().next() {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len()).max(first.len_utf8());
            let (word, after) = rest.split_at(end);
            out.push_str(shown(word));
            rest = after;
        }
        out
    }

    /// Compares the book with the file, or writes the file where `BACKMESH_WRITE_MESSAGES` is set.
    ///
    /// # Panics
    /// Where they differ, or something ended otherwise than it should have.
    pub fn compare(mut self, file: &Path) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
        self.text = format!("{HEAD}{}", self.text.trim_end()) + "\n";
        if std::env::var_os("BACKMESH_WRITE_MESSAGES").is_some() {
            return fs::write(file, self.text).expect("the book can be written");
        }
        let kept = fs::read_to_string(file).unwrap_or_default();
        let different = self.text.lines().zip(kept.lines()).position(|(now, kept)| now != kept);
        let line = different.unwrap_or(self.text.lines().count().min(kept.lines().count()));
        assert!(
            kept == self.text,
            "line {} of {} now reads:\n{}\nif that is right, write the file anew with BACKMESH_WRITE_MESSAGES=1",
            line + 1,
            file.display(),
            self.text.lines().nth(line).unwrap_or_default()
        );
    }
}

/// A word of letters and digits, or what stands for it where it differs from run to run.
fn shown(word: &str) -> &str {
    let all = |is: fn(&u8) -> bool| word.bytes().all(|byte| is(&byte));
    if word.len() >= 8 && all(u8::is_ascii_hexdigit) {
        "ID"
    } else if word.starts_with("12D3KooW") && word.len() > 40 {
        "NODE"
    } else if word.len() >= 4 && all(u8::is_ascii_digit) {
        "NUMBER"
    } else {
        word
    }
}
