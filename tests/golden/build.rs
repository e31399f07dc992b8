//! Makes the golden store of version 1: three segments (two sealed, one active), one pack. Every time and every id is fixed.
//!
//! The segments are laid out as the log would: a sync with its mark, a seal, a power loss with its new epoch, a restart.

use ize::blobs::pack::{EntryHead, PACK_HEADER_LEN, PackHeader, Stored};
use ize::ids::{BlobId, Ino, Lsn, PackId, SegmentId, StoreId, Time};
use ize::op::*;
use ize::versions::node::FileKind;
use ize::wal::format::{Footer, Framing, Header, KIND_MARK, Predecessor, RecordHead};

pub const STORE: StoreId = StoreId(*b"ize-golden-store");
/// Allotted size of each segment.
pub const ALLOTTED: u32 = 64 << 10;
/// LSNs that the new epoch of segment 3 skips.
pub const JUMP: u64 = 1 << 21;

/// One record as it goes in and must come out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub segment: u64,
    pub lsn: u64,
    pub durable: u64,
    pub kind: u16,
    pub version: u8,
    pub payload: u32,
    pub body: Vec<u8>,
}

/// One blob as it goes in and must come out, with its encoding.
pub struct WantedBlob {
    pub raw: Vec<u8>,
    pub zstd: bool,
}

/// Text that compresses well, longer than a block.
pub fn text() -> Vec<u8> {
    (0u32..).flat_map(|n| format!("{n}: nothing is ever lost\n").into_bytes()).take(70_000).collect()
}

/// Bytes that do not compress: one block and a bit.
pub fn noise() -> Vec<u8> {
    let mut rng = ize::storage::sim::Seeded::new(42);
    (0..66_003).map(|_| rng.draw() as u8).collect()
}

/// The blobs of the pack, in their order. Records name the last two.
pub fn blobs() -> Vec<WantedBlob> {
    vec![
        WantedBlob { raw: b"a small blob, as replay leaves them".to_vec(), zstd: false },
        WantedBlob { raw: Vec::new(), zstd: false },
        WantedBlob { raw: text(), zstd: true },
        WantedBlob { raw: noise(), zstd: false },
    ]
}

fn t(secs: i64, nanos: u32) -> Time {
    Time { secs: 1_700_000_000 + secs, nanos }
}

const SHELL: ProcessKey = ProcessKey { pid: 4711, start: 123_456 };
const ROOT: ProcessKey = ProcessKey { pid: 1, start: 7 };
const LATER: ProcessKey = ProcessKey { pid: 4800, start: 1 << 40 };
const UNKNOWN: ProcessKey = ProcessKey { pid: 0, start: 0 };

fn stamp(secs: i64, process: ProcessKey) -> Stamp {
    Stamp { time: t(secs, 250_000_000), behind: 0, process, link: None }
}

fn bytes_of<'a>(parents: &[(u32, &'a [u8])]) -> Vec<(u32, &'a serde_bytes::Bytes)> {
    parents.iter().map(|(pid, comm)| (*pid, serde_bytes::Bytes::new(comm))).collect()
}

struct Maker {
    segment: u64,
    next: u64,
    durable: u64,
    bytes: Vec<u8>,
    framing: Framing,
    digest: blake3::Hasher,
    header: Header,
    payload: u64,
    count: u64,
    wanted: Vec<Wanted>,
}

impl Maker {
    fn new(header: Header) -> Self {
        let bytes = header.encode().to_vec();
        let mut digest = blake3::Hasher::new();
        digest.update(&bytes);
        Self {
            segment: header.segment.0,
            next: header.first_lsn.0,
            durable: header.durable_lsn.0,
            bytes,
            framing: Framing::new(STORE, header.segment),
            digest,
            header,
            payload: 0,
            count: 0,
            wanted: Vec::new(),
        }
    }

    fn push(&mut self, kind: u16, version: u8, payload: u32, body: Vec<u8>) {
        let (lsn, durable) = (self.next, self.durable);
        let head = RecordHead { crc: 0, body_len: 0, kind, version, payload, lsn: Lsn(lsn), durable_lsn: Lsn(durable) };
        let at = self.bytes.len() as u64;
        let crc = self.framing.push(&mut self.bytes, at, &head, &[&body]);
        self.digest.update(&crc.to_le_bytes());
        self.payload += u64::from(payload);
        self.count += 1;
        self.next += 1;
        self.wanted.push(Wanted { segment: self.segment, lsn, durable, kind, version, payload, body });
    }

