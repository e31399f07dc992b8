//! Which paths have a history: every path is kept, kept for a while, or not kept beyond the newest state.
//!
//! Who says so, the strongest first: the `.izeignore` of the directory or of one above it, the nearest first (gitignore syntax, the last line
//! that matches counts); the settings `class.*`; a valid CACHEDIR.TAG in a directory. As in gitignore, nothing inside a directory has more
//! history than the directory itself. The files are read from the state that is looked at, so a state always means the same.
//!
//! Rules: the root is always kept, an `.izeignore` has the class of its directory, and so taking out of a state what has no history leaves a
//! state of which nothing more is taken out.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::tree::path::{join, split};
use crate::tree::{BlobRead, Tree, TreeError};
use crate::versions::inode_table;
use crate::versions::node::{Entry, FileKind, InodeEntry, Node, Piece, State};
use crate::versions::piece_tree;

/// The file that says the classes of what is beside and below it.
pub const FILE: &[u8] = b".izeignore";
/// Begins a line of it that says the class of the lines below.
const DIRECTIVE: &str = "#ize:";
/// A longer one is not read, in bytes.
pub const FILE_MAX: u64 = 64 << 10;
/// Read files that are remembered from one state to the next.
const PARSED: usize = 1024;
/// Marks a directory whose content can be made again (<https://bford.info/cachedir/>).
const TAG: &[u8] = b"CACHEDIR.TAG";
const TAG_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// Does a file of this name say classes?
#[must_use]
pub fn says_classes(name: &[u8]) -> bool {
    name == FILE || name == TAG
}

/// How much history a path has; less is smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// None but the newest state.
    None,
    /// Versions of the last days; not in Pijul.
    Recent,
    /// All.
    Keep,
}

impl Class {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Recent => "recent",
            Self::Keep => "keep",
        }
    }
}

impl FromStr for Class {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "recent" => Ok(Self::Recent),
            "keep" => Ok(Self::Keep),
            _ => Err(format!("`{}` is none of keep, recent, none", text.escape_debug())),
        }
    }
}

/// What the settings say.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ClassSettings {
    /// Patterns of class none. `class.none`.
    pub none: Vec<String>,
    /// Patterns of class recent. `class.recent`.
    pub recent: Vec<String>,
    /// Patterns of class keep, which win over both. `class.keep`.
    pub keep: Vec<String>,
    /// Class of directories with a valid CACHEDIR.TAG. `class.cachedir-tag`.
    pub cachedir_tag: Class,
}

/// `class.recent` when nobody says anything.
pub const RECENT: &str = "node_modules/, **/.git/objects/, __pycache__/";

impl Default for ClassSettings {
    fn default() -> Self {
        Self { none: Vec::new(), recent: patterns(RECENT), keep: Vec::new(), cachedir_tag: Class::Recent }
    }
}

/// Patterns as a setting lists them, with commas between.
#[must_use]
pub fn patterns(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|p| !p.is_empty()).map(str::to_owned).collect()
}

/// Is this a pattern of gitignore?
///
/// # Errors
/// What is wrong with it, for people.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    GitignoreBuilder::new("").add_line(None, pattern).map(drop).map_err(|e| e.to_string())
}

/// Who said what class a path has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Nobody: it is kept.
    Nobody,
    /// A setting, and its pattern.
    Setting(&'static str, String),
    /// A line of an `.izeignore`: the file's path, the line's number (from 1), its text.
    Line(Vec<u8>, usize, String),
    /// The CACHEDIR.TAG in this directory.
    Tag(Vec<u8>),
}

/// What was decided for a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// Its class.
    pub class: Class,
    /// Who said so.
    pub rule: Rule,
    /// The directory that it was said of, where it was not the path itself.
    pub above: Option<Vec<u8>>,
}

/// A state that can be asked for the files that say classes.
pub trait Look {
    /// The bytes of a regular file, up to `max` of them; `None` when there is no such file. Symbolic links are not followed.
    ///
    /// # Errors
    /// When the state cannot be read.
    fn file(&mut self, path: &[u8], max: u64) -> Result<Option<Vec<u8>>, TreeError>;
}

/// A state that is walked by its blobs: what the directories entered so far hold of such files.
#[derive(Debug, Default)]
pub struct Seen {
    files: HashMap<Vec<u8>, Vec<u8>>,
}

