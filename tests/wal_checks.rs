//! Every check of the log's reader, each with bytes that only this check refuses: made by hand, with right checksums where the check is
//! not the checksum's. And the order of writes and syncs that wal-format.md lays down, call by call.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use ize::ids::{Lsn, SegmentId, StoreId, Time};
use ize::storage::sim::{Call, CallKind, Fault, SimDisk};
use ize::storage::{FileRef, Storage, StorageFile};
use ize::wal::format::{
    FOOTER_LEN, Footer, Framing, HEADER_LEN, Header, HeaderFault, KIND_MARK, MAX_BODY, Predecessor, RecordHead, footer_at, framed_len,
    header_at, record_at, segment_path,
};
use ize::wal::reader::{Next, SegmentReader};
use ize::wal::verify::{Worst, verify};
use ize::wal::{Bounds, Log, Options, Record, RecoveryInput, RecoveryReport, WalError, scan};

const STORE: StoreId = StoreId([4; 16]);
const ID: SegmentId = SegmentId(5);

fn dir() -> PathBuf {
    PathBuf::from("/wal")
}

fn header() -> Header {
    Header {
        store: STORE,
        segment: ID,
        epoch: 2,
        first_lsn: Lsn(10),
        durable_lsn: Lsn(3),
        prev: Predecessor { segment: SegmentId(4), end_lsn: Lsn(9), length: 999, digest: [1; 32] },
        created: Time::default(),
        allotted: 65536,
    }
}

fn head(lsn: u64, durable: u64) -> RecordHead {
    RecordHead { crc: 0, body_len: 0, kind: 7, version: 1, payload: 3, lsn: Lsn(lsn), durable_lsn: Lsn(durable) }
}

/// A segment in the making, and what its footer would say.
struct Segment {
    bytes: Vec<u8>,
    digest: blake3::Hasher,
    count: u64,
    last: u64,
}

impl Segment {
    fn new() -> Self {
        let bytes = header().encode().to_vec();
        let mut digest = blake3::Hasher::new();
        digest.update(&bytes);
        Self { bytes, digest, count: 0, last: 9 }
    }

    fn of(records: u64) -> Self {
        let mut segment = Self::new();
        for n in 0..records {
            segment.push(&head(10 + n, 3), &[n as u8; 20]);
        }
        segment
    }

    fn push(&mut self, head: &RecordHead, body: &[u8]) {
        let at = self.bytes.len() as u64;
        let crc = Framing::new(STORE, ID).push(&mut self.bytes, at, head, &[body]);
        self.digest.update(&crc.to_le_bytes());
        self.count += 1;
        self.last = head.lsn.0;
    }

    fn footer(&self) -> Footer {
        Footer {
            count: self.count,
            first_lsn: Lsn(10),
            last_lsn: Lsn(self.last),
            payload: 3 * self.count,
            last_time: Time::default(),
            digest: *self.digest.finalize().as_bytes(),
            durable_lsn: Lsn(3),
            next_lsn: Lsn(self.last + 1),
            next_epoch: 2,
        }
    }

    fn sealed(mut self, footer: &Footer) -> Vec<u8> {
        let at = self.bytes.len() as u64;
        self.bytes.extend_from_slice(&Framing::new(STORE, ID).footer(footer, at));
        self.bytes
    }
}

/// The CRC of a record or footer whose bytes were changed, put right: `at` is where it begins, `crc` where in it its CRC stands.
fn mend_crc(bytes: &mut [u8], at: usize, covered: std::ops::Range<usize>, crc_at: usize) {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&STORE.0);
    hasher.update(&ID.0.to_le_bytes());
    hasher.update(&(at as u64).to_le_bytes());
    hasher.update(&bytes[at + covered.start..at + covered.end]);
    bytes[at + crc_at..at + crc_at + 4].copy_from_slice(&hasher.finalize().to_le_bytes());
}

/// The LSNs that are read from the segment, its file being as long as the header says, and how it ends.
fn read(bytes: &[u8], bound: u64) -> (Vec<u64>, String) {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().max(65536), 0);
    let mut reader = SegmentReader::new(&bytes, STORE, ID, Some(Lsn(10)), Lsn(bound));
    let (mut lsns, mut end) = (Vec::new(), String::new());
    while let Some(next) = reader.step() {
        match next {
            Next::Record(r) => lsns.push(r.lsn.0),
            Next::Sealed(..) => end += "sealed",
            Next::End(..) => end += "end",
            Next::TornTail(t) => end += &format!("torn at {}", t.lsn.0),
            Next::Corrupt(c) => end += &format!("corrupt {}..{}, ", c.lsn.0, c.through.map_or(0, |l| l.0)),
        }
    }
    (lsns, end)
}

