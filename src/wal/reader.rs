//! Reads the bytes of one segment, record by record, and says how they end.
//!
//! A record is valid at an offset when its CRC (over store, segment, offset and all its bytes) holds and its LSN is the expected one.
//! An invalid record at LSN x is *corrupt* only if x is at or below a bound proven durable: the caller's bound, or the `durable_lsn` of a
//! valid record or footer further on. Otherwise the log ends before x: with zeros to the allotted size ([`Next::End`]) or in a *torn
//! tail*, all of which is set aside, valid-looking or not, because unsynced pages reach the disk in any order. A file without a footer that
//! is shorter than its allotted size ends in a torn tail too: only a seal cuts it, and a seal leaves a footer unless power is lost.
//!
//! Reading never writes, and never guesses: an I/O error does not get this far.

use crate::ids::{Lsn, SegmentId, StoreId};

use super::format::{ALIGN, FOOTER_LEN, Footer, Framing, HEADER_LEN, KIND_MARK, RECORD_HEADER_LEN, RecordHead, framed_len, header_at};

/// A valid record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its LSN.
    pub lsn: Lsn,
    /// Everything up to here was durable when it was written.
    pub durable_lsn: Lsn,
    /// Kind of operation.
    pub kind: u16,
    /// Version of the body's form.
    pub version: u8,
    /// Bytes of blobs that it names.
    pub payload: u32,
    /// The body.
    pub body: &'a [u8],
    /// Where the record stands in the file.
    pub offset: u64,
    /// Where its body stands in the file.
    pub body_offset: u64,
}

impl<'a> Record<'a> {
    /// The record with this head and body whose first byte stands at `offset` of the file.
    #[must_use]
    pub fn new(head: &RecordHead, body: &'a [u8], offset: u64) -> Self {
        let RecordHead { lsn, durable_lsn, kind, version, payload, .. } = *head;
        Record { lsn, durable_lsn, kind, version, payload, body, offset, body_offset: offset + RECORD_HEADER_LEN as u64 }
    }

    /// True for the log's own marks, which say nothing about the tree.
    #[must_use]
    pub fn is_mark(&self) -> bool {
        self.kind == KIND_MARK
    }
}

/// Remains of writes cut by a crash, at the log's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tear {
    /// Where it begins.
    pub offset: u64,
    /// First LSN set aside.
    pub lsn: Lsn,
    /// Bytes to the last one that is not zero; 0 when only the file's length shows the tear.
    pub bytes: u64,
}

/// Bytes that fail their check although they were once durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// Where they begin.
    pub offset: u64,
    /// First LSN concerned.
    pub lsn: Lsn,
    /// Last LSN concerned, if something valid follows; the reader then goes on behind it.
    pub through: Option<Lsn>,
    /// What is wrong.
    pub what: &'static str,
}

/// What stands next in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// A valid record.
    Record(Record<'a>),
    /// The footer; nothing follows. `end` is the offset behind it.
    Sealed(Footer, u64),
    /// Zeros to the allotted size: the segment is active, or was when the process died. Offset and LSN of the next record.
    End(u64, Lsn),
    /// A torn tail; nothing follows.
    TornTail(Tear),
    /// Corruption. When its `through` is set, the next call goes on behind it, else nothing follows.
    Corrupt(Corruption),
}

const ZEROS: [u8; 4096] = [0; 4096];
/// A segment is mostly zeros when it is young: they are looked at in blocks first.
const BLOCKS: [usize; 2] = [ZEROS.len(), 64];

/// Bytes to the last one that is not zero.
fn used_len(bytes: &[u8]) -> usize {
    let mut end = bytes.len();
    for size in BLOCKS {
        while end >= size && bytes[end - size..end] == ZEROS[..size] {
            end -= size;
        }
    }
    bytes[..end].iter().rposition(|b| *b != 0).map_or(0, |at| at + 1)
}