impl Seen {
    /// Takes what matters of a directory's entries. To be called before anything in the directory, or itself, is asked for.
    ///
    /// # Errors
    /// When one of the files cannot be read.
    pub fn enter(&mut self, blobs: &dyn BlobRead, state: &State, dir: &[u8], entries: &[Entry]) -> Result<(), TreeError> {
        for (name, max) in [(FILE, FILE_MAX + 1), (TAG, TAG_SIGNATURE.len() as u64)] {
            let Ok(at) = entries.binary_search_by(|e| e.name.as_slice().cmp(name)) else { continue };
            let Some(entry) = entries.get(at).filter(|e| e.kind == FileKind::File) else { continue };
            let node = match &entry.node {
                Some(node) => node.clone(),
                None => match inode_table::lookup(blobs, state, entry.ino)? {
                    Some(InodeEntry::Node(node, _)) => node,
                    _ => return Err(TreeError::NoInode(entry.ino)),
                },
            };
            match head_of(blobs, &node, max) {
                Ok(head) => _ = self.files.insert(join(dir, name), head),
                Err(e) => _ = is_lost(Err(e))?,
            }
        }
        Ok(())
    }
}

/// Are the bytes of a file damaged, or purged? Then it says nothing: more is kept, and nobody is stopped by it. fsck names it.
fn is_lost(read: Result<(), TreeError>) -> Result<bool, TreeError> {
    match read {
        Ok(()) => Ok(false),
        Err(TreeError::Blob { damaged: true, .. }) => Ok(true),
        Err(e) => Err(e),
    }
}

/// The first bytes of a file.
fn head_of(blobs: &dyn BlobRead, node: &Node, max: u64) -> Result<Vec<u8>, TreeError> {
    let len = usize::try_from(node.size.min(max)).unwrap_or(0);
    let mut out = Vec::new();
    for piece in piece_tree::head(blobs, &node.content, len as u64)? {
        match piece {
            Piece::Chunk { id, .. } => out.extend_from_slice(&blobs.get(&id)?),
            Piece::Hole { len: hole } => out.resize((out.len() + usize::try_from(hole).unwrap_or(len)).min(len), 0),
        }
    }
    out.resize(len, 0);
    Ok(out)
}

impl Look for Seen {
    fn file(&mut self, path: &[u8], max: u64) -> Result<Option<Vec<u8>>, TreeError> {
        let bytes = self.files.get(path);
        Ok(bytes.map(|b| b.iter().copied().take(usize::try_from(max).unwrap_or(usize::MAX)).collect()))
    }
}

impl Look for Tree {
    fn file(&mut self, path: &[u8], max: u64) -> Result<Option<Vec<u8>>, TreeError> {
        let Some(ino) = self.resolve(path)? else { return Ok(None) };
        let inode = self.inode(ino)?;
        if inode.kind != FileKind::File {
            return Ok(None);
        }
        let len = inode.size.min(max);
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < len {
            let at = bytes.len();
            let plan = self.read_plan(ino, at as u64, len - at as u64)?;
            if plan.is_empty() {
                break;
            }
            bytes.resize(at + usize::try_from(plan.len()).unwrap_or(0), 0);
            if is_lost(plan.read(&**self.blobs(), &mut bytes[at..]))? {
                return Ok(None);
            }
        }
        Ok(Some(bytes))
    }
}

/// Patterns that belong together, and what each says.
#[derive(Debug)]
struct Rules {
    /// The directory that they are relative to.
    dir: Vec<u8>,
    /// Each pattern is entered as said at "place" n: line n of the file, or number n of `said`.
    matcher: Gitignore,
    /// By that number.
    said: HashMap<usize, (Class, Rule)>,
}

impl Rules {
    fn new(dir: &[u8], lines: Vec<(usize, String, Class, Rule)>, problems: &mut Vec<String>) -> Self {
        let mut builder = GitignoreBuilder::new("");
        let mut said = HashMap::new();
        for (number, line, class, rule) in lines {
            if let Err(e) = builder.add_line(Some(PathBuf::from(number.to_string())), &line) {
                problems.push(format!("`{}`: {e}", line.escape_debug()));
            }
            said.insert(number, (class, rule));
        }
        let matcher = builder.build().unwrap_or_else(|e| {
            problems.push(e.to_string());
            Gitignore::empty()
        });
        Self { dir: dir.to_vec(), matcher, said }
    }

