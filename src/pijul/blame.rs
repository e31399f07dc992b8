//! Who each line of a text at the head is from, by Pijul's credit; where the file was founded anew, by the credit that this carried over.
//! Reads only, beside whoever has the repository open.

use std::collections::{BTreeMap, HashMap};

use libpijul::changestore::ChangeStore;
use libpijul::fs;
use libpijul::pristine::sanakirja::MutTxn0;
use libpijul::pristine::{ChangeId, Position};
use libpijul::{ArcTxn, Base32, ChannelRef, GraphTxnT, Hash, TreeTxnT, TxnTExt};

use crate::error::{Class, Error, Result};
use crate::ids::{Time, VersionSeq};
use crate::pijul::apply::refused;
use crate::pijul::credit::{self, Foundation, Of};
use crate::pijul::refusal::Refusal;
use crate::pijul::repository::guarded;
use crate::pijul::sidecar::Sidecar;
use crate::pijul::snapshot::Snapshot;
use crate::pijul::{header, names};

/// A text and who its lines are from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blame {
    /// Its lines in order.
    pub lines: Vec<Line>,
    /// The changes that they are from.
    pub changes: Vec<Change>,
    /// It has marks of conflict, which are left out here.
    pub conflict: bool,
    /// The version whose state the head is; `None` where ize did not write the head.
    pub head: Option<VersionSeq>,
    /// The last line has its newline.
    ends: bool,
}

impl Blame {
    /// The whole text.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        let mut out = self.lines.iter().map(|line| line.bytes.as_slice()).collect::<Vec<_>>().join(&b'\n');
        out.extend(self.ends.then_some(b'\n'));
        out
    }
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Whose it is: a place in [`Blame::changes`].
    pub change: usize,
    /// Its bytes, without the newline.
    pub bytes: Vec<u8>,
}

/// A change that lines are from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// In base32.
    pub hash: String,
    /// The version that it is; `None` for a change that ize did not write.
    pub seq: Option<VersionSeq>,
    /// When that ended.
    pub time: Time,
    /// Who did it.
    pub processes: Vec<String>,
    /// The first line of its message, without the id.
    pub label: String,
}

impl Snapshot {
    /// Who the lines of a file at the head of a channel are from. `path` is raw.
    ///
    /// # Errors
    /// `NotFound` when there is no such channel or file; `Refused` when the file is no text; what libpijul says.
    pub fn blame(&self, channel: &str, path: &[u8]) -> Result<Blame> {
        guarded("asking who lines are from", || {
            let txn = self.pristine.arc_txn_begin().map_err(refused("cannot begin"))?;
            let channel = self.load(&txn, channel)?;
            let name = names::path(path);
            let look = Look { snapshot: self, txn: &txn, channel: &channel };
            let position = look.position(&name)?.ok_or_else(|| {
                Error::new(Class::NotFound, format!("there is no file `{}` in Pijul's newest change", names::escape(path)))
            })?;
            if let Some(sidecar) = look.sidecar(&name)? {
                if sidecar.manifest {
                    return Err(Error::new(Class::Refused, format!("`{}` is no text for Pijul: binary, or large", names::escape(path))));
                }
                if sidecar.kind.is_some() {
                    return Err(Error::new(Class::Refused, format!("`{}` is no regular file", names::escape(path))));
                }
            }
            let text = credit::read(&self.changes, &txn, &channel, position)?;
            let mut found =
                Found { look, foundations: HashMap::new(), versions: Versions::default(), changes: Vec::new(), places: HashMap::new() };
            let mut lines = Vec::new();
            for ((change, place), bytes) in text.lines().into_iter().zip(text.bytes.split_inclusive(|&b| b == b'\n')) {
                let hash = found.who(change, place, position)?;
                lines.push(Line { change: found.place(hash)?, bytes: bytes.strip_suffix(b"\n").unwrap_or(bytes).to_vec() });
            }
            let head = found.versions.head(look)?;
            Ok(Blame { lines, changes: found.changes, conflict: text.conflict, head, ends: text.bytes.ends_with(b"\n") })
        })
    }
}

#[derive(Clone, Copy)]
struct Look<'a> {
    snapshot: &'a Snapshot,
    txn: &'a ArcTxn<MutTxn0>,
    channel: &'a ChannelRef<MutTxn0>,
}

impl Look<'_> {
    /// Where a file is in the graph. By the table of the working copy, which is ize's to keep: libpijul reads the names of all that is beside
    /// a path to find it in the graph.
    fn position(&self, path: &str) -> Result<Option<Position<ChangeId>>> {
        let txn = self.txn.read();
        if let Ok(inode) = fs::find_inode(&*txn, path) {
            if inode.is_root() || txn.is_directory(inode).unwrap_or(false) {
                return Ok(None);
            }
            if let Some(position) = txn.get_inodes(&inode, None).map_err(refused("cannot read the tree"))? {
                return Ok(Some(*position));
            }
        }
        Ok(None)
    }

    fn sidecar(&self, path: &str) -> Result<Option<Sidecar>> {
        let Some(position) = self.position(&names::sidecar(path))? else { return Ok(None) };
        let text = credit::read(&self.snapshot.changes, self.txn, self.channel, position)?;
        Sidecar::parse(&String::from_utf8_lossy(&text.bytes)).map(Some)
    }

    /// What a change says of itself.
    fn change(&self, hash: &Hash) -> Result<Change> {
        let head = self.snapshot.changes.get_header(hash);
        let head = head.map_err(|e| Error::new(Class::Damage, format!("change {}: its file cannot be read: {e}", hash.to_base32())))?;
        let description = head.description.as_deref().unwrap_or_default();
        let seq = header::parse(description).map(|c| c.seq);
        let first = head.message.lines().next().unwrap_or_default();
        let label = if seq.is_some() { first.split_once(' ').map_or("", |(_, label)| label) } else { first };
        let processes = header::processes(description);
        Ok(Change { hash: hash.to_base32(), seq, time: header::time(&head), processes, label: label.to_owned() })
    }

    fn hash(&self, change: ChangeId) -> Result<Hash> {
        Ok(self.txn.read().get_external(&change).map_err(refused("cannot read the changes"))?.into())
    }
}

