//! The store as a whole, on the simulated disk.

mod checks;
mod damage;
mod faults;
mod histories;
mod indexes;
mod sweeps;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::pack::{BLOCK_LEN, ENTRY_HEAD_LEN, MAX_BLOB_LEN, PACK_HEADER_LEN, PackHeader, pack_file_name};
use super::*;
use crate::error::{Class, Error};
use crate::storage::sim::{self, CallKind, Seeded, SimDisk};

const STORE: StoreId = StoreId(*b"a store of tests");
const UNCLEAN: OpenMode = OpenMode::Write { clean: false };
const CLEAN: OpenMode = OpenMode::Write { clean: true };
/// Packs of the tests that roll.
const SMALL: u64 = 4096;

fn dir() -> PathBuf {
    PathBuf::from("/p/blobs")
}

fn path(pack: u64) -> PathBuf {
    dir().join(pack_file_name(PackId(pack)))
}

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.shared().create_dir_all(&dir()).unwrap();
    disk
}

fn try_open(disk: &SimDisk, mode: OpenMode, target: u64) -> Result<(Blobs, BlobsReport), BlobError> {
    Blobs::open_with_target(disk.shared(), dir(), STORE, mode, target)
}

fn open(disk: &SimDisk, mode: OpenMode) -> Blobs {
    let (blobs, report) = try_open(disk, mode, SMALL).unwrap();
    assert_eq!(report.findings, []);
    blobs
}

/// Bytes that do not compress.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Seeded::new(seed);
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| rng.draw().to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

fn list(blobs: &Blobs) -> Vec<(BlobId, u64)> {
    let mut all = Vec::new();
    blobs
        .each(&mut |id, len| {
            all.push((id, len));
            Ok(())
        })
        .unwrap();
    all
}

fn place(blobs: &Blobs, id: &BlobId) -> find::Place {
    blobs.find(id, &mut [0; pack::MAX_HEAD_LEN]).unwrap().unwrap()
}

fn read_file(disk: &SimDisk, path: &Path) -> Vec<u8> {
    let file = disk.shared().open_read(path).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn write_file(disk: &SimDisk, path: &Path, bytes: &[u8]) {
    let storage = disk.shared();
    let file = storage.create_new(path).or_else(|_| storage.open(path)).unwrap();
    file.set_len(0).unwrap();
    file.write_at(&[bytes], 0).unwrap();
    file.sync_data().unwrap();
    storage.sync_dir(path.parent().unwrap()).unwrap();
}

#[test]
fn what_is_put_is_read_back_whole_in_part_and_after_a_reopen() {
    let disk = disk();
    let mut blobs = open(&disk, UNCLEAN);
    let mut put = BTreeMap::new();
    for (n, len) in [0, 1, 7, 8, 9, 4096, BLOCK_LEN - 1, BLOCK_LEN, BLOCK_LEN + 1, 3 * BLOCK_LEN + 17].into_iter().enumerate() {
        let raw = noise(n as u64, len);
        put.insert(blobs.put(&raw, Encoding::Raw).unwrap(), raw);
        let text = b"compressible ".repeat(len / 13 + 1);
        put.insert(blobs.put(&text, Encoding::Compress).unwrap(), text);
    }
    blobs.sync().unwrap();
    assert_eq!(blobs.unsynced_bytes(), 0);
    for mode in [None, Some(CLEAN), Some(OpenMode::ReadOnly), Some(UNCLEAN)] {
        if let Some(mode) = mode {
            drop(blobs);
            blobs = open(&disk, mode);
        }
        assert_eq!(list(&blobs).len(), put.len());
        let usage = blobs.usage();
        assert_eq!(usage.raw, put.values().map(|b| b.len() as u64).sum::<u64>());
        assert!(usage.stored < usage.raw && usage.packs > 3 && usage.blobs == put.len() as u64);
        for (id, bytes) in &put {
            assert_eq!(blobs.contains(id).unwrap(), Some(bytes.len() as u64));
            assert_eq!(&blobs.get(id).unwrap(), bytes);
            assert_eq!(blobs.verify(id), BlobState::Sound);
            let ends = [0, 1, 5, BLOCK_LEN - 3, BLOCK_LEN, 2 * BLOCK_LEN + 1, bytes.len(), bytes.len() + 9];
            for start in ends {
                for len in [1, 10, BLOCK_LEN, 4 * BLOCK_LEN] {
                    let mut buf = vec![0xee; len];
                    let n = blobs.read_at(id, start as u64, &mut buf).unwrap();
                    let from = start.min(bytes.len());
                    assert_eq!(&buf[..n], &bytes[from..(from + len).min(bytes.len())]);
                }
            }
            assert_eq!(blobs.read_at(id, u64::MAX, &mut [0; 4]).unwrap(), 0);
        }
    }
}

#[test]
fn a_blob_is_stored_once() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    let bytes = noise(1, 100);
    let id = blobs.put(&bytes, Encoding::Raw).unwrap();
    let len = blobs.usage().pack_bytes;
    assert_eq!(blobs.put(&bytes, Encoding::Compress).unwrap(), id);
    assert_eq!(blobs.usage().pack_bytes, len);
    assert!(matches!(blobs.put(&vec![0; MAX_BLOB_LEN + 1], Encoding::Raw), Err(BlobError::TooLong(_))));
    assert!(matches!(blobs.get(&BlobId::of(b"no")), Err(BlobError::Missing(_))));
    assert_eq!(blobs.verify(&BlobId::of(b"no")), BlobState::Missing);
}

