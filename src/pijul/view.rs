//! The working copy that libpijul is shown while it records: what the version says of the paths it touches, in memory, in the new state's
//! names. What goes away stands below [`GONE`] and answers that it is not there.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use libpijul::Encoding;
use libpijul::pristine::InodeMetadata;
use libpijul::working_copy::WorkingCopyRead;
use serde::Deserialize;

/// Begins the top-level name that a path on its way out has in the tree table. No escaped name holds a control character.
pub(super) const GONE: char = '\u{1}';

/// What a path is to hold.
#[derive(Clone, Debug)]
pub(super) enum Put {
    /// A directory.
    Dir,
    /// A file.
    File {
        /// All its bytes: valid UTF-8 without NUL.
        bytes: Vec<u8>,
        /// Pijul's x bit.
        executable: bool,
    },
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ViewError {
    #[error("`{0}` is not there")]
    Gone(String),
}

struct Inner {
    puts: BTreeMap<String, Put>,
    /// Directories above the puts.
    above: HashSet<String>,
    /// A path libpijul asked about that the version says nothing of: then the change would be wrong.
    unexpected: Mutex<Option<String>>,
}

/// See the module.
#[derive(Clone)]
pub(super) struct View(Arc<Inner>);

impl View {
    pub(super) fn new(puts: BTreeMap<String, Put>) -> Self {
        let mut above = HashSet::new();
        for path in puts.keys() {
            let mut path = path.as_str();
            while let Some((dir, _)) = path.rsplit_once('/') {
                if !above.insert(dir.to_owned()) {
                    break;
                }
                path = dir;
            }
        }
        Self(Arc::new(Inner { puts, above, unexpected: Mutex::new(None) }))
    }

    /// The first path that was asked about and should not have been.
    pub(super) fn unexpected(&self) -> Option<String> {
        self.0.unexpected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl WorkingCopyRead for View {
    type Error = ViewError;

    fn file_metadata(&self, path: &str) -> Result<InodeMetadata, ViewError> {
        // Exactly `mode & 0o100`, or `pijul diff` of a clone is not clean.
        match self.0.puts.get(path) {
            Some(Put::Dir) => Ok(InodeMetadata::new(0o100, true)),
            Some(Put::File { executable, .. }) => Ok(InodeMetadata::new(if *executable { 0o100 } else { 0 }, false)),
            None if self.0.above.contains(path) => Ok(InodeMetadata::new(0o100, true)),
            None => {
                if !path.starts_with(GONE) {
                    self.0.unexpected.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| path.to_owned());
                }
                Err(ViewError::Gone(path.to_owned()))
            }
        }
    }

    fn read_file(&self, path: &str, buffer: &mut Vec<u8>) -> Result<(), ViewError> {
        match self.0.puts.get(path) {
            Some(Put::File { bytes, .. }) => {
                buffer.extend_from_slice(bytes);
                Ok(())
            }
            _ => Err(ViewError::Gone(path.to_owned())),
        }
    }

    /// The epoch means "unknown": libpijul neither trusts nor fills its stat cache.
    fn modified_time(&self, _: &str) -> Result<SystemTime, ViewError> {
        Ok(SystemTime::UNIX_EPOCH)
    }

    fn file_size(&self, path: &str) -> Result<u64, ViewError> {
        match self.0.puts.get(path) {
            Some(Put::File { bytes, .. }) => Ok(bytes.len() as u64),
            _ => Ok(0),
        }
    }

    /// All that is recorded is UTF-8; guessing would now and then print it as something else.
    fn decode_file(&self, path: &str, buffer: &mut Vec<u8>) -> Result<Option<Encoding>, ViewError> {
        self.read_file(path, buffer)?;
        let label = serde::de::value::StrDeserializer::<serde::de::value::Error>::new("UTF-8");
        Ok(Encoding::deserialize(label).ok())
    }
}
