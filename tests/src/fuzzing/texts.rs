//! Texts that people write, paste or configure: phrases, tokens, addresses, times, sizes.

use super::{choose, chosen, samples};
use backmesh::cli::when;
use backmesh::throttle::Limit;
use backmesh::units;
use backmesh_control::{PathText, Selector, Time, parse_peer_id, parse_seed};
use backmesh_format::keyfile;
use backmesh_format::keys::VaultSecret;
use backmesh_format::token::Token;
use backmesh_format::{PackId, phrase};
use backmesh_net::Address;
use backmesh_policy::schedule::{Clock, History, Hours, Schedule, Surroundings, TimeOfDay, When};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::tz::TimeZone;
use std::fmt::Display;
use std::str::FromStr;

/// What reads a text reads what it writes, as the same.
fn law<T: FromStr + Display>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let shown = value.to_string();
        let again = shown.parse::<T>().ok().map(|again| again.to_string());
        assert!(again.as_deref() == Some(&shown[..]), "{text:?} is {shown:?}, and that is {again:?}");
    }
}

/// The first byte chooses what the text is taken for.
pub fn run(bytes: &[u8]) {
    let (choice, rest) = choose(bytes);
    if choice % 6 == 5 {
        return moments(rest);
    }
    let Ok(text) = std::str::from_utf8(rest) else { return };
    match choice % 6 {
        0 => secrets(text),
        1 => token(rest),
        2 => addresses(text),
        3 => times(text),
        _ => sizes(text),
    }
}

fn secrets(text: &str) {
    // The nearest word of the list is looked for, which takes time for each letter.
    if text.len() < 4_000
        && let Ok(secret) = phrase::parse(text)
    {
        let again = phrase::parse(&phrase::of(&secret)).expect("what is written is read");
        assert!(again.vault() == secret.vault());
    }
    for kind in ["node key", "unsealing key"] {
        if let Ok(keys) = keyfile::parse(kind, text) {
            let again = keyfile::parse(kind, &keyfile::to_text(kind, keys.iter().map(|key| &**key)));
            assert!(again.is_ok_and(|again| again == keys));
        }
    }
    if let Some(id) = PackId::from_hex(text) {
        assert!(PackId::from_hex(&id.to_string()) == Some(id));
    }
}

/// As text, and as what stands in the text behind its checksum.
fn token(bytes: &[u8]) {
    let sum = blake3::hash(bytes);
    let coded = URL_SAFE_NO_PAD.encode([bytes, &sum.as_bytes()[..4]].concat());
    for text in [String::from_utf8_lossy(bytes).into_owned(), format!("{}{coded}", backmesh_format::token::PREFIX)] {
        if let Ok(token) = Token::from_text(&text) {
            assert!(*token.to_text() == text.trim(), "a token has one text");
        }
    }
}

fn addresses(text: &str) {
    law::<Address>(text);
    if let Ok(seed) = parse_seed(text) {
        let whole = seed.node.map_or_else(String::new, |node| format!("/p2p/{}", backmesh_net::peer_id_text(&node)));
        let again = parse_seed(&format!("{}{whole}", seed.address)).expect("an address is one");
        assert!((&again.address, again.node) == (&seed.address, seed.node), "{text:?}");
    }
    let _ = parse_peer_id(text);
    let path = PathText { path: text.to_owned(), path_base64: Some(text.to_owned()) };
    let _ = path.bytes();
}

fn times(text: &str) {
    law::<Selector>(text);
    law::<TimeOfDay>(text);
    law::<Hours>(text);
    if let Ok(time) = Time::try_from(text.to_owned()) {
        assert!(Time::try_from(time.to_string()) == Ok(time));
    }
    let _ = (when::moment(text), when::moment_or_age(text));
    if let Ok(selector) = when::snapshot(text) {
        assert!(when::snapshot(&selector.to_string()) == Ok(selector), "{text:?}");
    }
}

