//! Packs of other bytes than were written: golden ones of version 1, flipped bits, cuts, hostile and foreign bytes.

use super::*;

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
        file.write_at(&[&entry.encode(STORE, PackId(1), &pack::EntryHead::sums(b"12345678")), b"12345678"], offset).unwrap();
        file.set_len(offset + entry.total_len()).unwrap();
        let found = walk::Walker::new(&*file, STORE, PackId(1), offset).unwrap().step().unwrap();
        assert_eq!(matches!(found, Some(walk::Step::Entry(found)) if found == entry), is_entry, "{offset}");
    }
}

/// Two packs: raw and compressed blobs, one with a block boundary inside. `tests/golden/pack-*.bin`; wrote once, read for ever.
pub(super) fn golden() -> (SimDisk, Vec<(BlobId, Vec<u8>)>) {
    let disk = disk();
    write_file(&disk, &path(1), include_bytes!("../../../tests/golden/pack-1.bin"));
    write_file(&disk, &path(2), include_bytes!("../../../tests/golden/pack-2.bin"));
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
    assert_eq!(read_file(&again, &path(1)), include_bytes!("../../../tests/golden/pack-1.bin")[..len]);
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
    write_file(&disk, &path(1), include_bytes!("../../../tests/golden/pack-1.bin"));
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
