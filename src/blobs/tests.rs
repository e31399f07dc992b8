//! The store as a whole, on the simulated disk.

mod checks;
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

/// Random puts and syncs, a crash at every call that changes the disk: what was synced is there, all that is there is right, and the
/// store works on. Packs roll every few entries; the recovery itself crashes too.
#[test]
fn a_crash_at_any_call_keeps_every_synced_blob() {
    for seed in 0..40 {
        for at in 1..70 {
            let disk = disk();
            disk.crash_at_call(at);
            let mut rng = Seeded::new(seed);
            let mut synced = Vec::new();
            let mut put = Vec::new();
            let _ = (|| -> Result<(), BlobError> {
                let (blobs, _) = try_open(&disk, UNCLEAN, 2048)?;
                for n in 0..30 {
                    let bytes = noise(seed * 1000 + n, rng.below(900) as usize);
                    put.push((blobs.put(&bytes, Encoding::Raw)?, bytes));
                    if rng.below(4) == 0 {
                        blobs.sync()?;
                        synced = put.clone();
                    }
                }
                Ok(())
            })();
            let mut after = disk.crash(seed ^ at);
            // A crash of the recovery, then one that is let through.
            after.crash_at_call(1 + rng.below(6));
            if let Ok((blobs, report)) = try_open(&after, UNCLEAN, 2048) {
                assert!(report.findings.iter().all(Finding::is_torn_tail), "{seed} {at} {report:?}");
                let _ = blobs.put(b"after", Encoding::Raw).and_then(|_| blobs.sync());
            }
            after = after.crash(seed + at);
            let (blobs, report) = try_open(&after, UNCLEAN, 2048).unwrap();
            assert!(report.findings.iter().all(Finding::is_torn_tail), "{seed} {at} {report:?}");
            for (id, bytes) in &synced {
                assert_eq!(&blobs.get(id).unwrap(), bytes, "seed {seed}, call {at}");
            }
            for (id, _) in list(&blobs) {
                assert_eq!(blobs.verify(&id), BlobState::Sound, "seed {seed}, call {at}");
            }
            let id = blobs.put(b"and on", Encoding::Raw).unwrap();
            blobs.sync().unwrap();
            let again = open(&after.crash(1), UNCLEAN);
            assert_eq!(again.get(&id).unwrap(), b"and on");
        }
    }
}

#[test]
fn after_a_failed_sync_the_store_takes_nothing_and_recovery_syncs_what_the_cache_holds() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    let first = blobs.put(b"first", Encoding::Raw).unwrap();
    blobs.sync().unwrap();
    let second = blobs.put(b"second", Encoding::Raw).unwrap();
    disk.fail_sync(1);
    let error = Error::from(blobs.sync().unwrap_err());
    assert_eq!(error.class, Class::Io);
    assert!(blobs.poisoned().is_some());
    assert!(matches!(blobs.sync(), Err(BlobError::Poisoned(_))));
    assert!(matches!(blobs.put(b"third", Encoding::Raw), Err(BlobError::Poisoned(_))));
    assert_eq!(blobs.get(&first).unwrap(), b"first");
    // The process dies; the page cache still holds the second blob, the disk does not.
    let killed = disk.kill();
    assert_eq!(open(&killed.crash(1), UNCLEAN).contains(&second).unwrap(), None, "the failed sync has lost it");
    assert_eq!(open(&killed, UNCLEAN).get(&second).unwrap(), b"second");
    assert_eq!(open(&killed.crash(1), UNCLEAN).get(&second).unwrap(), b"second", "written afresh and synced by the recovery");
}

/// Of two syncs at once the first fails: the pages are clean then, and a sync that only waited for it would find nothing to complain of.
#[test]
fn a_sync_that_waited_for_one_that_failed_fails_too() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    blobs.put(b"lost", Encoding::Raw).unwrap();
    let (begun, has_begun) = std::sync::mpsc::channel();
    let mut first = true;
    disk.script(move |call| {
        if call.kind != CallKind::Sync || !std::mem::take(&mut first) {
            return None;
        }
        begun.send(()).unwrap();
        // Time for the other to come and wait.
        std::thread::sleep(std::time::Duration::from_millis(300));
        Some(sim::Fault::EIO)
    });
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| blobs.sync());
        has_begun.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
        assert!(blobs.sync().is_err());
        assert!(leader.join().unwrap().is_err());
    });
}

