//! What people type and paste: the recovery phrase and the token.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod common;

use backmesh_format::keys::VaultSecret;
use backmesh_format::phrase::{self, PhraseError};
use backmesh_format::token::{PREFIX, Token, TokenError};
use backmesh_format::{Signed, WorkgroupId};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use common::samples;
use proptest::prelude::*;

/// BIP-39's own test vectors, English, 256 bits.
const PHRASES: [(u8, &str); 4] = [
    (
        0x00,
        "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon art",
    ),
    (
        0x7f,
        "legal winner thank year wave sausage worth useful legal winner thank year wave sausage worth useful legal winner thank year wave sausage worth title",
    ),
    (
        0x80,
        "letter advice cage absurd amount doctor acoustic avoid letter advice cage absurd amount doctor acoustic avoid letter advice cage absurd amount doctor acoustic bless",
    ),
    (0xff, "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo vote"),
];

fn refused(text: &str) -> PhraseError {
    phrase::parse(text).map(|_| ()).unwrap_err()
}

#[test]
fn phrases_are_those_of_bip_39() {
    for (byte, words) in PHRASES {
        let secret = VaultSecret::new([byte; 32]);
        assert_eq!(phrase::of(&secret).as_str(), words);
        assert_eq!(phrase::parse(words).unwrap().vault(), secret.vault());
    }
}

#[test]
fn white_space_and_case_do_not_matter() {
    let words = PHRASES[1].1.to_uppercase().replace(' ', " \r\n\t");
    assert_eq!(phrase::parse(&format!("\n {words} \n")).unwrap().vault(), VaultSecret::new([0x7f; 32]).vault());
}

#[test]
fn a_word_that_is_not_in_the_list_is_named() {
    let words = PHRASES[1].1.replacen("sausage", "sausgae", 1);
    let expected = PhraseError::Unknown { position: 6, word: "sausgae".into(), nearest: "sausage" };
    assert_eq!(refused(&words), expected);
    let text = "word 6, \"sausgae\", is not in the list of recovery words; perhaps \"sausage\"?";
    assert_eq!(expected.to_string(), text);
}

#[test]
fn words_that_changed_places_fail_the_checksum() {
    let mut words: Vec<&str> = PHRASES[1].1.split(' ').collect();
    words.swap(0, 1);
    assert_eq!(refused(&words.join(" ")), PhraseError::Checksum);
    let other = PHRASES[0].1.replacen("abandon", "zoo", 1);
    assert_eq!(refused(&other), PhraseError::Checksum);
}

#[test]
fn the_number_of_words_is_said() {
    assert_eq!(refused(""), PhraseError::Count(0));
    assert_eq!(refused("legal winner"), PhraseError::Count(2));
    assert_eq!(refused(&format!("{} zoo", PHRASES[3].1)), PhraseError::Count(25));
    let twelve = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
    assert_eq!(refused(twelve), PhraseError::Count(12), "a phrase of another program is not one of ours");
}

#[test]
fn secrets_are_not_printed() {
    let secret = VaultSecret::new([0x5a; 32]);
    let mut token = samples::token();
    token.secret = [0x5a; 32];
    let printed = format!("{secret:?} {:?} {:?} {token:?}", secret.chunk_id_key(), secret.root());
    assert!(!printed.contains("90, 90") && !printed.to_lowercase().contains("5a5a"), "{printed}");
}

proptest! {
    #[test]
    fn every_secret_has_a_phrase(bytes: [u8; 32]) {
        let secret = VaultSecret::new(bytes);
        let words = phrase::of(&secret);
        prop_assert_eq!(words.split(' ').count(), 24);
        prop_assert_eq!(phrase::parse(&words).unwrap().vault(), secret.vault());
    }

    #[test]
    fn any_text_is_refused_without_harm(text in "\\PC{0,200}") {
        let _ = phrase::parse(&text);
        let _ = Token::from_text(&text);
        let _ = Token::from_text(&format!("{PREFIX}{text}"));
    }

    /// Four bytes of checksum; that one changed letter hits them is not to be expected in a few thousand tries.
    #[test]
    fn a_mistyped_token_is_refused(at: prop::sample::Index, letter in "[A-Za-z0-9_-]") {
        let text = samples::token().to_text();
        let at = PREFIX.len() + at.index(text.len() - PREFIX.len());
        prop_assume!(text[at..at + 1] != letter);
        let typed = format!("{}{letter}{}", &text[..at], &text[at + 1..]);
        prop_assert_eq!(Token::from_text(&typed), Err(TokenError::Damaged));
    }
}

#[test]
fn a_token_is_one_line_that_survives_copying() {
    let token = samples::token();
    let text = token.to_text();
    assert!(text.starts_with("backmesh-join-1-") && text.is_ascii() && !text.contains(char::is_whitespace));
    assert_eq!(Token::from_text(&format!("  {}\n", *text)).unwrap(), token);
    assert_eq!(token.workgroup(), samples::workgroup());
}

fn resealed(token: &Token) -> TokenError {
    Token::from_text(&token.to_text()).unwrap_err()
}

#[test]
fn a_token_that_is_cut_off_is_damaged() {
    let text = samples::token().to_text();
    for end in PREFIX.len()..text.len() {
        assert_eq!(Token::from_text(&text[..end]), Err(TokenError::Damaged));
    }
    assert_eq!(Token::from_text(&text[1..]), Err(TokenError::Prefix));
    assert_eq!(Token::from_text(""), Err(TokenError::Prefix));
    assert_eq!(Token::from_text(&format!("{PREFIX}{}", "A".repeat(70_000))), Err(TokenError::Damaged));
}

#[test]
fn a_token_that_does_not_belong_together_is_refused() {
    let changed = |change: &dyn Fn(&mut Token)| {
        let mut token = samples::token();
        change(&mut token);
        token
    };
    assert_eq!(resealed(&changed(&|token| token.secret = [9; 32])), TokenError::Key);
    let unsigned = Signed::new(samples::charter(), &[&samples::key(8)]);
    assert!(matches!(resealed(&changed(&|token| token.charter = unsigned.clone())), TokenError::Decode(_)));
    let forged = Signed::new(samples::invitation(), &[&samples::key(8)]);
    assert!(matches!(resealed(&changed(&|token| token.invitation = forged.clone())), TokenError::Decode(_)));
    let elsewhere = backmesh_format::membership::Invitation { workgroup: WorkgroupId([1; 32]), ..samples::invitation() };
    let elsewhere = Signed::new(elsewhere, &[&samples::admin()]);
    assert!(matches!(resealed(&changed(&|token| token.invitation = elsewhere.clone())), TokenError::Decode(_)));
}

#[test]
fn a_token_of_a_later_version_says_so() {
    let text = samples::token().to_text();
    let mut bytes = URL_SAFE_NO_PAD.decode(&text[PREFIX.len()..]).unwrap();
    bytes.truncate(bytes.len() - 4);
    bytes[4] = 2;
    let sum = blake3::hash(&bytes).as_bytes()[..4].to_vec();
    bytes.extend(sum);
    let error = Token::from_text(&format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&bytes))).unwrap_err().to_string();
    assert_eq!(
        error,
        "the token is not valid: token version 2 is newer than this program understands (up to 1): update Backmesh"
    );
}
