//! The lines as scripts see them: field names, ends, bounds, and what a client makes of an agent that does not behave.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use backmesh_control::{
    ANSWER_BYTES_MAX, Answer, BackupResult, BackupsStatus, Batch, Client, ClientError, EntryInfo, EntryKind, Event, ExitCode,
    Failure, FileTime, FindRequest, Freshness, LeftOut, LineError, LsResult, NodeStatus, PathText, Phase, Problem, Progress,
    REQUEST_BYTES_MAX, Request, RestoreResult, RuleSource, ShelfStatus, StatusResult, VaultHealth, VaultStatus, WaitsFor,
    WorkgroupStatus, read_line, serve_line,
};
use serde_json::{Value, json};
use std::io::{Cursor, Read, Write};
use std::ops::ControlFlow;

fn json_of(event: &Event) -> Value {
    let line = event.to_line();
    assert_eq!(line.matches('\n').count(), 1);
    assert!(line.ends_with('\n'));
    let value: Value = serde_json::from_str(&line).unwrap();
    let back: Event = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(&back, event);
    value
}

#[test]
fn the_fields_of_the_contract() {
    let backup = BackupResult {
        snapshot: "ab".repeat(32),
        files: 3,
        bytes_read: 10,
        bytes_added: 4096,
        bytes_sent: 8192,
        seconds: 1.5,
        problems: 1,
        complete: false,
        notes: vec!["1 socket".into()],
        left_out: vec![LeftOut {
            source: RuleSource::IgnoreFile,
            pattern: "*.o".into(),
            files: 1,
            folders: 0,
            bytes: 5,
            example: PathText::new(b"/a.o"),
        }],
    };
    let event = Event::result(backup);
    assert_eq!(event.end(), Some(ExitCode::Problems));
    assert_eq!(
        json_of(&event),
        json!({"type": "result", "command": "backup", "snapshot": "ab".repeat(32), "files": 3, "bytes_read": 10, "bytes_added": 4096,
            "bytes_sent": 8192, "seconds": 1.5, "problems": 1, "complete": false,
            "left_out": [{"source": "ignore_file", "pattern": "*.o", "files": 1, "folders": 0, "bytes": 5, "path": "/a.o"}], "notes": ["1 socket"]})
    );

    let status = StatusResult {
        agent: true,
        node: Some(NodeStatus {
            id: "01".repeat(32),
            addresses: vec!["/ip4/10.0.0.1/tcp/47770".into()],
            ..NodeStatus::default()
        }),
        workgroup: Some(WorkgroupStatus { id: "02".repeat(32), members: 9, ..WorkgroupStatus::default() }),
        vault: Some(VaultStatus { snapshots: 2, bytes_stored: 7, health: VaultHealth::Degraded, ..VaultStatus::default() }),
        backups: Some(BackupsStatus { freshness: Freshness::Overdue, waits_for: WaitsFor::Mains, ..BackupsStatus::default() }),
        shelf: Some(ShelfStatus { bytes_held: 5, shards: 6, bytes_offered: 7, ..ShelfStatus::default() }),
    };
    let value = json_of(&Event::result(status));
    assert_eq!(value["agent"], true);
    assert_eq!(value["node"]["id"], "01".repeat(32));
    assert_eq!(value["node"]["addresses"][0], "/ip4/10.0.0.1/tcp/47770");
    assert_eq!(value["workgroup"]["id"], "02".repeat(32));
    assert_eq!(value["workgroup"]["members"], 9);
    assert_eq!(value["vault"]["snapshots"], 2);
    assert_eq!(value["vault"]["bytes_stored"], 7);
    assert_eq!(value["vault"]["health"], "degraded");
    assert_eq!(value["backups"], json!({"freshness": "overdue", "waits_for": "mains", "running": false, "failures": 0}));
    assert_eq!(value["shelf"]["bytes_held"], 5);
    assert_eq!(value["shelf"]["shards"], 6);

    let event = Event::result(StatusResult::default());
    assert_eq!(json_of(&event), json!({"type": "result", "command": "status", "agent": false}));
    assert_eq!(event.end(), Some(ExitCode::NoAgent));
}