    fn of_settings(settings: &ClassSettings) -> Self {
        let lists = [("class.recent", &settings.recent, Class::Recent), ("class.none", &settings.none, Class::None)];
        let lists = lists.into_iter().chain([("class.keep", &settings.keep, Class::Keep)]);
        let lines =
            lists.flat_map(|(key, patterns, class)| patterns.iter().map(move |p| (p.clone(), class, Rule::Setting(key, p.clone()))));
        let lines = lines.enumerate().map(|(number, (line, class, rule))| (number, line, class, rule)).collect();
        // What does not read was refused when the setting was read.
        Self::new(b"", lines, &mut Vec::new())
    }

    fn of_file(dir: &[u8], bytes: &[u8], problems: &mut Vec<String>) -> Self {
        let path = join(dir, FILE);
        let mut class = Class::None;
        let mut lines = Vec::new();
        for (index, line) in bytes.split(|b| *b == b'\n').enumerate() {
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
            let line = if index == 0 { line.trim_start_matches('\u{feff}') } else { &*line };
            if let Some(word) = line.strip_prefix(DIRECTIVE) {
                match word.trim().parse() {
                    Ok(said) => class = said,
                    Err(why) => problems.push(format!("{}, line {}: {why}", path.escape_ascii(), index + 1)),
                }
                continue;
            }
            lines.push((index + 1, line.to_owned(), class, Rule::Line(path.clone(), index + 1, line.to_owned())));
        }
        let mut wrong = Vec::new();
        let rules = Self::new(dir, lines, &mut wrong);
        problems.extend(wrong.into_iter().map(|why| format!("{}: {why}", path.escape_ascii())));
        rules
    }

    /// What the last line that matches says.
    fn of(&self, path: &[u8], is_dir: bool) -> Option<(Class, Rule)> {
        let inside = if self.dir.is_empty() { path } else { path.get(self.dir.len() + 1..)? };
        let matched = self.matcher.matched(Path::new(std::ffi::OsStr::from_bytes(inside)), is_dir);
        let (glob, class) = match &matched {
            Match::None => return None,
            Match::Ignore(glob) => (glob, None),
            Match::Whitelist(glob) => (glob, Some(Class::Keep)),
        };
        let number = glob.from()?.to_str()?.parse::<usize>().ok()?;
        let (said, rule) = self.said.get(&number)?;
        Some((class.unwrap_or(*said), rule.clone()))
    }
}

/// A directory, and the rules that hold in it.
#[derive(Debug)]
struct Dir {
    class: Class,
    rule: Rule,
    /// Where the class was said, when it was said of a directory.
    said_of: Vec<u8>,
    /// The outermost first.
    rules: Vec<Arc<Rules>>,
    /// Names all of this: where two directories of two states have the same one, what is in them is judged the same.
    token: Token,
}

/// Names the rules that hold in a directory.
pub type Token = [u8; 16];

fn token(parts: &[&[u8]]) -> Token {
    let mut hasher = blake3::Hasher::new();
    parts.iter().for_each(|part| {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    });
    let mut out = [0; 16];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    out
}

/// The classes of the paths of one state. Remembers each directory that was asked for, in about 200 bytes.
#[derive(Debug)]
pub struct Classes {
    said: ClassSettings,
    settings: Arc<Rules>,
    settings_token: Token,
    dirs: HashMap<Vec<u8>, Arc<Dir>>,
    /// Files that were read, with what is wrong with them, by directory and content.
    parsed: HashMap<Token, (Arc<Rules>, Vec<String>)>,
    /// Lines that do not read, in words; each once.
    pub problems: Vec<String>,
}

impl Classes {
    /// For a state that nobody has looked at yet.
    #[must_use]
    pub fn new(settings: &ClassSettings) -> Self {
        let rules = Arc::new(Rules::of_settings(settings));
        let settings_token = token(&[format!("{settings:?}").as_bytes()]);
        Self { said: settings.clone(), settings: rules, settings_token, dirs: HashMap::new(), parsed: HashMap::new(), problems: Vec::new() }
    }

