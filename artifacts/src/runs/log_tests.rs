use std::fs;
use std::path::Path;

use super::frame::MAGIC;
use super::*;
use crate::fault::{Fault, FaultFiles};
use crate::files::OsFiles;
use crate::scratch::scratch;

const NAME: &str = "20261122-101530-1a2b3c4d";
const ENOSPC: i32 = 28;
const EIO: i32 = 5;

fn payload(n: u64) -> Vec<u8> {
    format!("frame {n} {}", "x".repeat(n as usize * 3)).into_bytes()
}

/// A log with frames 0 to `count - 1`; gives its bytes and where each frame begins.
fn write_log(path: &Path, count: u64) -> (Vec<u8>, Vec<usize>) {
    let (mut log, replay) = AppendLog::open(&OsFiles, path, NAME).expect("opens");
    assert_eq!(replay.payloads.len(), 0);
    let mut begins = Vec::new();
    for n in 0..count {
        begins.push(fs::metadata(path).expect("there").len() as usize);
        assert_eq!(log.append(&payload(n)).expect("appended"), n);
    }
    (fs::read(path).expect("there"), begins)
}

fn payloads(count: u64) -> Vec<Vec<u8>> {
    (0..count).map(payload).collect()
}

#[test]
fn what_is_appended_is_replayed() {
    let dir = scratch();
    let path = dir.path().join("journal.log");
    assert_eq!(Replay::read(&path, NAME).expect("no log is an empty log"), Replay::default());
    write_log(&path, 5);
    let (mut log, replay) = AppendLog::open(&OsFiles, &path, NAME).expect("opens");
    assert_eq!((replay.payloads, replay.torn), (payloads(5), None));
    assert_eq!(log.append(&payload(5)).expect("appended"), 5);
    log.append(b"").expect("an empty payload");
    let mut expected = payloads(6);
    expected.push(Vec::new());
    assert_eq!(Replay::read(&path, NAME).expect("reads").payloads, expected);
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_off_and_writing_goes_on() {
    let dir = scratch();
    let path = dir.path().join("journal.log");
    let (bytes, begins) = write_log(&path, 3);
    for length in 0..bytes.len() {
        fs::write(&path, &bytes[..length]).expect("written");
        let whole = begins.iter().chain([&bytes.len()]).filter(|b| **b <= length).count().saturating_sub(1) as u64;
        let at_edge = length == 0 || begins.contains(&length);
        let before = Replay::read(&path, NAME).expect("a torn tail is no error");
        assert_eq!((before.payloads.len() as u64, before.torn.is_none()), (whole, at_edge), "cut to {length}");
        assert_eq!(fs::metadata(&path).expect("there").len() as usize, length, "reading changes nothing");
        let (mut log, replay) = AppendLog::open(&OsFiles, &path, NAME).expect("opens");
        assert_eq!(replay.payloads, payloads(whole));
        assert_eq!(log.append(&payload(whole)).expect("appended"), whole);
        assert_eq!(Replay::read(&path, NAME).expect("reads").payloads, payloads(whole + 1), "cut to {length}");
    }
}

#[test]
fn a_tail_that_reads_as_zeros_is_torn() {
    let dir = scratch();
    let path = dir.path().join("journal.log");
    let (bytes, begins) = write_log(&path, 3);
    for kept in begins[2]..bytes.len() - 8 {
        let mut zeroed = bytes.clone();
        zeroed[kept..].fill(0);
        fs::write(&path, &zeroed).expect("written");
        let replay = Replay::read(&path, NAME).expect("a torn tail is no error");
        assert_eq!((replay.payloads, replay.torn.is_some()), (payloads(2), true), "zeros from {kept}");
    }
}

#[test]
fn a_flipped_bit_in_any_byte_is_an_error_that_says_where() {
    let dir = scratch();
    let path = dir.path().join("journal.log");
    let (bytes, begins) = write_log(&path, 3);
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(&path, &flipped).expect("written");
        match AppendLog::open(&OsFiles, &path, NAME) {
            Err(LogError::NotALog { .. }) => assert!(at < MAGIC.len()),
            Err(LogError::Damaged { offset, sequence, .. }) => {
                let frame = begins.iter().rposition(|b| *b <= at).expect("in a frame");
                assert_eq!((offset as usize, sequence as usize), (begins[frame], frame), "byte {at}");
            }
            other => panic!("byte {at}: {other:?}"),
        }
        assert_eq!(fs::read(&path).expect("there"), flipped, "damage is not repaired away");
    }
}

