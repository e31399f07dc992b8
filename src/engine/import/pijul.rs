//! Import of what the head of a Pijul repository holds: a clone by the real client, a project's own repository, or one of somebody else. What
//! is recorded counts, not what lies in the working copy. Files that Pijul has as manifests are put together from packs that are only read;
//! each chunk's hash is checked as it is read.
//!
//! Pijul keeps no times: a path gets the time of the last change that touched it, for access and content alike. An import that goes on
//! knows by it what it has.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::feed::Feed;
use super::read::{Given, GivenBody, GivenFile, What};
use super::{Counters, content_of};
use crate::blobs::pack::{self, BadHeader, PACK_HEADER_LEN, PackHeader};
use crate::blobs::{Blobs, OpenMode};
use crate::engine::outside::{Meta, Problems, Trouble};
use crate::error::{Class, Error, IoContext, Result};
use crate::ids::{BlobId, StoreId, Time};
use crate::pijul::head_tree::HeadTree;
use crate::pijul::manifest::Part;
use crate::pijul::names;
use crate::pijul::reader::{self, Bytes, Entry, Step};
use crate::pijul::snapshot::{PATIENCE, Snapshot};
use crate::storage::Disk;
use crate::versions::node::{FileKind, Piece};
use crate::versions::piece_tree;

/// Paths that an error names.
const NAMED: usize = 10;

/// What is to be taken.
#[derive(Debug)]
pub struct Repository {
    /// The directory with `.pijul` in it: absolute, without symbolic links.
    pub path: PathBuf,
    tree: Arc<HeadTree>,
    packs: Option<Arc<Blobs>>,
    /// Groups of names of one file, by the first of them: its number, and how many names it has.
    links: HashMap<Vec<u8>, (u64, u64)>,
    /// Who gets what has no owner of its own.
    owner: (u32, u32),
    /// What cannot be put together: how many of its chunks are not there, of how many.
    lacking: BTreeMap<Vec<u8>, (u64, u64)>,
    /// Of what nothing else is known.
    time: Time,
}

