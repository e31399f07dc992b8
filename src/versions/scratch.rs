//! A store of blobs in memory over another one that is only read: for states that are made to be looked at and never kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::ids::BlobId;
use crate::tree::{BlobRead, BlobWrite, TreeError};

/// Takes what is put into memory; reads that, and what is below.
#[derive(Debug)]
pub struct Scratch {
    below: Arc<dyn BlobRead>,
    own: Mutex<HashMap<BlobId, Arc<[u8]>>>,
}

impl Scratch {
    /// An empty one.
    #[must_use]
    pub fn over(below: Arc<dyn BlobRead>) -> Self {
        Self { below, own: Mutex::default() }
    }

    /// Bytes put into it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).values().map(|bytes| bytes.len() as u64).sum()
    }

    fn own(&self, id: &BlobId) -> Option<Arc<[u8]>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }
}

impl BlobRead for Scratch {
    fn get(&self, id: &BlobId) -> Result<Vec<u8>, TreeError> {
        self.own(id).map_or_else(|| self.below.get(id), |bytes| Ok(bytes.to_vec()))
    }

    fn read_at(&self, id: &BlobId, offset: u64, buf: &mut [u8]) -> Result<(), TreeError> {
        let Some(bytes) = self.own(id) else { return self.below.read_at(id, offset, buf) };
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        match at.checked_add(buf.len()).and_then(|end| bytes.get(at..end)) {
            Some(part) => {
                buf.copy_from_slice(part);
                Ok(())
            }
            None => Err(TreeError::Blob { id: *id, why: "it is shorter".to_owned(), damaged: true, full: false }),
        }
    }
}

impl BlobWrite for Scratch {
    fn put(&self, bytes: &[u8]) -> Result<BlobId, TreeError> {
        let id = BlobId::of(bytes);
        self.own.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_insert_with(|| bytes.into());
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::testing::MemoryBlobs;

    #[test]
    fn what_is_put_is_read_and_goes_nowhere_else() {
        let below = Arc::new(MemoryBlobs::default());
        let old = below.put(b"below").unwrap();
        let scratch = Scratch::over(Arc::clone(&below) as _);
        let new = scratch.put(b"above").unwrap();
        assert_eq!((scratch.get(&old).unwrap(), scratch.get(&new).unwrap()), (b"below".to_vec(), b"above".to_vec()));
        let mut part = [0; 3];
        scratch.read_at(&new, 2, &mut part).unwrap();
        assert_eq!(&part, b"ove");
        assert!(scratch.read_at(&new, 3, &mut part).is_err());
        assert!(below.get(&new).is_err());
    }
}