/// What has been found so far.
struct Found<'a> {
    look: Look<'a>,
    foundations: HashMap<(Hash, u64), Foundation>,
    versions: Versions,
    changes: Vec<Change>,
    places: HashMap<Hash, usize>,
}

impl Found<'_> {
    /// Whose a line is that this change brought into the graph of the file at this position.
    fn who(&mut self, change: ChangeId, place: u64, position: Position<ChangeId>) -> Result<Hash> {
        let mut hash = self.look.hash(change)?;
        if change != position.change {
            return Ok(hash);
        }
        let mut at = u64::from(position.pos);
        let Some(mut line) = self.foundation(hash, at)?.line(place) else { return Ok(hash) };
        // Each foundation is older than the one that names it.
        let mut before = None;
        loop {
            let foundation = self.foundation(hash, at)?;
            let Some(carried) = &foundation.carried else { return Ok(hash) };
            if before.is_some() && foundation.seq >= before {
                return Ok(hash);
            }
            before = foundation.seq;
            let (of, former) = (carried.of(line), carried.former);
            match of {
                Of::Itself => return Ok(hash),
                Of::Foreign(name) => return Ok(Hash::from_base32(name.as_bytes()).unwrap_or(hash)),
                Of::Version(seq) => return Ok(self.versions.find(self.look, seq)?.unwrap_or(hash)),
                Of::Former(earlier) => {
                    let Some((seq, there)) = former else { return Ok(hash) };
                    let Some(found) = self.versions.find(self.look, seq)? else { return Ok(hash) };
                    (hash, at, line) = (found, there, earlier);
                }
            }
        }
    }

    fn foundation(&mut self, hash: Hash, at: u64) -> Result<&Foundation> {
        Ok(match self.foundations.entry((hash, at)) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => new.insert(Foundation::read(&self.look.snapshot.changes, &hash, at)?),
        })
    }

    /// The place of a change among those found.
    fn place(&mut self, hash: Hash) -> Result<usize> {
        if let Some(place) = self.places.get(&hash) {
            return Ok(*place);
        }
        let change = match self.versions.read.remove(&hash) {
            Some(change) => change,
            None => self.look.change(&hash)?,
        };
        self.changes.push(change);
        self.places.insert(hash, self.changes.len() - 1);
        Ok(self.changes.len() - 1)
    }
}

/// Which change is which version, as far as it was looked at: numbers grow along the log.
#[derive(Default)]
struct Versions {
    seen: BTreeMap<u64, (Hash, Option<VersionSeq>)>,
    /// What those changes say, until somebody asks for it: mostly they are lines' too.
    read: HashMap<Hash, Change>,
    end: Option<u64>,
}

impl Versions {
    fn find(&mut self, look: Look<'_>, seq: VersionSeq) -> Result<Option<Hash>> {
        let (mut from, mut to) = (0, self.end(look)?);
        while from < to {
            // The nearest one below the middle that is ize's.
            let middle = from + (to - from) / 2;
            let mut at = middle;
            let found = loop {
                let Some((hash, seq)) = self.at(look, at)? else { break None };
                if let Some(seq) = seq {
                    break Some((hash, seq));
                }
                if at == from {
                    break None;
                }
                at -= 1;
            };
            match found {
                Some((hash, found)) if found == seq => return Ok(Some(hash)),
                Some((_, found)) if found > seq => to = at,
                _ => from = middle + 1,
            }
        }
        Ok(None)
    }

    /// The version whose state the last change leaves.
    fn head(&mut self, look: Look<'_>) -> Result<Option<VersionSeq>> {
        let Some(last) = self.end(look)?.checked_sub(1) else { return Ok(None) };
        let Some((hash, seq)) = self.at(look, last)? else { return Ok(None) };
        let description = look.snapshot.changes.get_header(&hash).ok().and_then(|head| head.description).unwrap_or_default();
        Ok(seq.map(|seq| Refusal::parse(&description).and_then(|refusal| refusal.holds).unwrap_or(seq)))
    }

    /// The place behind the last change.
    fn end(&mut self, look: Look<'_>) -> Result<u64> {
        if let Some(end) = self.end {
            return Ok(end);
        }
        let (txn, channel) = (look.txn.read(), look.channel.read());
        let mut log = txn.reverse_log(&*channel, None).map_err(refused("cannot read the log"))?;
        let end = match log.next() {
            Some(entry) => entry.map_err(refused("cannot read the log"))?.0 + 1,
            None => 0,
        };
        self.end = Some(end);
        Ok(end)
    }

    fn at(&mut self, look: Look<'_>, place: u64) -> Result<Option<(Hash, Option<VersionSeq>)>> {
        if let Some(known) = self.seen.get(&place) {
            return Ok(Some(*known));
        }
        let entry = look.txn.read().get_changes(look.channel, place).map_err(refused("cannot read the log"))?;
        let Some((hash, _)) = entry else { return Ok(None) };
        let change = look.change(&hash)?;
        let found = (hash, change.seq);
        self.read.insert(hash, change);
        self.seen.insert(place, found);
        Ok(Some(found))
    }
}