/// While a pack that is not full is closed, for a sweep, an append to it fails and leaves bytes behind: whoever finds them in a closed pack
/// takes them for damage.
#[test]
fn what_a_failed_append_leaves_in_a_pack_that_is_being_closed_is_cut() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    blobs.put(b"whole", Encoding::Raw).unwrap();
    let (begun, has_begun) = std::sync::mpsc::channel();
    let (mut sync, mut write, mut cut) = (true, true, true);
    disk.script(move |call| {
        let (what, effect) = match call.kind {
            CallKind::Sync => {
                if std::mem::take(&mut sync) {
                    begun.send(()).unwrap();
                    // Time for the append to come.
                    std::thread::sleep(std::time::Duration::from_millis(300));
                }
                return None;
            }
            CallKind::Write => (&mut write, sim::Effect::All),
            CallKind::SetLen => (&mut cut, sim::Effect::None),
            _ => return None,
        };
        std::mem::take(what).then_some(sim::Fault::Error { errno: libc::EIO, effect })
    });
    std::thread::scope(|scope| {
        let sweep = scope.spawn(|| blobs.begin_sweep().map(drop));
        has_begun.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
        assert!(blobs.put(&noise(1, 3000), Encoding::Raw).is_err());
        sweep.join().unwrap().unwrap();
    });
    disk.disarm();
    blobs.sync().unwrap();
    drop(blobs);
    for disk in [disk.kill(), disk.crash(0), disk.crash(1)] {
        let (blobs, report) = try_open(&disk, CLEAN, SMALL).unwrap();
        assert!(report.findings.is_empty() && blobs.usage().packs == 2, "{report:?}");
    }
}

/// A pack that somebody cuts under an open store: what is missing is damage, no failure of the disk.
#[test]
fn a_blob_behind_the_end_of_its_pack_is_damaged() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    let id = blobs.put(&noise(1, 3000), Encoding::Raw).unwrap();
    blobs.sync().unwrap();
    assert!(disk.truncate(&path(1), PACK_HEADER_LEN + 1000));
    assert!(matches!(blobs.get(&id), Err(BlobError::Damaged(Finding { fault: Fault::Entry, .. }))));
    assert!(matches!(blobs.verify(&id), BlobState::Damaged(_)));
}

/// The index has room for offsets below the bound; an entry that begins behind it is none.
#[test]
fn no_entry_begins_behind_the_bound() {
    use crate::storage::Storage;
    let dir = tempfile::tempdir().unwrap();
    let file = crate::storage::Disk.create_new(&dir.path().join("sparse")).unwrap();
    for (offset, is_entry) in [(pack::MAX_ENTRY_START - 256, true), (pack::MAX_ENTRY_START, false)] {
        let entry = pack::EntryHead { offset, encoding: pack::Stored::Raw, raw_len: 8, stored_len: 8, id: BlobId::of(b"12345678") };
        file.write_at(&[&entry.encode(STORE, PackId(1), b"12345678"), b"12345678"], offset).unwrap();
        file.set_len(offset + entry.total_len()).unwrap();
        let found = walk::Walker::new(&*file, STORE, PackId(1), offset).unwrap().step().unwrap();
        assert_eq!(matches!(found, Some(walk::Step::Entry(found)) if found == entry), is_entry, "{offset}");
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
fn a_failed_sync_of_the_directory_poisons() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    blobs.put(b"first", Encoding::Raw).unwrap();
    disk.fail_sync_dir(1);
    assert!(blobs.sync().is_err());
    assert!(matches!(blobs.sync(), Err(BlobError::Poisoned(_))));
}

/// A pack may be begun and get no entry: another thread puts the same blob first.
#[test]
fn a_pack_without_an_entry_is_there_after_a_clean_stop_and_a_power_cut() {
    for seed in 0..40 {
        let disk = disk();
        let blobs = open(&disk, UNCLEAN);
        blobs.roll(None).unwrap();
        blobs.sync().unwrap();
        drop(blobs);
        let cut = disk.crash(seed);
        let header = cut.file_bytes(&path(1)).expect("a synced name is there");
        assert_eq!(header.len() as u64, PACK_HEADER_LEN, "seed {seed}");
        let _ = open(&cut, CLEAN);
    }
}

#[test]
fn a_failed_sync_of_a_full_pack_begins_no_other() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    blobs.put(&noise(1, SMALL as usize), Encoding::Raw).unwrap();
    disk.fail_sync(1);
    assert!(blobs.put(b"next", Encoding::Raw).is_err());
    assert!(blobs.poisoned().is_some());
    assert_eq!(disk.shared().list(&dir()).unwrap().len(), 1);
}