    /// The settings that it was made with.
    #[must_use]
    pub fn settings(&self) -> &ClassSettings {
        &self.said
    }

    /// Another state is looked at from now on.
    pub fn forget(&mut self) {
        self.dirs.clear();
        self.problems.clear();
    }

    /// The class of a path (from the root, no slash at its ends); it need not exist.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn of(&mut self, state: &mut dyn Look, path: &[u8], is_dir: bool) -> Result<Class, TreeError> {
        self.decide(state, path, is_dir).map(|d| d.class)
    }

    /// The same, and who decided it.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn decide(&mut self, state: &mut dyn Look, path: &[u8], is_dir: bool) -> Result<Decided, TreeError> {
        if path.is_empty() || is_dir {
            let dir = self.dir(state, path)?;
            let above = (dir.said_of != path && dir.rule != Rule::Nobody).then(|| dir.said_of.clone());
            return Ok(Decided { class: dir.class, rule: dir.rule.clone(), above });
        }
        let (parent, name) = split(path);
        let dir = self.dir(state, parent)?;
        if name != FILE
            && let Some((class, rule)) = said(&dir, path, false)
            && class < dir.class
        {
            return Ok(Decided { class, rule, above: None });
        }
        if dir.class == Class::Keep && name != FILE {
            let rule = said(&dir, path, false).map_or(Rule::Nobody, |(_, rule)| rule);
            return Ok(Decided { class: Class::Keep, rule, above: None });
        }
        let above = (dir.rule != Rule::Nobody).then(|| dir.said_of.clone());
        Ok(Decided { class: dir.class, rule: dir.rule.clone(), above })
    }

    /// Names the rules that hold in a directory, its path included.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn token(&mut self, state: &mut dyn Look, dir: &[u8]) -> Result<Token, TreeError> {
        self.dir(state, dir).map(|d| d.token)
    }

    fn dir(&mut self, state: &mut dyn Look, path: &[u8]) -> Result<Arc<Dir>, TreeError> {
        // Without recursion: a path may be deep.
        let mut missing = Vec::new();
        let mut at = path;
        let mut dir = loop {
            if let Some(known) = self.dirs.get(at) {
                break Arc::clone(known);
            }
            missing.push(at);
            if at.is_empty() {
                let settings = vec![Arc::clone(&self.settings)];
                let token = self.settings_token;
                break Arc::new(Dir { class: Class::Keep, rule: Rule::Nobody, said_of: Vec::new(), rules: settings, token });
            }
            at = split(at).0;
        };
        for path in missing.into_iter().rev() {
            dir = Arc::new(self.enter(state, &dir, path)?);
            self.dirs.insert(path.to_vec(), Arc::clone(&dir));
        }
        Ok(dir)
    }

    /// A directory in `parent` (or the root, in itself).
    fn enter(&mut self, state: &mut dyn Look, parent: &Dir, path: &[u8]) -> Result<Dir, TreeError> {
        let (rule, said_of, rules) = (parent.rule.clone(), parent.said_of.clone(), parent.rules.clone());
        let mut dir = Dir { class: parent.class, rule, said_of, rules, token: parent.token };
        if !path.is_empty() {
            match said(parent, path, true) {
                Some((class, rule)) if class < dir.class || dir.class == Class::Keep => {
                    (dir.class, dir.rule, dir.said_of) = (class, rule, path.to_vec());
                }
                Some(_) => {}
                None if self.said.cachedir_tag < dir.class && has_tag(state, path)? => {
                    (dir.class, dir.rule, dir.said_of) = (self.said.cachedir_tag, Rule::Tag(path.to_vec()), path.to_vec());
                }
                None => {}
            }
        }
        dir.token = token(&[&parent.token, path, dir.class.name().as_bytes()]);
        // Below a directory without history nothing has any.
        if dir.class > Class::None
            && let Some(bytes) = state.file(&join(path, FILE), FILE_MAX + 1)?
        {
            if bytes.len() as u64 > FILE_MAX {
                self.problems.push(format!("{} is longer than 64 KiB and was not read", join(path, FILE).escape_ascii()));
            } else {
                dir.token = token(&[&dir.token, &bytes]);
                let name = token(&[path, &bytes]);
                if self.parsed.len() >= PARSED {
                    self.parsed.clear();
                }
                let (rules, wrong) = self.parsed.entry(name).or_insert_with(|| {
                    let mut wrong = Vec::new();
                    (Arc::new(Rules::of_file(path, &bytes, &mut wrong)), wrong)
                });
                dir.rules.push(Arc::clone(rules));
                self.problems.extend(wrong.iter().cloned());
            }
        }
        Ok(dir)
    }
}