const RECORD: usize = framed_len(20);

#[test]
fn what_is_right_is_read() {
    let segment = Segment::of(3);
    let footer = segment.footer();
    assert_eq!(read(&segment.bytes, 0), (vec![10, 11, 12], "end".into()));
    assert_eq!(read(&segment.sealed(&footer), 0), (vec![10, 11, 12], "sealed".into()));
}

/// Each line changes one field of the second record and puts its checksum right: only the check of that field is left to refuse it.
#[test]
fn a_record_with_a_right_checksum_and_a_wrong_field_is_none() {
    let change = |what: &str, at: usize, value: &[u8]| {
        let mut bytes = Segment::of(3).bytes;
        let start = HEADER_LEN + RECORD;
        bytes[start + at..start + at + value.len()].copy_from_slice(value);
        mend_crc(&mut bytes, start, record_at::BODY_LEN..RECORD, record_at::CRC);
        (what.to_owned(), read(&bytes, 0))
    };
    let wrong = [
        change("kind 0", record_at::KIND, &[0, 0]),
        change("flags", record_at::FLAGS, &[1]),
        change("an LSN too high", record_at::LSN, &[12]),
        change("an LSN too low", record_at::LSN, &[10]),
        change("durable at itself", record_at::DURABLE_LSN, &[11]),
        change("padding", record_at::BODY + 20, &[1]),
    ];
    for (what, found) in wrong {
        assert_eq!(found, (vec![10], "torn at 11".into()), "{what}");
    }
    assert_eq!(change("nothing", record_at::KIND, &[7, 0]).1.0, [10, 11, 12]);
    // A body longer than any is refused before it is looked at.
    let mut long = Segment::new();
    long.push(&head(10, 3), &vec![0; MAX_BODY + 1]);
    assert_eq!(read(&long.bytes, 0), (vec![], "torn at 10".into()));
}

#[test]
fn a_checksum_is_over_store_segment_offset_and_every_byte() {
    let mut hurt = Segment::of(2).bytes;
    let len = hurt.len();
    for at in HEADER_LEN + RECORD..len {
        hurt[at] ^= 0x10;
        assert_eq!(read(&hurt, 0).0, [10], "byte {at}");
        hurt[at] ^= 0x10;
    }
    let bytes = Segment::of(2).bytes;
    let other = |store, id| SegmentReader::new(&bytes, store, id, Some(Lsn(10)), Lsn(0)).step();
    assert!(matches!(other(STORE, ID), Some(Next::Record(_))));
    assert!(matches!(other(StoreId([5; 16]), ID), Some(Next::TornTail(_))));
    assert!(matches!(other(STORE, SegmentId(6)), Some(Next::TornTail(_))));
    // The second record where the first was, with the LSN that is expected there.
    let mut moved = Segment::new();
    moved.push(&head(9, 3), &[0; 20]);
    moved.push(&head(10, 3), &[1; 20]);
    let moved = [&moved.bytes[..HEADER_LEN], &moved.bytes[HEADER_LEN + RECORD..]].concat();
    assert_eq!(read(&moved, 0), (vec![], "torn at 10".into()));
}