impl Repository {
    /// Reads the head of the repository in `path`; `blobs` are packs, or a directory with `blobs/`. Without it those of `path` itself, or of
    /// the directory that it was cloned from, are taken where there are any. `owner` is the user and group that what was the project's own
    /// belongs to. Changes nothing there.
    ///
    /// # Errors
    /// `NotFound` when there is no repository, or are no packs in `blobs`; `Refused` when the head is in conflict; `Busy` when somebody
    /// writes to it; `Damage` when a change, a sidecar or a manifest is damaged; `Io`.
    pub fn open(path: &Path, blobs: Option<&Path>, owner: (u32, u32)) -> Result<Self> {
        let path = std::fs::canonicalize(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::new(Class::NotFound, format!("there is no directory {}", path.display())).source(e),
            _ => Error::io(format!("cannot read {}", path.display()), e),
        })?;
        let snapshot = Snapshot::take(&path, PATIENCE)?;
        let channel = snapshot.channel()?;
        let tree = snapshot.tree(&channel, true, true)?;
        if !tree.conflicts().is_empty() {
            let paths = tree.conflicts().join(", ");
            return Err(Error::new(Class::Refused, format!("channel {channel} of {} is in conflict in {paths}", path.display()))
                .hint("resolve it with `pijul` and record that; then do this again"));
        }
        let packs = match blobs {
            Some(dir) => Some(packs(dir)?.ok_or_else(|| {
                Error::new(Class::NotFound, format!("there are no packs in {}", dir.display()))
                    .hint("name a project's directory, its blobs/, or a copy of that")
            })?),
            None => packs_of(&path)?,
        };
        let mut repository = Self {
            path,
            tree: Arc::new(tree),
            packs: packs.map(Arc::new),
            links: HashMap::new(),
            owner,
            lacking: BTreeMap::new(),
            time: Time::default(),
        };
        repository.look_through()?;
        Ok(repository)
    }

    /// Everything before anything is taken: whose names are one file's, and whether all chunks are there.
    fn look_through(&mut self) -> Result<()> {
        let tree = Arc::clone(&self.tree);
        reader::walk(&tree, &mut |step| {
            let Step::Entry(entry) = step else { return Ok(()) };
            self.time = self.time.max(entry.time.unwrap_or_default());
            if let Some(first) = &entry.link {
                let number = self.links.len() as u64;
                self.links.entry(first.clone()).or_insert((number, 0)).1 += 1;
            }
            if let Bytes::Manifest(manifest) = &entry.bytes {
                let (mut lacks, mut all) = (0, 0);
                for part in &manifest.parts {
                    let Some(pieces) = self.pieces(part) else {
                        // So many, nobody knows.
                        (lacks, all) = (lacks + 1, all + 1);
                        continue;
                    };
                    for piece in &pieces {
                        let Piece::Chunk { id, len } = piece else { continue };
                        all += 1;
                        lacks += u64::from(!self.has(id, *len)?);
                    }
                }
                if lacks > 0 {
                    self.lacking.insert(entry.path, (lacks, all));
                }
            }
            Ok(())
        })
    }

    /// The pieces of a part, where its page is there and whole.
    fn pieces(&self, part: &Part) -> Option<Vec<Piece>> {
        match part {
            Part::Piece(piece) => Some(vec![*piece]),
            Part::Page(page) => piece_tree::page(&**self.packs.as_ref()?, page).ok(),
        }
    }

    fn has(&self, id: &BlobId, len: u32) -> Result<bool> {
        let Some(packs) = &self.packs else { return Ok(false) };
        match packs.contains(id) {
            Ok(found) => Ok(found == Some(u64::from(len))),
            // Told when it is read, with the file that has it.
            Err(crate::blobs::BlobError::Damaged(_)) => Ok(true),
            Err(e) => Err(e.into()),
        }
    }

    /// Refuses a repository of which something cannot be put together, naming it.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn check_complete(&self) -> Result<()> {
        if self.lacking.is_empty() {
            return Ok(());
        }
        let one = |(path, (lacks, all)): (&Vec<u8>, &(u64, u64))| format!("{} ({lacks} of {all})", names::escape(path));
        let mut shown: Vec<String> = self.lacking.iter().take(NAMED).map(one).collect();
        if self.lacking.len() > NAMED {
            shown.push(format!("and {} more", self.lacking.len() - NAMED));
        }
        let chunks: u64 = self.lacking.values().map(|(lacks, _)| lacks).sum();
        let place = self.packs.as_ref().map_or("there are no packs".to_owned(), |packs| format!("{} lacks", packs.dir().display()));
        let what = format!("{} files need {chunks} chunks, and {place}: {}", self.lacking.len(), shown.join(", "));
        Err(Error::new(Class::NotFound, what).hint(
            "name the packs of the project that the repository is of with --blobs DIR (its directory, its blobs/, or a copy of that); \
             --allow-missing leaves these files out and lists them",
        ))
    }

    /// Counts everything that there is to take.
    ///
    /// # Errors
    /// As [`Repository::open`].
    pub fn analyse(&self, counters: &Counters) -> Result<()> {
        let mut met = std::collections::HashSet::new();
        reader::walk(&self.tree, &mut |step| {
            if let Step::Entry(entry) = step {
                let meta = self.meta(&entry);
                let again = meta.nlink > 1 && !met.insert(meta.id);
                counters.count(1, if again { 0 } else { content_of(&meta) });
            }
            Ok(())
        })
    }

    fn meta(&self, entry: &Entry) -> Meta {
        let (size, data) = match &entry.bytes {
            Bytes::None => (entry.target.as_ref().map_or(0, |target| target.len() as u64), 0),
            Bytes::Text { len, .. } => (*len, *len),
            Bytes::Manifest(manifest) => (manifest.size, manifest.parts.iter().map(Part::stored).sum()),
        };
        let link = entry.link.as_ref().filter(|_| entry.kind != FileKind::Directory).and_then(|first| self.links.get(first));
        let (id, nlink) = link.copied().unwrap_or((0, 1));
        let time = entry.time.unwrap_or(self.time);
        Meta {
            kind: entry.kind,
            mode: entry.mode,
            uid: entry.uid.unwrap_or(self.owner.0),
            gid: entry.gid.unwrap_or(self.owner.1),
            rdev: entry.rdev,
            size,
            blocks: data.div_ceil(512),
            nlink,
            id: (0, id),
            atime: time,
            mtime: time,
            ctime: time,
        }
    }

    /// Shows everything, as a directory's walk does.
    pub(super) fn walk(&self, problems: &Problems, feed: &mut Feed<'_, '_>) -> Result<()> {
        // Directories that have begun, with the names in them.
        let mut open: Vec<(Meta, Vec<Vec<u8>>)> = Vec::new();
        reader::walk(&self.tree, &mut |step| {
            let entry = match step {
                Step::Entry(entry) => entry,
                Step::Leave(path) => {
                    let Some((meta, names)) = open.pop() else { return Ok(()) };
                    return feed.end(path, &meta, |there| given(Default::default(), GivenBody::Leave(there.then_some(names))));
                }
            };
            let meta = self.meta(&entry);
            let Entry { path, kind, xattrs, target, bytes, .. } = entry;
            if let Some((lacks, all)) = self.lacking.get(&path) {
                problems.add(Trouble::Skipped, &path, format!("left out: {lacks} of its {all} chunks are not there"));
                return Ok(());
            }
            let name = names::last(&path).to_vec();
            if let Some((_, names)) = open.last_mut() {
                names.push(name.clone());
            }
            let body = match (kind, bytes) {
                (FileKind::Directory, _) => {
                    feed.begin(&name, &path, &meta, given(xattrs, GivenBody::Enter))?;
                    open.push((meta, Vec::new()));
                    return Ok(());
                }
                (FileKind::Symlink, _) => GivenBody::Symlink(target.unwrap_or_default()),
                (_, Bytes::None) => GivenBody::Special,
                (_, Bytes::Text { at, len }) => GivenBody::File(Box::new(Text { tree: Arc::clone(&self.tree), at, len })),
                (_, Bytes::Manifest(manifest)) => {
                    // Those that lack one were left out above.
                    let pieces = manifest.parts.iter().filter_map(|part| self.pieces(part)).flatten().collect();
                    GivenBody::File(Box::new(Chunks::new(self.packs.clone(), pieces)))
                }
            };
            feed.add(&name, &path, &meta, given(xattrs, body))
        })
    }
}

