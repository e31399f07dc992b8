//! Index files and hints: they may say anything, and no answer changes.

use super::super::contents::{Contents, index_file_name};
use super::super::table::Spot;
use super::*;

fn index_path(pack: u64) -> PathBuf {
    dir().join(index_file_name(PackId(pack)))
}

fn exists(disk: &SimDisk, path: &Path) -> bool {
    disk.shared().open_read(path).is_ok()
}

/// Several closed packs and an open one; one blob has an older copy, whose bytes are damaged, so that a wrong place shows.
fn store() -> (SimDisk, Vec<(BlobId, Vec<u8>)>, Usage) {
    let disk = disk();
    let mut put = BTreeMap::new();
    for round in 0..3 {
        let (blobs, _) = try_open(&disk, CLEAN, 700).unwrap();
        for n in 0..5 {
            let bytes = if n == 3 { b"words ".repeat(60) } else { noise(n + 10 * round, 150) };
            put.insert(blobs.put(&bytes, Encoding::Compress).unwrap(), bytes);
        }
        if round == 1 {
            let id = BlobId::of(&noise(1, 150));
            let old = place(&blobs, &id);
            assert!(disk.flip(&path(old.pack.0), old.entry.data_offset() + 9, 1));
            drop(blobs);
            let (blobs, _) = try_open(&disk, CLEAN, 700).unwrap();
            blobs.put(&noise(1, 150), Encoding::Raw).unwrap();
            assert!(place(&blobs, &id).pack > old.pack);
            blobs.sync().unwrap();
        } else {
            blobs.sync().unwrap();
        }
    }
    let usage = walked(&disk).usage();
    assert!(usage.packs >= 4 && usage.blobs == put.len() as u64, "{usage:?}");
    (disk, put.into_iter().collect(), usage)
}

/// The store opened for reading without any index file.
fn walked(disk: &SimDisk) -> Blobs {
    let disk = disk.kill();
    for name in disk.shared().list(&dir()).unwrap() {
        if name.to_str().unwrap().ends_with(".index") {
            disk.shared().remove(&dir().join(name)).unwrap();
        }
    }
    try_open(&disk, OpenMode::ReadOnly, SMALL).unwrap().0
}

fn answers_are_right(blobs: &Blobs, put: &[(BlobId, Vec<u8>)], usage: Usage) {
    assert_eq!(blobs.usage(), usage);
    for (id, bytes) in put {
        assert_eq!(&blobs.get(id).unwrap(), bytes);
        assert_eq!(blobs.contains(id).unwrap(), Some(bytes.len() as u64));
    }
    assert_eq!(blobs.contains(&BlobId::of(b"never put")).unwrap(), None);
    assert_eq!(list(blobs).len(), put.len());
}

#[test]
fn a_closed_pack_is_opened_by_its_index_file_and_walked_without_one() {
    let (disk, put, usage) = store();
    answers_are_right(&try_open(&disk, OpenMode::ReadOnly, SMALL).unwrap().0, &put, usage);
    // A head that a walk would find damaged: the index file still says where it was, and the blob is damaged, not missing.
    let (blobs, _) = try_open(&disk, OpenMode::ReadOnly, SMALL).unwrap();
    let (id, place) = put.iter().map(|(id, _)| (*id, place(&blobs, id))).find(|(_, p)| p.pack == PackId(2)).unwrap();
    assert!(disk.flip(&path(2), place.entry.offset + 40, 1));
    let (blobs, report) = try_open(&disk, OpenMode::ReadOnly, SMALL).unwrap();
    assert_eq!(report.findings, []);
    assert!(matches!(blobs.get(&id), Err(BlobError::Damaged(Finding { fault: Fault::Head, .. }))));
    assert!(matches!(blobs.contains(&id), Err(BlobError::Damaged(_))));
    assert!(matches!(blobs.verify(&id), BlobState::Damaged(Finding { fault: Fault::Head, .. })));
    disk.shared().remove(&index_path(2)).unwrap();
    let (blobs, report) = try_open(&disk, OpenMode::ReadOnly, SMALL).unwrap();
    assert!(matches!(report.findings[..], [Finding { fault: Fault::Entry, .. }]), "{report:?}");
    assert_eq!(blobs.verify(&id), BlobState::Missing);
}

