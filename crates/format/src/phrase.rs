//! The recovery phrase: 24 BIP-39 words that hold a vault's 256 bits.

use crate::keys::VaultSecret;
use bip39::{Language, Mnemonic};
use thiserror::Error;
use zeroize::Zeroizing;

/// Why words are not a recovery phrase.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PhraseError {
    /// Not 24 of them.
    #[error("a recovery phrase has 24 words, this one has {0}: write all of them, in their order")]
    Count(usize),
    /// A word that is not in the list.
    #[error("word {position}, \"{word}\", is not in the list of recovery words; perhaps \"{nearest}\"?")]
    Unknown {
        /// Which word, from 1.
        position: usize,
        /// The word.
        word: String,
        /// The word of the list that is spelt most like it.
        nearest: &'static str,
    },
    /// All words are in the list and do not belong together.
    #[error("the words do not fit together: one is another word of the list, or two have changed places")]
    Checksum,
}

/// Reads a phrase: words parted by white space, in any case.
///
/// # Errors
/// What is wrong, naming the word where it can be named.
pub fn parse(text: &str) -> Result<VaultSecret, PhraseError> {
    // No word of the list has any other letters. Lengths stay as they are, so that no copy is left behind where a text grew.
    let lower = Zeroizing::new(text.to_ascii_lowercase());
    let words: Vec<&str> = lower.split_whitespace().collect();
    let list = Language::English.word_list();
    if words.len() != 24 {
        return Err(PhraseError::Count(words.len()));
    }
    if let Some(at) = words.iter().position(|word| !list.contains(word)) {
        return Err(PhraseError::Unknown { position: at + 1, word: shown(words[at]), nearest: nearest_word(words[at]) });
    }
    let joined = Zeroizing::new(words.join(" "));
    let mnemonic = Mnemonic::parse_in_normalized(Language::English, &joined).map_err(|_| PhraseError::Checksum)?;
    let (entropy, length) = mnemonic.to_entropy_array();
    let entropy = Zeroizing::new(entropy);
    let bytes = entropy.get(..length).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()).ok_or(PhraseError::Checksum)?;
    Ok(VaultSecret::new(bytes))
}

/// The phrase of a vault, words parted by single spaces.
pub fn of(secret: &VaultSecret) -> Zeroizing<String> {
    let mut phrase = Zeroizing::new(String::with_capacity(PHRASE_BYTES_MAX));
    // 32 bytes are one of the lengths that BIP-39 defines, so this never yields the empty text.
    if let Ok(mnemonic) = Mnemonic::from_entropy_in(Language::English, secret.bytes()) {
        for word in mnemonic.words() {
            if !phrase.is_empty() {
                phrase.push(' ');
            }
            phrase.push_str(word);
        }
    }
    phrase
}

/// 24 words of at most eight letters, and what parts them, in bytes.
const PHRASE_BYTES_MAX: usize = 24 * 9;

/// What is no word of any language is more likely to be another secret than a slip, and is not shown whole.
fn shown(word: &str) -> String {
    const CHARACTERS_MAX: usize = 12;
    let start: String = word.chars().take(CHARACTERS_MAX).collect();
    if word.chars().count() > CHARACTERS_MAX { format!("{start}..") } else { start }
}

fn nearest_word(word: &str) -> &'static str {
    Language::English.word_list().iter().copied().min_by_key(|known| edit_distance(word, known)).unwrap_or_default()
}

/// Levenshtein's distance, in characters; words are short, so one row is enough.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(32).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