/// Zeros that `bytes` begins with.
fn leading_zeros(bytes: &[u8]) -> usize {
    let mut start = 0;
    for size in BLOCKS {
        while bytes.len() - start >= size && bytes[start..start + size] == ZEROS[..size] {
            start += size;
        }
    }
    bytes[start..].iter().position(|b| *b != 0).map_or(bytes.len(), |at| start + at)
}

enum Later {
    Record(usize, Lsn),
    Footer(usize, Lsn),
}

/// Iterates over the bytes of one segment behind its header.
#[derive(Debug)]
pub struct SegmentReader<'a> {
    bytes: &'a [u8],
    /// What the header says of the file's length until it is sealed; 0 when the header is damaged.
    allotted: usize,
    framing: Framing,
    offset: usize,
    /// `None`: the header is damaged, the first valid record tells.
    expected: Option<Lsn>,
    last: Option<Lsn>,
    first: Option<Lsn>,
    bound: Lsn,
    digest: blake3::Hasher,
    count: u64,
    payload: u64,
    highest_durable: Lsn,
    whole: bool,
    done: bool,
}

impl<'a> SegmentReader<'a> {
    /// Reads the file `bytes` of segment `segment`. `first` is the header's first LSN (`None` when the header is damaged); at or below
    /// `bound` an invalid record is corrupt: the checkpoint, `Lsn(u64::MAX)` when a successor exists.
    #[must_use]
    pub fn new(bytes: &'a [u8], store: StoreId, segment: SegmentId, first: Option<Lsn>, bound: Lsn) -> Self {
        let mut digest = blake3::Hasher::new();
        digest.update(&bytes[..bytes.len().min(HEADER_LEN)]);
        let allotted = bytes.get(header_at::ALLOTTED..header_at::RESERVED).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        Self {
            bytes,
            allotted: if first.is_some() { allotted as usize } else { 0 },
            framing: Framing::new(store, segment),
            offset: HEADER_LEN.min(bytes.len()),
            expected: first,
            last: None,
            first,
            bound,
            digest,
            count: 0,
            payload: 0,
            highest_durable: Lsn::ZERO,
            whole: first.is_some(),
            done: false,
        }
    }

    /// Records read so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Bytes of blobs that they name.
    #[must_use]
    pub fn payload(&self) -> u64 {
        self.payload
    }

