use super::{at_every_call, dir, ends_the_run, shared};
use crate::faulty::{Fault, FaultyDisk};
use crate::{Change, DbError, DiskError, Records, RecordsError, Table};

fn batch(number: u8) -> Vec<Change> {
    let put = |key: u8| Change::Put(Table::Head, vec![key], vec![number; 100]);
    let mut changes = vec![put(1), put(2), put(3)];
    if number % 2 == 1 {
        changes.push(Change::Delete(Table::Head, vec![3]));
    }
    changes
}

/// Returns the last batch that was acknowledged.
fn apply_some(disk: &FaultyDisk) -> Option<u8> {
    let mut acknowledged = None;
    for run in 0..2 {
        let opened = Records::open(shared(disk), dir());
        if ends_the_run(&opened) {
            break;
        }
        let Ok(records) = opened else { continue };
        for number in run * 2..run * 2 + 2 {
            let applied = records.apply(&batch(number));
            if ends_the_run(&applied) {
                return acknowledged;
            }
            acknowledged = applied.ok().map(|()| number).or(acknowledged);
        }
    }
    acknowledged
}

#[test]
fn a_batch_is_there_as_a_whole_and_not_lost_once_acknowledged() {
    at_every_call(apply_some, |disk, acknowledged, case| {
        let records = Records::open(shared(disk), dir()).unwrap_or_else(|error| panic!("{case}: {error}"));
        let found = records.scan(Table::Head, &[]).unwrap();
        let number = found.first().map(|(_, value)| value[0]);
        assert!(number >= acknowledged, "{case}: {number:?} {acknowledged:?}");
        if let Some(number) = number {
            let keys = if number % 2 == 1 { 2 } else { 3 };
            assert_eq!(found.len(), keys, "{case}");
            assert!(found.iter().all(|(_, value)| *value == [number; 100]), "{case}");
        }
    });
}

#[test]
fn tables_and_prefixes_are_kept_apart() {
    let records = Records::open(shared(&FaultyDisk::new()), dir()).unwrap();
    let value = |text: &str| text.as_bytes().to_vec();
    let put = |table, key: &str| (table, value(key), value(key));
    records.put_many(&[put(Table::Head, "a"), put(Table::Head, "ab"), put(Table::Head, "b"), put(Table::Copyset, "ab")]).unwrap();
    let keys = |found: Vec<crate::Pair>| found.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect::<Vec<_>>();
    assert_eq!(keys(records.scan(Table::Head, b"a").unwrap()), ["a", "ab"]);
    assert_eq!(keys(records.scan(Table::Head, b"").unwrap()), ["a", "ab", "b"]);
    assert_eq!(keys(records.scan_after(Table::Head, b"", Some(b"a"), 1).unwrap()), ["ab"]);
    assert_eq!(keys(records.scan(Table::Charter, b"").unwrap()), [""; 0]);
    assert_eq!(records.get(Table::Copyset, b"ab").unwrap(), Some(value("ab")));
    records.delete(Table::Copyset, b"ab").unwrap();
    assert_eq!(records.get(Table::Copyset, b"ab").unwrap(), None);
}

#[test]
fn no_space_is_said_and_passes() {
    let disk = FaultyDisk::new();
    let records = Records::open(shared(&disk), dir()).unwrap();
    records.apply(&batch(0)).unwrap();
    let mut said = 0;
    for ahead in 0..40 {
        disk.fail_at(disk.calls() + ahead, Fault::Full);
        match records.apply(&batch(2)) {
            Ok(()) => {}
            Err(RecordsError::Db(DbError::Disk(DiskError::Full { .. }))) => said += 1,
            Err(error) => panic!("{error}"),
        }
        disk.fail_at(u64::MAX, Fault::Full);
        // redb asks for space also where it syncs, and what is shown then need not be on the disk: it is written anew.
        assert_eq!(records.scan(Table::Head, &[]).unwrap().len(), 3);
        records.delete(Table::Head, &[9]).unwrap();
        let shown = records.scan(Table::Head, &[]).unwrap();
        let cut = disk.fork();
        cut.cut_power(ahead);
        assert_eq!(Records::open(shared(&cut), dir()).unwrap().scan(Table::Head, &[]).unwrap(), shown, "{ahead}");
    }
    assert!(said > 0);
}

#[test]
fn damage_is_said_with_the_name_of_the_file() {
    let disk = FaultyDisk::new();
    let records = Records::open(shared(&disk), dir()).unwrap();
    records.apply(&batch(0)).unwrap();
    drop(records);
    let path = dir().join("records.redb");
    let whole = disk.bytes_of(&path).unwrap();
    let mut said = 0;
    for at in (0..whole.len()).step_by(89) {
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        disk.set_bytes_of(&path, flipped);
        match Records::open(shared(&disk), dir()).and_then(|records| records.scan(Table::Head, &[])) {
            Ok(found) => assert!(found.iter().all(|(_, value)| *value == [0; 100]), "byte {at}"),
            Err(error) => {
                assert!(matches!(error, RecordsError::Db(DbError::Damaged { .. })), "byte {at}: {error}");
                assert!(error.to_string().contains("records.redb"));
                said += 1;
            }
        }
    }
    assert!(said > 0);
}
