//! The grammar as a table over a made-up world.

use super::*;

/// `notes` is mounted at /home/ann/notes and at /mnt/n, `work` at /home/ann/w (and was never elsewhere), `idle` was mounted at /home/ann/idle,
/// `dead` has a dead daemon's mount at /dead, and the mount at /strange does not say whose it is. /home/ann/link leads to /mnt/n,
/// /home/ann/deep to /mnt/n/sub.
struct World {
    cwd: Option<&'static str>,
}

const EXISTING: &[&str] = &[
    "/home/ann/notes",
    "/home/ann/idle",
    "/home/ann/w",
    "/home/ann/plain",
    "/home/ann/link",
    "/home/ann/deep",
    "/mnt/n/work",
    "/mnt/n/sub",
    "/mnt/n/in-link",
    "/segs/wal",
    "/segs/notes",
];

fn points(name: &str) -> Option<Vec<&'static str>> {
    Some(match name {
        "notes" => vec!["/home/ann/notes", "/mnt/n"],
        "work" => vec!["/home/ann/w"],
        "idle" => vec!["/home/ann/idle"],
        "dead" => vec!["/dead"],
        _ => return None,
    })
}

impl Environment for World {
    fn current_dir(&self) -> Option<PathBuf> {
        self.cwd.map(PathBuf::from)
    }
    fn project(&self, word: &OsStr) -> Result<Option<Named>> {
        let Some(name) = word.to_str() else { return Ok(None) };
        if name == "twice" {
            return Err(Error::new(Class::Refused, "two projects"));
        }
        Ok(points(name).map(|p| Named { dir: format!("/c/{name}").into(), points: p.into_iter().map(Into::into).collect() }))
    }
    fn require(&self, word: &OsStr) -> Result<Named> {
        self.project(word)?.ok_or_else(|| Error::new(Class::NotFound, "no such project"))
    }
    fn mount_of(&self, path: &Path) -> Option<Place> {
        for (point, dir) in [
            ("/home/ann/notes", Some("/c/notes")),
            ("/mnt/n", Some("/c/notes")),
            ("/home/ann/w", Some("/c/work")),
            ("/dead", Some("/c/dead")),
            ("/strange", None),
        ] {
            if path.starts_with(point) {
                return Some(Place { point: point.into(), dir: dir.map(Into::into) });
            }
        }
        None
    }
    fn exists(&self, path: &Path) -> bool {
        assert!(!path.starts_with("/dead"), "a dead mount must not be looked at");
        EXISTING.iter().any(|p| path == Path::new(p))
    }
    fn is_project_dir(&self, path: &Path) -> bool {
        path == Path::new("/c/work")
    }
    fn canonical(&self, path: &Path) -> Option<PathBuf> {
        match path.to_str()? {
            "/home/ann/link" => Some("/mnt/n".into()),
            "/home/ann/deep" => Some("/mnt/n/sub".into()),
            p => (EXISTING.contains(&p) || matches!(p, "/" | "/home" | "/home/ann")).then(|| p.into()),
        }
    }
}

const HOME: Option<&str> = Some("/home/ann");
const IN_NOTES: Option<&str> = Some("/mnt/n");
const IN_SUB: Option<&str> = Some("/mnt/n/sub");
const IN_WORK: Option<&str> = Some("/home/ann/w");

/// `["/c/notes", "a", "b"]`, or the class of the refusal.
fn meaning(cwd: Option<&'static str>, flag: Option<&str>, words: &[&str], paths: Paths) -> Result<Vec<String>, Class> {
    let words: Vec<OsString> = words.iter().map(OsString::from).collect();
    let t = target(&World { cwd }, flag.map(OsStr::new), &words, paths).map_err(|e| e.class)?;
    Ok(std::iter::once(t.project).chain(t.paths).map(|p| p.to_str().unwrap().to_owned()).collect())
}

