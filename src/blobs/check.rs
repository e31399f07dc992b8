//! Checking everything: each pack from its first byte to its last, whether or not anything names what it holds. Only reads, and needs no
//! index, so it may run beside a live writer.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::compression::inflate;
use super::contents::parse_index_file_name;
use super::error::Doing;
use super::pack::{BLOCK_LEN, BadHeader, EntryHead, PACK_HEADER_LEN, PackHeader, Stored};
use super::walk::{Step, Walker, bad_block};
use super::{BlobError, Blobs, Fault, Finding};
use crate::ids::{BlobId, PackId};
use crate::storage::StorageFile;

/// What [`Blobs::verify_packs`] saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PacksVerified {
    /// Packs read.
    pub packs: u64,
    /// Entries whose head is sound, in all packs; a blob that stands in two packs counts twice.
    pub blobs: u64,
    /// Bytes read: the packs' lengths together.
    pub bytes: u64,
    /// Everything wrong, by pack and offset.
    pub findings: Vec<Finding>,
}

/// How often the last pack is read again before something in it is called wrong: a writer beside us may be in the middle of an entry.
const LOOKS: u32 = 3;
/// Time that such a writer is given; none on the simulated disk, whose writes are whole.
const PATIENCE: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_millis(10) };

impl Blobs {
    /// Reads every pack in the directory from its first byte to its last: headers, heads, tables, stored bytes, padding, hashes, and the
    /// length that the successor's header names. `progress` is told from time to time how many bytes have been read in all.
    ///
    /// What is wrong in the last pack, which nothing proves durable, is a torn tail ([`Finding::is_torn_tail`]), but for a header that is
    /// neither absent nor zeros, and for bytes whose CRCs are right and whose hash is not: no crash leaves those. Elsewhere it is damage.
    /// That something is missing cannot be seen here; that is for those who name it.
    ///
    /// # Errors
    /// An I/O error on the directory or in opening a pack, a pack of a later format. A read that the disk refuses is a finding.
    pub fn verify_packs(&self, progress: &mut dyn FnMut(u64)) -> Result<PacksVerified, BlobError> {
        let packs = self.pack_files(false)?;
        let mut seen = PacksVerified::default();
        let mut lengths = Lengths::default();
        let last = packs.last().copied();
        for id in packs {
            let before = seen.bytes;
            let mut tell = |n| progress(before + n);
            let mut looks = if Some(id) == last { LOOKS } else { 1 };
            let checked = loop {
                looks -= 1;
                let checked = self.check_pack(id, Some(id) != last, &mut tell)?;
                match &checked {
                    Some(c) if !c.findings.is_empty() && looks > 0 => std::thread::sleep(PATIENCE),
                    _ => break checked,
                }
            };
            // Swept since it was listed, perhaps while it was read.
            let Some(checked) = checked else { continue };
            if !checked.findings.is_empty()
                && matches!(self.storage.open_read(&self.pack_path(id)), Err(e) if e.kind() == io::ErrorKind::NotFound)
            {
                continue;
            }
            seen.packs += 1;
            seen.blobs += checked.blobs;
            seen.bytes += checked.len;
            lengths.enter(id, &checked);
            seen.findings.extend(checked.findings);
        }
        seen.findings.extend(lengths.wrong().map(|(id, found, expected)| Finding {
            file: self.pack_path(id),
            offset: found,
            len: expected.abs_diff(found),
            id: None,
            fault: Fault::Length { expected },
        }));
        seen.findings.sort_by(|a, b| (&a.file, a.offset).cmp(&(&b.file, b.offset)));
        Ok(seen)
    }

    /// Index files that cannot be used: of other bytes than were written, or of another pack. A pack without one is whole.
    ///
    /// # Errors
    /// An I/O error on the directory.
    pub fn wrong_indexes(&self) -> Result<Vec<PathBuf>, BlobError> {
        let packs = self.pack_files(false)?;
        let mut wrong = Vec::new();
        for name in self.storage.list(&self.dir).doing("list", &self.dir)? {
            let Some(id) = name.to_str().and_then(parse_index_file_name) else { continue };
            // One without a pack is a leftover of a sweep.
            if !packs.contains(&id) {
                continue;
            }
            let path = self.index_path(id);
            let sound = || -> Option<bool> {
                let file = self.storage.open_read(&self.pack_path(id)).ok()?;
                let mut header = [0; PACK_HEADER_LEN as usize];
                file.read_exact_at(&mut header, 0).ok()?;
                let (contents, len) = (self.read_contents(id, &header, file.len().ok()?), file.len().ok()?);
                Some(contents.is_some_and(|c| c.items.iter().all(|(_, offset)| *offset < len)))
            };
            // What is wrong with a pack is told of the pack.
            if sound() == Some(false) && self.storage.open_read(&path).is_ok() {
                wrong.push(path);
            }
        }
        Ok(wrong)
    }