    fn op(&mut self, stamp: Stamp, op: impl Into<Operation>) {
        self.op_with(stamp, op, b"");
    }

    fn op_with(&mut self, stamp: Stamp, op: impl Into<Operation>, inline: &[u8]) {
        let entry = Entry { stamp, op: op.into() };
        let payload = entry.op.blob().map_or(0, |(_, len)| len);
        let (kind, version, mut body) = encode(&entry).unwrap();
        body.extend_from_slice(inline);
        self.push(kind, version, payload, body);
    }

    /// A process record of body version 1. Its form is spelled out here: what is written today is version 2.
    fn process(&mut self, key: ProcessKey, comm: &[u8], uid: u32, session: u32, parents: &[(u32, &[u8])]) {
        let body = postcard::to_stdvec(&(key, serde_bytes::Bytes::new(comm), uid, session, bytes_of(parents))).unwrap();
        self.push(KIND_PROCESS, 1, 0, body);
    }

    /// One of body version 2: with the program's path and its arguments.
    fn process_2(&mut self, key: ProcessKey, comm: &[u8], uid: u32, session: u32, parents: &[(u32, &[u8])], program: (&[u8], &[&[u8]])) {
        let arguments: Vec<&serde_bytes::Bytes> = program.1.iter().map(|a| serde_bytes::Bytes::new(a)).collect();
        let arguments = (!arguments.is_empty()).then_some(arguments);
        let program = serde_bytes::Bytes::new(program.0);
        let body = postcard::to_stdvec(&(key, serde_bytes::Bytes::new(comm), uid, session, bytes_of(parents), program, arguments)).unwrap();
        self.push(KIND_PROCESS, 2, 0, body);
    }

    /// A sync that leaves the log idle.
    fn mark(&mut self) {
        self.durable = self.next - 1;
        self.push(KIND_MARK, 0, 0, Vec::new());
    }

    fn seal(&mut self, last_time: Time, jump: u64) -> Predecessor {
        let last = self.next - 1;
        let footer = Footer {
            count: self.count,
            first_lsn: self.header.first_lsn,
            last_lsn: Lsn(last),
            payload: self.payload,
            last_time,
            digest: *self.digest.finalize().as_bytes(),
            durable_lsn: Lsn(self.durable),
            next_lsn: Lsn(last + 1 + jump),
            next_epoch: self.header.epoch + u64::from(jump > 0),
        };
        let at = self.bytes.len() as u64;
        self.bytes.extend_from_slice(&self.framing.footer(&footer, at));
        let length = self.bytes.len() as u64;
        Predecessor { segment: self.header.segment, end_lsn: Lsn(last), length, digest: footer.digest }
    }
}

/// The files of the log, by number, and the records in them.
pub fn log() -> (Vec<(u64, Vec<u8>)>, Vec<Wanted>) {
    let (first, end) = first();
    let (second, end) = second(end);
    let third = third(end);
    let records = [&first, &second, &third].iter().flat_map(|m| m.wanted.clone()).collect();
    (vec![(1, first.bytes), (2, second.bytes), (3, third.bytes)], records)
}

fn header(segment: u64, epoch: u64, first_lsn: u64, prev: Predecessor, created: Time) -> Header {
    Header {
        store: STORE,
        segment: SegmentId(segment),
        epoch,
        first_lsn: Lsn(first_lsn),
        durable_lsn: prev.end_lsn,
        prev,
        created,
        allotted: ALLOTTED,
    }
}