/// Each line is a footer with a right checksum that says one thing that is not so.
#[test]
fn a_footer_that_contradicts_its_records_or_itself_is_none() {
    let with = |what: &str, change: &dyn Fn(&mut Footer)| {
        let segment = Segment::of(3);
        let mut footer = segment.footer();
        change(&mut footer);
        (what.to_owned(), read(&segment.sealed(&footer), 0))
    };
    let wrong = [
        with("count", &|f| f.count = 4),
        with("first LSN", &|f| f.first_lsn = Lsn(9)),
        with("last LSN", &|f| f.last_lsn = Lsn(11)),
        with("digest", &|f| f.digest[31] ^= 1),
        with("next LSN", &|f| f.next_lsn = Lsn(12)),
        with("durable above the last", &|f| f.durable_lsn = Lsn(13)),
    ];
    for (what, (lsns, end)) in wrong {
        assert_eq!(lsns, [10, 11, 12]);
        assert!(end.starts_with("corrupt") || end.starts_with("torn"), "{what}: {end}");
    }
    assert_eq!(with("nothing", &|_| ()).1.1, "sealed");
    let segment = Segment::of(3);
    let footer = segment.footer();
    let sealed = segment.sealed(&footer);
    let at = sealed.len() - FOOTER_LEN;
    for byte in at..sealed.len() {
        let mut hurt = sealed.clone();
        hurt[byte] ^= 4;
        assert_ne!(read(&hurt, 0).1, "sealed", "byte {byte}");
    }
    let mut magic = sealed.clone();
    magic[at + footer_at::MAGIC] = b'X';
    mend_crc(&mut magic, at, 0..footer_at::CRC, footer_at::CRC);
    assert_ne!(read(&magic, 0).1, "sealed");
    // At another offset it is a copy.
    let mut moved = Segment::of(3).bytes;
    moved.truncate(moved.len() - RECORD);
    moved.extend_from_slice(&sealed[at..]);
    assert_eq!(read(&moved, 0), (vec![10, 11], "torn at 12".into()));
}

/// What proves that a bad record was durable: the caller's bound, a later record, a later footer; and how far the loss goes.
#[test]
fn a_later_record_or_footer_proves_durable_what_fails_its_check() {
    let bad = |durable: u64, sealed: bool, footer_durable: u64| {
        let mut segment = Segment::of(2);
        segment.push(&head(12, durable), &[2; 20]);
        let mut footer = segment.footer();
        footer.durable_lsn = Lsn(footer_durable);
        let mut bytes = if sealed { segment.sealed(&footer) } else { segment.bytes };
        bytes[HEADER_LEN + RECORD + 40] ^= 1;
        bytes
    };
    assert_eq!(read(&bad(3, false, 0), 0), (vec![10], "torn at 11".into()));
    assert_eq!(read(&bad(10, false, 0), 0).1, "torn at 11");
    assert_eq!(read(&bad(11, false, 0), 0), (vec![10, 12], "corrupt 11..11, end".into()));
    assert_eq!(read(&bad(3, false, 0), 11), (vec![10, 12], "corrupt 11..11, end".into()));
    assert_eq!(read(&bad(3, true, 11), 0), (vec![10, 12], "corrupt 11..11, sealed".into()));
    assert_eq!(read(&bad(3, true, 10), 0).1, "torn at 11");
}

#[test]
fn a_header_with_a_right_checksum_and_a_wrong_field_is_refused() {
    let with = |change: &dyn Fn(&mut Header)| {
        let mut h = header();
        change(&mut h);
        Header::decode(&h.encode(), Some(STORE), ID)
    };
    assert_eq!(with(&|_| ()), Ok(header()));
    let raw = |at: usize, value: u8| {
        let mut bytes = header().encode();
        bytes[at] = value;
        let crc = crc32fast::hash(&bytes[..header_at::CRC]);
        bytes[header_at::CRC..].copy_from_slice(&crc.to_le_bytes());
        Header::decode(&bytes, Some(STORE), ID)
    };
    let damaged =
        |found: Result<Header, HeaderFault>, what: &str| assert!(matches!(found, Err(HeaderFault::Damaged(_))), "{what}: {found:?}");
    damaged(with(&|h| h.store = StoreId([0; 16])), "store");
    damaged(with(&|h| h.segment = SegmentId(6)), "segment");
    damaged(with(&|h| h.first_lsn = Lsn(0)), "first LSN 0");
    damaged(with(&|h| h.durable_lsn = Lsn(10)), "durable at the first LSN");
    damaged(with(&|h| h.prev.end_lsn = Lsn(10)), "the predecessor's end at the first LSN");
    damaged(raw(header_at::MAGIC, b'x'), "magic");
    damaged(raw(header_at::LENGTH, 7), "length");
    for (at, what) in [(header_at::VERSION, "version"), (header_at::READ_FEATURES + 1, "read"), (header_at::WRITE_FEATURES, "write")] {
        let found = raw(at, 2);
        assert!(matches!(&found, Err(HeaderFault::Unsupported(name)) if name.contains(what)), "{found:?}");
    }
    for at in 0..HEADER_LEN {
        let mut bytes = header().encode();
        bytes[at] ^= 1;
        damaged(Header::decode(&bytes, Some(STORE), ID), "a flipped bit");
    }
}

