//! What the files must be: the steps that a load takes, one for each request that changes something, and the tree after any number of them.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

/// The kernel may make two requests of one write(2), but only where pages meet.
const PAGE: usize = 4096;

/// One change. Paths are relative to the mount.
#[derive(Clone, Debug)]
pub enum Step {
    Create(String, u32),
    Write(String, usize, Arc<Vec<u8>>),
    Truncate(String, usize),
    Chmod(String, u32),
    Rename(String, String),
    Exchange(String, String),
    Unlink(String),
    Link(String, String),
    Symlink(String, String),
    Mkdir(String),
    Rmdir(String),
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    File(usize),
    Symlink(String),
    Dir,
}

#[derive(Clone, Debug, Default)]
struct File {
    mode: u32,
    bytes: Vec<u8>,
}

/// A tree. Files are numbered, so that links share one.
#[derive(Clone, Debug, Default)]
pub struct Model {
    names: BTreeMap<String, Entry>,
    files: Vec<File>,
}

/// A tree as it was found: for each name what it is, in words, and for files their permissions, number of names and bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Found(BTreeMap<String, (Entry, u32, usize, Vec<u8>)>);

impl Found {
    /// Reads everything below `dir` but for the top names in `without`.
    pub fn read(dir: &Path, without: &[&str]) -> Self {
        let mut found = BTreeMap::new();
        let mut numbers: BTreeMap<u64, usize> = BTreeMap::new();
        let mut work = vec![dir.to_owned()];
        while let Some(at) = work.pop() {
            for entry in std::fs::read_dir(&at).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                if without.contains(&name.as_str()) {
                    continue;
                }
                let m = std::fs::symlink_metadata(&path).unwrap();
                let one = if m.is_dir() {
                    work.push(path);
                    (Entry::Dir, 0, 0, Vec::new())
                } else if m.is_symlink() {
                    (Entry::Symlink(std::fs::read_link(&path).unwrap().to_str().unwrap().to_owned()), 0, 0, Vec::new())
                } else {
                    let next = numbers.len();
                    let number = *numbers.entry(m.ino()).or_insert(next);
                    let bytes = std::fs::read(&path).unwrap();
                    assert_eq!(bytes.len() as u64, m.len(), "{name} is not as long as it says");
                    (Entry::File(number), m.permissions().mode() & 0o7777, m.nlink() as usize, bytes)
                };
                found.insert(name, one);
            }
        }
        Self(found)
    }

    /// Names and lengths.
    pub fn summary(&self) -> String {
        self.0.iter().map(|(name, (entry, _, _, bytes))| format!("{name}: {entry:?} {}, ", bytes.len())).collect()
    }
}

impl Model {
    fn file(&mut self, path: &str) -> &mut File {
        match self.names.get(path) {
            Some(Entry::File(number)) => &mut self.files[*number],
            other => panic!("{path} is {other:?}"),
        }
    }

    fn number(&self, path: &str) -> usize {
        match self.names.get(path) {
            Some(Entry::File(number)) => *number,
            other => panic!("{path} is {other:?}"),
        }
    }

    /// Paths of regular files.
    pub fn files(&self) -> Vec<String> {
        self.names.iter().filter(|(_, e)| matches!(e, Entry::File(_))).map(|(name, _)| name.clone()).collect()
    }

    /// Paths of directories that hold nothing.
    pub fn empty_dirs(&self) -> Vec<String> {
        let holds = |dir: &str| self.names.keys().any(|name| name.starts_with(&format!("{dir}/")));
        self.names.iter().filter(|(name, e)| **e == Entry::Dir && !holds(name)).map(|(name, _)| name.clone()).collect()
    }

    /// Paths of directories.
    pub fn dirs(&self) -> Vec<String> {
        self.names.iter().filter(|(_, e)| **e == Entry::Dir).map(|(name, _)| name.clone()).collect()
    }

    /// Is there something of this name?
    pub fn has(&self, path: &str) -> bool {
        self.names.contains_key(path)
    }