#[test]
fn deleting_cutting_or_flipping_any_bit_of_an_index_file_changes_no_answer() {
    let (disk, put, usage) = store();
    for pack in 1..usage.packs {
        let whole = read_file(&disk, &index_path(pack));
        let check = |damage: &dyn Fn(&SimDisk)| {
            let disk = disk.kill();
            damage(&disk);
            let (blobs, report) = try_open(&disk, OpenMode::ReadOnly, SMALL).unwrap();
            assert_eq!(report.findings, []);
            answers_are_right(&blobs, &put, usage);
            disk
        };
        let gone = check(&|disk| disk.shared().remove(&index_path(pack)).unwrap());
        open(&gone, CLEAN);
        assert_eq!(read_file(&gone, &index_path(pack)), whole, "made again by a writer");
        for len in 0..whole.len() as u64 {
            check(&|disk| disk.shared().open(&index_path(pack)).unwrap().set_len(len).unwrap());
        }
        for at in 0..whole.len() as u64 {
            for bit in 0..8 {
                check(&|disk| assert!(disk.flip(&index_path(pack), at, 1 << bit)));
            }
        }
    }
}

#[test]
fn an_index_file_of_another_pack_or_of_an_earlier_life_of_this_one_is_not_believed() {
    let (disk, put, usage) = store();
    let (one, two) = (read_file(&disk, &index_path(1)), read_file(&disk, &index_path(2)));
    write_file(&disk, &index_path(1), &two);
    write_file(&disk, &index_path(2), &one);
    answers_are_right(&open(&disk, OpenMode::ReadOnly), &put, usage);
    // As if it had been written before the pack was written afresh: sound in itself, with the other generation, and empty.
    let (blobs, _) = try_open(&disk, OpenMode::ReadOnly, SMALL).unwrap();
    let info = blobs.index().packs[&PackId(1)].clone();
    let old = PackHeader { store: STORE, pack: PackId(1), previous: PackId(0), previous_len: 0, generation: 9 }.encode();
    for (header, len) in [(old, info.end), (info.header.unwrap(), info.end - 8)] {
        open(&disk, CLEAN).write_contents(PackId(1), &header, len, &Contents::default());
        answers_are_right(&open(&disk, OpenMode::ReadOnly), &put, usage);
    }
}

/// The worst that an index file can do, should somebody forge one with the right digest: hide blobs. It cannot pass one for another.
#[test]
fn a_forged_index_file_hides_blobs_at_most() {
    let (disk, put, _) = store();
    let good = walked(&disk);
    let info = good.index().packs[&PackId(2)].clone();
    let mut rng = Seeded::new(1);
    for round in 0..200 {
        let mut contents = Contents { raw: rng.draw(), stored: rng.draw() >> 1, ..Contents::default() };
        for (id, _) in &put {
            let offset = if round % 2 == 0 {
                rng.below(info.end / 8) * 8
            } else {
                place(&good, &put[rng.below(put.len() as u64) as usize].0).entry.offset
            };
            contents.items.push((id.0[..8].try_into().unwrap(), offset));
        }
        if round % 5 == 0 {
            contents.items.push(([1; 8], u64::from(u32::MAX) * 8));
        }
        let disk = disk.kill();
        open(&disk, CLEAN).write_contents(PackId(2), &info.header.unwrap(), info.end, &contents);
        let (blobs, _) = try_open(&disk, OpenMode::ReadOnly, SMALL).unwrap();
        for (id, bytes) in &put {
            match blobs.get(id) {
                Ok(read) => assert_eq!(&read, bytes),
                Err(e) => assert!(matches!(e, BlobError::Missing(_) | BlobError::Damaged(_)), "{e}"),
            }
        }
        let _ = blobs.usage();
        assert_eq!(blobs.verify_packs(&mut |_| {}).unwrap().findings, good.verify_packs(&mut |_| {}).unwrap().findings);
        // What is put again is there, whatever the hints say.
        let (writer, _) = try_open(&disk, CLEAN, SMALL).unwrap();
        for (id, bytes) in &put {
            writer.put(bytes, Encoding::Raw).unwrap();
            assert_eq!(&writer.get(id).unwrap(), bytes);
        }
    }
}

