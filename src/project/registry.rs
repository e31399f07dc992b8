//! The projects of a central directory: creating, listing, finding. A project is a directory under `projects/` named by its id that
//! holds a readable `meta/project.toml`; nothing else, and no index that could disagree, says that it exists.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use rustix::fs::FlockOperation;

use crate::error::{Class, Error, IoContext, Result};
use crate::ids::{StoreId, Time};
use crate::project::identity::Identity;
use crate::project::importing::Importing;
use crate::project::layout::{Central, Layout, UNFINISHED_PREFIX};
use crate::project::{atomic, config, names};

/// One project: where it is and who it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Project {
    /// Its paths.
    pub layout: Layout,
    /// Who it is.
    pub identity: Identity,
}

impl Project {
    /// The project in directory `dir`, wherever that is.
    ///
    /// # Errors
    /// As [`Identity::read`].
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let layout = Layout::new(dir);
        let identity = Identity::read(&layout.identity())?;
        Ok(Self { layout, identity })
    }
}

/// What [`list`] found.
#[derive(Debug, Default)]
pub struct Listing {
    /// The projects, by name.
    pub projects: Vec<Project>,
    /// Directories that should be projects but cannot be read, with the reason.
    pub unreadable: Vec<(PathBuf, Error)>,
}

/// All projects. A central directory that does not exist has none.
///
/// # Errors
/// [`Class::Io`] when the directory cannot be read.
pub fn list(central: &Central) -> Result<Listing> {
    let dir = central.projects();
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Listing::default()),
        Err(e) => return Err(Error::io(format!("cannot list the projects in {}", dir.display()), e)),
    };
    let mut listing = Listing::default();
    for entry in entries {
        let entry = entry.doing(|| format!("cannot list the projects in {}", dir.display()))?;
        let Some(id) = entry.file_name().to_str().and_then(|n| n.parse::<StoreId>().ok()) else { continue };
        match Project::open(entry.path()) {
            Ok(p) if p.identity.id == id => listing.projects.push(p),
            Ok(p) => {
                let why = format!("{} says that its id is {}", p.layout.identity().display(), p.identity.id);
                listing.unreadable.push((entry.path(), Error::new(Class::Damage, why)));
            }
            Err(e) => listing.unreadable.push((entry.path(), e)),
        }
    }
    listing.projects.sort_by(|a, b| a.identity.name.cmp(&b.identity.name).then(a.layout.dir().cmp(b.layout.dir())));
    Ok(listing)
}

/// The project that `word` names, by name or id; `None` when there is none.
///
/// # Errors
/// [`Class::Io`] when the projects cannot be listed; what is wrong with a project whose id was given but which cannot be read;
/// [`Class::Refused`] when two projects have the name (one was copied in by hand).
pub fn lookup(central: &Central, word: &OsStr) -> Result<Option<Project>> {
    if let Some(id) = word.to_str().and_then(|w| w.parse::<StoreId>().ok()) {
        return match Project::open(central.project(id).dir()) {
            Ok(p) => Ok(Some(p)),
            Err(e) if e.class == Class::NotFound => Ok(None),
            Err(e) => Err(e),
        };
    }
    // A word that cannot be a name (a path, say) is not worth reading every project for.
    if word.to_str().is_none_or(|w| names::check(w).is_err()) {
        return Ok(None);
    }
    let mut found = list(central)?.projects.into_iter().filter(|p| p.identity.answers_to(word));
    match (found.next(), found.next()) {
        (first, None) => Ok(first),
        (Some(a), Some(b)) => Err(Error::new(
            Class::Refused,
            format!("two projects are called `{}`: {} and {}", a.identity.name, a.identity.id, b.identity.id),
        )
        .hint(format!("name one by its id, e.g. `-p {}`", a.identity.id))),
        (None, Some(_)) => Ok(None),
    }
}