/// Of what comes together, each part is prepared before any is stored.
#[test]
fn equal_blobs_that_are_put_together_are_stored_and_counted_once() {
    let blobs = open(&disk(), UNCLEAN);
    let (noise, text) = (noise(1, 3000), [b'a'; 3000]);
    let mut pieces = [&noise[..], &text, &noise, &text, &noise, &text].into_iter();
    let ids = blobs.put_as_found(1 << 20, &mut || pieces.next(), Encoding::Compress).unwrap();
    assert_eq!(ids, [&noise, &text[..], &noise, &text[..], &noise, &text[..]].map(BlobId::of));
    let Kept { offered, new, stored } = blobs.kept();
    assert_eq!((list(&blobs).len(), offered, new), (2, 18_000, 6000));
    assert!((3000..3100).contains(&stored), "{stored}");
}

#[test]
fn pieces_are_taken_from_both_ends_while_they_are_found_and_named_in_order() {
    for seed in 0..40 {
        let blobs = open(&disk(), UNCLEAN);
        let mut rng = Seeded::new(seed);
        let bytes: Vec<Vec<u8>> = (0..rng.draw() % 60).map(|n| noise(n % 50, 1 + rng.draw() as usize % 9000)).collect();
        for together in [0, 1 << 20] {
            let mut pieces = bytes.iter();
            let mut next = || {
                // Slower and faster than who takes them.
                if seed % 3 == 0 {
                    std::thread::sleep(std::time::Duration::from_micros(50));
                }
                pieces.next().map(Vec::as_slice)
            };
            let ids = blobs.put_as_found(together, &mut next, Encoding::Compress).unwrap();
            assert_eq!(ids, bytes.iter().map(|b| BlobId::of(b)).collect::<Vec<_>>(), "seed {seed}");
        }
        for piece in &bytes {
            assert_eq!(blobs.get(&BlobId::of(piece)).unwrap(), *piece);
        }
    }
}

#[test]
fn whoever_waits_for_more_pieces_ends_when_none_come_because_of_a_panic() {
    let blobs = open(&disk(), UNCLEAN);
    let bytes = noise(3, 5000);
    let mut left = 5;
    let mut next = || {
        left -= 1;
        assert!(left > 0, "no more");
        Some(&bytes[left * 10..])
    };
    let put = std::panic::AssertUnwindSafe(|| blobs.put_as_found(1 << 20, &mut next, Encoding::Raw));
    assert!(std::panic::catch_unwind(put).is_err());
    assert_eq!(blobs.put_as_found(1 << 20, &mut || None, Encoding::Raw).unwrap(), []);
}