/// Births and first bytes; a sync in the middle.
fn first() -> (Maker, Predecessor) {
    let mut m = Maker::new(header(1, 1, 1, Predecessor::default(), t(0, 500_000_000)));
    let (uid, gid) = (1000, 100);
    m.process(SHELL, b"bash", uid, 4700, &[(4700, b"tmux: server"), (1, b"init")]);
    m.op(stamp(1, SHELL), Mkdir { dir: Ino(1), name: b"src".to_vec(), ino: Ino(2), mode: 0o755, uid, gid });
    m.op(stamp(2, SHELL), Create { dir: Ino(2), name: b"main.rs".to_vec(), ino: Ino(3), mode: 0o644, uid, gid });
    let hello = b"fn main() {}\n";
    let whole = Data::Inline(hello.len() as u32);
    m.op_with(stamp(3, SHELL), Write { ino: Ino(3), offset: 0, data: whole, size_after: 13, mode_after: None }, hello);
    m.op(stamp(4, SHELL), Create { dir: Ino(1), name: b"na\xffme".to_vec(), ino: Ino(4), mode: 0o4755, uid, gid });
    let far = Write { ino: Ino(4), offset: 1 << 33, data: Data::Inline(1), size_after: (1 << 33) + 1, mode_after: Some(0o755) };
    m.op_with(stamp(5, SHELL), far, b"x");
    m.op(stamp(6, SHELL), Symlink { dir: Ino(1), name: b"link".to_vec(), ino: Ino(5), target: b"src/main.rs".to_vec(), uid, gid });
    m.mark();
    m.op(stamp(7, SHELL), Link { ino: Ino(3), dir: Ino(1), name: "h\u{e4}rd\n".as_bytes().to_vec() });
    let (name, what) = (b"pipe".to_vec(), FileKind::Fifo);
    m.op(stamp(8, SHELL), Mknod { dir: Ino(2), name, ino: Ino(6), what, mode: 0o600, uid, gid, rdev: 0 });
    m.op(stamp(9, SHELL), SetXattr { ino: Ino(3), name: b"user.tag".to_vec(), value: vec![0, 255, 7] });
    m.op(stamp(10, SHELL), Mark { marker: Marker::Commit { message: Some("first".to_owned()) } });
    let end = m.seal(t(10, 300_000_000), 0);
    (m, end)
}

/// Changes of every other kind, a large write; then the power goes, and recovery seals with a jump.
fn second(prev: Predecessor) -> (Maker, Predecessor) {
    let mut m = Maker::new(header(2, 1, prev.end_lsn.0 + 1, prev, t(11, 0)));
    m.process(SHELL, b"bash", 1000, 4700, &[(4700, b"tmux: server"), (1, b"init")]);
    m.op(stamp(11, SHELL), Chmod { ino: Ino(3), old: 0o644, new: 0o600 });
    m.process(ROOT, b"na\xffme", 0, 1, &[]);
    m.op(stamp(12, ROOT), Chown { ino: Ino(4), old: (1000, 100), new: (0, 0), mode_after: Some(0o755) });
    // The clock went back by a minute and a half.
    let back = Stamp { time: t(-78, 0), behind: 90_500_000_000, process: SHELL, link: None };
    let old = (t(2, 250_000_000), t(3, 250_000_000));
    m.op(back, Utimens { ino: Ino(3), old, atime: None, mtime: Some(Time { secs: -1, nanos: 999_999_999 }) });
    m.op(stamp(14, SHELL), Truncate { ino: Ino(4), old_size: (1 << 33) + 1, size: 300, mode_after: None });
    m.op(stamp(15, SHELL), Fallocate { ino: Ino(4), mode: AllocateMode::PunchHole, offset: 5, len: 200, size_after: 300 });
    m.op(stamp(16, SHELL), Clone { from: Ino(3), from_offset: 3, ino: Ino(4), offset: 40, len: 10, size_after: 300, mode_after: None });
    let name = b"main.rs".to_vec();
    let (to_dir, to_name) = (Ino(1), b"b\xfe.rs".to_vec());
    m.op(stamp(17, SHELL), Rename { dir: Ino(2), name, ino: Ino(3), to_dir, to_name: to_name.clone(), mode: RenameMode::Free });
    let (dir, name) = (Ino(2), b"pipe".to_vec());
    m.op(stamp(18, SHELL), Rename { dir, name, ino: Ino(6), to_dir, to_name, mode: RenameMode::Exchange(Ino(3)) });
    m.op(stamp(19, SHELL), Unlink { dir: Ino(1), name: "h\u{e4}rd\n".as_bytes().to_vec(), ino: Ino(3) });
    let noise = noise();
    let data = Data::Blob { id: BlobId::of(&noise), len: noise.len() as u32 };
    m.op(stamp(20, SHELL), Write { ino: Ino(4), offset: 300, data, size_after: 66_303, mode_after: None });
    m.mark();
    m.op(stamp(21, UNKNOWN), RemoveXattr { ino: Ino(3), name: b"user.tag".to_vec() });
    m.op(stamp(22, SHELL), Mkdir { dir: Ino(1), name: b"tmp".to_vec(), ino: Ino(7), mode: 0o1777, uid: 0, gid: 0 });
    m.op(stamp(23, SHELL), Rmdir { dir: Ino(1), name: b"tmp".to_vec(), ino: Ino(7) });
    m.op(stamp(24, SHELL), Forget { ino: Ino(7) });
    let end = m.seal(t(25, 0), JUMP);
    (m, end)
}