#[test]
fn two_blobs_with_one_fingerprint_and_hints_to_nowhere_are_told_apart() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    let a = blobs.put(&noise(1, 100), Encoding::Raw).unwrap();
    let b = blobs.put(&noise(2, 100), Encoding::Raw).unwrap();
    let absent = BlobId::of(b"absent");
    let (at_a, at_b) = (place(&blobs, &a).entry.offset, place(&blobs, &b).entry.offset);
    let ordinal = blobs.index().packs[&PackId(1)].ordinal;
    {
        let mut index = blobs.index_mut();
        for (id, offset) in [(a, at_b), (b, at_a), (absent, at_a), (absent, at_b)] {
            let key = index.table.key(&id);
            index.table.insert(key, Spot { ordinal, offset, verified: true });
        }
    }
    assert_eq!(blobs.get(&a).unwrap(), noise(1, 100));
    assert_eq!(blobs.get(&b).unwrap(), noise(2, 100));
    assert_eq!(blobs.contains(&absent).unwrap(), None);
    assert_eq!(blobs.put(b"absent", Encoding::Raw).unwrap(), absent, "not taken for one that is there");
    assert_eq!(blobs.get(&absent).unwrap(), b"absent");
    let nowhere = BlobId::of(b"nowhere");
    {
        let mut index = blobs.index_mut();
        let key = index.table.key(&nowhere);
        index.table.insert(key, Spot { ordinal, offset: at_a + 8, verified: true });
    }
    assert!(matches!(blobs.get(&nowhere), Err(BlobError::Damaged(Finding { fault: Fault::Head, .. }))));
    blobs.put(b"nowhere", Encoding::Raw).unwrap();
    assert_eq!(blobs.get(&nowhere).unwrap(), b"nowhere");
}

#[test]
fn index_files_go_with_their_packs_and_leftovers_with_the_next_open() {
    let (disk, put, _) = store();
    let blobs = open(&disk, CLEAN);
    blobs.sweep(&|id| *id == put[0].0).unwrap();
    blobs.sync().unwrap();
    for name in disk.shared().list(&dir()).unwrap() {
        if let Some(pack) = name.to_str().unwrap().strip_suffix(".index") {
            assert!(exists(&disk, &dir().join(format!("{pack}.pack"))), "{name:?} is left without its pack");
        }
    }
    drop(blobs);
    write_file(&disk, &index_path(77), b"of a pack that is gone");
    write_file(&disk, &index_path(1).with_extension("index.tmp"), b"left by a crash");
    open(&disk, OpenMode::ReadOnly);
    assert!(exists(&disk, &index_path(77)));
    let blobs = open(&disk, CLEAN);
    assert!(!exists(&disk, &index_path(77)) && !exists(&disk, &index_path(1).with_extension("index.tmp")));
    assert_eq!(blobs.get(&put[0].0).unwrap(), put[0].1);
}

#[test]
fn a_pack_that_was_never_begun_is_let_go_and_one_that_lost_everything_is_not() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    let first = blobs.put(&noise(1, SMALL as usize), Encoding::Raw).unwrap();
    let second = blobs.put(b"second", Encoding::Raw).unwrap();
    blobs.sync().unwrap();
    drop(blobs);
    for mode in [CLEAN, UNCLEAN] {
        let disk = disk.kill();
        write_file(&disk, &path(3), b"");
        let blobs = open(&disk, mode);
        let third = blobs.put(b"third", Encoding::Raw).unwrap();
        blobs.sync().unwrap();
        drop(blobs);
        let blobs = open(&disk.crash(1), UNCLEAN);
        for id in [first, second, third] {
            assert_eq!(blobs.verify(&id), BlobState::Sound);
        }
    }
    disk.shared().open(&path(1)).unwrap().set_len(0).unwrap();
    for mode in [OpenMode::ReadOnly, CLEAN, UNCLEAN] {
        let (blobs, report) = try_open(&disk, mode, SMALL).unwrap();
        assert!(matches!(report.findings[..], [Finding { fault: Fault::Length { .. }, .. }]), "{report:?}");
        assert_eq!(blobs.verify(&first), BlobState::Missing);
        assert!(exists(&disk, &path(1)), "kept for its evidence");
    }
}

/// What a pack's closing writes down of it is what a walk would find; an entry whose write failed is no part of it.
#[test]
fn the_index_file_of_a_pack_that_was_filled_is_made_without_reading_it() {
    let disk = disk();
    let (blobs, _) = try_open(&disk, CLEAN, 2000).unwrap();
    let mut n = 0;
    let mut put = || {
        n += 1;
        blobs.put(&noise(n, 150), Encoding::Raw)
    };
    put().unwrap();
    disk.fail_write(1, 28);
    put().unwrap_err();
    disk.fail_reads_of(&path(1));
    for _ in 0..30 {
        put().unwrap();
    }
    disk.disarm();
    assert!(exists(&disk, &index_path(1)), "it needed the pack");
    let pack = disk.file_bytes(&path(1)).unwrap();
    let header = pack[..PACK_HEADER_LEN as usize].try_into().unwrap();
    let file = disk.shared().open_read(&path(1)).unwrap();
    let walked = super::super::contents::contents_of(&blobs, PackId(1), &*file, pack.len() as u64).unwrap();
    assert!(walked.items.len() > 5);
    assert_eq!(blobs.read_contents(PackId(1), &header, pack.len() as u64), Some(walked));
}
