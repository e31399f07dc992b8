//! Random histories against a model: puts, syncs, sweeps, reopenings, deaths, power cuts, full disks, failing reads, writes and syncs. What
//! was synced and is still named is there, nothing given out is wrong, and the counters equal those of a walk of the packs.

use super::*;
use crate::storage::sim::is_crash;

/// The counters of a store that has read nothing but the packs.
fn walk_of(disk: &SimDisk, target: u64) -> Usage {
    let disk = disk.kill();
    disk.set_capacity(None);
    for name in disk.shared().list(&dir()).unwrap() {
        if name.to_str().unwrap().contains(".index") {
            disk.shared().remove(&dir().join(name)).unwrap();
        }
    }
    let (blobs, report) = try_open(&disk, OpenMode::ReadOnly, target).unwrap();
    // A failed write leaves bytes behind the last entry, until the next one.
    assert!(report.findings.iter().all(Finding::is_torn_tail), "{report:?}");
    blobs.usage()
}

struct History {
    rng: Seeded,
    disk: SimDisk,
    target: u64,
    /// Blobs that somebody names: put, and kept by every sweep since.
    named: BTreeMap<BlobId, Vec<u8>>,
    /// Those of them that a sync has covered.
    durable: HashSet<BlobId>,
}

impl History {
    fn new(seed: u64) -> Self {
        Self {
            rng: Seeded::new(seed),
            disk: disk(),
            target: [300, 2048, 9000][seed as usize % 3],
            named: BTreeMap::new(),
            durable: HashSet::new(),
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        // Few different ones, so that puts hit, and sweeps drop what comes again.
        let n = self.rng.below(25);
        if n.is_multiple_of(3) { b"text ".repeat(1 + n as usize * 3) } else { noise(n, (n * n) as usize) }
    }

    fn open(&mut self, clean: bool) -> Option<Blobs> {
        match try_open(&self.disk, OpenMode::Write { clean }, self.target) {
            // What could not be read is said to be so; whoever needs it opens again.
            Ok((_, report)) if report.findings.iter().any(|f| matches!(f.fault, Fault::Unreadable(_))) => None,
            Ok((blobs, report)) => {
                assert!(report.findings.iter().all(Finding::is_torn_tail), "{report:?}");
                for (id, bytes) in &self.named {
                    match blobs.get(id) {
                        Ok(read) => assert_eq!(&read, bytes),
                        Err(BlobError::Io { .. }) => return None,
                        Err(e) => assert!(matches!(e, BlobError::Missing(_)) && !self.durable.contains(id), "{id} is gone: {e}"),
                    }
                }
                let mut there = HashSet::new();
                let listed = blobs.each(&mut |id, _| {
                    there.insert(id);
                    Ok(())
                });
                if let Err(e) = listed {
                    assert!(matches!(e, BlobError::Io { .. }), "{e}");
                    return None;
                }
                self.named.retain(|id, _| there.contains(id));
                // Recovery has synced all it kept.
                self.durable.extend(self.named.keys().copied());
                Some(blobs)
            }
            Err(e) => {
                assert!(matches!(e, BlobError::Io { .. }), "{e}");
                None
            }
        }
    }

    fn put(&mut self, blobs: &Blobs) -> Result<(), BlobError> {
        let bytes = self.bytes();
        let encoding = if self.rng.below(2) == 0 { Encoding::Raw } else { Encoding::Compress };
        let id = blobs.put(&bytes, encoding)?;
        assert_eq!(id, BlobId::of(&bytes));
        self.named.insert(id, bytes);
        Ok(())
    }

    fn sync(&mut self, blobs: &Blobs) -> Result<(), BlobError> {
        blobs.sync()?;
        assert_eq!(blobs.unsynced_bytes(), 0);
        self.durable.extend(self.named.keys().copied());
        Ok(())
    }

    fn sweep(&mut self, blobs: &Blobs) -> Result<(), BlobError> {
        let share = self.rng.below(5);
        let keep: HashSet<BlobId> = self.named.keys().copied().filter(|_| self.rng.below(4) < share).collect();
        self.named.retain(|id, _| keep.contains(id));
        self.durable.retain(|id| keep.contains(id));
        let options = SweepOptions { garbage_percent: [0, 20, 50, 90][self.rng.below(4) as usize], shred: self.rng.below(2) == 0 };
        let report = blobs.begin_sweep()?.run(&|id| keep.contains(id), options)?;
        assert!(report.findings.iter().all(|f| matches!(f.fault, Fault::Unreadable(_))), "{report:?}");
        assert_eq!(report.packs_damaged, report.findings.len() as u64, "{report:?}");
        Ok(())
    }

    fn step(&mut self, blobs: &Blobs) -> Result<(), BlobError> {
        match self.rng.below(20) {
            0..12 => self.put(blobs),
            12..15 => self.sync(blobs),
            15..17 => self.sweep(blobs),
            _ => {
                if let Some((id, bytes)) = self.named.iter().nth(self.rng.below(1 + self.named.len() as u64) as usize) {
                    assert_eq!(&blobs.get(id)?, bytes);
                }
                Ok(())
            }
        }
    }
}

#[test]
fn the_counters_equal_a_walk_of_the_packs_through_puts_sweeps_reopenings_and_crashes() {
    for seed in 0..60 {
        let mut h = History::new(seed);
        let mut blobs = h.open(true).unwrap();
        for step in 0..120 {
            match h.rng.below(16) {
                0 => {
                    h.sync(&blobs).unwrap();
                    drop(blobs);
                    h.disk = h.disk.kill();
                    blobs = h.open(true).unwrap();
                }
                1 => {
                    drop(blobs);
                    h.disk = h.disk.kill();
                    blobs = h.open(false).unwrap();
                }
                2 => {
                    drop(blobs);
                    h.disk = h.disk.crash(seed ^ step);
                    blobs = h.open(false).unwrap();
                }
                3 => {
                    // A crash in the middle of something, most of all of a sweep.
                    h.disk.crash_at_call(1 + h.rng.below(25));
                    let _ = if h.rng.below(2) == 0 { h.sweep(&blobs) } else { (0..9).try_for_each(|_| h.step(&blobs)) };
                    drop(blobs);
                    h.disk = if h.rng.below(2) == 0 { h.disk.kill() } else { h.disk.crash(step) };
                    blobs = h.open(false).unwrap();
                }
                _ => h.step(&blobs).unwrap(),
            }
            assert_eq!(blobs.usage(), walk_of(&h.disk, h.target), "seed {seed}, step {step}");
        }
    }
}

/// One fault at a time, at every call in turn: of writing (nothing is left, or half), of syncing, of reading, no room.
#[test]
fn a_fault_at_any_call_is_an_error_that_loses_nothing_and_the_store_opens_again() {
    type Fault = (&'static str, fn(&SimDisk, u64));
    let faults: [Fault; 6] = [
        ("EIO on write", |d, n| d.fail_write(n, libc::EIO)),
        ("ENOSPC on write", |d, n| d.fail_write(n, libc::ENOSPC)),
        ("EIO on sync", |d, n| d.fail_sync(n)),
        ("EIO on a directory's sync", |d, n| d.fail_sync_dir(n)),
        ("EIO on read", |d, n| d.fail_read(n)),
        ("full disk", |d, n| d.set_capacity(Some(d.used() + 97 * n))),
    ];
    for (what, inject) in faults {
        for seed in 0..6 {
            for at in 1..50 {
                let mut h = History::new(seed);
                let mut blobs = h.open(true).unwrap();
                for _ in 0..10 {
                    h.step(&blobs).unwrap();
                }
                h.sync(&blobs).unwrap();
                inject(&h.disk, at);
                for _ in 0..40 {
                    let Err(e) = h.step(&blobs) else { continue };
                    let class = Error::from(e).class;
                    match what {
                        "full disk" | "ENOSPC on write" => assert_eq!(class, Class::Full, "{what} at {at}"),
                        _ => assert_eq!(class, Class::Io, "{what} at {at}"),
                    }
                    // A failed sync ends all writing, nothing else does.
                    let ended = what.contains("sync") && blobs.sync().is_err();
                    assert_eq!(blobs.poisoned().is_some(), ended, "{what} at {at}");
                }
                assert_eq!(blobs.usage(), walk_of(&h.disk, h.target), "{what} at {at}");
                drop(blobs);
                h.disk = if seed % 2 == 0 { h.disk.kill() } else { h.disk.crash(at) };
                h.disk.set_capacity(None);
                blobs = h.open(false).unwrap();
                assert_eq!(blobs.usage(), walk_of(&h.disk, h.target), "{what} at {at}");
                h.put(&blobs).unwrap();
                h.sync(&blobs).unwrap();
                // The same while it opens.
                drop(blobs);
                h.disk = h.disk.crash(at);
                inject(&h.disk, at % 9 + 1);
                if h.open(false).is_none() {
                    h.disk = h.disk.kill();
                    h.disk.set_capacity(None);
                    h.open(false).unwrap();
                }
            }
        }
    }
}

#[test]
fn a_crash_at_any_call_of_any_history_keeps_what_was_synced() {
    for seed in 0..30 {
        for at in 1..80 {
            let mut h = History::new(seed);
            let blobs = h.open(true).unwrap();
            h.disk.crash_at_call(at);
            while h.step(&blobs).is_ok() && h.rng.below(60) != 0 {}
            drop(blobs);
            h.disk = h.disk.crash(seed * 100 + at);
            // A crash of the recovery, at each of its calls, and of what it leaves.
            h.disk.crash_at_call(1 + at % 12);
            match try_open(&h.disk, UNCLEAN, h.target) {
                Err(BlobError::Io { source, .. }) => assert!(is_crash(&source)),
                Err(e) => panic!("{e}"),
                Ok(_) => {}
            }
            h.disk = h.disk.crash(at);
            let blobs = h.open(false).unwrap();
            h.sweep(&blobs).unwrap();
            h.put(&blobs).unwrap();
            h.sync(&blobs).unwrap();
            drop(blobs);
            h.disk = h.disk.crash(at + 1);
            h.open(false).unwrap();
        }
    }
}

/// The bytes of packs as payloads: whatever happens to the entries around them, nothing is given out that was not put.
#[test]
fn payloads_that_are_copies_of_packs_are_never_taken_for_entries_of_other_bytes() {
    for seed in 0..40 {
        let mut rng = Seeded::new(seed);
        let disk = disk();
        let blobs = open(&disk, UNCLEAN);
        let mut put = BTreeMap::new();
        for n in 0..30 {
            // All of a pack, or a piece; mostly from a multiple of 8, so that a copied entry stands at one.
            let packs: Vec<PackId> = blobs.index().packs.keys().copied().collect();
            let bytes = match packs.get(rng.below(packs.len() as u64 + 1) as usize) {
                Some(pack) => {
                    let whole = read_file(&disk, &path(pack.0));
                    let from = (rng.below(whole.len() as u64) as usize) & if rng.below(4) == 0 { !0 } else { !7 };
                    // Filled up so that the copy stands eight bytes aligned behind its own head.
                    [&[0; 4][..], &whole[from..whole.len().min(from + 3000)]].concat()
                }
                None => noise(n, rng.below(300) as usize),
            };
            put.insert(blobs.put(&bytes, Encoding::Raw).unwrap(), bytes);
        }
        blobs.sync().unwrap();
        drop(blobs);
        // Heads are damaged, so that the walk looks inside.
        let packs = walk_of(&disk, SMALL).packs;
        for _ in 0..4 {
            let pack = 1 + rng.below(packs);
            let len = read_file(&disk, &path(pack)).len() as u64;
            disk.flip(&path(pack), rng.below(len), 1);
        }
        for mode in [OpenMode::ReadOnly, CLEAN, UNCLEAN] {
            let disk = disk.kill();
            for _ in 0..2 {
                let (blobs, _) = try_open(&disk, mode, SMALL).unwrap();
                for (id, len) in list(&blobs) {
                    let bytes = put.get(&id).expect("nothing is listed that was not put");
                    assert_eq!(len, bytes.len() as u64);
                    if let Ok(read) = blobs.get(&id) {
                        assert_eq!(&read, bytes);
                    }
                }
                for (id, bytes) in &put {
                    if let Ok(read) = blobs.get(id) {
                        assert_eq!(&read, bytes);
                    }
                }
            }
        }
    }
}
