//! Which project and which paths the words of a command mean. A pure function of the words and an [`Environment`].
//!
//! 1. `-p NAME` is the project; all words are paths.
//! 2. Else, a first word that names a project (by name or id) is the project, the rest are paths. If the word is an existing path too it
//!    is refused with the way to say it; unless that path is the project's own mount point, where both readings are the same place.
//!    (`./notes` is never a project: names have no slash. Verbs without paths refuse only where the path is in another project's mount.)
//! 3. Else all words are paths, and the mount that they are in decides; without words, the one that the current directory is in.
//!
//! A PATH is relative to the current directory when that is inside a mount of the project, else to the project's root. An absolute path
//! must be inside a mount of the project, or under the place where it was mounted last. `.` and `..` are taken out by the letter, because
//! the past has no symlinks to follow; the way from outside into a mount may lead over symlinks.

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use crate::cli::output;
use crate::error::{Class, Error, Result};

use std::os::unix::ffi::OsStrExt;

/// What the grammar must know of the world.
pub trait Environment {
    /// Current directory, absolute; `None` when it is gone.
    fn current_dir(&self) -> Option<PathBuf>;
    /// The project that `word` names.
    ///
    /// # Errors
    /// When that cannot be said, e.g. two projects have the name.
    fn project(&self, word: &OsStr) -> Result<Option<Named>>;
    /// The same, its absence being the error.
    ///
    /// # Errors
    /// [`Class::NotFound`], naming the nearest one.
    fn require(&self, word: &OsStr) -> Result<Named>;
    /// The ize mount that an absolute path without `..` is in.
    fn mount_of(&self, path: &Path) -> Option<Place>;
    /// True when something has this name now (symlinks are not followed).
    fn exists(&self, path: &Path) -> bool;
    /// True when the directory holds a project, wherever it is.
    fn is_project_dir(&self, path: &Path) -> bool;
    /// The path with symlinks followed; `None` when there is no such thing.
    fn canonical(&self, path: &Path) -> Option<PathBuf>;
}

/// A project that a word names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its directory.
    pub dir: PathBuf,
    /// Where it is mounted, and where it was last.
    pub points: Vec<PathBuf>,
}

/// A mount that a path is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The mount's root.
    pub point: PathBuf,
    /// The project's directory; `None` when the mount does not say.
    pub dir: Option<PathBuf>,
}

/// What the words mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The project's directory.
    pub project: PathBuf,
    /// Paths from the project's root, without `.` and `..`; empty is the root itself. As many as the words say.
    pub paths: Vec<PathBuf>,
}

/// How many paths a verb takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paths {
    /// None: `status`, `sync`, `commit`.
    Zero,
    /// At most one: `history`.
    AtMostOne,
    /// One: `cat`.
    One,
    /// One or more: `restore`.
    Some,
}

/// What a log verb looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// The log of the project in this directory.
    Project(PathBuf),
    /// A directory of segments, or one segment, wherever it is.
    Path(PathBuf),
}

/// Finds what `words` mean. `flag` is `-p`.
///
/// # Errors
/// [`Class::Usage`] for words that have two meanings, the wrong number of them, or none at all where the current directory does not
/// decide; [`Class::NotFound`] when a word names neither a project nor a path inside a mount.
pub fn target(env: &dyn Environment, flag: Option<&OsStr>, words: &[OsString], paths: Paths) -> Result<Target> {
    let target = if let Some(name) = flag {
        let named = env.require(name)?;
        Target { paths: in_project(env, &named, words, name)?, project: named.dir }
    } else if let Some((first, rest)) = words.split_first() {
        match env.project(first)? {
            Some(named) => {
                refuse_two_meanings(env, first, &named, paths)?;
                Target { paths: in_project(env, &named, rest, first)?, project: named.dir }
            }
            None => in_mount(env, words)?,
        }
    } else {
        let cwd = current_dir(env)?;
        let place = env.mount_of(&cwd).ok_or_else(no_project)?;
        Target { project: dir_of(place)?, paths: Vec::new() }
    };
    // A path given to a verb that takes none only says which project is meant.
    let only_says_where = paths == Paths::Zero && flag.is_none() && words.len() == 1;
    let target = if only_says_where { Target { paths: Vec::new(), ..target } } else { target };
    let n = target.paths.len();
    let wanted = match paths {
        Paths::Zero if n > 0 => "no PATH",
        Paths::AtMostOne if n > 1 => "at most one PATH",
        Paths::One if n != 1 => "exactly one PATH",
        Paths::Some if n == 0 => "at least one PATH",
        _ => return Ok(target),
    };
    Err(Error::new(Class::Usage, format!("this takes {wanted}, {n} given")).hint("the first word may name a project; see --help"))
}

