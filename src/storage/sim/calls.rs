//! The calls of the simulated disk: each is counted, may meet its fault, and does what is left of it.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};

use super::content::{Change, Content, arrived};
use super::fault::{Call, CallKind, Effect, Fault, SimCrash};
use super::names::NameChange;
use super::seeded::Seeded;
use super::{GRANULES, SimDisk, State, errno};
use crate::storage::{FileRef, Storage, StorageFile};

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: u64,
    writable: bool,
    opened_as: PathBuf,
}

/// What becomes of a call: how much of it happens, and its answer.
struct Fate {
    effect: Effect,
    error: Option<io::Error>,
    short: bool,
    crash: bool,
}

impl Fate {
    fn answer(&mut self) -> io::Result<()> {
        self.error.take().map_or(Ok(()), Err)
    }

    /// For calls that have no effect: their answer comes first.
    fn refuse(mut self) -> io::Result<()> {
        self.answer()
    }
}

/// An effect for a crash, decided by the number of the call.
fn chance(number: u64) -> Effect {
    let mut rng = Seeded::new(number);
    match rng.below(4) {
        0 => Effect::None,
        1 => Effect::All,
        _ => Effect::Some(rng.draw()),
    }
}

fn granule(effect: Effect) -> usize {
    match effect {
        Effect::Some(seed) => GRANULES[(seed % GRANULES.len() as u64) as usize],
        Effect::None | Effect::All => GRANULES[0],
    }
}

impl SimDisk {
    /// Counts a call and says what becomes of it.
    fn call(&self, kind: CallKind, path: impl FnOnce(&State) -> PathBuf) -> io::Result<(MutexGuard<'_, State>, Fate)> {
        let mut guard = self.state();
        let state = &mut *guard;
        if state.crashed {
            return Err(io::Error::other(SimCrash));
        }
        state.calls += 1;
        state.changes += u64::from(kind.changes());
        let number = state.calls;
        let mut fault = state.planned.remove(&number);
        if kind.changes() && state.crash_at == Some(state.changes) {
            fault = fault.or(Some(Fault::Crash(chance(state.changes))));
        }
        fault = fault.or_else(|| state.countdowns.at(kind));
        let mut script = self.0.script.lock().unwrap_or_else(PoisonError::into_inner);
        if script.is_some() || !state.bad.is_empty() {
            let call = Call { number, kind, path: path(state) };
            if kind == CallKind::Read && state.bad.contains(&call.path) {
                fault = fault.or(Some(Fault::EIO));
            }
            if let Some(script) = script.as_mut() {
                // Asked at every call, so that it may count.
                let said = script(&call);
                fault = fault.or(said);
            }
        }
        drop(script);
        let fate = match fault {
            None => Fate { effect: Effect::All, error: None, short: false, crash: false },
            Some(Fault::Short) => Fate { effect: Effect::All, error: None, short: kind == CallKind::Read, crash: false },
            Some(Fault::Crash(effect)) => {
                state.crashed = true;
                Fate { effect, error: Some(io::Error::other(SimCrash)), short: false, crash: true }
            }
            Some(Fault::Error { errno: code, effect }) => Fate { effect, error: Some(errno(code)), short: false, crash: false },
        };
        state.fired += u64::from(fault.is_some());
        Ok((guard, fate))
    }

    fn open_file(&self, path: &Path, kind: CallKind, writable: bool) -> io::Result<FileRef> {
        let (state, fate) = self.call(kind, |_| path.to_path_buf())?;
        fate.refuse()?;
        let file = *state.names.current.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile { disk: self.clone(), file, writable, opened_as: path.to_path_buf() }))
    }
}

impl Storage for SimDisk {
    fn available(&self, _: &Path) -> u64 {
        self.state().room().unwrap_or(u64::MAX)
    }