/// As [`lookup`], and its absence is an error.
///
/// # Errors
/// [`Class::NotFound`] with the nearest name as a hint, else as [`lookup`].
pub fn find(central: &Central, word: &OsStr) -> Result<Project> {
    if let Some(project) = lookup(central, word)? {
        return Ok(project);
    }
    let listing = list(central)?;
    let shown = word.to_string_lossy();
    let error = Error::new(Class::NotFound, format!("there is no project `{}` in {}", shown.escape_debug(), central.dir().display()));
    Err(match config::nearest(&shown, listing.projects.iter().map(|p| p.identity.name.as_str())) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None if !listing.unreadable.is_empty() => error.hint("some projects there cannot be read; `ize list` says why"),
        None if listing.projects.is_empty() => error.hint("there are no projects there; make one with `ize init NAME`"),
        None => error.hint("`ize list` names them all"),
    })
}

/// Creates project `name`, durably: after a crash it is there whole or not at all.
///
/// # Errors
/// [`Class::Usage`] for a bad name, [`Class::Refused`] when it is taken, [`Class::Io`] or [`Class::Full`] from the disk.
pub fn init(central: &Central, name: &str) -> Result<Project> {
    create(central, name, None)
}

/// The same with the note that an import into it has begun, so that there is no moment at which the one is there without the other.
///
/// # Errors
/// As [`init`].
pub fn init_importing(central: &Central, name: &str, import: &Importing) -> Result<Project> {
    create(central, name, Some(import))
}

fn create(central: &Central, name: &str, import: Option<&Importing>) -> Result<Project> {
    names::check(name)?;
    create_private_dirs(central)?;
    let lock_path = central.creation_lock();
    let lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .and_then(|f| rustix::fs::flock(&f, FlockOperation::LockExclusive).map(|()| f).map_err(Into::into))
        .doing(|| format!("cannot lock {}", lock_path.display()))?;
    clear_unfinished(central)?;
    let listing = list(central)?;
    if let Some(p) = listing.projects.iter().find(|p| p.identity.name == name) {
        if let Some(begun) = Importing::read(&p.layout)? {
            return Err(begun.unfinished(p));
        }
        return Err(Error::new(Class::Refused, format!("a project `{name}` exists already, in {}", p.layout.dir().display()))
            .hint(format!("mount it with `ize mount {name} DIR`, or choose another name")));
    }
    let id = StoreId::random();
    let unfinished = central.unfinished(id);
    for dir in unfinished.directories() {
        fs::DirBuilder::new().mode(0o700).create(&dir).doing(|| format!("cannot create {}", dir.display()))?;
    }
    let identity = Identity {
        name: name.to_owned(),
        id,
        created: Time::now(),
        owner_uid: rustix::process::geteuid().as_raw(),
        owner_gid: rustix::process::getegid().as_raw(),
        last_mountpoint: None,
        read_features: Vec::new(),
        write_features: Vec::new(),
        settings: Vec::new(),
    };
    identity.write(&unfinished.identity())?;
    crate::rescue::refresh(&unfinished);
    if let Some(import) = import {
        import.write(&unfinished)?;
    }
    atomic::sync_dir(unfinished.dir())?;
    let layout = central.project(id);
    fs::rename(unfinished.dir(), layout.dir()).doing(|| format!("cannot create {}", layout.dir().display()))?;
    atomic::sync_dir(&central.projects())?;
    drop(lock);
    Ok(Project { layout, identity })
}

/// `projects/` and what leads there. Only what is missing is created, each name synced.
///
/// # Errors
/// Whatever the disk says.
pub fn create_private_dirs(central: &Central) -> Result<()> {
    let target = central.projects();
    let mut missing = Vec::new();
    let mut at = target.as_path();
    while !at.exists() {
        missing.push(at.to_path_buf());
        match at.parent() {
            Some(parent) => at = parent,
            None => break,
        }
    }
    for dir in missing.iter().rev() {
        match fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(Error::io(format!("cannot create {}", dir.display()), e)),
            _ => {}
        }
        if let Some(parent) = dir.parent() {
            atomic::sync_dir(parent)?;
        }
    }
    Ok(())
}