    /// Checks one pack; `closed`: it has a successor, all of it was durable. `None`: there is none.
    fn check_pack(&self, id: PackId, closed: bool, tell: &mut dyn FnMut(u64)) -> Result<Option<Checked>, BlobError> {
        let path = self.pack_path(id);
        let file = match self.storage.open_read(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).doing("open", &path),
        };
        let mut checked = Checked { len: file.len().doing("read", &path)?, ..Checked::default() };
        let found = |offset, len, id, fault| Finding { file: path.clone(), offset, len, id, fault };
        match self.read_header(id, &*file)? {
            HeaderSeen::Sound(header) => checked.header = Some(header),
            // What a full disk, or a crash, leaves of a pack that could not be begun: nothing is in it, unless its successor names it.
            HeaderSeen::Short if checked.len == 0 => {
                checked.end = Some(0);
                return Ok(Some(checked));
            }
            HeaderSeen::Short | HeaderSeen::Zeros => {
                let fault = if closed { Fault::PackHeader } else { Fault::TornTail };
                checked.findings.push(found(0, checked.len.min(PACK_HEADER_LEN), None, fault));
            }
            HeaderSeen::Damaged => checked.findings.push(found(0, PACK_HEADER_LEN, None, Fault::PackHeader)),
            HeaderSeen::Foreign(fault) => {
                checked.findings.push(found(0, checked.len, None, fault));
                return Ok(Some(checked));
            }
            HeaderSeen::Unreadable(kind) => checked.findings.push(found(0, PACK_HEADER_LEN, None, Fault::Unreadable(kind))),
        }
        let torn = if closed { Fault::Entry } else { Fault::TornTail };
        let mut walker = Walker::whole(&*file, self.store, id, PACK_HEADER_LEN).doing("read", &path)?;
        checked.len = walker.len();
        loop {
            match walker.step() {
                Ok(Some(Step::Entry(entry))) => {
                    checked.blobs += 1;
                    let wrong = match walker.bytes(&entry) {
                        Ok(Some(bytes)) => entry_fault(&entry, bytes),
                        Ok(None) => Some((entry.offset, entry.total_len(), Fault::Entry)),
                        Err(e) => Some((entry.offset, entry.total_len(), Fault::Unreadable(e.kind()))),
                    };
                    if let Some((offset, len, fault)) = wrong {
                        let fault = if !closed && matches!(fault, Fault::Block | Fault::Entry) { Fault::TornTail } else { fault };
                        checked.findings.push(found(offset, len, Some(entry.id), fault));
                    }
                    tell(walker.end());
                }
                Ok(Some(Step::Gap { offset, len })) => checked.findings.push(found(offset, len, None, torn.clone())),
                Ok(None) => break,
                Err((offset, e)) => {
                    let fault = Fault::Unreadable(e.kind());
                    checked.findings.push(found(offset, walker.len().saturating_sub(offset), None, fault));
                    tell(walker.len());
                    // Where the rest begins is not known.
                    return Ok(Some(checked));
                }
            }
        }
        checked.end = Some(walker.end());
        let rest = walker.len().saturating_sub(walker.end());
        if rest > 0 {
            checked.findings.push(found(walker.end(), rest, None, torn));
        }
        tell(walker.len());
        Ok(Some(checked))
    }

    /// Reads and judges the header of a pack.
    ///
    /// # Errors
    /// A pack of a later format.
    fn read_header(&self, id: PackId, file: &dyn StorageFile) -> Result<HeaderSeen, BlobError> {
        let mut bytes = [0; PACK_HEADER_LEN as usize];
        match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(HeaderSeen::Short),
            Err(e) => return Ok(HeaderSeen::Unreadable(e.kind())),
        }
        match PackHeader::decode(&bytes, self.store, id) {
            Ok(header) => Ok(HeaderSeen::Sound(header)),
            Err(BadHeader::Damaged) if bytes.iter().all(|b| *b == 0) => Ok(HeaderSeen::Zeros),
            Err(BadHeader::Damaged) => Ok(HeaderSeen::Damaged),
            Err(BadHeader::Unsupported { version, features }) => {
                Err(BlobError::Unsupported { file: self.pack_path(id), version, features })
            }
            Err(BadHeader::Foreign { store, pack }) => Ok(HeaderSeen::Foreign(Fault::Foreign { store, pack })),
        }
    }
}

/// What stands where a header should.
enum HeaderSeen {
    Sound(PackHeader),
    Short,
    Zeros,
    Damaged,
    Foreign(Fault),
    Unreadable(io::ErrorKind),
}

#[derive(Default)]
struct Checked {
    header: Option<PackHeader>,
    blobs: u64,
    len: u64,
    /// Where its valid entries end, if it could be read to there.
    end: Option<u64>,
    findings: Vec<Finding>,
}

/// The lengths of packs and what their successors say of them.
#[derive(Default)]
struct Lengths {
    ends: BTreeMap<PackId, u64>,
    named: Vec<(PackId, u64)>,
}

impl Lengths {
    fn enter(&mut self, id: PackId, checked: &Checked) {
        // One that has other findings has its say already.
        if let (Some(end), true) = (checked.end, checked.findings.is_empty()) {
            self.ends.insert(id, end);
        }
        if let Some(header) = checked.header.filter(|h| h.previous.0 != 0) {
            self.named.push((header.previous, header.previous_len));
        }
    }

    /// Pack, where it ends, where it should.
    fn wrong(&self) -> impl Iterator<Item = (PackId, u64, u64)> {
        self.named.iter().filter_map(|(id, expected)| {
            let end = *self.ends.get(id)?;
            (end != *expected).then_some((*id, end, *expected))
        })
    }
}

/// What is wrong with an entry whose head is sound: offset, length, fault. `bytes` is all of it.
fn entry_fault(entry: &EntryHead, bytes: &[u8]) -> Option<(u64, u64, Fault)> {
    let (head, data) = bytes.split_at_checked(entry.head_len())?;
    if let Some(n) = bad_block(entry, head, data) {
        return Some((entry.data_offset() + (n * BLOCK_LEN) as u64, entry.block_len(n) as u64, Fault::Block));
    }
    let stored = data.get(..entry.stored_len as usize)?;
    let right = match entry.encoding {
        Stored::Raw => BlobId::of(stored) == entry.id,
        Stored::Zstd => {
            inflate(stored, entry.raw_len as usize).is_ok_and(|raw| raw.len() == entry.raw_len as usize && BlobId::of(&raw) == entry.id)
        }
    };
    (!right).then_some((entry.offset, entry.total_len(), Fault::Hash))
}
