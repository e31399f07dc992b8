//! Chunks that an import or a stream cut and stored before they were logged, so that replay need not read a large file to cut it again. It only saves
//! work: what is not remembered is read.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::ids::BlobId;
use crate::tree::Cut;

/// Chunks remembered at most, about 40 bytes each.
const REMEMBERED: usize = 1 << 18;

/// Remembers chunks.
#[derive(Debug, Default)]
pub(super) struct Cuts(Mutex<HashMap<BlobId, (Cut, u32)>>);

impl Cuts {
    /// A chunk of so many bytes was put.
    pub(super) fn note(&self, id: BlobId, cut: Cut, len: u32) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        // The same bytes may end one file and stand in the middle of another: what the bytes say holds for both.
        let before = known.get(&id).copied();
        if before.is_none_or(|(before, _)| before == Cut::End) {
            known.insert(id, (cut, len));
        }
    }

    /// What is known of a blob.
    pub(super) fn get(&self, id: &BlobId) -> Option<(Cut, u32)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied()
    }

    /// Nobody needs them any more.
    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = HashMap::new();
    }
}
