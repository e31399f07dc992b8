//! Stores to damage, and what fsck says of them.

use std::path::{Path, PathBuf};

use ize::engine::states::Store;
use ize::ids::{BlobId, VersionSeq};
use ize::project::Project;
use ize::versions::node::{Content, DirNode, Entry, PageRef, State};
use serde_json::Value;

use crate::support::{Home, lines, said, sh};

/// What fsck says: exit code, summary, findings.
pub struct Checked {
    pub code: i32,
    pub summary: Value,
    pub findings: Vec<Value>,
}

pub fn fsck(home: &Home, central: &Path, deep: bool) -> Checked {
    let project = only(&central.join("projects"));
    let mut command = home.command(&["fsck", "--json"]);
    command.arg(&project).args(deep.then_some("--deep"));
    let said = said(command.output().unwrap());
    assert!(!said.err.contains("panicked"), "{said:?}");
    let mut all = lines(&said.out);
    assert!(!all.is_empty(), "{said:?}");
    let summary = all.remove(0);
    assert_eq!((summary["type"].as_str(), summary["findings"].as_u64()), (Some("summary"), Some(all.len() as u64)));
    for finding in &all {
        assert!(!finding["mend"].as_str().unwrap().is_empty(), "{finding}");
        let says = finding["files"].as_u64() > Some(0) || !finding["note"].is_null() || !finding["first_version"].is_null();
        assert!(says, "what does it affect? {finding}");
    }
    Checked { code: said.code, summary, findings: all }
}

pub fn only(dir: &Path) -> PathBuf {
    std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path()
}

/// Three versions: `large` in the first two, `kept` in all, `d/a` and `d/b` one file, `flat` of many pages.
pub fn store() -> Home {
    let home = Home::new();
    home.ok(&["config", "set", "group.idle", "1h"]);
    home.mount();
    sh(
        &home.mount,
        r"mkdir d flat; head -c 3000000 /dev/urandom > large; head -c 2000000 /dev/urandom > kept; echo sound > sound
        echo linked > d/a; ln d/a d/b; for i in $(seq 700); do echo $i > flat/file-$i; done; ln -s sound link; mkfifo fifo
        setfattr -n user.x -v y sound; truncate -s 1000000 holes",
    );
    home.ok(&["commit", "p", "-m", "one"]);
    sh(&home.mount, "echo two > flat/file-3; echo more >> d/a");
    home.ok(&["commit", "p", "-m", "two"]);
    sh(&home.mount, "rm large; echo three > third");
    home.ok(&["commit", "p", "-m", "three"]);
    home.unmount();
    home
}

/// Where the entries of the packs are: file, offset, id, length of head and table, stored length.
pub fn entries(central: &Path) -> Vec<(PathBuf, usize, BlobId, usize, usize)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(only(&central.join("projects")).join("blobs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "pack") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let mut at = 64;
        while at + 64 <= bytes.len() {
            let stored = u64::from_le_bytes(bytes[at + 24..at + 32].try_into().unwrap()) as usize;
            let head = 64 + 4 * stored.div_ceil(65536);
            found.push((path.clone(), at, BlobId(bytes[at + 32..at + 64].try_into().unwrap()), head, stored));
            at = (at + head + stored).next_multiple_of(8);
        }
    }
    found
}

#[derive(Clone, Copy)]
pub enum Where {
    Head,
    Bytes,
}

/// Flips one bit of a blob, in each of its copies.
pub fn flip_blob(central: &Path, id: BlobId, place: Where) {
    let mut flipped = 0;
    for (path, at, found, head, stored) in entries(central) {
        if found == id {
            flip(
                &path,
                match place {
                    Where::Head => at + 20,
                    Where::Bytes => at + head + stored / 2,
                },
            );
            flipped += 1;
        }
    }
    assert!(flipped > 0);
}

pub fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 4;
    std::fs::write(path, bytes).unwrap();
}

pub fn file_of(central: &Path, name: &str) -> PathBuf {
    only(&central.join("projects")).join(name)
}

/// Blobs by what they are.
pub struct Named {
    pub store: Store,
}