#[test]
fn a_full_disk_is_an_error_and_no_end() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    let first = blobs.put(b"first", Encoding::Raw).unwrap();
    disk.set_capacity(Some(disk.used() + 300));
    let error = blobs.put(&noise(1, 1000), Encoding::Raw).unwrap_err();
    assert!(error.is_full());
    assert_eq!(Error::from(error).class, Class::Full);
    let small = blobs.put(b"small", Encoding::Raw).unwrap();
    blobs.sync().unwrap();
    // A new pack finds no room either, at whichever byte.
    for more in 0..80 {
        let disk = disk.kill();
        disk.set_capacity(Some(disk.used() + 4096 + 128 + more));
        let blobs = open(&disk, CLEAN);
        blobs.put(&noise(2, 4096), Encoding::Raw).unwrap();
        assert!(blobs.put(&noise(3, 4096), Encoding::Raw).unwrap_err().is_full());
        assert!(blobs.put(&noise(3, 4096), Encoding::Raw).unwrap_err().is_full());
        disk.set_capacity(None);
        let third = blobs.put(&noise(3, 4096), Encoding::Raw).unwrap();
        blobs.sync().unwrap();
        assert_eq!(open(&disk.crash(more), UNCLEAN).get(&third).unwrap(), noise(3, 4096));
    }
    disk.set_capacity(None);
    let large = blobs.put(&noise(1, 1000), Encoding::Raw).unwrap();
    blobs.sync().unwrap();
    drop(blobs);
    let blobs = open(&disk.crash(3), CLEAN);
    for id in [first, small, large] {
        assert_eq!(blobs.verify(&id), BlobState::Sound);
    }
}

/// Two packs: raw and compressed blobs, one with a block boundary inside. `tests/golden/pack-*.bin`; wrote once, read for ever.
fn golden() -> (SimDisk, Vec<(BlobId, Vec<u8>)>) {
    let disk = disk();
    write_file(&disk, &path(1), include_bytes!("../../tests/golden/pack-1.bin"));
    write_file(&disk, &path(2), include_bytes!("../../tests/golden/pack-2.bin"));
    (disk, golden_blobs())
}

fn golden_blobs() -> Vec<(BlobId, Vec<u8>)> {
    let blobs = [noise(1, 300), b"text and text and text and ".repeat(20), Vec::new(), noise(2, 77), noise(3, 64)];
    blobs.into_iter().map(|b| (BlobId::of(&b), b)).collect()
}

#[test]
fn packs_written_by_version_1_are_read_for_ever() {
    if std::env::var_os("IZE_BLESS").is_some() {
        let disk = disk();
        let (blobs, _) = try_open(&disk, UNCLEAN, 700).unwrap();
        for (_, bytes) in golden_blobs() {
            blobs.put(&bytes, Encoding::Compress).unwrap();
        }
        for n in [1, 2] {
            std::fs::write(format!("{}/tests/golden/pack-{n}.bin", env!("CARGO_MANIFEST_DIR")), read_file(&disk, &path(n))).unwrap();
        }
        return;
    }
    let (disk, golden) = golden();
    for mode in [OpenMode::ReadOnly, CLEAN, UNCLEAN] {
        let blobs = open(&disk, mode);
        assert_eq!(list(&blobs).len(), golden.len());
        for (id, bytes) in &golden {
            assert_eq!(&blobs.get(id).unwrap(), bytes);
        }
    }
    // The bytes of a raw entry are the same today; those of a zstd frame may differ with the library.
    let again = self::disk();
    let blobs = try_open(&again, UNCLEAN, 700).unwrap().0;
    blobs.put(&golden[0].1, Encoding::Compress).unwrap();
    let len = blobs.usage().pack_bytes as usize;
    assert_eq!(read_file(&again, &path(1)), include_bytes!("../../tests/golden/pack-1.bin")[..len]);
}

/// Opens and verifies everything: true when something is said to be wrong. Whatever is readable must be right.
fn is_noticed(disk: &SimDisk, mode: OpenMode, golden: &[(BlobId, Vec<u8>)]) -> bool {
    let (blobs, report) = match try_open(disk, mode, SMALL) {
        Ok(opened) => opened,
        Err(_) => return true,
    };
    let mut noticed = !report.findings.is_empty();
    for (id, bytes) in golden {
        noticed |= blobs.verify(id) != BlobState::Sound;
        if let Ok(read) = blobs.get(id) {
            assert_eq!(&read, bytes);
        }
        let mut buf = vec![0; bytes.len()];
        if let Ok(n) = blobs.read_at(id, 0, &mut buf) {
            assert_eq!((n, &buf), (bytes.len(), bytes));
        }
    }
    noticed
}

