//! Chooses records: by path, inode, kind, process, time and LSN. Alternatives of one flag are joined by *or*, flags by *and*.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};

use super::record::Seen;
use super::target::Target;
use crate::cli::args::WalInspectArgs;
use crate::cli::output;
use crate::cli::session::Session;
use crate::control::message::When;
use crate::engine::states::Store;
use crate::error::{Class, Error, Result};
use crate::ids::{Ino, Lsn, Time};
use crate::op::{KIND_MARK, KIND_PROCESS, kind_name};
use crate::project::config::nearest;

/// Kinds by the names that people give them, besides those of operations.
const OTHER_KINDS: &[(&str, u16)] = &[("process", KIND_PROCESS), ("mark", KIND_MARK)];

/// Which records are wanted. The default wants all.
#[derive(Debug, Default)]
pub struct Filter {
    paths: Vec<Place>,
    kinds: Vec<u16>,
    processes: Vec<Who>,
    since: Option<Edge>,
    until: Option<Edge>,
    lsn: Option<(Lsn, Lsn)>,
}

#[derive(Debug)]
enum Place {
    /// This path and what is in it; the empty one is the root.
    Below(Vec<u8>),
    Matching(GlobMatcher),
    Inode(Ino),
}

#[derive(Debug)]
enum Who {
    Pid(u32),
    Comm(Vec<u8>),
    Unknown,
}

/// An end of a stretch of the log; belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    At(Lsn),
    Time(Time),
}

impl Filter {
    /// Reads the flags.
    ///
    /// # Errors
    /// `Usage` for what does not read; `NotFound` for a change that there is not.
    pub fn new(args: &WalInspectArgs, target: &Target, session: &Session) -> Result<Self> {
        let mut paths = args.path.iter().map(|word| place(word, target, session)).collect::<Result<Vec<_>>>()?;
        paths.extend(args.ino.iter().map(|n| Place::Inode(Ino(*n))));
        Ok(Self {
            paths,
            kinds: args.kind.iter().map(|word| kind(word)).collect::<Result<_>>()?,
            processes: args.process.iter().map(|word| who(word)).collect(),
            since: args.since.as_deref().map(|word| edge(word, true, target, session)).transpose()?,
            until: args.until.as_deref().map(|word| edge(word, false, target, session)).transpose()?,
            lsn: args.lsn.as_deref().map(lsn_range).transpose()?,
        })
    }

    /// True when every record is wanted.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let Self { paths, kinds, processes, since, until, lsn } = self;
        paths.is_empty() && kinds.is_empty() && processes.is_empty() && since.is_none() && until.is_none() && lsn.is_none()
    }

    /// Whether this record is wanted. What costs most is asked last.
    pub fn wants(&self, seen: &mut Seen<'_, '_>) -> bool {
        let lsn = seen.record.lsn;
        if self.lsn.is_some_and(|(a, b)| lsn < a || lsn > b) {
            return false;
        }
        if !self.kinds.is_empty() && !self.kinds.contains(&seen.record.kind) {
            return false;
        }
        let after = |edge: &Edge| match *edge {
            Edge::At(at) => lsn >= at,
            Edge::Time(time) => seen.time().is_some_and(|t| t >= time),
        };
        let before = |edge: &Edge| match *edge {
            Edge::At(at) => lsn <= at,
            Edge::Time(time) => seen.time().is_some_and(|t| t <= time),
        };
        if !(self.since.as_ref().is_none_or(after) && self.until.as_ref().is_none_or(before)) {
            return false;
        }
        if !self.processes.is_empty() && !self.processes.iter().any(|who| seen.is_by(who.as_ref())) {
            return false;
        }
        if self.paths.is_empty() {
            return true;
        }
        let inodes = seen.inodes();
        self.paths.iter().any(|place| match place {
            Place::Inode(ino) => inodes.contains(&Some(*ino)),
            Place::Below(front) => seen.paths().flatten().any(|path| is_below(path, front)),
            Place::Matching(glob) => seen.paths().flatten().any(|path| glob.is_match(Path::new(OsStr::from_bytes(path)))),
        })
    }
}

