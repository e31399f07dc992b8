//! Records that go into one segment with one write.

use super::format::{Framing, MAX_BATCH_RECORDS, MAX_BODY, RECORD_HEADER_LEN, RecordHead, framed_len};
use crate::ids::Lsn;

/// Records that are written together.
#[derive(Debug)]
pub struct Batch<'a> {
    pub(super) framing: &'a Framing,
    pub(super) out: &'a mut Vec<u8>,
    pub(super) base: u64,
    pub(super) limit: usize,
    pub(super) next: Lsn,
    pub(super) durable: Lsn,
    /// LSN, CRC and body offset of each record.
    pub(super) records: Vec<(Lsn, u32, u64)>,
    pub(super) payload: u64,
    pub(super) too_large: Option<(u64, u64)>,
}

impl Batch<'_> {
    /// The LSN that the next pushed record gets.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// Adds a record: `body` is its parts, `payload` the bytes of the blobs that it names. A record that does not fit makes the whole
    /// append fail. Gives its LSN.
    pub fn push(&mut self, kind: u16, version: u8, body: &[&[u8]], payload: u64) -> Lsn {
        let lsn = self.next;
        let len: usize = body.iter().map(|part| part.len()).sum();
        let total = self.out.len() as u64 + framed_len(len) as u64;
        if len > MAX_BODY {
            self.too_large = Some((len as u64, MAX_BODY as u64));
        } else if total > self.limit as u64 || self.records.len() as u64 >= MAX_BATCH_RECORDS {
            self.too_large = Some((total, self.limit as u64));
        }
        if self.too_large.is_some() {
            return lsn;
        }
        let offset = self.base + self.out.len() as u64;
        let payload32 = u32::try_from(payload).unwrap_or(u32::MAX);
        let head = RecordHead { crc: 0, body_len: 0, kind, version, payload: payload32, lsn, durable_lsn: self.durable };
        let crc = self.framing.push(self.out, offset, &head, body);
        self.records.push((lsn, crc, offset + RECORD_HEADER_LEN as u64));
        self.payload = self.payload.saturating_add(u64::from(payload32));
        self.next = lsn.next();
        lsn
    }
}