#[test]
fn problems_errors_and_progress() {
    assert_eq!(
        json_of(&Event::Problem(Problem::at(b"/a/\xff", "permission denied"))),
        json!({"type": "problem", "path": "/a/\\xff", "path_base64": "L2Ev/w==", "message": "permission denied"})
    );
    assert_eq!(json_of(&Event::Problem(Problem::new("x"))), json!({"type": "problem", "message": "x"}));
    let failure = Failure::new(ExitCode::TooFew, "2 of 4 shards").with_hint("switch on a and b");
    let event = Event::Error(failure);
    assert_eq!(event.end(), Some(ExitCode::TooFew));
    assert_eq!(json_of(&event), json!({"type": "error", "code": 13, "message": "2 of 4 shards", "hint": "switch on a and b"}));
    let progress = Event::Progress(Progress::new(Phase::Storing).with_message("sealing"));
    assert_eq!(progress.end(), None);
    assert_eq!(
        json_of(&progress),
        json!({"type": "progress", "phase": "storing", "files": 0, "files_done": 0, "bytes": 0, "bytes_done": 0, "bytes_sent": 0,
            "message": "sealing"})
    );
}

#[test]
fn a_long_list_comes_in_bounded_parts_and_ends_once() {
    let entry = |name: String| EntryInfo {
        path: PathText::new(name.as_bytes()),
        kind: EntryKind::File,
        bytes: 1,
        mode: 0o644,
        modified: FileTime(0),
        uid: 0,
        gid: 0,
        user: String::new(),
        group: String::new(),
        target: None,
        torn: false,
    };
    let mut batch: Batch<EntryInfo> = Batch::default();
    let mut events: Vec<Event> = (0..3000).filter_map(|n| batch.push(entry(format!("/{}{n}", "\u{1}".repeat(60))))).collect();
    events.extend(batch.push(entry(format!("/{}", "\u{1}".repeat(64 << 10)))));
    events.push(batch.finish(9));
    assert!(events.len() > 10);
    assert_eq!(events.iter().filter_map(Event::end).collect::<Vec<_>>(), [ExitCode::Done]);
    assert!(events.iter().all(|event| event.to_line().len() < ANSWER_BYTES_MAX));
    let count: usize = events
        .iter()
        .map(|event| match event {
            Event::Result { answer: Answer::Ls(LsResult { entries, .. }), .. } => entries.len(),
            other => panic!("{other:?}"),
        })
        .sum();
    assert_eq!(count, 3001);
}