/// A restore in the new epoch, proven durable by a mark; then what nothing proves durable, and zeros.
fn third(prev: Predecessor) -> Maker {
    let mut m = Maker::new(header(3, 2, prev.end_lsn.0 + 1 + JUMP, prev, t(30, 0)));
    let parents: [(u32, &[u8]); 2] = [(4700, b"tmux: server"), (1, b"init")];
    m.process_2(SHELL, b"ize", 1000, 4700, &parents, (b"/usr/bin/ize", &[b"ize", b"restore", b"na\xffme"]));
    m.process_2(LATER, b"cat", 0, 4700, &[], (b"/opt/\xff/cat", &[]));
    let restore = m.next;
    let paths = vec![b"src".to_vec(), b"na\xffme".to_vec()];
    m.op(stamp(31, SHELL), Mark { marker: Marker::Restore { at: Lsn(12), paths } });
    let part = |secs| Stamp { link: Some(Lsn(restore)), ..stamp(secs, SHELL) };
    let text = text();
    let data = Data::Blob { id: BlobId::of(&text), len: text.len() as u32 };
    m.op(part(32), Write { ino: Ino(4), offset: 0, data, size_after: 70_000, mode_after: None });
    m.op(part(33), Fallocate { ino: Ino(4), mode: AllocateMode::ZeroRange, offset: 69_000, len: 2000, size_after: 71_000 });
    m.mark();
    m.push(0x8001, 3, 0, b"of a later ize, to be skipped".to_vec());
    let (name, to_name) = (b"pipe".to_vec(), b"na\xffme".to_vec());
    let mode = RenameMode::Replace(Ino(4));
    m.op(stamp(34, SHELL), Rename { dir: Ino(2), name, ino: Ino(3), to_dir: Ino(1), to_name, mode });
    m.op_with(
        stamp(35, SHELL),
        Write { ino: Ino(3), offset: 13, data: Data::Inline(300), size_after: 313, mode_after: None },
        &[b'#'; 300],
    );
    m.op(stamp(36, LATER), Mark { marker: Marker::Unmount });
    m.bytes.resize(ALLOTTED as usize, 0);
    m
}

/// The pack: raw and compressed entries, an empty one, one of two blocks.
pub fn pack() -> Vec<u8> {
    let pack = PackId(1);
    let mut bytes = PackHeader { store: STORE, pack, previous: PackId(0), previous_len: 0, generation: 2 }.encode().to_vec();
    assert_eq!(bytes.len() as u64, PACK_HEADER_LEN);
    for blob in blobs() {
        let (encoding, stored) =
            if blob.zstd { (Stored::Zstd, zstd::bulk::compress(&blob.raw, 1).unwrap()) } else { (Stored::Raw, blob.raw.clone()) };
        let offset = bytes.len() as u64;
        let (raw_len, stored_len) = (blob.raw.len() as u32, stored.len() as u32);
        let head = EntryHead { offset, encoding, raw_len, stored_len, id: BlobId::of(&blob.raw) };
        bytes.extend_from_slice(&head.encode(STORE, pack, &EntryHead::sums(&stored)));
        bytes.extend_from_slice(&stored);
        bytes.resize(bytes.len() + head.padding(), 0);
    }
    bytes
}
