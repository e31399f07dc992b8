//! A real process writes log and packs on the real disk, with several threads, and is killed at random moments: while it appends, syncs,
//! seals, rolls, puts blobs, recovers. Every record that was answered is there, and its blob.
//!
//! `IZE_TEST_ROUNDS=500` kills as often as issue 3 asks for.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ize::blobs::{BlobState, Blobs, Encoding, OpenMode};
use ize::ids::{BlobId, Lsn, StoreId};
use ize::storage::Disk;
use ize::wal::verify::{Worst, verify};
use ize::wal::{Bounds, Log, Options, Record, RecoveryInput, RecoveryReport, for_each_record};
use rand::prelude::*;

const STORE: StoreId = StoreId([9; 16]);
const THREADS: u64 = 4;
/// Where the writing process finds its store.
const PLACE: &str = "IZE_TEST_WRITER";
/// A fresh store after so many kills, so that the last is checked as fast as the first.
const KILLS_PER_STORE: u32 = 20;

fn wal(place: &Path) -> PathBuf {
    place.join("wal")
}

fn blob_of(body: &[u8]) -> Option<BlobId> {
    if body[16] == 1 { Some(BlobId(body[17..49].try_into().unwrap())) } else { None }
}

fn open(place: &Path) -> (Log, Arc<Blobs>, RecoveryReport) {
    let (blobs, _) = Blobs::open(Disk::shared(), place.join("blobs"), STORE, OpenMode::Write { clean: false }).unwrap();
    let blobs = Arc::new(blobs);
    let hook = Arc::clone(&blobs);
    let mut sound = |record: &Record<'_>| match blob_of(record.body).map(|id| blobs.verify(&id)) {
        None | Some(BlobState::Sound) => Ok(true),
        Some(BlobState::Missing | BlobState::Damaged(_)) => Ok(false),
        Some(BlobState::Unreadable(e)) => Err(std::io::Error::other(e)),
    };
    let input =
        RecoveryInput { before_sync: Box::new(move || hook.sync().map_err(std::io::Error::other)), ..RecoveryInput::new(&mut sound) };
    let options = Options { segment_size: 128 << 10, ..Options::default() };
    let (log, report) = Log::recover(Disk::shared(), &wal(place), STORE, input, options).unwrap();
    (log, blobs, report)
}

/// The `n`-th record of a thread: its body but for the blob's address, and the blob's bytes.
fn record(thread: u64, n: u64) -> (Vec<u8>, Option<Vec<u8>>) {
    let mut rng = StdRng::seed_from_u64(thread << 56 ^ n);
    let blob = rng.random_bool(0.2).then(|| vec![n as u8; rng.random_range(1..20_000)]);
    let mut body = [thread.to_le_bytes(), n.to_le_bytes()].concat();
    body.push(u8::from(blob.is_some()));
    if let Some(bytes) = &blob {
        body.extend_from_slice(&BlobId::of(bytes).0);
    }
    let most = if rng.random_bool(0.1) { 9000 } else { 500 };
    let len = body.len() + rng.random_range(0..most);
    body.resize(len, n as u8);
    (body, blob)
}

/// The process that is killed: nothing but a real log in a real directory. After each answer it notes thread, number and LSN in a file; the
/// note is in the page cache when the next append begins.
#[test]
#[ignore = "run by the test below, in a process of its own"]
fn writer_process() {
    let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) else { return };
    let (log, blobs, report) = open(&place);
    let base = report.next_lsn.0 << 20;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (log, blobs, place) = (&log, &blobs, &place);
            scope.spawn(move || {
                let mut notes = std::fs::File::options().append(true).create(true).open(place.join(format!("notes-{thread}"))).unwrap();
                for n in base.. {
                    let (body, blob) = record(thread, n);
                    if let Some(bytes) = blob {
                        blobs.put(&bytes, Encoding::Raw).unwrap();
                    }
                    let out = log.append_with(body.len() + 64, &mut |_, batch| _ = batch.push(7, 1, &[&body], 0)).unwrap();
                    let lsn = out[0].lsn;
                    notes.write_all(&[n.to_le_bytes(), lsn.0.to_le_bytes()].concat()).unwrap();
                    match n % 37 {
                        0 => _ = log.seal().unwrap(),
                        1..=3 => _ = log.sync_to(lsn).unwrap(),
                        _ => {}
                    }
                }
            });
        }
    });
}

/// Reads what was answered, recovers, and looks for it.
fn check(place: &Path, story: &str) -> u64 {
    let mut answered: HashMap<u64, (u64, u64)> = HashMap::new();
    for thread in 0..THREADS {
        // A note cut short was not made: the process died in it.
        let notes = std::fs::read(place.join(format!("notes-{thread}"))).unwrap_or_default();
        for note in notes.chunks_exact(16) {
            let n = u64::from_le_bytes(note[..8].try_into().unwrap());
            let lsn = u64::from_le_bytes(note[8..].try_into().unwrap());
            assert!(answered.insert(lsn, (thread, n)).is_none(), "{story}: LSN {lsn} was given twice");
        }
    }
    let (log, blobs, report) = open(place);
    let mut left = answered.clone();
    for_each_record(&Disk, &wal(place), STORE, Lsn::ZERO, Lsn(u64::MAX), &mut |r, _| {
        if !r.is_mark() {
            let (thread, n) = (u64::from_le_bytes(r.body[..8].try_into().unwrap()), u64::from_le_bytes(r.body[8..16].try_into().unwrap()));
            let (body, blob) = record(thread, n);
            assert!(r.body == body, "{story}: {} is not what was appended", r.lsn);
            if let Some(bytes) = blob {
                assert!(blobs.get(&BlobId::of(&bytes)).is_ok_and(|b| b == bytes), "{story}: the blob of {}", r.lsn);
            }
            if let Some(told) = left.remove(&r.lsn.0) {
                assert_eq!(told, (thread, n), "{story}: {}", r.lsn);
            }
        }
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    assert!(left.is_empty(), "{story}: answered and lost: {left:?}");
    assert!(answered.keys().all(|lsn| *lsn < report.next_lsn.0), "{story}");
    let verified = verify(&Disk, &wal(place), STORE, Bounds::default(), &mut |_| Ok(None)).unwrap();
    assert_eq!(verified.worst, Worst::Clean, "{story}: {:?}", verified.findings);
    drop(log);
    answered.len() as u64
}

#[test]
fn every_answered_record_of_a_killed_process_is_there() {
    let rounds: u32 = std::env::var("IZE_TEST_ROUNDS").ok().map_or(30, |n| n.parse().expect("IZE_TEST_ROUNDS is a number"));
    let mut rng = rand::rng();
    let (mut answered, mut temp) = (0, tempfile::tempdir().unwrap());
    for round in 0..rounds {
        if round % KILLS_PER_STORE == 0 {
            temp = tempfile::tempdir().unwrap();
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_process", "--ignored"])
            .env(PLACE, temp.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // From before it has opened the store to many rolls later.
        std::thread::sleep(Duration::from_micros(rng.random_range(2_000..60_000)));
        let died = child.try_wait().unwrap();
        assert!(died.is_none(), "the writer ended by itself: {:?}", child.wait_with_output());
        child.kill().unwrap();
        child.wait().unwrap();
        answered += check(temp.path(), &format!("round {round}"));
    }
    eprintln!("{rounds} kills, {answered} answers looked for (again after each)");
    assert!(answered > u64::from(rounds), "{answered} answers in {rounds} rounds");
}
