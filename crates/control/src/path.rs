//! Paths in JSON and on terminals: names are bytes, both want text.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

/// A path as JSON has it: its text, and its bytes too where they are not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct PathText {
    /// The path; where it is not UTF-8, what is not is written `\xNN`, for reading only.
    pub path: String,
    /// The path's bytes in base64, present only where they are not UTF-8. Where it is present it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
}

impl PathText {
    /// The path with these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { path: text.to_owned(), path_base64: None },
            Err(_) => Self { path: escape(bytes), path_base64: Some(STANDARD.encode(bytes)) },
        }
    }

    /// The bytes; none where `path_base64` is not base64.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match &self.path_base64 {
            None => Some(self.path.clone().into_bytes()),
            Some(coded) => STANDARD.decode(coded).ok(),
        }
    }
}

/// Text for a terminal: what is not UTF-8 as `\xNN`; control characters, and those that turn the direction of text or cannot be
/// seen, as `\u{NN}`; so that a hostile name can neither move the cursor nor pass for another.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if is_hidden(character) {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_utf8_keeps_its_bytes() {
        let odd = PathText::new(b"/a/\xff\xfeb");
        assert_eq!(odd.path, "/a/\\xff\\xfeb");
        assert_eq!(odd.bytes().unwrap(), b"/a/\xff\xfeb");
        let plain = PathText::new("/a/ä".as_bytes());
        assert_eq!(serde_json::to_string(&plain).unwrap(), r#"{"path":"/a/ä"}"#);
        assert_eq!(plain.bytes().unwrap(), "/a/ä".as_bytes());
        assert_eq!(PathText { path: String::new(), path_base64: Some("*".into()) }.bytes(), None);
    }

    #[test]
    fn a_terminal_sees_no_control_characters() {
        assert_eq!(escape(b"a\x1b[2Jb\nc\x7f"), "a\\u{1b}[2Jb\\nc\\u{7f}");
        assert_eq!(escape("tab\tand \u{202e}txt.exe".as_bytes()), "tab\\tand \\u{202e}txt.exe");
        assert_eq!(escape("日本 ü 'quoted' \\".as_bytes()), "日本 ü 'quoted' \\");
    }
}