#[test]
fn every_flipped_bit_of_a_pack_is_noticed_and_the_other_blobs_stay_readable() {
    let (disk, golden) = golden();
    for pack in [1, 2] {
        let len = read_file(&disk, &path(pack)).len() as u64;
        for at in 0..len {
            for bit in 0..8 {
                assert!(disk.flip(&path(pack), at, 1 << bit));
                assert!(is_noticed(&disk, OpenMode::ReadOnly, &golden), "pack {pack}, byte {at}, bit {bit}");
                if bit == at % 8 {
                    let (blobs, _) = try_open(&disk, OpenMode::ReadOnly, SMALL).map_or_else(|_| (None, ()), |(b, _)| (Some(b), ()));
                    let readable = blobs.map_or(golden.len(), |b| golden.iter().filter(|(id, _)| b.verify(id) == BlobState::Sound).count());
                    assert!(readable >= golden.len() - 1, "pack {pack}, byte {at}: only {readable} blobs are left");
                    for mode in [CLEAN, UNCLEAN] {
                        assert!(is_noticed(&disk.kill(), mode, &golden), "{mode:?}, pack {pack}, byte {at}, bit {bit}");
                    }
                }
                assert!(disk.flip(&path(pack), at, 1 << bit));
            }
        }
    }
    assert!(!is_noticed(&disk, OpenMode::ReadOnly, &golden));
}

#[test]
fn every_truncation_of_a_pack_is_noticed() {
    for pack in [1, 2] {
        let (disk, golden) = golden();
        let whole = read_file(&disk, &path(pack));
        for len in (0..whole.len()).rev() {
            disk.shared().open(&path(pack)).unwrap().set_len(len as u64).unwrap();
            for mode in [OpenMode::ReadOnly, CLEAN, UNCLEAN] {
                assert!(is_noticed(&disk.kill(), mode, &golden), "pack {pack} cut to {len}, {mode:?}");
            }
        }
    }
}

#[test]
fn a_closed_pack_cut_at_an_entry_boundary_is_reported_by_its_length() {
    let (disk, _) = golden();
    let entry = 64 + 4 + 300;
    disk.shared().open(&path(1)).unwrap().set_len(PACK_HEADER_LEN + entry).unwrap();
    let (_, report) = try_open(&disk, OpenMode::ReadOnly, SMALL).unwrap();
    assert!(matches!(report.findings[..], [Finding { fault: Fault::Length { .. }, .. }]), "{report:?}");
}

#[test]
fn hostile_bytes_in_a_pack_never_panic_and_never_pass() {
    let mut rng = Seeded::new(9);
    let (golden_disk, golden) = golden();
    let whole = read_file(&golden_disk, &path(1));
    for _ in 0..300 {
        let mut bytes = whole.clone();
        for _ in 0..=rng.below(4) {
            let at = rng.below(bytes.len() as u64) as usize;
            let end = (at + rng.below(40) as usize).min(bytes.len());
            match rng.below(3) {
                0 => bytes[at..end].fill(0xff),
                1 => bytes[at..end].copy_from_slice(&noise(rng.draw(), end - at)),
                _ => drop(bytes.drain(at..end)),
            }
        }
        if bytes == whole {
            continue;
        }
        let disk = golden_disk.kill();
        write_file(&disk, &path(1), &bytes);
        assert!(is_noticed(&disk, OpenMode::ReadOnly, &golden));
        assert!(is_noticed(&disk.kill(), UNCLEAN, &golden));
    }
}

#[test]
fn a_copy_of_a_pack_inside_a_payload_is_no_entry() {
    let (golden_disk, golden) = golden();
    let inner = read_file(&golden_disk, &path(1));
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    let outer = blobs.put(&inner, Encoding::Raw).unwrap();
    blobs.sync().unwrap();
    drop(blobs);
    // With the outer head gone, the walk looks for the next entry inside the payload.
    assert!(disk.flip(&path(1), PACK_HEADER_LEN, 1));
    let (blobs, report) = try_open(&disk, OpenMode::ReadOnly, SMALL).unwrap();
    assert_eq!(blobs.contains(&outer).unwrap(), None);
    assert!(golden.iter().all(|(id, _)| blobs.contains(id).unwrap().is_none()));
    assert_eq!(report.findings.len(), 1);
}