fn given(xattrs: crate::versions::node::Xattrs, body: GivenBody) -> What {
    What::Given(Box::new(Given { xattrs, body }))
}

/// The packs in a directory, or in `blobs/` of it; `None` when there are none.
fn packs(dir: &Path) -> Result<Option<Blobs>> {
    for dir in [dir.to_owned(), dir.join("blobs")] {
        let doing = || format!("cannot read {}", dir.display());
        let listed = match std::fs::read_dir(&dir) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            other => other.doing(doing)?,
        };
        for entry in listed {
            let entry = entry.doing(doing)?;
            let Some(id) = entry.file_name().to_str().and_then(pack::parse_pack_file_name) else { continue };
            let mut header = [0; PACK_HEADER_LEN as usize];
            let read = std::fs::File::open(entry.path()).and_then(|mut file| file.read_exact(&mut header));
            // Whose they are, they say themselves; one that is damaged or newer is told of when all are opened.
            let store = match read.map(|()| PackHeader::decode(&header, StoreId([0; 16]), id)) {
                Ok(Err(BadHeader::Foreign { store, .. })) => store,
                _ => continue,
            };
            let (blobs, _) = Blobs::open(Disk::shared(), dir.clone(), store, OpenMode::ReadOnly)?;
            return Ok(Some(blobs));
        }
    }
    Ok(None)
}