/// Remains of an `ize init` that was killed. Called under the creation lock, so none is being made.
fn clear_unfinished(central: &Central) -> Result<()> {
    let dir = central.projects();
    for entry in fs::read_dir(&dir).doing(|| format!("cannot list the projects in {}", dir.display()))?.flatten() {
        if entry.file_name().to_str().is_some_and(|n| n.starts_with(UNFINISHED_PREFIX)) {
            fs::remove_dir_all(entry.path()).doing(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn central() -> (tempfile::TempDir, Central) {
        let dir = tempfile::tempdir().unwrap();
        let central = Central::new(dir.path().join("deep/er"));
        (dir, central)
    }

    #[test]
    fn a_new_project_is_found_by_name_and_by_id_and_is_private() {
        let (_dir, central) = central();
        let p = init(&central, "notes").unwrap();
        assert_eq!(lookup(&central, OsStr::new("notes")).unwrap().unwrap(), p);
        assert_eq!(lookup(&central, OsStr::new(&p.identity.id.to_string())).unwrap().unwrap(), p);
        for d in p.layout.directories() {
            assert_eq!(fs::metadata(d).unwrap().permissions().mode() & 0o777, 0o700);
        }
        assert_eq!(lookup(&central, OsStr::new("note")).unwrap(), None);
        let e = find(&central, OsStr::new("nots")).unwrap_err();
        assert_eq!((e.class, e.hint.as_deref()), (Class::NotFound, Some("did you mean `notes`?")));
    }

    #[test]
    fn a_name_is_taken_once_even_by_eight_at_the_same_time() {
        let (_dir, central) = central();
        let made = std::thread::scope(|s| {
            let threads: Vec<_> = (0..8).map(|_| s.spawn(|| init(&central, "one"))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(made.iter().filter(|r| r.is_ok()).count(), 1);
        assert!(made.iter().filter_map(|r| r.as_ref().err()).all(|e| e.class == Class::Refused));
        assert_eq!(list(&central).unwrap().projects.len(), 1);
    }

    #[test]
    fn an_init_that_was_killed_leaves_no_project_and_is_cleared_by_the_next() {
        let (_dir, central) = central();
        init(&central, "a").unwrap();
        let left = central.unfinished(StoreId::random());
        fs::create_dir_all(left.wal()).unwrap();
        assert_eq!(list(&central).unwrap().projects.len(), 1);
        init(&central, "b").unwrap();
        assert!(!left.dir().exists());
    }

    #[test]
    fn an_unreadable_project_is_reported_and_hides_no_other() {
        let (_dir, central) = central();
        init(&central, "a").unwrap();
        let b = init(&central, "b").unwrap();
        fs::write(b.layout.identity(), "format = 1").unwrap();
        let listing = list(&central).unwrap();
        assert_eq!(listing.projects.len(), 1);
        assert_eq!(listing.unreadable.len(), 1);
        let e = find(&central, OsStr::new("quite-another")).unwrap_err();
        assert!(e.class == Class::NotFound && e.hint.unwrap().contains("cannot be read"));
        assert_eq!(lookup(&central, OsStr::new(&b.identity.id.to_string())).unwrap_err().class, Class::Damage);
    }

    #[test]
    fn a_copied_project_makes_its_name_ambiguous_and_its_wrong_id_is_reported() {
        let (_dir, central) = central();
        let a = init(&central, "a").unwrap();
        let other = central.project(StoreId::random());
        fs::create_dir_all(other.meta()).unwrap();
        fs::copy(a.layout.identity(), other.identity()).unwrap();
        assert_eq!(list(&central).unwrap().unreadable.len(), 1);
        let twin = Identity { id: other.dir().file_name().unwrap().to_str().unwrap().parse().unwrap(), ..a.identity };
        twin.write(&other.identity()).unwrap();
        assert_eq!(lookup(&central, OsStr::new("a")).unwrap_err().class, Class::Refused);
    }
}