#[test]
fn a_pack_of_another_store_is_reported_and_left_alone() {
    let disk = disk();
    write_file(&disk, &path(1), include_bytes!("../../tests/golden/pack-1.bin"));
    let before = read_file(&disk, &path(1));
    for mode in [OpenMode::ReadOnly, CLEAN, UNCLEAN] {
        let (blobs, report) = Blobs::open(disk.shared(), dir(), StoreId([1; 16]), mode).unwrap();
        assert!(matches!(report.findings[..], [Finding { fault: Fault::Foreign { store: STORE, .. }, .. }]));
        if mode == UNCLEAN {
            blobs.put(b"goes to the next pack", Encoding::Raw).unwrap();
            blobs.sweep(&|_| false).unwrap();
            assert_eq!(read_file(&disk, &path(1)), before);
        }
    }
}

#[test]
fn a_pack_of_a_later_version_is_refused() {
    let disk = disk();
    let mut header = PackHeader { store: STORE, pack: PackId(1), previous: PackId(0), previous_len: 0, generation: 0 }.encode();
    header[8] = 2;
    let crc = crc32fast::hash(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    write_file(&disk, &path(1), &header);
    for mode in [OpenMode::ReadOnly, CLEAN, UNCLEAN] {
        assert!(matches!(try_open(&disk, mode, SMALL), Err(BlobError::Unsupported { version: 2, .. })));
    }
}

#[test]
fn a_read_error_is_neither_damage_nor_a_torn_tail() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    let id = blobs.put(b"bytes", Encoding::Raw).unwrap();
    blobs.sync().unwrap();
    disk.fail_read(1);
    assert!(matches!(blobs.get(&id), Err(BlobError::Io { .. })));
    disk.fail_read(1);
    assert!(matches!(blobs.verify(&id), BlobState::Unreadable(_)));
    assert_eq!(blobs.verify(&id), BlobState::Sound);
    drop(blobs);
    for n in 1..4 {
        let disk = disk.kill();
        disk.fail_read(n);
        match try_open(&disk, UNCLEAN, SMALL) {
            Ok((blobs, report)) => assert!(report.findings.is_empty() && blobs.get(&id).is_ok()),
            Err(e) => assert!(matches!(e, BlobError::Io { .. }), "{e}"),
        }
        assert_eq!(open(&disk, CLEAN).verify(&id), BlobState::Sound, "nothing is cut that could not be read");
    }
}

/// A pack that could not be read to its end when the store was opened may hold what is not found: recovery must not take it for lost, and
/// cut the log.
#[test]
fn what_could_not_be_indexed_is_unreadable_and_not_missing() {
    let disk = disk();
    let blobs = try_open(&disk, UNCLEAN, SMALL).unwrap().0;
    let ids: Vec<BlobId> = (0..40u8).map(|n| blobs.put(&[n; 700], Encoding::Raw).unwrap()).collect();
    blobs.sync().unwrap();
    drop(blobs);
    let mut unreadable = 0;
    for n in 1..40 {
        let disk = disk.kill();
        for name in disk.list(&dir()).unwrap().iter().filter(|name| name.to_string_lossy().ends_with(".index")) {
            disk.remove(&dir().join(name)).unwrap();
        }
        disk.fail_read(n);
        let Ok((blobs, _)) = try_open(&disk, OpenMode::ReadOnly, SMALL) else { continue };
        for id in &ids {
            match blobs.verify(id) {
                BlobState::Sound => {}
                BlobState::Unreadable(_) => unreadable += 1,
                other => panic!("read {n}: {other:?}"),
            }
        }
    }
    assert!(unreadable > 0, "no read was one that indexes");
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

#[test]
fn a_file_that_is_no_pack_is_no_ones_business() {
    let disk = disk();
    write_file(&disk, &dir().join("notes.txt"), b"mine");
    write_file(&disk, &dir().join("0000000000000001.pack.tmp"), b"left by a crash");
    let blobs = open(&disk, OpenMode::ReadOnly);
    assert_eq!(blobs.usage().packs, 0);
    assert_eq!(disk.shared().list(&dir()).unwrap().len(), 2);
    open(&disk, UNCLEAN);
    assert_eq!(disk.shared().list(&dir()).unwrap(), ["notes.txt"]);
    assert!(matches!(disk.shared().open_read(&path(1)).map_err(|e| e.kind()), Err(ErrorKind::NotFound)));
}