impl Named {
    pub fn of(home: &Home) -> Self {
        let project = Project::open(home.project()).unwrap();
        Self { store: Store::open(&project.layout, project.identity.id).unwrap() }
    }

    pub fn root(&self, seq: u64) -> BlobId {
        self.store.versions().get(VersionSeq(seq)).unwrap().unwrap().root
    }

    pub fn get<T: serde::de::DeserializeOwned>(&self, id: &BlobId) -> T {
        postcard::from_bytes(&self.store.blobs().get(id).unwrap()).unwrap()
    }

    pub fn state(&self, seq: u64) -> State {
        self.get(&self.root(seq))
    }

    pub fn entry(&self, seq: u64, name: &str) -> Content {
        let Content::Directory(id) = self.state(seq).root.content else { panic!() };
        let DirNode::Entries(entries) = self.get(&id) else { panic!() };
        entries.into_iter().find(|e: &Entry| e.name == name.as_bytes()).unwrap().node.unwrap().content
    }

    pub fn list_of(&self, seq: u64, name: &str) -> BlobId {
        match self.entry(seq, name) {
            Content::PieceList(id) => id,
            other => panic!("{other:?}"),
        }
    }

    pub fn chunk_of(&self, seq: u64, name: &str, n: usize) -> BlobId {
        let pieces: Vec<ize::versions::node::Piece> = self.get(&self.list_of(seq, name));
        match pieces[n] {
            ize::versions::node::Piece::Chunk { id, .. } => id,
            ize::versions::node::Piece::Hole { .. } => panic!(),
        }
    }

    /// Pages of the pieces of a large file, with where they begin; it has one list of them.
    pub fn pages_of(&self, seq: u64, name: &str) -> Vec<(u64, PageRef)> {
        let Content::PieceTree { root, height: 1 } = self.entry(seq, name) else { panic!("{:?}", self.entry(seq, name)) };
        let pages: Vec<PageRef> = self.get(&root);
        let begin = |at: &mut u64, page: &PageRef| Some((std::mem::replace(at, *at + page.len), *page));
        pages.iter().scan(0, begin).collect()
    }

    pub fn page_of(&self, seq: u64, name: &str) -> BlobId {
        let Content::Directory(id) = self.entry(seq, name) else { panic!() };
        match self.get(&id) {
            DirNode::Pages(pages) => pages[0],
            DirNode::Entries(_) => panic!("too small"),
        }
    }
}

/// A copy of the central directory, changed, and what fsck says of it.
pub fn damaged(home: &Home, name: &str, deep: bool, change: impl FnOnce(&Path)) -> (PathBuf, Checked) {
    let copy = home.path().join(name.replace(' ', "-"));
    sh(home.path(), &format!("cp -a {} {}", home.central().display(), copy.display()));
    change(&copy);
    let checked = fsck(home, &copy, deep);
    (copy, checked)
}

#[track_caller]
pub fn finds<'c>(
    name: &str,
    checked: &'c Checked,
    code: i32,
    part: &str,
    path: Option<&str>,
    versions: (u64, u64),
    newest: bool,
) -> &'c Value {
    assert_eq!(checked.code, code, "{name}: {:#?}", checked.findings);
    let fits = |f: &&Value| {
        let paths = f["paths"].as_array().unwrap();
        let said = (f["first_version"].as_u64().unwrap_or(0), f["last_version"].as_u64().unwrap_or(0));
        f["part"] == part && path.is_none_or(|p| paths.iter().any(|x| x["path"] == p)) && said == versions && f["newest"] == newest
    };
    checked.findings.iter().find(fits).unwrap_or_else(|| panic!("{name}: {:#?}", checked.findings))
}

#[track_caller]
pub fn readable(home: &Home, central: &Path, paths: &[&str]) {
    for path in paths {
        let said = said(home.command(&["cat", "p", path]).arg("--central-dir").arg(central).output().unwrap());
        assert_eq!(said.code, 0, "{path}: {said:?}");
        assert!(!said.bytes.is_empty(), "{path}");
    }
}