    fn create_new(&self, path: &Path) -> io::Result<FileRef> {
        let (mut state, mut fate) = self.call(CallKind::Create, |_| path.to_path_buf())?;
        state.parent_exists(path)?;
        if state.names.current.contains_key(path) || state.dirs.contains(path) {
            fate.answer()?;
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if state.room() == Some(0) {
            state.fired += 1;
            fate.answer()?;
            return Err(errno(libc::ENOSPC));
        }
        state.next_file += 1;
        let file = state.next_file;
        // One that is refused leaves no name: no file system does otherwise.
        let happens = if fate.crash { fate.effect.happens() } else { fate.error.is_none() };
        if happens {
            state.files.insert(file, Content::default());
            state.names.change(NameChange::Link { path: path.to_path_buf(), file });
        }
        fate.answer()?;
        Ok(Arc::new(SimFile { disk: self.clone(), file, writable: true, opened_as: path.to_path_buf() }))
    }

    fn open(&self, path: &Path) -> io::Result<FileRef> {
        self.open_file(path, CallKind::Open, true)
    }

    fn open_read(&self, path: &Path) -> io::Result<FileRef> {
        self.open_file(path, CallKind::OpenRead, false)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut state, mut fate) = self.call(CallKind::Rename, |_| from.to_path_buf())?;
        state.parent_exists(to)?;
        if let Some(file) = state.names.current.get(from).copied().filter(|_| fate.effect.happens()) {
            state.names.change(NameChange::Rename { from: from.to_path_buf(), to: to.to_path_buf(), file });
            return fate.answer();
        }
        fate.answer()?;
        Err(io::ErrorKind::NotFound.into())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (mut state, mut fate) = self.call(CallKind::Remove, |_| path.to_path_buf())?;
        if state.names.current.contains_key(path) && fate.effect.happens() {
            state.names.change(NameChange::Unlink { path: path.to_path_buf() });
            return fate.answer();
        }
        fate.answer()?;
        Err(io::ErrorKind::NotFound.into())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let (state, fate) = self.call(CallKind::List, |_| dir.to_path_buf())?;
        fate.refuse()?;
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let all = state.names.current.keys().chain(state.dirs.iter());
        let mut names: Vec<OsString> =
            all.filter(|p| p.parent() == Some(dir)).filter_map(|p| p.file_name().map(ToOwned::to_owned)).collect();
        names.sort();
        Ok(names)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let (mut state, mut fate) = self.call(CallKind::CreateDir, |_| dir.to_path_buf())?;
        let missing: Vec<PathBuf> = dir.ancestors().filter(|d| !state.dirs.contains(*d)).map(Path::to_path_buf).collect();
        if missing.iter().any(|d| state.names.current.contains_key(d)) {
            fate.answer()?;
            return Err(errno(libc::ENOTDIR));
        }
        let made = match fate.effect {
            Effect::None => 0,
            Effect::Some(seed) => Seeded::new(seed).below(missing.len() as u64 + 1) as usize,
            Effect::All => missing.len(),
        };
        // From the root down.
        state.dirs.extend(missing.into_iter().rev().take(made));
        fate.answer()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let (mut state, mut fate) = self.call(CallKind::SyncDir, |_| dir.to_path_buf())?;
        if !state.dirs.contains(dir) {
            fate.answer()?;
            return Err(io::ErrorKind::NotFound.into());
        }
        if !fate.crash || fate.effect.happens() {
            state.names.sync(dir, if fate.crash { Effect::All } else { fate.effect });
        }
        fate.answer()
    }
}

impl SimFile {
    fn call(&self, kind: CallKind) -> io::Result<(MutexGuard<'_, State>, Fate)> {
        self.disk.call(kind, |state| state.names.of(self.file).unwrap_or(&self.opened_as).clone())
    }
}

impl StorageFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let (mut state, fate) = self.call(CallKind::Len)?;
        fate.refuse()?;
        Ok(state.content(self.file)?.current.len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let (mut state, mut fate) = self.call(CallKind::Read)?;
        fate.answer()?;
        let bytes = &state.content(self.file)?.current;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let mut n = buf.len().min(bytes.len() - start);
        if fate.short {
            n = n.div_ceil(2);
        }
        buf[..n].copy_from_slice(&bytes[start..start + n]);
        Ok(n)
    }

    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let (mut state, mut fate) = self.call(CallKind::Write)?;
        if !self.writable {
            fate.answer()?;
            return Err(errno(libc::EBADF));
        }
        let mut bytes = parts.concat();
        if let Some(room) = state.room() {
            let len = state.content(self.file)?.current.len() as u64;
            let grows = (offset + bytes.len() as u64).saturating_sub(len);
            if grows > room {
                bytes.truncate(bytes.len().saturating_sub((grows - room) as usize));
                fate.error = fate.error.or_else(|| Some(errno(libc::ENOSPC)));
                state.fired += 1;
            }
        }
        let content = state.content(self.file)?;
        for change in arrived(offset, &bytes, fate.effect, granule(fate.effect)) {
            content.change(change);
        }
        fate.answer()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut state, mut fate) = self.call(CallKind::SetLen)?;
        if !self.writable {
            fate.answer()?;
            return Err(errno(libc::EINVAL));
        }
        let before = state.content(self.file)?.current.len() as u64;
        if state.room().is_some_and(|room| len.saturating_sub(before) > room) {
            state.fired += 1;
            fate.answer()?;
            return Err(errno(libc::ENOSPC));
        }
        if fate.effect.happens() {
            state.content(self.file)?.change(Change::SetLen(len));
        }
        fate.answer()
    }

    fn sync_data(&self) -> io::Result<()> {
        let (mut state, mut fate) = self.call(CallKind::Sync)?;
        let content = state.content(self.file)?;
        if fate.crash {
            // What the power cut makes of it is the crash's to choose.
            if fate.effect.happens() {
                content.sync();
            }
        } else if fate.error.is_some() {
            content.fail_sync(fate.effect, granule(fate.effect));
        } else {
            content.sync();
        }
        fate.answer()
    }
}