#[test]
fn the_words_mean_what_the_rules_say() {
    use Paths::{AtMostOne, One, Some as Many, Zero};
    type Row = (Option<&'static str>, Option<&'static str>, &'static [&'static str], Paths, Result<&'static [&'static str], Class>);
    let usage = Err(Class::Usage);
    let none = Err(Class::NotFound);
    let table: &[Row] = &[
        // The current directory decides.
        (IN_NOTES, None, &[], Zero, Ok(&["/c/notes"])),
        (IN_SUB, None, &[], AtMostOne, Ok(&["/c/notes"])),
        (HOME, None, &[], Zero, usage),
        (None, None, &[], Zero, none),
        (Some("/strange"), None, &[], Zero, Err(Class::DaemonGone)),
        // A first word that names a project.
        (HOME, None, &["work"], Zero, Ok(&["/c/work"])),
        (IN_WORK, None, &["notes"], Zero, Ok(&["/c/notes"])),
        (IN_WORK, None, &["notes", "a.txt"], AtMostOne, Ok(&["/c/notes", "a.txt"])),
        (None, None, &["notes", "a.txt"], AtMostOne, Ok(&["/c/notes", "a.txt"])),
        (HOME, None, &["work", "a", "d/../b"], Many, Ok(&["/c/work", "a", "b"])),
        (IN_SUB, None, &["notes", "a.txt"], One, Ok(&["/c/notes", "sub/a.txt"])),
        (HOME, None, &["twice"], Zero, Err(Class::Refused)),
        // -p always wins, and then every word is a path.
        (IN_WORK, Some("notes"), &["a"], One, Ok(&["/c/notes", "a"])),
        (IN_SUB, Some("notes"), &["a"], One, Ok(&["/c/notes", "sub/a"])),
        (IN_SUB, Some("notes"), &["work"], One, Ok(&["/c/notes", "sub/work"])),
        (IN_SUB, Some("work"), &["notes"], One, Ok(&["/c/work", "notes"])),
        (IN_NOTES, Some("nope"), &[], Zero, none),
        (HOME, Some("notes"), &["a"], Zero, usage),
        // Both a project and a path.
        (IN_NOTES, None, &["work"], AtMostOne, usage),
        (IN_NOTES, None, &["work", "a"], Many, usage),
        (IN_NOTES, None, &["./work"], AtMostOne, Ok(&["/c/notes", "work"])),
        (IN_NOTES, Some("work"), &[], AtMostOne, Ok(&["/c/work"])),
        (IN_SUB, None, &["work"], AtMostOne, Ok(&["/c/work"])),
        (Some("/segs"), None, &["notes"], AtMostOne, usage),
        // A verb without paths has no other reading for it ...
        (IN_NOTES, None, &["work"], Zero, Ok(&["/c/work"])),
        // ... and the project's own mount point is no other place, not even when its daemon is dead or it is unmounted.
        (HOME, None, &["notes"], AtMostOne, Ok(&["/c/notes"])),
        (HOME, None, &["notes", "a"], Many, Ok(&["/c/notes", "a"])),
        (HOME, None, &["idle", "a"], One, Ok(&["/c/idle", "a"])),
        (Some("/"), None, &["dead"], AtMostOne, Ok(&["/c/dead"])),
        // Paths inside a mount decide.
        (IN_SUB, None, &["a", "../b", "./c/"], Many, Ok(&["/c/notes", "sub/a", "b", "sub/c"])),
        (IN_SUB, None, &[".."], One, Ok(&["/c/notes", ""])),
        (HOME, None, &["notes/a"], One, Ok(&["/c/notes", "a"])),
        (HOME, None, &["/mnt/n/x/y"], One, Ok(&["/c/notes", "x/y"])),
        (HOME, None, &["w"], Zero, Ok(&["/c/work"])),
        (HOME, None, &["w/"], Zero, Ok(&["/c/work"])),
        (IN_NOTES, None, &["."], Zero, Ok(&["/c/notes"])),
        (HOME, None, &["/mnt/n/a", "/home/ann/notes/b"], Many, Ok(&["/c/notes", "a", "b"])),
        (HOME, None, &["/mnt/n/a", "w/b"], Many, usage),
        (IN_NOTES, None, &["a", "/etc/passwd"], Many, usage),
        (IN_NOTES, None, &["../../etc/passwd"], One, usage),
        // From outside over symlinks, but not beyond the first name inside.
        (HOME, None, &["link/in-link/a"], One, Ok(&["/c/notes", "in-link/a"])),
        (HOME, None, &["link"], AtMostOne, Ok(&["/c/notes", ""])),
        (HOME, None, &["deep/../a"], One, none),
        (HOME, None, &["deep/gone"], One, Ok(&["/c/notes", "sub/gone"])),
        (HOME, Some("notes"), &["/home/ann/link/a"], One, Ok(&["/c/notes", "a"])),
        // Neither.
        (HOME, None, &["nope"], Zero, none),
        (HOME, None, &["nope", "a"], AtMostOne, none),
        (HOME, None, &["plain"], AtMostOne, none),
        (HOME, None, &["./plain"], AtMostOne, usage),
        (HOME, None, &["./nope"], AtMostOne, none),
        (None, None, &["a"], AtMostOne, none),
        // Absolute paths of a named project.
        (HOME, None, &["work", "/home/ann/w/a"], One, Ok(&["/c/work", "a"])),
        (HOME, None, &["work", "/mnt/n/a"], One, usage),
        (HOME, None, &["idle", "/home/ann/idle/a"], One, Ok(&["/c/idle", "a"])),
        (HOME, None, &["idle", "/a"], One, usage),
        (HOME, None, &["idle", "../a"], One, usage),
        (IN_SUB, Some("notes"), &["../../a"], One, usage),
        // Numbers of paths.
        (IN_NOTES, None, &[], Many, usage),
        (IN_NOTES, None, &["a", "b"], One, usage),
        (IN_NOTES, None, &["a", "b"], AtMostOne, usage),
        (IN_NOTES, None, &["notes", "b"], Zero, usage),
        (IN_NOTES, None, &["a", "b"], Zero, usage),
        (IN_NOTES, None, &[""], One, usage),
        (IN_NOTES, Some("notes"), &[""], One, usage),
    ];
    for (cwd, flag, words, paths, wanted) in table {
        let wanted = wanted.map(|w| w.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(meaning(*cwd, *flag, words, *paths), wanted, "{cwd:?} {flag:?} {words:?} {paths:?}");
    }
}