fn sizes(text: &str) {
    if let Ok(bytes) = units::parse_size(text) {
        assert!(units::parse_size(&units::exact_size(bytes)) == Ok(bytes), "{text:?}");
        let _ = units::display_size(bytes);
    }
    if let Ok(millis) = units::parse_duration(text) {
        assert!(units::parse_duration(&units::exact_duration(millis)) == Ok(millis), "{text:?}");
        let _ = units::display_seconds(millis);
    }
    let _ = units::parse_rate(text);
    law::<Limit>(text);
}

/// Clocks that are anywhere, and a schedule that remembers anything.
fn moments(bytes: &[u8]) {
    let number =
        |at: usize| bytes.get(8 * at..8 * at + 8).and_then(|word| word.first_chunk()).map_or(0, |word| u64::from_le_bytes(*word));
    let zone = TimeZone::UTC;
    let clock = Clock { now: number(0), zone: &zone, offset_ms: number(1) };
    let some = |value: u64| (!value.is_multiple_of(3)).then_some(value);
    let at = number(9).is_multiple_of(3).then(|| format!("{:02}:{:02}", number(2) % 24, number(3) % 60).parse().ok()).flatten();
    let when = at.map_or(When::Every(60_000 + number(2) % (1 << 40)), |at| When::At(vec![at]));
    let quiet = format!("{:02}:00-{:02}:30", number(4) % 24, number(5) % 24).parse().ok();
    let schedule = Schedule { when, quiet, on_battery: false, on_metered: false, paused_until: some(number(6)) };
    let failed = some(number(7)).map(|moment| (moment, number(8) as u32));
    let history = History { last_success: some(number(3)), new_since: some(number(5)), failed, settling_ms: number(8) };
    let _ = schedule.decide(&clock, true, &history, Surroundings::default);
    let _ = (schedule.slot_after(number(2), &clock), schedule.next_run(&clock, true, &history), schedule.grace_ms());
    let _ = schedule.interrupt(&clock, &Surroundings::default());
    let _ = backmesh_policy::schedule::freshness(number(0), some(number(1)), some(number(2)));
    let _ = backmesh_policy::schedule::warning_due(number(0), some(number(1)));
    let _ = backmesh::cli::output::local_time(number(0));
}

/// Each as people write it.
pub fn seeds() -> Vec<Vec<u8>> {
    let phrase = phrase::of(&VaultSecret::new([3; 32]));
    let key = keyfile::to_text("node key", [&[0x5a; 32]]);
    let token = samples::fixture("token");
    let of = |choice: u8, texts: &[&str]| chosen(choice, texts.iter().map(|text| text.as_bytes().to_vec()));
    let numbers = |all: [u64; 10]| all.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
    let now = 1_795_271_400_000;
    [
        of(0, &[&phrase, &key, &"ab".repeat(32)]),
        chosen(1, [token]),
        of(
            2,
            &[
                "192.0.2.1:47770",
                "[2001:db8::1]:1",
                "nas.example",
                "/dns4/a.example/tcp/1/p2p/12D3KooWJWEKvSFbben74C7H4YtKjhPMTDxd7gP7zxWSUEeF27st",
                "/ip6/::1/tcp/0",
            ],
        ),
        of(
            3,
            &[
                "latest~2",
                "4f2a91c0~",
                "@2026-11-20 14:00~1",
                "2026-11-21T14:30:00Z",
                "1969-12-31",
                "9999-12-31",
                "12h",
                "22:00-06:00",
                "07:30",
            ],
        ),
        of(4, &["200 GiB", "1.5TiB", "0", "16777215 TiB", "90m", "2w", "10 Mbit/s", "2 MiB/s @ 08:00-18:00"]),
        chosen(5, [numbers([now; 10]), numbers([u64::MAX; 10]), numbers([now, 0, 3_600_000, now, 8, 9, now + 1, now, 3, 0])]),
    ]
    .concat()
}