/// Finds the log that `word` means: a project, a path inside a mount, a project's directory, a directory of segments or one segment.
///
/// # Errors
/// As [`target`].
pub fn log_target(env: &dyn Environment, flag: Option<&OsStr>, word: Option<&OsStr>) -> Result<LogTarget> {
    let Some(word) = word else { return target(env, flag, &[], Paths::Zero).map(|t| LogTarget::Project(t.project)) };
    if let Some(name) = flag {
        return Err(Error::new(Class::Usage, format!("both `-p {}` and `{}` are given", show(name), show(word))).hint("give one of them"));
    }
    if let Some(named) = env.project(word)? {
        refuse_two_meanings(env, word, &named, Paths::AtMostOne)?;
        return Ok(LogTarget::Project(named.dir));
    }
    let path = clean(&current_dir(env)?.join(word));
    if let Some((place, _)) = enter(env, &path) {
        return dir_of(place).map(LogTarget::Project);
    }
    if env.is_project_dir(&path) {
        return Ok(LogTarget::Project(path));
    }
    if env.exists(&path) {
        return Ok(LogTarget::Path(path));
    }
    if has_slash(word) {
        return Err(Error::new(Class::NotFound, format!("there is no {}", show(path.as_os_str()))));
    }
    env.require(word).map(|named| LogTarget::Project(named.dir))
}

/// Splits the short form `restore [NAME] PATH CHANGE`: without `--at`, the last of two or three words is the moment. Returns the other words
/// and the moment.
///
/// # Errors
/// [`Class::Usage`] when there is no moment.
pub fn restore_words(words: &[OsString], at: Option<&OsStr>) -> Result<(Vec<OsString>, OsString)> {
    match (at, words) {
        (Some(at), _) => Ok((words.to_vec(), at.to_owned())),
        (None, [front @ .., last]) if (1..=2).contains(&front.len()) => Ok((front.to_vec(), last.clone())),
        (None, _) => {
            Err(Error::new(Class::Usage, "which moment?").hint("say it with --at WHEN, or as the last word: ize restore NAME PATH CHANGE"))
        }
    }
}

fn refuse_two_meanings(env: &dyn Environment, word: &OsStr, named: &Named, paths: Paths) -> Result<()> {
    let Some(cwd) = env.current_dir() else { return Ok(()) };
    let path = clean(&cwd.join(word));
    // Asked first: the mount point of a dead daemon cannot even be looked at.
    if has_slash(word) || named.points.contains(&path) {
        return Ok(());
    }
    let two = if paths == Paths::Zero {
        env.mount_of(&path).is_some_and(|place| place.point == path && place.dir.as_ref() != Some(&named.dir))
    } else {
        env.exists(&path)
    };
    if !two {
        return Ok(());
    }
    let word = show(word);
    Err(Error::new(Class::Usage, format!("`{word}` is both a project and a path here"))
        .hint(format!("write `-p {word} ...` for the project, `./{word}` for the path")))
}

/// Words as paths of a project that is known.
fn in_project(env: &dyn Environment, named: &Named, words: &[OsString], name: &OsStr) -> Result<Vec<PathBuf>> {
    let base = env.current_dir().and_then(|cwd| {
        let place = env.mount_of(&cwd).filter(|p| p.dir.as_ref() == Some(&named.dir))?;
        cwd.strip_prefix(place.point).ok().map(Path::to_path_buf)
    });
    words
        .iter()
        .map(|word| {
            let path = Path::new(word);
            if word.is_empty() {
                return Err(empty());
            }
            if path.is_absolute() {
                let path = clean(path);
                if let Some((place, inside)) = enter(env, &path)
                    && place.dir.as_ref() == Some(&named.dir)
                {
                    return Ok(inside);
                }
                return named.points.iter().find_map(|p| path.strip_prefix(p).ok()).map(Path::to_path_buf).ok_or_else(|| {
                    Error::new(Class::Usage, format!("{} is not inside a mount of `{}`", show(word), show(name)))
                        .hint("give a path from the project's root, without the leading `/`")
                });
            }
            below(base.as_deref().unwrap_or(Path::new("")), path)
                .ok_or_else(|| Error::new(Class::Usage, format!("`{}` leads out of project `{}`", show(word), show(name))))
        })
        .collect()
}

