//! The local interface: what a command says to the agent, what the agent says to a command, and what a terminal gets to see of it.

use super::{choose, chosen};
use backmesh::cli::output::text_of;
use backmesh_control::{Client, Event, Request, escape, read_line, serve_line};
use std::io::{self, Cursor, Read, Write};
use std::ops::ControlFlow;

/// An agent that answers with the input.
struct Agent<'a>(Cursor<&'a [u8]>);

impl Read for Agent<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl Write for Agent<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection on which nobody answers; what was sent stays.
struct Unanswered<'a>(&'a mut Vec<u8>);

impl Read for Unanswered<'_> {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
}

impl Write for Unanswered<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The line of a request.
fn sent(request: &Request) -> Vec<u8> {
    let mut line = Vec::new();
    Client::new(Unanswered(&mut line)).ask(request, &mut |_| {}).expect_err("nobody answers");
    line
}

/// Nothing that a terminal would take for an order.
pub fn is_harmless(text: &str) -> bool {
    let turns = |c: char| matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}');
    text.chars().all(|c| c == '\n' || !(c.is_control() || turns(c)))
}

/// The first byte says who reads.
pub fn run(bytes: &[u8]) {
    let (choice, rest) = choose(bytes);
    match choice % 4 {
        0 => {
            let shown = |failure| text_of(&Event::Error(failure));
            match serve_line(rest) {
                Ok(request) => assert!(serve_line(&sent(&request)).ok() == Some(request), "what is sent is read"),
                Err(failure) => assert!(is_harmless(&shown(failure))),
            }
        }
        1 => {
            let mut on_event = |event: Event| {
                assert!(is_harmless(&text_of(&event)), "{event:?} is shown as {:?}", text_of(&event));
                ControlFlow::Continue(())
            };
            let asked = Client::new(Agent(Cursor::new(rest))).ask_while(&Request::Status, &mut on_event);
            assert!(asked.err().is_none_or(|error| is_harmless(&escape(error.to_string().as_bytes()))));
        }
        2 => {
            if let Ok(event) = serde_json::from_slice::<Event>(rest) {
                let line = event.to_line();
                let again: Event = serde_json::from_str(&line).expect("what is written is read");
                assert!(again.to_line() == line, "an event has one line");
                assert!(is_harmless(&text_of(&event)), "{event:?} is shown as {:?}", text_of(&event));
            }
        }
        _ => {
            let shown = escape(rest);
            assert!(is_harmless(&shown) && !shown.contains('\n'));
            let mut reader = Cursor::new(rest);
            while let Ok(Some(line)) = read_line(&mut reader, 100) {
                assert!(line.len() <= 100 && !line.contains(&b'\n'));
            }
        }
    }
}

/// A line of every kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let requests = [
        r#"{"api":1,"command":"backup"}"#,
        r#"{"api":1,"command":"ls","snapshot":"latest~1","path":{"path":"/a\\xff","path_base64":"L2H/"},"recursive":true}"#,
        r#"{"api":1,"command":"find","patterns":["*.txt"],"newer_than":"2026-01-01T00:00:00Z","limit":5}"#,
        r#"{"api":1,"command":"restore","snapshot":"latest","to":{"path":"/x"},"include":["a"],"dry_run":true}"#,
        r#"{"api":1,"command":"key","action":{"unlock":{"phrase":"abandon"}}}"#,
        r#"{"api":9,"command":"status"}"#,
    ];
    let events = [
        r#"{"type":"progress","phase":"storing","files":1,"bytes":2,"message":"a\u001b[2J"}"#,
        r#"{"type":"problem","path":{"path":"/a\u001b[2J\u202e"},"message":"x\ry"}"#,
        r#"{"type":"error","code":11,"message":"a\u0007\nb","hint":"\u009b31m"}"#,
        r#"{"type":"data","bytes":3}"#,
        r#"{"type":"result","result":"status","agent":true,"node":{"id":"a","name":"\u001b","addresses":["/x"],"peer_id":""}}"#,
        r#"{"type":"result","result":"peers","peers":[{"node":"\u001b]0;","peer_id":"","name":"\u202e","site":"\u0007","me":false,"standing":"accepted","connected":true,"addresses":[],"offered_bytes":1,"free_bytes":1,"shards_held":0}]}"#,
        r#"{"type":"result","result":"ls","entries":[{"path":{"path":"/\u001b"},"kind":"symlink","bytes":0,"mode":511,"modified":"2026-01-01T00:00:00.000Z","uid":0,"gid":0,"user":"\u001b","group":"","target":{"path":"\u001b"},"torn":true}]}"#,
    ];
    let bytes = |lines: &[&str]| lines.iter().map(|line| line.as_bytes().to_vec()).collect::<Vec<_>>();
    let conversation = events.map(|event| if event.contains("data") { format!("{event}\nabc") } else { format!("{event}\n") });
    [
        chosen(0, bytes(&requests)),
        chosen(1, [conversation.concat().into_bytes()]),
        chosen(2, bytes(&events)),
        chosen(3, [b"a\x1b[2J\nb\xff\xc2\x9b".to_vec()]),
    ]
    .concat()
}