#[test]
fn frames_that_are_missing_repeated_or_of_another_run_are_errors() {
    let dir = scratch();
    let path = dir.path().join("journal.log");
    let (bytes, begins) = write_log(&path, 3);
    let frame = |n: usize| &bytes[begins[n]..begins.get(n + 1).copied().unwrap_or(bytes.len())];
    for order in [&[0, 2][..], &[0, 0, 1], &[1], &[0, 2, 1]] {
        let mixed = [MAGIC.to_vec(), order.iter().flat_map(|n| frame(*n)).copied().collect()].concat();
        fs::write(&path, mixed).expect("written");
        assert!(matches!(Replay::read(&path, NAME), Err(LogError::Damaged { .. })), "{order:?}");
    }
    fs::write(&path, &bytes).expect("written");
    assert!(matches!(Replay::read(&path, "another run"), Err(LogError::Damaged { sequence: 0, .. })));
}

#[test]
fn after_a_failed_append_the_log_refuses_until_opened_again() {
    let dir = scratch();
    let path = dir.path().join("journal.log");
    let quiet = FaultFiles::counting();
    let (mut log, _) = AppendLog::open(&quiet, &path, NAME).expect("opens");
    log.append(&payload(0)).expect("appended");
    let before_second = quiet.operations();
    drop(log);
    for (offset, errno) in [(0, EIO), (1, EIO), (0, ENOSPC), (1, ENOSPC)] {
        fs::remove_file(&path).expect("removed");
        let files = FaultFiles::failing(before_second + offset, Fault::Once(errno));
        let (mut log, _) = AppendLog::open(&files, &path, NAME).expect("opens");
        log.append(&payload(0)).expect("appended");
        match log.append(&payload(1)) {
            Err(LogError::DiskFull { needed, .. }) => assert!(errno == ENOSPC && needed > payload(1).len() as u64),
            Err(LogError::Io { .. }) => assert_eq!(errno, EIO),
            other => panic!("{other:?}"),
        }
        assert!(matches!(log.append(&payload(1)), Err(LogError::Poisoned { .. })));
        let (mut log, replay) = AppendLog::open(&OsFiles, &path, NAME).expect("opens again");
        assert_eq!(replay.payloads[0], payload(0));
        log.append(b"goes on").expect("appended");
    }
}

#[test]
fn a_payload_that_is_too_long_is_refused_and_harms_nothing() {
    let dir = scratch();
    let path = dir.path().join("journal.log");
    let (mut log, _) = AppendLog::open(&OsFiles, &path, NAME).expect("opens");
    assert!(matches!(log.append(&vec![0; MAX_PAYLOAD + 1]), Err(LogError::TooLong { .. })));
    log.append(&vec![0; MAX_PAYLOAD]).expect("the longest payload");
    assert_eq!(Replay::read(&path, NAME).expect("reads").payloads.len(), 1);
}

#[test]
fn a_frozen_frame_keeps_its_bytes() {
    // Frozen on 2026-11-22, and equal to what Python's struct and blake3 give: journals of earlier versions must stay readable.
    let dir = scratch();
    let path = dir.path().join("journal.log");
    let (mut log, _) = AppendLog::open(&OsFiles, &path, NAME).expect("opens");
    log.append(b"hello").expect("appended");
    assert_eq!(hex::encode(fs::read(&path).expect("there")), FROZEN);
}

const FROZEN: &str = "737072696e742d666c6f77206c6f6720310a050000000000000000000000b8fc39d268656c6c6fefbcb0bbc57bcb7e7871db\
    07ad5cde727fedf5e3dbcc882e331012284277a27b";