#[test]
fn requests_are_read_as_they_are_written() {
    let requests = [
        Request::Backup,
        Request::Snapshots,
        Request::Ls { snapshot: "latest".into(), path: Some(PathText::new(b"/\xff")), recursive: true },
        Request::Restore {
            snapshot: "12345678".into(),
            paths: vec![PathText::new(b"/a")],
            to: PathText::new(b"/t"),
            delete: true,
            dry_run: false,
            numeric_owners: true,
            include: vec!["*.jpg".into()],
            exclude: Vec::new(),
        },
        Request::Diff { before: "latest~1".into(), after: "latest".into(), paths: vec![PathText::new(b"/\xff")], metadata: true },
        Request::Find(FindRequest { patterns: vec!["*.odt".into()], kind: Some(EntryKind::File), ..FindRequest::default() }),
        Request::Dump { snapshot: "latest".into(), path: PathText::new(b"/\xff"), tar: false },
        Request::Stats { snapshot: None },
        Request::Status,
        Request::Peers,
        Request::Schedule,
        Request::Reload,
        Request::Shutdown,
    ];
    for request in requests {
        let mut sent = Duplex::answering("");
        assert!(matches!(Client::new(&mut sent).ask(&request, &mut |_| ()), Err(ClientError::Closed)));
        let line = read_line(&mut Cursor::new(sent.written), REQUEST_BYTES_MAX).unwrap().unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&line).unwrap()["api"], 1);
        assert_eq!(serve_line(&line), Ok(request));
    }
    assert_eq!(serve_line(br#"{"api":1,"command":"backup","later":true}"#), Ok(Request::Backup));
}

#[test]
fn what_is_no_request_is_answered_with_an_error() {
    for line in
        ["", "{", "[]", r#"{"command":"backup"}"#, r#"{"api":1}"#, r#"{"api":1,"command":"format"}"#, "\u{0}", r#"{"api":-1}"#]
    {
        assert_eq!(serve_line(line.as_bytes()).unwrap_err().code, ExitCode::Usage, "{line}");
    }
    let deep = format!(r#"{{"api":1,"command":{}"#, "[".repeat(100_000));
    assert_eq!(serve_line(deep.as_bytes()).unwrap_err().code, ExitCode::Usage);
    assert_eq!(serve_line(&vec![b' '; REQUEST_BYTES_MAX + 1]).unwrap_err().code, ExitCode::Usage);
    let other = serve_line(br#"{"api":2,"command":"something new"}"#).unwrap_err();
    assert_eq!(other.code, ExitCode::Failed);
    assert!(other.hint.is_some());
}

#[test]
fn lines_are_bounded() {
    let read = |bytes: &[u8], max| read_line(&mut Cursor::new(bytes), max);
    assert_eq!(read(b"abc\ndef", 3).unwrap().unwrap(), b"abc");
    assert_eq!(read(b"\n", 3).unwrap().unwrap(), b"");
    assert_eq!(read(b"", 3).unwrap(), None);
    assert!(matches!(read(b"abc", 3), Err(LineError::Cut)));
    assert!(matches!(read(b"abcd\n", 3), Err(LineError::TooLong(3))));
    assert!(matches!(read_line(&mut std::io::BufReader::new(std::io::repeat(b'x')), 1000), Err(LineError::TooLong(1000))));
}

#[test]
fn a_client_hears_everything_up_to_the_end() {
    let part = Event::part(LsResult::default()).to_line();
    let end = Event::result(RestoreResult { problems: 2, ..RestoreResult::default() }).to_line();
    let mut agent = Duplex::answering(&format!("{part}{end}{part}"));
    let mut heard = 0;
    assert_eq!(Client::new(&mut agent).ask(&Request::Status, &mut |_| heard += 1).unwrap(), ExitCode::Problems);
    assert_eq!(heard, 2);

    let ask = |answer: &str| Client::new(&mut Duplex::answering(answer)).ask(&Request::Status, &mut |_| ());
    assert!(matches!(ask(&part), Err(ClientError::Closed)));
    assert!(matches!(ask("{\"type\":\"no such\"}\n"), Err(ClientError::Malformed(_))));
    assert!(matches!(ask("{\"type\":\"err"), Err(ClientError::Line(LineError::Cut))));
}

#[test]
fn bytes_follow_their_line_as_they_are() {
    let end = Event::result(RestoreResult::default()).to_line();
    let data = Event::data(b"one\n{\"type".to_vec());
    let answer = format!("{}one\n{{\"type{end}", data.to_line());
    let mut heard = Vec::new();
    let code = Client::new(&mut Duplex::answering(&answer)).ask(&Request::Backup, &mut |event| heard.push(event)).unwrap();
    assert_eq!((code, &heard[0], heard.len()), (ExitCode::Done, &data, 2));

    let ask = |answer: &str| Client::new(&mut Duplex::answering(answer)).ask(&Request::Backup, &mut |_| ());
    assert!(matches!(ask("{\"type\":\"data\",\"bytes\":5}\nfour"), Err(ClientError::Line(LineError::Cut))));
    assert!(matches!(ask("{\"type\":\"data\",\"bytes\":65537}\n"), Err(ClientError::TooMuch(65537))));

    let mut client = Duplex::answering(&answer);
    let broken = Client::new(&mut client).ask_while(&Request::Backup, &mut |_| ControlFlow::Break(ExitCode::Failed));
    assert_eq!(broken.unwrap(), ExitCode::Failed);
}

struct Duplex {
    answer: Cursor<Vec<u8>>,
    written: Vec<u8>,
}

impl Duplex {
    fn answering(answer: &str) -> Self {
        Self { answer: Cursor::new(answer.as_bytes().to_vec()), written: Vec::new() }
    }
}

impl Read for Duplex {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.answer.read(bytes)
    }
}

impl Write for Duplex {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.written.write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