fn open_with(
    disk: &dyn Fn() -> Arc<dyn Storage>,
    clean: bool,
    options: Options,
    hook: ize::wal::SyncHook,
) -> Result<(Log, RecoveryReport), WalError> {
    let mut sound = |_: &Record<'_>| Ok(true);
    let input = RecoveryInput { clean, before_sync: hook, ..RecoveryInput::new(&mut sound) };
    Log::recover(disk(), &dir(), STORE, input, options)
}

fn options() -> Options {
    Options { segment_size: 64 << 10, background: false, ..Options::default() }
}

fn open(disk: &SimDisk) -> (Log, RecoveryReport) {
    open_with(&|| disk.shared(), false, options(), Box::new(|| Ok(()))).unwrap()
}

fn put(log: &Log, body: &[u8]) -> Lsn {
    log.append_with(body.len() + 64, &mut |_, batch| _ = batch.push(7, 1, &[body], 0)).unwrap()[0].lsn
}

/// Two logs of one store that went different ways: a segment of one in the other has right checksums and wrong ends.
#[test]
fn a_segment_of_another_past_breaks_the_chain() {
    let log = |first: &[u8]| {
        let disk = SimDisk::new();
        let (log, _) = open(&disk);
        put(&log, first);
        log.seal().unwrap();
        put(&log, b"same");
        log.seal().unwrap();
        disk
    };
    let (one, other) = (log(b"one"), log(b"two"));
    let worst = |disk: &SimDisk| verify(disk, &dir(), STORE, Bounds::default(), &mut |_| Ok(None)).unwrap().worst;
    assert_eq!((worst(&one), worst(&other)), (Worst::Clean, Worst::Clean));
    let path = segment_path(&dir(), SegmentId(1));
    one.put_file(&path, &other.file_bytes(&path).unwrap());
    assert_eq!(worst(&one), Worst::Damage);
    assert!(matches!(open_with(&|| one.shared(), false, options(), Box::new(|| Ok(()))), Err(WalError::Damage { .. })));
}

/// A seal whose sync failed has left a footer in the page cache alone. Whatever is said of a clean end, recovery copies what it finds.
#[test]
fn a_footer_beside_a_poison_proves_nothing() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    let lsn = put(&log, b"in the cache alone");
    disk.fail_sync(1);
    assert!(log.seal().is_err());
    drop(log);
    let left = disk.kill();
    drop(open_with(&|| left.shared(), true, options(), Box::new(|| Ok(()))).unwrap());
    for seed in 0..8 {
        let scanned = scan(&left.crash(seed), &dir(), STORE, Bounds::default()).unwrap();
        assert!(scanned.segments.iter().any(|s| s.first_lsn <= lsn && lsn <= s.last_lsn && s.records > 0), "seed {seed}");
    }
}

/// What the disk does not give is neither damage nor a torn tail, and nobody knows what it holds: recovery stops, below the checkpoint too.
#[test]
fn a_segment_that_cannot_be_read_stops_recovery_wherever_it_is() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    put(&log, b"one");
    log.seal().unwrap();
    let checkpoint = put(&log, b"two");
    log.seal().unwrap();
    put(&log, b"three");
    log.sync().unwrap();
    drop(log);
    for segment in 1..=3 {
        let left = disk.kill();
        left.fail_reads_of(&segment_path(&dir(), SegmentId(segment)));
        let mut sound = |_: &Record<'_>| Ok(true);
        let input = RecoveryInput { checkpoint, ..RecoveryInput::new(&mut sound) };
        let refused = Log::recover(left.shared(), &dir(), STORE, input, options()).unwrap_err();
        assert!(matches!(refused, WalError::Io { .. }), "segment {segment}: {refused:?}");
    }
}