/// A process as it is looked for.
#[derive(Clone, Copy, Debug)]
pub enum WhoRef<'a> {
    /// By its number.
    Pid(u32),
    /// By its short name.
    Comm(&'a [u8]),
    /// Nobody knows.
    Unknown,
}

impl Who {
    fn as_ref(&self) -> WhoRef<'_> {
        match self {
            Self::Pid(pid) => WhoRef::Pid(*pid),
            Self::Comm(comm) => WhoRef::Comm(comm),
            Self::Unknown => WhoRef::Unknown,
        }
    }
}

fn is_below(path: &[u8], front: &[u8]) -> bool {
    front.is_empty() || path.strip_prefix(front).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

fn place(word: &OsStr, target: &Target, session: &Session) -> Result<Place> {
    let bytes = word.as_bytes();
    if let Some(ino) = bytes.strip_prefix(b"#").and_then(|n| std::str::from_utf8(n).ok()).and_then(|n| n.parse().ok()) {
        return Ok(Place::Inode(Ino(ino)));
    }
    let bytes = from_root(word, target, session)?;
    if !bytes.iter().any(|b| matches!(b, b'*' | b'?' | b'[')) {
        return Ok(Place::Below(bytes));
    }
    let wrong = |why: &str| Error::new(Class::Usage, format!("`{}` is no pattern: {why}", output::name(&bytes)));
    let text = std::str::from_utf8(&bytes).map_err(|_| wrong("a pattern is plain text"))?;
    let glob = GlobBuilder::new(text).literal_separator(true).backslash_escape(true).build();
    Ok(Place::Matching(glob.map_err(|e| wrong(&e.kind().to_string()))?.compile_matcher()))
}

/// A word as a path from the project's root: an absolute one may be that of a mount.
fn from_root(word: &OsStr, target: &Target, session: &Session) -> Result<Vec<u8>> {
    let mut path = Path::new(word);
    if path.is_absolute()
        && let Some(project) = &target.project
    {
        let world = session.world()?;
        let points: Vec<_> = world.mounts_of(project).map(|m| m.point.clone()).chain(project.identity.last_mountpoint.clone()).collect();
        path = points.iter().find_map(|point| path.strip_prefix(point).ok()).unwrap_or(path);
    }
    let parts: Vec<&[u8]> = path.as_os_str().as_bytes().split(|&b| b == b'/').filter(|p| !p.is_empty() && *p != b".").collect();
    Ok(parts.join(&b'/'))
}

fn kind(word: &str) -> Result<u16> {
    let names = || (0..=0xff).filter_map(|k| kind_name(k).map(|n| (n, k))).chain(OTHER_KINDS.iter().copied());
    let lower = word.to_ascii_lowercase();
    if let Some((_, kind)) = names().find(|(name, _)| *name == lower) {
        return Ok(kind);
    }
    let number = match lower.strip_prefix("0x") {
        Some(hex) => u16::from_str_radix(hex, 16).ok(),
        None => lower.parse().ok(),
    };
    number.ok_or_else(|| {
        let error = Error::new(Class::Usage, format!("there is no kind `{}`", word.escape_debug()));
        match nearest(&lower, names().map(|(name, _)| name)) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint(format!("kinds are {}", names().map(|(name, _)| name).collect::<Vec<_>>().join(", "))),
        }
    })
}

fn who(word: &OsStr) -> Who {
    match word.to_str() {
        Some("unknown" | "0") => Who::Unknown,
        Some(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u32>().is_ok() => {
            Who::Pid(text.parse().unwrap_or_default())
        }
        _ => Who::Comm(word.as_bytes().to_vec()),
    }
}

/// An LSN: `@1a` hexadecimal, as it is shown; `26` decimal, as JSON has it.
fn lsn(text: &str, hexadecimal: bool) -> Option<Lsn> {
    match text.strip_prefix('@') {
        Some(hex) if !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit()) => u64::from_str_radix(hex, 16).ok().map(Lsn),
        Some(_) => None,
        None if hexadecimal && text.bytes().all(|b| b.is_ascii_hexdigit()) => u64::from_str_radix(text, 16).ok().map(Lsn),
        None if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok().map(Lsn),
        None => None,
    }
}