/// Words as paths; the mount that they are in says which project.
fn in_mount(env: &dyn Environment, words: &[OsString]) -> Result<Target> {
    let cwd = env.current_dir();
    let inside = cwd.as_ref().is_some_and(|c| env.mount_of(c).is_some());
    let mut found: Option<(PathBuf, &OsString)> = None;
    let mut paths = Vec::new();
    for (i, word) in words.iter().enumerate() {
        if word.is_empty() {
            return Err(empty());
        }
        let path = match (&cwd, Path::new(word)) {
            (_, p) if p.is_absolute() => clean(p),
            (Some(cwd), p) => clean(&cwd.join(p)),
            (None, _) => return Err(no_current_dir()),
        };
        let Some((place, inside_path)) = enter(env, &path) else {
            if i == 0 && !inside && !has_slash(word) {
                // It can only have been meant as a project.
                return Err(match env.require(word) {
                    Err(e) => e,
                    Ok(_) => no_project(),
                });
            }
            let class = if inside || env.exists(&path) { Class::Usage } else { Class::NotFound };
            return Err(Error::new(class, format!("{} is not inside a mount of ize", show(path.as_os_str()))).hint(WHICH));
        };
        let dir = dir_of(place)?;
        match &found {
            Some((other, first)) if *other != dir => {
                let what = format!("`{}` and `{}` are in different projects", show(first), show(word));
                return Err(Error::new(Class::Usage, what).hint("give the paths of one project at a time"));
            }
            _ => found = Some((dir, word)),
        }
        paths.push(inside_path);
    }
    let (project, _) = found.ok_or_else(no_project)?;
    Ok(Target { project, paths })
}

/// The mount that a clean absolute path is in, and the path from its root. If it is in none by the letter, symlinks are followed up to
/// the first name inside a mount, and none beyond.
fn enter(env: &dyn Environment, path: &Path) -> Option<(Place, PathBuf)> {
    let split = |path: &Path| {
        let place = env.mount_of(path)?;
        let inside = path.strip_prefix(&place.point).ok()?.to_path_buf();
        Some((place, inside))
    };
    if let Some(found) = split(path) {
        return Some(found);
    }
    let mut fronts: Vec<&Path> = path.ancestors().collect();
    fronts.reverse();
    fronts.into_iter().find_map(|front| {
        let (place, inside) = split(&env.canonical(front)?)?;
        Some((place, join(inside, path.strip_prefix(front).ok()?)))
    })
}

/// `Path::join` that adds no trailing slash for an empty tail.
fn join(front: PathBuf, tail: &Path) -> PathBuf {
    if tail.as_os_str().is_empty() { front } else { front.join(tail) }
}

/// `base/path` without `.` and `..`; `None` when it leads above the root.
fn below(base: &Path, path: &Path) -> Option<PathBuf> {
    let mut out = base.to_path_buf();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                if !out.pop() {
                    return None;
                }
            }
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(out)
}

/// An absolute path without `.` and `..`; `..` of the root is the root, as for the kernel.
fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    out
}

fn has_slash(word: &OsStr) -> bool {
    word.as_bytes().contains(&b'/')
}

fn show(word: &OsStr) -> String {
    output::name(word.as_bytes())
}

fn current_dir(env: &dyn Environment) -> Result<PathBuf> {
    env.current_dir().ok_or_else(no_current_dir)
}

fn dir_of(place: Place) -> Result<PathBuf> {
    let Place { point, dir } = place;
    dir.ok_or_else(|| {
        Error::new(Class::DaemonGone, format!("the mount at {} does not say which project it is", show(point.as_os_str())))
            .hint("name the project with -p NAME; a mount whose daemon is gone is taken away by `ize unmount`")
    })
}

const WHICH: &str = "stand inside a mount, give a path inside one, or name the project: -p NAME";

fn no_project() -> Error {
    Error::new(Class::Usage, "which project?").hint(WHICH)
}

fn no_current_dir() -> Error {
    Error::new(Class::NotFound, "the current directory is gone").hint("go to one that exists, or name the project: -p NAME")
}

fn empty() -> Error {
    Error::new(Class::Usage, "an empty word is no path").hint("the project's root is `.` inside the mount")
}

#[cfg(test)]
#[path = "grammar_tests.rs"]
mod tests;