/// A successor whose header names the right predecessor and yet does not follow it: LSNs repeated or skipped, an epoch that falls.
#[test]
fn a_successor_follows_in_lsn_and_epoch() {
    let segment = |change: &dyn Fn(&mut Header)| {
        let first = Segment::of(3);
        let mut footer = first.footer();
        footer.next_lsn = Lsn(13);
        let prev =
            Predecessor { segment: ID, end_lsn: footer.last_lsn, length: (first.bytes.len() + FOOTER_LEN) as u64, digest: footer.digest };
        let mut next = Header { segment: ID.next(), prev, first_lsn: Lsn(13), durable_lsn: Lsn(12), ..header() };
        change(&mut next);
        let disk = SimDisk::new();
        disk.put_file(&segment_path(&dir(), ID), &first.sealed(&footer));
        let mut bytes = next.encode().to_vec();
        bytes.resize(65536, 0);
        disk.put_file(&segment_path(&dir(), ID.next()), &bytes);
        scan(&disk, &dir(), STORE, Bounds { checkpoint: Lsn(0), floor: ID }).unwrap().worst()
    };
    let damage = Some(ize::wal::scan::Verdict::Damage);
    assert_eq!(segment(&|_| ()), None);
    assert_eq!(segment(&|h| h.first_lsn = Lsn(14)), damage, "a gap inside an epoch");
    assert_eq!(segment(&|h| (h.first_lsn, h.epoch) = (Lsn(14), 3)), None, "a gap between two");
    assert_eq!(segment(&|h| h.epoch = 1), damage, "an epoch that falls");
    assert_eq!(segment(&|h| h.prev.length += 8), damage);
    assert_eq!(segment(&|h| h.prev.digest[0] ^= 1), damage);
    assert_eq!(segment(&|h| (h.prev.end_lsn, h.durable_lsn) = (Lsn(11), Lsn(3))), damage);
}

fn said(seen: &Mutex<Vec<Call>>) -> Vec<(CallKind, String)> {
    let name = |path: &Path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.split_once('-').map_or(name, |(front, _)| front).to_owned()
    };
    let calls = std::mem::take(&mut *seen.lock().unwrap());
    calls.iter().filter(|c| c.kind.changes()).map(|c| (c.kind, name(&c.path))).collect()
}

/// The order in which things are written and synced is the format's promise: what a crash after each step leaves follows from it.
#[test]
fn births_syncs_seals_and_recoveries_write_and_sync_in_the_documented_order() {
    use CallKind::{Create, CreateDir, Remove, Rename, SetLen, Sync, SyncDir, Write};
    let disk = SimDisk::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hook = Arc::clone(&seen);
    disk.script(move |call| {
        hook.lock().unwrap().push(call.clone());
        None
    });
    let packs = Arc::clone(&seen);
    // Packs are somebody else's: their sync is seen as a call of that name.
    let sync_packs = move || {
        packs.lock().unwrap().push(Call { number: 0, kind: Sync, path: PathBuf::from("/packs") });
        Ok(())
    };
    let (log, _) = open_with(&|| disk.shared(), false, options(), Box::new(sync_packs.clone())).unwrap();
    assert_eq!(said(&seen), [(CreateDir, "wal".into())]);
    let named = |calls: &[(CallKind, &str)]| calls.iter().map(|(kind, name)| (*kind, (*name).to_owned())).collect::<Vec<_>>();
    put(&log, b"first");
    let first = "0000000000000001.seg";
    let fill: Vec<_> = said(&seen);
    // However many writes fill the spare: then sync, header, sync, name, directory, and only then a record.
    let writes = fill.iter().take_while(|c| c.0 != Sync).count();
    assert_eq!(fill[..2], named(&[(Create, "prep"), (Write, "prep")]));
    let birth = [(Sync, "prep"), (Write, "prep"), (Sync, "prep"), (Rename, "prep"), (SyncDir, "wal"), (Write, first)];
    assert_eq!(fill[writes..], named(&birth));
    log.sync().unwrap();
    assert_eq!(said(&seen), named(&[(Sync, "packs"), (Sync, first), (Write, first)]), "packs, log, mark");
    put(&log, b"second");
    assert_eq!(said(&seen), named(&[(Write, first)]), "an append is one write");
    log.seal().unwrap();
    assert_eq!(said(&seen), named(&[(Sync, "packs"), (Write, first), (SetLen, first), (Sync, first)]));
    assert!(disk.file_bytes(&segment_path(&dir(), SegmentId(1))).unwrap().len() < 1000, "the zero rest is cut off");
    put(&log, b"third");
    let left = disk.kill();
    drop(log);
    // Half a record, so that recovery has something to cut.
    let second = segment_path(&dir(), SegmentId(2));
    let file = left.open(&second).unwrap();
    file.write_at(&[&[7; 20]], 400).unwrap();
    said(&seen);
    let hook = Arc::clone(&seen);
    left.script(move |call| {
        hook.lock().unwrap().push(call.clone());
        None
    });
    let (_, report) = open_with(&|| left.shared(), false, options(), Box::new(sync_packs)).unwrap();
    let recovery: Vec<_> = said(&seen)
        .into_iter()
        .map(|(k, n)| (k, if n.ends_with(".bin") || n.starts_with("00") { "torn-copy".into() } else { n }))
        .collect();
    let expected = [
        (CreateDir, "wal"),
        (CreateDir, "torn"),
        (Create, "torn-copy"),
        (Write, "torn-copy"),
        (Sync, "torn-copy"),
        (SyncDir, "torn"),
        (Sync, "packs"),
        (Create, "fresh"),
        (Write, "fresh"),
        (Sync, "fresh"),
        (Rename, "fresh"),
        (SyncDir, "wal"),
    ];
    let recovery: Vec<_> = recovery.into_iter().filter(|(kind, _)| *kind != Remove).collect();
    assert_eq!(recovery, named(&expected));
    // What was cut is kept, through a power cut too.
    let cut = report.cut.unwrap();
    for seed in 0..20 {
        let saved = left.crash(seed).file_bytes(&cut.saved).unwrap();
        assert_eq!((saved.len() as u64, saved.iter().filter(|b| **b == 7).count()), (cut.bytes, 20));
    }
}

