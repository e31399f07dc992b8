//! `verify_packs`: nothing wrong in a pack goes unsaid, nothing right is called wrong.

use super::damage::golden;
use super::*;

fn check(disk: &SimDisk) -> PacksVerified {
    let (blobs, _) = try_open(disk, OpenMode::ReadOnly, SMALL).unwrap();
    blobs.verify_packs(&mut |_| {}).unwrap()
}

#[test]
fn a_sound_store_is_read_to_its_last_byte_without_a_finding() {
    let (disk, golden) = golden();
    let (blobs, _) = try_open(&disk, OpenMode::ReadOnly, SMALL).unwrap();
    let mut told = Vec::new();
    let seen = blobs.verify_packs(&mut |n| told.push(n)).unwrap();
    let bytes = [1, 2].iter().map(|n| read_file(&disk, &path(*n)).len() as u64).sum();
    assert_eq!(seen, PacksVerified { packs: 2, blobs: golden.len() as u64, bytes, findings: Vec::new() });
    assert!(told.is_sorted() && told.last() == Some(&bytes), "{told:?}");
    assert_eq!(check(&self::disk()), PacksVerified::default());
}

/// The rule: a closed pack was durable to its last byte, so what is wrong there is damage; the end of the last one may be torn.
#[test]
fn every_flipped_bit_and_every_truncation_of_every_pack_is_a_finding_in_its_place() {
    let (disk, golden) = golden();
    for pack in [1, 2] {
        let whole = read_file(&disk, &path(pack));
        for at in 0..whole.len() as u64 {
            for bit in 0..8 {
                assert!(disk.flip(&path(pack), at, 1 << bit));
                let seen = check(&disk);
                let [finding] = &seen.findings[..] else { panic!("pack {pack}, byte {at}, bit {bit}: {seen:?}") };
                assert_eq!(finding.file, path(pack));
                assert!((finding.offset..finding.offset + finding.len).contains(&at), "{finding:?} does not hold byte {at}");
                let header = at < PACK_HEADER_LEN;
                assert_eq!(finding.fault == Fault::PackHeader, header, "{finding:?}");
                assert_eq!(finding.is_torn_tail(), pack == 2 && !header, "{finding:?}");
                assert!(seen.blobs >= golden.len() as u64 - 1);
                assert!(disk.flip(&path(pack), at, 1 << bit));
            }
        }
        // The last pack, cut between two entries, is one that ended there: only who names the blobs can tell.
        let mut ends = vec![PACK_HEADER_LEN];
        let shared = disk.shared().open_read(&path(pack)).unwrap();
        let mut walker = super::super::walk::Walker::new(&*shared, STORE, PackId(pack), PACK_HEADER_LEN).unwrap();
        while walker.step().unwrap().is_some() {
            ends.push(walker.end());
        }
        for len in 0..whole.len() as u64 {
            let disk = disk.kill();
            disk.shared().open(&path(pack)).unwrap().set_len(len).unwrap();
            let seen = check(&disk);
            // An empty last pack is what a full disk leaves of one that could not be begun.
            let silent = pack == 2 && (len == 0 || ends.contains(&len));
            assert_eq!(seen.findings.is_empty(), silent, "pack {pack} cut to {len}: {seen:?}");
            assert_eq!(seen.findings.iter().all(Finding::is_torn_tail), pack == 2, "pack {pack} cut to {len}: {seen:?}");
            assert!(seen.findings.iter().all(|f| f.file == path(pack)));
        }
    }
}

#[test]
fn bytes_whose_checksums_are_right_but_whose_hash_is_not_are_damage_in_every_pack() {
    for encoding in [pack::Stored::Raw, pack::Stored::Zstd] {
        let disk = disk();
        let header = PackHeader { store: STORE, pack: PackId(1), previous: PackId(0), previous_len: 0, generation: 0 }.encode();
        let stored = [7u8; 33];
        let raw_len = if encoding == pack::Stored::Raw { 33 } else { 90 };
        let head = pack::EntryHead { offset: PACK_HEADER_LEN, encoding, raw_len, stored_len: 33, id: BlobId([1; 32]) };
        let mut bytes = header.to_vec();
        bytes.extend(head.encode(STORE, PackId(1), &pack::EntryHead::sums(&stored)));
        bytes.extend(stored);
        bytes.resize(PACK_HEADER_LEN as usize + head.total_len() as usize, 0);
        write_file(&disk, &path(1), &bytes);
        let seen = check(&disk);
        assert!(matches!(&seen.findings[..], [Finding { fault: Fault::Hash, id: Some(id), .. }] if *id == head.id), "{seen:?}");
        let state = open(&disk, OpenMode::ReadOnly).verify(&head.id);
        assert!(matches!(state, BlobState::Damaged(Finding { fault: Fault::Hash | Fault::Block, .. })), "{state:?}");
    }
}

#[test]
fn a_refused_read_is_a_finding_of_its_own_and_the_other_packs_are_read() {
    let (disk, golden) = golden();
    let (blobs, _) = try_open(&disk, OpenMode::ReadOnly, SMALL).unwrap();
    for n in 1..4 {
        disk.fail_read(n);
        let seen = blobs.verify_packs(&mut |_| {}).unwrap();
        // In the last pack it is read again, and then it is there.
        assert!(seen.findings.iter().all(|f| matches!(f.fault, Fault::Unreadable(_)) && f.file == path(1)), "{seen:?}");
        assert_eq!(seen.findings.is_empty(), n == 3, "read {n}: {seen:?}");
        assert_eq!(seen.packs, 2);
        assert!(seen.blobs >= 1 && seen.blobs <= golden.len() as u64);
    }
}

#[test]
fn a_check_beside_a_writer_that_puts_and_sweeps_finds_nothing() {
    let disk = disk();
    let writer = open(&disk, UNCLEAN);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut rng = Seeded::new(3);
            for n in 0..1500 {
                writer.put(&noise(n, rng.below(900) as usize), Encoding::Raw).unwrap();
                if n % 100 == 99 {
                    writer.sweep(&|id| id.0[0] % 3 == 0).unwrap();
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        let (reader, _) = try_open(&disk, OpenMode::ReadOnly, SMALL).unwrap();
        let mut rounds = 0;
        while !stop.load(Ordering::Relaxed) || rounds < 3 {
            assert_eq!(reader.verify_packs(&mut |_| {}).unwrap().findings, []);
            rounds += 1;
        }
    });
}