    /// Offset behind the last valid record.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset as u64
    }

    /// LSN of the first record, as far as known.
    #[must_use]
    pub fn first_lsn(&self) -> Option<Lsn> {
        self.first
    }

    /// LSN of the last record read; the one before the first when there is none.
    #[must_use]
    pub fn last_lsn(&self) -> Option<Lsn> {
        self.last.or_else(|| self.first.map(|l| Lsn(l.0.saturating_sub(1))))
    }

    /// The highest `durable_lsn` seen so far.
    #[must_use]
    pub fn highest_durable(&self) -> Lsn {
        self.highest_durable
    }

    /// Digest over the header and the records read so far.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        *self.digest.finalize().as_bytes()
    }

    /// True while nothing was skipped.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// What stands next; `None` after the end.
    pub fn step(&mut self) -> Option<Next<'a>> {
        if self.done {
            return None;
        }
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        let expected = self.expected;
        if let Some(head) = self.framing.record(rest, self.offset as u64)
            && expected.is_none_or(|x| x == head.lsn)
        {
            return Some(Next::Record(self.accept(&head)));
        }
        if let Some(footer) = self.framing.read_footer(rest, self.offset as u64) {
            self.done = true;
            self.highest_durable = self.highest_durable.max(footer.durable_lsn);
            let end = self.offset as u64 + FOOTER_LEN as u64;
            let agrees = !self.whole
                || (footer.count == self.count
                    && self.first.is_none_or(|f| f == footer.first_lsn)
                    && self.last_lsn().is_none_or(|l| l == footer.last_lsn)
                    && footer.digest == self.digest());
            if agrees {
                self.first = self.first.or(Some(footer.first_lsn));
                self.last = Some(footer.last_lsn);
                return Some(Next::Sealed(footer, end));
            }
            // Every record was valid and in order: only a wrong writer makes this.
            return Some(Next::Corrupt(Corruption {
                offset: self.offset as u64,
                lsn: footer.last_lsn,
                through: None,
                what: "the footer contradicts the records before it",
            }));
        }
        Some(self.invalid(expected.unwrap_or(Lsn(1))))
    }

    fn accept(&mut self, head: &RecordHead) -> Record<'a> {
        let body = self.offset + RECORD_HEADER_LEN;
        let record = Record::new(head, &self.bytes[body..body + head.body_len], self.offset as u64);
        self.offset += framed_len(head.body_len);
        self.digest.update(&head.crc.to_le_bytes());
        self.count += 1;
        self.payload = self.payload.saturating_add(u64::from(head.payload));
        self.highest_durable = self.highest_durable.max(head.durable_lsn);
        self.first = self.first.or(Some(head.lsn));
        self.last = Some(head.lsn);
        self.expected = Some(head.lsn.next());
        record
    }

    /// The verdict on the bytes at `self.offset`, which hold no valid record with LSN `x`.
    fn invalid(&mut self, x: Lsn) -> Next<'a> {
        let rest = &self.bytes[self.offset..];
        let used = used_len(rest) as u64;
        let later = if used == 0 { None } else { self.later(x, self.offset + used as usize) };
        if x <= self.bound {
            let what = if used == 0 { "zeros where records were" } else { "a record fails its check" };
            let offset = self.offset as u64;
            let through = match later {
                Some(Later::Record(at, lsn)) => {
                    self.offset = at;
                    self.expected = Some(lsn);
                    Some(Lsn(lsn.0 - 1))
                }
                Some(Later::Footer(at, last)) => {
                    self.offset = at;
                    Some(last)
                }
                None => {
                    self.done = true;
                    None
                }
            };
            self.whole = false;
            return Next::Corrupt(Corruption { offset, lsn: x, through, what });
        }
        self.done = true;
        let offset = self.offset as u64;
        if used == 0 && self.bytes.len() >= self.allotted {
            Next::End(offset, x)
        } else {
            Next::TornTail(Tear { offset, lsn: x, bytes: used })
        }
    }

    /// Looks for valid records and footers behind `self.offset` and before `used`, behind which are zeros only; raises `self.bound` by what
    /// they prove, and gives the first.
    ///
    /// Cheap tests come first: zeros, an LSN in the few that could still follow here, then the fixed fields, then the CRC.
    fn later(&mut self, x: Lsn, used: usize) -> Option<Later> {
        let mut first = None;
        let mut at = self.offset + ALIGN;
        while at < used && at + RECORD_HEADER_LEN <= self.bytes.len() {
            let rest = &self.bytes[at..];
            if rest[..RECORD_HEADER_LEN] == ZEROS[..RECORD_HEADER_LEN] {
                // Whatever starts before the next byte that is not zero has it in its fixed part.
                at += (leading_zeros(rest) + 1).saturating_sub(RECORD_HEADER_LEN).next_multiple_of(ALIGN);
                continue;
            }
            if let Some(head) = RecordHead::decode(rest)
                && (self.expected.is_none() || (head.lsn > x && head.lsn.0 - x.0 <= (at - self.offset) as u64 / RECORD_HEADER_LEN as u64))
                && self.framing.record(rest, at as u64).is_some()
            {
                self.bound = self.bound.max(head.durable_lsn);
                first = first.or(Some(Later::Record(at, head.lsn)));
                at += framed_len(head.body_len);
            } else if let Some(footer) = self.framing.read_footer(rest, at as u64) {
                self.bound = self.bound.max(footer.durable_lsn);
                first = first.or(Some(Later::Footer(at, footer.last_lsn)));
                break;
            } else {
                at += ALIGN;
                continue;
            }
            if x <= self.bound {
                break;
            }
        }
        first
    }
}