/// A disk on which something happens right after a file is synced, before the caller knows.
struct After {
    disk: SimDisk,
    then: Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>,
}

impl std::fmt::Debug for After {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("After")
    }
}

struct AfterFile(FileRef, Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>);

impl std::fmt::Debug for AfterFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AfterFile")
    }
}

impl After {
    fn file(&self, file: io::Result<FileRef>) -> io::Result<FileRef> {
        Ok(Arc::new(AfterFile(file?, Arc::clone(&self.then))))
    }
}

impl Storage for After {
    fn create_new(&self, path: &Path) -> io::Result<FileRef> {
        self.file(self.disk.create_new(path))
    }
    fn open(&self, path: &Path) -> io::Result<FileRef> {
        self.file(self.disk.open(path))
    }
    fn open_read(&self, path: &Path) -> io::Result<FileRef> {
        self.file(self.disk.open_read(path))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<std::ffi::OsString>> {
        self.disk.list(dir)
    }
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
}

impl StorageFile for AfterFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        self.0.write_at(parts, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()?;
        if let Some(then) = self.1.get() {
            then();
        }
        Ok(())
    }
}

/// An append that comes while a sync is under way is not in it.
#[test]
fn what_is_appended_during_a_sync_is_not_reported_durable() {
    let disk = SimDisk::new();
    let then: Arc<OnceLock<Box<dyn Fn() + Send + Sync>>> = Arc::default();
    let storage = After { disk: disk.clone(), then: Arc::clone(&then) };
    let storage: Arc<dyn Storage> = Arc::new(storage);
    let (log, _) = open_with(&|| Arc::clone(&storage), false, options(), Box::new(|| Ok(()))).unwrap();
    let log = Arc::new(log);
    let first = put(&log, b"in time");
    let weak: Weak<Log> = Arc::downgrade(&log);
    let late = Arc::new(Mutex::new(None));
    let told = Arc::clone(&late);
    let _ = then.set(Box::new(move || {
        let mut late = told.lock().unwrap();
        if late.is_none() {
            *late = Some(put(&weak.upgrade().unwrap(), b"too late"));
        }
    }));
    let durable = log.sync().unwrap();
    assert_eq!((durable, log.durable()), (first, first), "{:?} was appended after the sync began", late.lock().unwrap());
}

