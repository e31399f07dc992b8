//! The change files of a repository whose whole tree is written out: the contents of each are inflated once, into a temporary file.
//!
//! An output asks for a few bytes of a change at a time, file by file and in no order: with changes of a thousand files, and more of them than
//! a cache holds, nearly every file would have its change read and inflated as a whole. Memory: 100 bytes a change, and one change at a time.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use libpijul::change::{Change, ChangeError, ChangeHeader};
use libpijul::changestore::ChangeStore;
use libpijul::pristine::{Base32, ChangeId, Position, Vertex};
use libpijul::{EdgeFlags, Hash};

use crate::pijul::store::{ChangeFiles, StoreError};

/// See the module. Clones share everything.
#[derive(Clone)]
pub(super) struct Spooled {
    files: ChangeFiles,
    spool: Arc<Spool>,
}

struct Spool {
    file: File,
    known: Mutex<Known>,
}

/// Where the contents of changes stand.
#[derive(Default)]
struct Known {
    /// Of each, and how long they are.
    places: HashMap<Hash, (u64, u64)>,
    /// Where the next ones go.
    end: u64,
}

impl Spooled {
    pub(super) fn new(files: ChangeFiles) -> io::Result<Self> {
        let spool = Spool { file: tempfile::tempfile()?, known: Mutex::default() };
        Ok(Self { files, spool: Arc::new(spool) })
    }

    /// Where the contents of a change are.
    fn place(&self, hash: &Hash) -> Result<(u64, u64), StoreError> {
        let mut known = self.spool.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = known.places.get(hash) {
            return Ok(*place);
        }
        let change = Change::deserialize(&self.files.path(hash).to_string_lossy(), Some(hash))?;
        let place = (known.end, change.contents.len() as u64);
        self.spool.file.write_all_at(&change.contents, place.0)?;
        known.end += place.1;
        known.places.insert(*hash, place);
        Ok(place)
    }

    fn contents(&self, hash: &Hash, from: u64, to: u64, buf: &mut [u8]) -> Result<usize, StoreError> {
        let (at, len) = self.place(hash)?;
        if to > len || to.checked_sub(from) != Some(buf.len() as u64) {
            return Err(StoreError::Bounds(hash.to_base32(), (from, to)));
        }
        self.spool.file.read_exact_at(buf, at + from)?;
        Ok(buf.len())
    }
}

impl ChangeStore for Spooled {
    type Error = StoreError;

    fn has_contents(&self, hash: Hash, _: Option<ChangeId>) -> bool {
        self.place(&hash).is_ok_and(|(_, len)| len > 0)
    }

    fn get_contents<F: Fn(ChangeId) -> Option<Hash>>(&self, hash: F, key: Vertex<ChangeId>, buf: &mut [u8]) -> Result<usize, StoreError> {
        if key.end <= key.start || key.is_root() {
            return Ok(0);
        }
        let hash = hash(key.change).ok_or(StoreError::Unknown(key.change))?;
        self.contents(&hash, key.start.into(), key.end.into(), buf)
    }

    fn get_contents_ext(&self, key: Vertex<Option<Hash>>, buf: &mut [u8]) -> Result<usize, StoreError> {
        match key.change {
            Some(hash) if key.end > key.start => self.contents(&hash, key.start.into(), key.end.into(), buf),
            _ => Ok(0),
        }
    }

    fn get_header(&self, hash: &Hash) -> Result<ChangeHeader, StoreError> {
        self.files.get_header(hash)
    }

    fn get_dependencies(&self, hash: &Hash) -> Result<Vec<Hash>, StoreError> {
        self.files.get_dependencies(hash)
    }

    fn knows(&self, hash0: &Hash, hash1: &Hash) -> Result<bool, StoreError> {
        self.files.knows(hash0, hash1)
    }

    fn has_edge(
        &self,
        change: Hash,
        from: Position<Option<Hash>>,
        to: Position<Option<Hash>>,
        flags: EdgeFlags,
    ) -> Result<bool, StoreError> {
        self.files.has_edge(change, from, to, flags)
    }

    fn change_deletes_position<F: Fn(ChangeId) -> Option<Hash>>(
        &self,
        hash: F,
        change: ChangeId,
        pos: Position<Option<Hash>>,
    ) -> Result<Vec<Hash>, StoreError> {
        self.files.change_deletes_position(hash, change, pos)
    }

    /// Nothing is written through this.
    fn save_change<E: From<StoreError> + From<ChangeError>, F: FnOnce(&mut Change, &Hash) -> Result<(), E>>(
        &self,
        _: &mut Change,
        _: F,
    ) -> Result<Hash, E> {
        Err(StoreError::Io(io::ErrorKind::ReadOnlyFilesystem.into()).into())
    }

    fn del_change(&self, _: &Hash) -> Result<bool, StoreError> {
        Err(StoreError::Io(io::ErrorKind::ReadOnlyFilesystem.into()))
    }

    fn get_change(&self, hash: &Hash) -> Result<Change, StoreError> {
        self.files.get_change(hash)
    }
}