    /// Length of a file in bytes.
    pub fn len(&self, path: &str) -> usize {
        self.files[self.number(path)].bytes.len()
    }

    /// Bytes of a file.
    pub fn bytes(&self, path: &str) -> &[u8] {
        &self.files[self.number(path)].bytes
    }

    /// All of one step.
    pub fn apply(&mut self, step: &Step) {
        match step {
            Step::Create(path, mode) => {
                self.files.push(File { mode: *mode, bytes: Vec::new() });
                self.names.insert(path.clone(), Entry::File(self.files.len() - 1));
            }
            Step::Write(path, at, bytes) => self.write(path, *at, bytes),
            Step::Truncate(path, len) => self.file(path).bytes.resize(*len, 0),
            Step::Chmod(path, mode) => self.file(path).mode = *mode,
            Step::Rename(from, to) => {
                // rename(2) of two names of one file does nothing.
                let same = matches!((self.names.get(from), self.names.get(to)), (Some(Entry::File(a)), Some(Entry::File(b))) if a == b);
                if !same {
                    let entry = self.names.remove(from).unwrap();
                    self.names.insert(to.clone(), entry);
                }
            }
            Step::Exchange(a, b) => {
                let (one, other) = (self.names[a].clone(), self.names[b].clone());
                self.names.insert(a.clone(), other);
                self.names.insert(b.clone(), one);
            }
            Step::Unlink(path) | Step::Rmdir(path) => {
                self.names.remove(path);
            }
            Step::Link(from, to) => {
                let entry = self.names[from].clone();
                self.names.insert(to.clone(), entry);
            }
            Step::Symlink(path, target) => {
                self.names.insert(path.clone(), Entry::Symlink(target.clone()));
            }
            Step::Mkdir(path) => {
                self.names.insert(path.clone(), Entry::Dir);
            }
        }
    }

    fn write(&mut self, path: &str, at: usize, bytes: &[u8]) {
        let file = self.file(path);
        let end = at + bytes.len();
        if file.bytes.len() < end {
            file.bytes.resize(end, 0);
        }
        file.bytes[at..end].copy_from_slice(bytes);
    }

    /// Is this what was found?
    pub fn is(&self, found: &Found) -> bool {
        if self.names.len() != found.0.len() {
            return false;
        }
        let links = |number: usize| self.names.values().filter(|e| **e == Entry::File(number)).count();
        // Names and lengths first: most states differ there.
        let alike = |deep: bool| {
            self.names.iter().zip(&found.0).all(|((name, entry), (there, (what, mode, nlink, bytes)))| {
                name == there
                    && match (entry, what) {
                        (Entry::File(number), Entry::File(_)) => {
                            let file = &self.files[*number];
                            file.bytes.len() == bytes.len()
                                && file.mode == *mode
                                && (!deep || (file.bytes == *bytes && links(*number) == *nlink))
                        }
                        (one, other) => one == other,
                    }
            })
        };
        alike(false) && alike(true)
    }

    /// After how many of the steps, at least `least`, it is what was found; `self` then is that state. Part of a write counts as one more.
    pub fn advance_to(&mut self, steps: &[Step], least: usize, found: &Found) -> Option<usize> {
        let mut state = self.clone();
        for done in 0..=steps.len() {
            if done >= least && state.is(found) {
                *self = state;
                return Some(done);
            }
            let Some(step) = steps.get(done) else { break };
            if let (Step::Write(path, at, bytes), true) = (step, done >= least)
                && at % PAGE + bytes.len() > PAGE
            {
                // Each page but the last may have come alone.
                let mut upto = PAGE - at % PAGE;
                let mut partial = state.clone();
                let mut from = 0;
                while upto < bytes.len() {
                    partial.write(path, at + from, &bytes[from..upto]);
                    if partial.is(found) {
                        *self = partial;
                        return Some(done + 1);
                    }
                    (from, upto) = (upto, upto + PAGE);
                }
            }
            state.apply(step);
        }
        None
    }
}