/// Of two syncs of one file at a time, one can swallow the error that belongs to the bytes of the other: none of them reports success.
#[test]
fn a_sync_that_fails_elsewhere_meanwhile_is_a_failure_here_too() {
    let disk = SimDisk::new();
    let log: Arc<OnceLock<Arc<Log>>> = Arc::default();
    let (seen, doing) = (Arc::clone(&log), Arc::new(Mutex::new(0)));
    let (failing, busy) = (disk.clone(), Arc::clone(&doing));
    let hook = move || {
        // The first call is the leader's: before it goes on, another thread's seal fails. The second is that seal's own.
        let mut calls = busy.lock().unwrap();
        *calls += 1;
        if *calls == 1 {
            drop(calls);
            failing.fail_sync(1);
            assert!(seen.get().unwrap().seal().is_err());
        }
        Ok(())
    };
    let (opened, _) = open_with(&|| disk.shared(), false, options(), Box::new(hook)).unwrap();
    let _ = log.set(Arc::new(opened));
    let log = Arc::clone(log.get().unwrap());
    put(&log, b"lost");
    *doing.lock().unwrap() = 0;
    assert!(log.sync().is_err(), "the pages were clean when the second sync came");
    assert_eq!(log.durable(), Lsn(0));
}

#[test]
fn unsynced_records_are_capped_however_small_they_are() {
    let disk = SimDisk::new();
    let large = Options { segment_size: 80 << 20, ..options() };
    let (log, _) = open_with(&|| disk.shared(), false, large, Box::new(|| Ok(()))).unwrap();
    let mut most = 0;
    for round in 0..34 {
        // The first asks for a segment that all of them fit into: sealing one would sync.
        let room = if round == 0 { 79 << 20 } else { 65_536 * 32 };
        let out = log.append_with(room, &mut |_, batch| (0..65_536).for_each(|_| _ = batch.push(7, 1, &[], 0))).unwrap();
        most = most.max(out[65_535].lsn.0 - log.durable().0);
    }
    assert!((1 << 20..=(1 << 20) + (1 << 16)).contains(&most), "{most} records were unsynced");
}

#[test]
fn a_kind_of_the_logs_own_is_seen_as_a_mark_and_a_clean_reopening_keeps_the_epoch() {
    let disk = SimDisk::new();
    let (log, first) = open(&disk);
    put(&log, b"x");
    disk.fail_sync(1);
    assert!(log.sync().is_err());
    drop(log);
    let left = disk.kill();
    let (log, second) = open(&left);
    assert_eq!((first.epoch, second.epoch), (1, 2), "the poison is known to the next recovery");
    put(&log, b"y");
    log.sync().unwrap();
    log.seal().unwrap();
    drop(log);
    for _ in 0..2 {
        let (_, again) = open_with(&|| left.shared(), true, options(), Box::new(|| Ok(()))).unwrap();
        assert_eq!((again.epoch, again.fresh_copied), (2, 0), "and only to that one");
    }
    let mut marks = 0;
    let seen = verify(&left, &dir(), STORE, Bounds::default(), &mut |r| {
        marks += u64::from(r.kind == KIND_MARK);
        Ok(None)
    });
    assert_eq!((seen.unwrap().records, marks), (3, 1));
}

/// A floor made durable is a promise to remove; a floor that is not removes nothing. And what stays has a durable name first.
#[test]
fn a_prune_syncs_names_then_the_floor_then_removes_then_syncs() {
    use ize::wal::prune::{Limits, execute, plan};
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    for _ in 0..4 {
        put(&log, b"x");
        log.seal().unwrap();
    }
    let scanned = scan(&disk, &dir(), STORE, Bounds::default()).unwrap();
    let plan = plan(&scanned, Lsn(4), Limits { max_size: Some(0), ..Limits::default() }, &mut |_| 0, Time::now());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (hook, floor) = (Arc::clone(&seen), Arc::clone(&seen));
    disk.script(move |call| {
        hook.lock().unwrap().push(call.clone());
        None
    });
    execute(&disk, &dir(), &plan, &mut |_| {
        floor.lock().unwrap().push(Call { number: 0, kind: CallKind::Sync, path: PathBuf::from("/floor") });
        Ok(())
    })
    .unwrap();
    let removed = |n: u64| (CallKind::Remove, format!("{}.seg", SegmentId(n)));
    let sync = (CallKind::SyncDir, "wal".to_owned());
    assert_eq!(said(&seen), [sync.clone(), (CallKind::Sync, "floor".into()), removed(1), removed(2), removed(3), sync]);
}