/// The innermost rule of a directory that says something of a path in it.
fn said(dir: &Dir, path: &[u8], is_dir: bool) -> Option<(Class, Rule)> {
    dir.rules.iter().rev().find_map(|rules| rules.of(path, is_dir))
}

fn has_tag(state: &mut dyn Look, dir: &[u8]) -> Result<bool, TreeError> {
    let head = state.file(&join(dir, TAG), TAG_SIGNATURE.len() as u64)?;
    Ok(head.is_some_and(|head| head == TAG_SIGNATURE))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Default)]
    struct Files(BTreeMap<&'static str, &'static str>);

    impl Look for Files {
        fn file(&mut self, path: &[u8], max: u64) -> Result<Option<Vec<u8>>, TreeError> {
            let bytes = self.0.get(std::str::from_utf8(path).unwrap()).map(|t| t.as_bytes());
            Ok(bytes.map(|b| b[..b.len().min(max as usize)].to_vec()))
        }
    }

    fn of(files: &mut Files, settings: &ClassSettings, path: &str) -> Class {
        let (path, is_dir) = path.strip_suffix('/').map_or((path, false), |p| (p, true));
        Classes::new(settings).of(files, path.as_bytes(), is_dir).unwrap()
    }

    const SIGNED: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# made by a test\n";

    #[test]
    fn what_can_be_made_again_is_recent_by_default() {
        let mut files = Files(BTreeMap::from([
            ("target/CACHEDIR.TAG", SIGNED),
            ("lies/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc56"),
            ("CACHEDIR.TAG", SIGNED),
        ]));
        let settings = ClassSettings::default();
        for (path, class) in [
            ("", Class::Keep),
            ("a", Class::Keep),
            ("node_modules", Class::Keep),
            ("node_modules/", Class::Recent),
            ("web/node_modules/x/y.js", Class::Recent),
            (".git/objects/ab/cd", Class::Recent),
            (".git/HEAD", Class::Keep),
            ("sub/.git/objects/", Class::Recent),
            ("sub/.git/refs/objects", Class::Keep),
            ("src/__pycache__/m.pyc", Class::Recent),
            ("target/", Class::Recent),
            ("target/debug/deps/x.o", Class::Recent),
            ("lies/x", Class::Keep),
        ] {
            assert_eq!(of(&mut files, &settings, path), class, "{path}");
        }
        let off = ClassSettings { recent: Vec::new(), cachedir_tag: Class::Keep, ..ClassSettings::default() };
        assert_eq!(of(&mut files, &off, "target/x"), Class::Keep);
        assert_eq!(of(&mut files, &off, "node_modules/x"), Class::Keep);
    }

    #[test]
    fn files_say_classes_in_gitignores_syntax() {
        let text = "*.o\n/build/\n!keep.o\n#ize: recent\n*.log\n\\#odd\n# a comment\n#ize: keep\nimportant.log\n#ize: none\ndoc/**/tmp\n";
        let mut files = Files(BTreeMap::from([
            (".izeignore", text),
            ("sub/.izeignore", "!*.o\n/local\n"),
            ("build/.izeignore", "#ize: keep\n*\n"),
            ("logs.log/.izeignore", "x\n"),
        ]));
        let settings = ClassSettings::default();
        for (path, class) in [
            ("a.o", Class::None),
            ("deep/er/a.o", Class::None),
            ("keep.o", Class::Keep),
            ("build/", Class::None),
            ("build/anything", Class::None),
            ("sub/build/", Class::Keep),
            ("x.log", Class::Recent),
            ("#odd", Class::Recent),
            (" a comment", Class::Keep),
            ("important.log", Class::Keep),
            ("doc/a/b/tmp", Class::None),
            ("tmp", Class::Keep),
            ("sub/a.o", Class::Keep),
            ("sub/local", Class::None),
            ("sub/sub/local", Class::Keep),
            ("local", Class::Keep),
            ("sub/y.log", Class::Recent),
            ("logs.log/", Class::Recent),
            ("logs.log/y", Class::Recent),
            ("logs.log/x", Class::None),
            ("logs.log/important.log", Class::Recent),
            (".izeignore", Class::Keep),
            ("logs.log/.izeignore", Class::Recent),
        ] {
            assert_eq!(of(&mut files, &settings, path), class, "{path}");
        }
    }

    #[test]
    fn the_file_itself_stays_whatever_it_says() {
        let mut files = Files(BTreeMap::from([(".izeignore", "*\n")]));
        let settings = ClassSettings::default();
        assert_eq!(of(&mut files, &settings, ".izeignore"), Class::Keep);
        assert_eq!(of(&mut files, &settings, "a"), Class::None);
    }

    #[test]
    fn settings_come_before_files_and_keep_wins_among_them() {
        let settings = ClassSettings {
            none: vec!["*.iso".into(), "/cache/".into()],
            recent: patterns("*.iso, *.tmp,"),
            keep: vec!["good.iso".into()],
            cachedir_tag: Class::None,
        };
        let mut files = Files(BTreeMap::from([(".izeignore", "#ize: keep\nb.iso\n"), ("t/CACHEDIR.TAG", SIGNED)]));
        for (path, class) in [
            ("a.iso", Class::None),
            ("b.iso", Class::Keep),
            ("good.iso", Class::Keep),
            ("x.tmp", Class::Recent),
            ("cache/good.iso", Class::None),
            ("t/", Class::None),
        ] {
            assert_eq!(of(&mut files, &settings, path), class, "{path}");
        }
    }

    #[test]
    fn who_decided_is_told() {
        let mut files = Files(BTreeMap::from([(".izeignore", "# words\n\n*.o\n#ize: what\n#ize: recent\nlogs/\n[z-a]\n")]));
        let mut classes = Classes::new(&ClassSettings::default());
        let mut decide = |path: &[u8], is_dir| classes.decide(&mut files, path, is_dir).unwrap();
        let line = |n, text: &str| Rule::Line(b".izeignore".to_vec(), n, text.to_owned());
        assert_eq!(decide(b"a/b.o", false), Decided { class: Class::None, rule: line(3, "*.o"), above: None });
        assert_eq!(decide(b"a/logs/x", false), Decided { class: Class::Recent, rule: line(6, "logs/"), above: Some(b"a/logs".to_vec()) });
        assert_eq!(decide(b"a/logs", true), Decided { class: Class::Recent, rule: line(6, "logs/"), above: None });
        assert_eq!(decide(b"a/b.c", false), Decided { class: Class::Keep, rule: Rule::Nobody, above: None });
        let npm = Rule::Setting("class.recent", "node_modules/".into());
        assert_eq!(decide(b"node_modules/x", false).rule, npm);
        assert!(classes.problems.iter().any(|p| p.contains("line 4")), "{:?}", classes.problems);
        assert!(classes.problems.iter().any(|p| p.contains("`[z-a]`")), "{:?}", classes.problems);
    }

    #[test]
    fn a_file_whose_bytes_are_lost_says_nothing() {
        use crate::ids::BlobId;
        use crate::tree::testing::MemoryBlobs;
        use crate::versions::node::{Attributes, Content};
        let blobs = MemoryBlobs::default();
        let node = |id| {
            let (attrs, xattrs) = (Attributes::default(), Default::default());
            let content = Content::Pieces(vec![Piece::Chunk { id, len: 4 }]);
            Node { kind: FileKind::File, attrs, xattrs, nlink: 1, size: 4, allocated: 4, content }
        };
        let state = State { version: 1, root: node(BlobId([0; 32])), inodes: None, inodes_height: 0 };
        let there = crate::tree::BlobWrite::put(&blobs, b"*.o\n").unwrap();
        for (id, class) in [(there, Class::None), (BlobId([9; 32]), Class::Keep)] {
            let entry = Entry { name: FILE.to_vec(), ino: crate::ids::Ino(2), kind: FileKind::File, node: Some(Box::new(node(id))) };
            let mut seen = Seen::default();
            seen.enter(&blobs, &state, b"", &[entry]).unwrap();
            assert_eq!(Classes::new(&ClassSettings::default()).of(&mut seen, b"a.o", false).unwrap(), class);
        }
    }
}