#[test]
fn a_put_that_finds_a_wrong_copy_writes_the_bytes_again() {
    let disk = disk();
    let bytes = noise(1, 100);
    let id = {
        let blobs = open(&disk, UNCLEAN);
        let id = blobs.put(&bytes, Encoding::Raw).unwrap();
        blobs.sync().unwrap();
        id
    };
    assert!(disk.flip(&path(1), PACK_HEADER_LEN + ENTRY_HEAD_LEN as u64 + 4 + 50, 4));
    let blobs = open(&disk, CLEAN);
    assert!(matches!(blobs.get(&id), Err(BlobError::Damaged(Finding { fault: Fault::Hash, .. }))));
    assert_eq!(blobs.put(&bytes, Encoding::Raw).unwrap(), id);
    blobs.sync().unwrap();
    assert_eq!(blobs.get(&id).unwrap(), bytes);
    assert_eq!(open(&disk, CLEAN).get(&id).unwrap(), bytes, "the youngest copy counts after a reopen");
}

#[test]
fn a_hit_on_an_unsynced_blob_is_durable_after_the_callers_sync() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    let id = blobs.put(b"shared", Encoding::Raw).unwrap();
    assert!(blobs.unsynced_bytes() > 0);
    assert_eq!(blobs.put(b"shared", Encoding::Raw).unwrap(), id);
    blobs.sync().unwrap();
    for seed in 0..20 {
        assert_eq!(open(&disk.crash(seed), UNCLEAN).get(&id).unwrap(), b"shared");
    }
}

#[test]
fn a_blob_that_was_found_right_is_not_read_again() {
    let disk = disk();
    let bytes = noise(1, 3000);
    open(&disk, UNCLEAN).put(&bytes, Encoding::Raw).unwrap();
    let blobs = open(&disk, UNCLEAN);
    let calls = disk.all_calls();
    blobs.put(&bytes, Encoding::Raw).unwrap();
    let first = disk.all_calls();
    blobs.put(&bytes, Encoding::Raw).unwrap();
    // Its head is looked at, no more.
    assert!(first - calls > 1 && disk.all_calls() - first <= 1, "{calls}, {first}, {}", disk.all_calls());
}

#[test]
fn a_reader_beside_the_writer_sees_what_a_refresh_shows_it_and_never_writes() {
    let disk = disk();
    let writer = open(&disk, UNCLEAN);
    let first = writer.put(&noise(1, 500), Encoding::Raw).unwrap();
    let calls = disk.calls();
    let reader = open(&disk, OpenMode::ReadOnly);
    assert_eq!(disk.calls(), calls);
    assert!(matches!(reader.put(b"x", Encoding::Raw), Err(BlobError::ReadOnly(_))));
    let mut ids = vec![first];
    for n in 2..40 {
        ids.push(writer.put(&noise(n, 500), Encoding::Raw).unwrap());
        // A half-written entry behind the last.
        if n % 5 == 0 {
            let last = *writer.index().packs.last_key_value().unwrap().0;
            let file = disk.shared().open(&writer.pack_path(last)).unwrap();
            let end = file.len().unwrap();
            file.write_at(&[&noise(n, 90)], end).unwrap();
            let report = reader.refresh().unwrap();
            assert!(report.findings.iter().all(Finding::is_torn_tail));
            file.set_len(end).unwrap();
        }
        reader.refresh().unwrap();
        assert_eq!(list(&reader).len(), ids.len());
        assert_eq!(reader.verify(ids.last().unwrap()), BlobState::Sound);
    }
    // Swept away under the reader.
    let keep = ids[3];
    writer.sweep(&|id| *id == keep).unwrap();
    assert_eq!(reader.get(&keep).unwrap(), noise(4, 500));
    reader.refresh().unwrap();
    assert!(list(&reader).len() < 10);
    // Written afresh under the reader, with other offsets.
    drop(writer);
    let last = *reader.index().packs.last_key_value().unwrap().0;
    let writer = open(&disk, UNCLEAN);
    let late = writer.put(&noise(99, 50), Encoding::Raw).unwrap();
    reader.refresh().unwrap();
    assert_eq!(reader.get(&late).unwrap(), noise(99, 50));
    assert_eq!(reader.get(&keep).unwrap(), noise(4, 500));
    assert!(*reader.index().packs.last_key_value().unwrap().0 >= last);
}