/// Neither mark nor footer makes a segment longer than what was filled with zeros for it, however exactly records fill it.
#[test]
fn room_for_mark_and_footer_is_kept_in_every_segment() {
    for spare in [0, 8, 32, 64, 128, 152, 160, 168] {
        let disk = SimDisk::new();
        let (log, _) = open(&disk);
        put(&log, &[1; 60_000]);
        let left = (64 << 10) - HEADER_LEN - framed_len(60_000) - spare;
        log.append_with(left, &mut |_, batch| _ = batch.push(7, 1, &[&vec![2; left - framed_len(0)]], 0)).unwrap();
        log.sync().unwrap();
        log.seal().unwrap();
        for id in [1, 2].map(SegmentId) {
            let len = disk.file_bytes(&segment_path(&dir(), id)).map_or(0, |b| b.len());
            assert!(len <= 64 << 10, "{id} has {len} bytes, {spare} to spare");
        }
    }
}

#[test]
fn a_record_says_how_far_the_log_was_durable_when_it_was_written() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    let durable = put(&log, b"synced");
    log.sync().unwrap();
    put(&log, b"after");
    let mut said = Vec::new();
    verify(&disk, &dir(), STORE, Bounds::default(), &mut |r| {
        said.push(r.durable_lsn);
        Ok(None)
    })
    .unwrap();
    assert_eq!(said, [Lsn(0), durable, durable]);
}

/// A seal in one thread, and a sync of the same file that fails in another just before: the seal's own sync then succeeds and proves nothing.
#[test]
fn a_seal_beside_a_sync_that_fails_is_a_failure_too() {
    use std::sync::mpsc::channel;
    // Where a sync goes another way, nobody comes.
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
    let disk = SimDisk::new();
    let ((in_sync, sync_is_in), (in_seal, seal_is_in), (go_on, may_go_on)) = (channel(), channel(), channel());
    let (gates, calls) = (Mutex::new((seal_is_in, may_go_on)), Mutex::new(0));
    let hook = move || {
        let call = {
            let mut calls = calls.lock().unwrap();
            *calls += 1;
            *calls
        };
        // First the leader of the sync, which waits for the seal to be on its way; then the seal, which waits for the sync's end.
        if call == 1 {
            in_sync.send(()).unwrap();
            gates.lock().unwrap().0.recv_timeout(PATIENCE).unwrap();
        } else {
            in_seal.send(()).unwrap();
            gates.lock().unwrap().1.recv_timeout(PATIENCE).unwrap();
        }
        Ok(())
    };
    let (log, _) = open_with(&|| disk.shared(), true, options(), Box::new(hook)).unwrap();
    put(&log, b"lost");
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| log.sync());
        sync_is_in.recv_timeout(PATIENCE).unwrap();
        disk.fail_sync(1);
        let seal = scope.spawn(|| log.seal());
        assert!(sync.join().unwrap().is_err());
        go_on.send(()).unwrap();
        assert!(seal.join().unwrap().is_err(), "the pages were clean when the seal synced them");
    });
    assert_eq!(log.durable(), Lsn(0));
}

#[test]
fn a_birth_that_fails_leaves_no_file_and_poisons_if_its_name_may_be_lost() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    disk.script(|call| (call.kind == CallKind::Rename).then_some(Fault::EIO));
    assert!(log.append_with(64, &mut |_, _| panic!("there is no segment")).is_err());
    let left: Vec<_> = disk.list(&dir()).unwrap().into_iter().filter(|n| n.to_str().unwrap().ends_with(".tmp")).collect();
    assert!(log.poisoned().is_none() && left.is_empty(), "{left:?}");
    disk.disarm();
    disk.fail_sync_dir(1);
    assert!(log.append_with(64, &mut |_, _| panic!("its name may be lost")).is_err());
    assert!(log.poisoned().is_some());
}

#[test]
fn a_scan_knows_the_jump_of_an_epoch_before_its_first_record_and_no_clean_flag_hides_a_poison() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    put(&log, b"x");
    disk.fail_sync(1);
    assert!(log.sync().is_err());
    drop(log);
    let left = disk.kill();
    let (log, report) = open_with(&|| left.shared(), true, options(), Box::new(|| Ok(()))).unwrap();
    assert_eq!(report.epoch, 2);
    drop(log);
    let scanned = scan(&left, &dir(), STORE, Bounds::default()).unwrap();
    assert_eq!((scanned.next_lsn, scanned.epoch), (report.next_lsn, 2));
}