fn lsn_range(text: &str) -> Result<(Lsn, Lsn)> {
    let text = text.trim();
    let read = || match text.split_once("..") {
        None => lsn(text, false).map(|at| (at, at)),
        Some((a, b)) => {
            let from = if a.is_empty() { Lsn::ZERO } else { lsn(a, false)? };
            // The sign of the first is that of both.
            let to = if b.is_empty() { Lsn(u64::MAX) } else { lsn(b, a.starts_with('@'))? };
            Some((from, to))
        }
    };
    let wrong = |why: &str| {
        Error::new(Class::Usage, format!("`{}` is no range of LSNs{why}", text.escape_debug()))
            .hint("write @1a, @1a..@2f, @1a.. or ..@2f; `@` is hexadecimal, without it the number is decimal")
    };
    let (from, to) = read().ok_or_else(|| wrong(""))?;
    if from > to { Err(wrong(": it ends before it begins")) } else { Ok((from, to)) }
}

fn edge(word: &OsStr, is_since: bool, target: &Target, session: &Session) -> Result<Edge> {
    let when = session.when(word)?;
    let of_project = || {
        let project = target.project.as_ref().ok_or_else(|| {
            Error::new(
                Class::Usage,
                format!("`{}` is a moment of a project, and these segments belong to none that is here", word.display()),
            )
            .hint("give a time or an LSN")
        })?;
        Store::open(&project.layout, project.identity.id)
    };
    Ok(match when {
        When::Lsn(lsn) => Edge::At(lsn),
        When::Time(time) => Edge::Time(time),
        When::Now { back: 0 } => Edge::Time(Time::now()),
        When::Now { back } => {
            let store = of_project()?;
            let count = store.versions().len();
            let last = match store.versions().back(u64::from(back))? {
                Some(version) => version.last,
                None if count == u64::from(back) => Lsn::ZERO,
                None => {
                    return Err(Error::new(Class::NotFound, format!("there are only {count} versions")).hint("`ize history` lists them"));
                }
            };
            Edge::At(if is_since { last.next() } else { last })
        }
        When::Id(prefix) => {
            let version = of_project()?.version_by_id(&prefix)?;
            Edge::At(if is_since { version.first } else { version.last })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_is_read_as_text_and_as_json_show_it() {
        for (text, range) in [
            ("@1a", (0x1a, 0x1a)),
            ("26", (26, 26)),
            ("@10..@20", (0x10, 0x20)),
            ("@10..20", (0x10, 0x20)),
            ("10..20", (10, 20)),
            ("@10..", (0x10, u64::MAX)),
            ("..@10", (0, 0x10)),
            ("..", (0, u64::MAX)),
            (" 5..5 ", (5, 5)),
        ] {
            assert_eq!(lsn_range(text).unwrap(), (Lsn(range.0), Lsn(range.1)), "{text}");
        }
        for text in ["", "@", "1a", "@1..x", "@g", "5..4", "@+1", "-1", "1...2", "@10000000000000000", "99999999999999999999"] {
            let e = lsn_range(text).map_err(|e| (e.class, e.hint.is_some()));
            assert_eq!(e, Err((Class::Usage, true)), "{text:?}");
        }
    }

    #[test]
    fn a_kind_is_a_name_or_a_number_and_a_slip_is_named() {
        assert_eq!(kind("write").unwrap(), 0x18);
        assert_eq!(kind("Chmod").unwrap(), 0x1c);
        assert_eq!(kind("process").unwrap(), KIND_PROCESS);
        assert_eq!(kind("mark").unwrap(), KIND_MARK);
        assert_eq!(kind("0x8001").unwrap(), 0x8001);
        assert_eq!(kind("24").unwrap(), 24);
        assert_eq!(kind("wirte").unwrap_err().hint.unwrap(), "did you mean `write`?");
        assert!(kind("xyzzy").unwrap_err().hint.unwrap().contains("utimens"));
    }

    #[test]
    fn a_path_holds_itself_and_what_is_in_it() {
        for (path, front, below) in
            [(&b"a/b"[..], &b"a"[..], true), (b"a", b"a", true), (b"ab", b"a", false), (b"x", b"", true), (b"a", b"a/b", false)]
        {
            assert_eq!(is_below(path, front), below, "{path:?} {front:?}");
        }
    }
}