/// Those beside a repository, or of the directory that it was cloned from.
fn packs_of(path: &Path) -> Result<Option<Blobs>> {
    // Others may have directories of that name.
    if path.join("blobs").is_dir()
        && let Some(found) = packs(&path.join("blobs"))?
    {
        return Ok(Some(found));
    }
    let config = std::fs::read_to_string(path.join(libpijul::DOT_DIR).join("config.toml")).unwrap_or_default();
    let config: toml::Table = config.parse().unwrap_or_default();
    match config.get("default_remote").and_then(toml::Value::as_str).map(Path::new) {
        Some(remote) if remote.is_absolute() && remote.join("blobs").is_dir() => packs(&remote.join("blobs")),
        _ => Ok(None),
    }
}

/// A file that Pijul has as itself.
struct Text {
    tree: Arc<HeadTree>,
    at: u64,
    len: u64,
}

impl GivenFile for Text {
    fn ranges(&self) -> Vec<(u64, u64)> {
        if self.len == 0 { Vec::new() } else { vec![(0, self.len)] }
    }

    fn open(&self, start: u64, end: u64) -> Box<dyn Read + '_> {
        Box::new(TextReader { tree: &self.tree, at: self.at + start, end: self.at + end })
    }
}

struct TextReader<'a> {
    tree: &'a HeadTree,
    at: u64,
    end: u64,
}

impl Read for TextReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len().min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        let part = buf.get_mut(..len).unwrap_or_default();
        self.tree.read_at(self.at, part)?;
        self.at += len as u64;
        Ok(len)
    }
}

/// A file that Pijul has as a manifest.
struct Chunks {
    packs: Option<Arc<Blobs>>,
    /// Where each begins, and what it is.
    chunks: Vec<(u64, BlobId, u32)>,
}

impl Chunks {
    fn new(packs: Option<Arc<Blobs>>, pieces: Vec<Piece>) -> Self {
        let (mut at, mut chunks) = (0, Vec::new());
        for piece in pieces {
            if let Piece::Chunk { id, len } = piece {
                chunks.push((at, id, len));
            }
            at += piece.len();
        }
        Self { packs, chunks }
    }
}

impl GivenFile for Chunks {
    fn ranges(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (at, _, len) in &self.chunks {
            let end = at + u64::from(*len);
            match ranges.last_mut() {
                Some(last) if last.1 == *at => last.1 = end,
                _ => ranges.push((*at, end)),
            }
        }
        ranges
    }

    fn open(&self, start: u64, _: u64) -> Box<dyn Read + '_> {
        let first = self.chunks.partition_point(|(at, ..)| *at < start);
        let rest = self.chunks.get(first..).unwrap_or_default();
        Box::new(ChunkReader { packs: self.packs.as_deref(), rest, bytes: Vec::new(), at: 0 })
    }
}

struct ChunkReader<'a> {
    packs: Option<&'a Blobs>,
    rest: &'a [(u64, BlobId, u32)],
    bytes: Vec<u8>,
    at: usize,
}

impl Read for ChunkReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at == self.bytes.len() {
            let Some(((_, id, len), rest)) = self.rest.split_first() else { return Ok(0) };
            let packs = self.packs.ok_or_else(|| io::Error::other("there are no packs"))?;
            packs.get_into(id, &mut self.bytes).map_err(io::Error::other)?;
            if self.bytes.len() as u64 != u64::from(*len) {
                return Err(io::Error::other(format!("chunk {id} has {} bytes where the manifest says {len}", self.bytes.len())));
            }
            (self.rest, self.at) = (rest, 0);
        }
        let from = self.bytes.get(self.at..).unwrap_or_default();
        let len = buf.len().min(from.len());
        buf.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        self.at += len;
        Ok(len)
    }
}