#[test]
fn a_word_with_two_meanings_is_refused_with_both_ways_to_say_it() {
    let e = target(&World { cwd: IN_NOTES }, None, &["work".into()], Paths::AtMostOne).unwrap_err();
    let hint = e.hint.unwrap();
    assert!(hint.contains("-p work") && hint.contains("./work"), "{hint}");
}

#[test]
fn paths_that_are_not_utf8_go_through() {
    let word = OsStr::from_bytes(b"/mnt/n/\xff/a").to_owned();
    let t = target(&World { cwd: HOME }, None, &[word], Paths::One).unwrap();
    assert_eq!(t.paths[0].as_os_str().as_bytes(), b"\xff/a");
}

#[test]
fn a_verb_without_paths_refuses_the_mount_point_of_another_project() {
    struct Crossed;
    impl Environment for Crossed {
        fn current_dir(&self) -> Option<PathBuf> {
            Some("/x".into())
        }
        fn project(&self, word: &OsStr) -> Result<Option<Named>> {
            Ok((word == "a").then(|| Named { dir: "/c/a".into(), points: vec![] }))
        }
        fn require(&self, word: &OsStr) -> Result<Named> {
            self.project(word).map(Option::unwrap)
        }
        fn mount_of(&self, path: &Path) -> Option<Place> {
            path.starts_with("/x/a").then(|| Place { point: "/x/a".into(), dir: Some("/c/b".into()) })
        }
        fn exists(&self, _: &Path) -> bool {
            true
        }
        fn is_project_dir(&self, _: &Path) -> bool {
            false
        }
        fn canonical(&self, path: &Path) -> Option<PathBuf> {
            Some(path.into())
        }
    }
    assert_eq!(target(&Crossed, None, &["a".into()], Paths::Zero).unwrap_err().class, Class::Usage);
    assert_eq!(target(&Crossed, None, &["./a".into()], Paths::Zero).unwrap().project, Path::new("/c/b"));
}

#[test]
fn a_log_is_a_project_a_mount_a_directory_or_a_segment() {
    let log = |cwd, flag: Option<&str>, word: Option<&str>| {
        log_target(&World { cwd }, flag.map(OsStr::new), word.map(OsStr::new)).map_err(|e| e.class)
    };
    let project = |p: &str| Ok(LogTarget::Project(p.into()));
    assert_eq!(log(IN_NOTES, None, None), project("/c/notes"));
    assert_eq!(log(HOME, None, None), Err(Class::Usage));
    assert_eq!(log(HOME, Some("work"), None), project("/c/work"));
    assert_eq!(log(HOME, Some("work"), Some("/segs/wal")), Err(Class::Usage));
    assert_eq!(log(HOME, None, Some("notes")), project("/c/notes"));
    assert_eq!(log(HOME, None, Some("w")), project("/c/work"));
    assert_eq!(log(Some("/segs"), None, Some("wal")), Ok(LogTarget::Path("/segs/wal".into())));
    assert_eq!(log(Some("/segs"), None, Some("notes")), Err(Class::Usage));
    assert_eq!(log(Some("/segs"), None, Some("./notes")), Ok(LogTarget::Path("/segs/notes".into())));
    assert_eq!(log(HOME, None, Some("/c/work")), project("/c/work"));
    assert_eq!(log(HOME, None, Some("/segs/gone")), Err(Class::NotFound));
    assert_eq!(log(HOME, None, Some("gone")), Err(Class::NotFound));
}

#[test]
fn the_short_form_of_restore_takes_its_last_word_as_the_moment() {
    let split = |words: &[&str], at: Option<&str>| {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        restore_words(&words, at.map(OsStr::new)).map_err(|e| e.class)
    };
    let ok = |words: &[&str], at: &str| Ok((words.iter().map(OsString::from).collect::<Vec<_>>(), OsString::from(at)));
    assert_eq!(split(&["notes", "a", "1a2f"], None), ok(&["notes", "a"], "1a2f"));
    assert_eq!(split(&["a", "1a2f"], None), ok(&["a"], "1a2f"));
    assert_eq!(split(&["a", "b", "c", "d"], Some("now~1")), ok(&["a", "b", "c", "d"], "now~1"));
    for words in [&["a", "b", "c", "d"][..], &["a"], &[]] {
        assert_eq!(split(words, None), Err(Class::Usage), "{words:?}");
    }
}
