//! The program as a person or a script meets it: words in; streams and an exit code out.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ize::control::message::{CommitReport, CommittedVersion, StatusReport, class_name};
use ize::control::{Request, Response, Server};
use ize::error::{Class, Error};
use ize::ids::{Lsn, VersionSeq};
use ize::project::config::{self, ConfigFile, KEYS, Settings, Sources};
use ize::project::layout::Central;
use ize::project::lock::Lock;
use ize::project::registry::{self, Project};
use serde_json::Value;

struct Home {
    dir: tempfile::TempDir,
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Home {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `ize` with nothing of the caller's environment that it would read.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ize"));
        command.args(words).env_clear().env("HOME", self.path()).env("TZ", "UTC").current_dir(self.path()).stdin(Stdio::null());
        command
    }

    fn ize(&self, words: &[&str]) -> Ran {
        ran(self.command(words).output().unwrap())
    }

    fn central(&self) -> Central {
        Central::new(self.path().join(".local/share/ize"))
    }

    fn project(&self, name: &str) -> Project {
        registry::init(&self.central(), name).unwrap()
    }
}

fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().expect("ize was killed by a signal"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Ran {
    #[track_caller]
    fn fails(&self, code: i32, why: &str) {
        assert_eq!(self.code, code, "stderr: {}", self.err);
        assert_eq!(self.out, "", "data of a failed verb");
        assert!(self.err.starts_with("error: ") && self.err.contains(why), "{}", self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
    }

    #[track_caller]
    fn succeeds(&self) -> &str {
        assert_eq!(self.code, 0, "stderr: {}", self.err);
        &self.out
    }
}

#[test]
fn help_and_version_are_data_and_no_words_are_a_usage_error() {
    let home = Home::new();
    for words in [&["--help"][..], &["help"], &["init", "--help"], &["--version"]] {
        let ran = home.ize(words);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{words:?}");
        assert!(!ran.out.is_empty());
    }
    for words in [&[][..], &["fly"], &["init"], &["init", "a", "b"], &["list", "--jsno"]] {
        let ran = home.ize(words);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{words:?}");
        assert!(!ran.err.is_empty());
    }
    assert!(home.ize(&["--help"]).out.contains("Exit codes: 0 ok"));
}

#[test]
fn a_project_is_created_once_and_listed() {
    let home = Home::new();
    assert_eq!(home.ize(&["list"]).succeeds(), "");
    let ran = home.ize(&["init", "notes"]);
    assert_eq!(ran.succeeds(), "", "what was done is a report, and reports go to stderr");
    assert!(ran.err.contains("`notes`"), "{}", ran.err);
    home.ize(&["init", "notes"]).fails(9, "exists already");
    home.ize(&["init", "-p", "x", "y"]).fails(2, "-p");
    for bad in ["", "a b", "../x", ".x", "67e55044-10b1-426f-9247-bb680e5fe0c8"] {
        home.ize(&["init", bad]).fails(2, "cannot name a project");
    }
    home.ize(&["init", "work"]).succeeds();
    let listed = home.ize(&["list"]);
    let lines: Vec<_> = listed.succeeds().lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with("notes  ") && lines[0].ends_with("not mounted"), "{}", lines[0]);
    assert!(lines[1].starts_with("work   "), "{}", lines[1]);
    let json = home.ize(&["list", "--json", "-p", "work"]);
    let object: Value = serde_json::from_str(json.succeeds()).unwrap();
    assert_eq!(object["name"], "work");
    assert_eq!(object["mounted"], Value::Array(vec![]));
    assert_eq!(home.ize(&["list", "-p", object["id"].as_str().unwrap()]).succeeds().lines().count(), 1);
    home.ize(&["list", "-p", "wrok"]).fails(3, "did you mean `work`?");
}

#[test]
fn a_name_that_is_not_utf8_is_refused_in_words() {
    let home = Home::new();
    let output = home.command(&["init"]).arg(std::ffi::OsStr::from_bytes(b"a\xffb")).output().unwrap();
    ran(output).fails(2, "cannot name a project");
}

#[test]
fn flag_wins_over_variable_over_file_over_default() {
    let home = Home::new();
    let config = home.path().join(".config/ize");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("config.toml"), "central-dir = \"~/filed\"\n").unwrap();
    let variable = || home.path().join("variable");
    home.ize(&["init", "a"]).succeeds();
    ran(home.command(&["init", "b"]).env("IZE_CENTRAL_DIR", variable()).output().unwrap()).succeeds();
    ran(home.command(&["init", "c", "--central-dir", "flagged"]).env("IZE_CENTRAL_DIR", variable()).output().unwrap()).succeeds();
    for (dir, name) in [("filed", "a"), ("variable", "b"), ("flagged", "c")] {
        let listing = registry::list(&Central::new(home.path().join(dir))).unwrap();
        assert_eq!(listing.projects.len(), 1, "{dir}");
        assert_eq!(listing.projects[0].identity.name, name);
    }
    std::fs::write(config.join("config.toml"), "centraldir = \"~/filed\"\n").unwrap();
    home.ize(&["list"]).fails(2, "did you mean `central-dir`?");
    // What the file says is not needed here, and a broken file must not lock anybody out.
    home.ize(&["--central-dir", "flagged", "list"]).succeeds();
}

#[test]
fn with_json_an_error_is_one_object_on_stderr_also_when_the_words_are_wrong() {
    let home = Home::new();
    for (words, code, class) in [
        (&["list", "--json", "-p", "nope"][..], 3, "not-found"),
        (&["status", "--json"], 2, "usage"),
        (&["status", "--json", "--nope"], 2, "usage"),
        (&["list", "--json", "a"], 2, "usage"),
    ] {
        let ran = home.ize(words);
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{words:?} {}", ran.err);
        let object: Value = serde_json::from_str(&ran.err).unwrap();
        assert_eq!(object["code"], code, "{words:?}");
        assert_eq!(object["class"], class, "{words:?}");
        assert!(object["message"].is_string() && object["hint"].is_string(), "{words:?} {object}");
    }
}

#[test]
fn a_project_that_cannot_be_read_is_damage_and_hides_no_other() {
    let home = Home::new();
    let broken = home.project("broken");
    home.project("fine");
    std::fs::write(broken.layout.identity(), "format = 1\n").unwrap();
    let ran = home.ize(&["list"]);
    assert_eq!(ran.code, 5, "{}", ran.err);
    assert!(ran.out.starts_with("fine  ") && ran.err.contains("project.toml"), "{} {}", ran.out, ran.err);
    std::fs::write(broken.layout.identity(), "format = 9\n").unwrap();
    assert_eq!(home.ize(&["list"]).code, 9);
}

#[test]
fn which_project_is_asked_where_nothing_says_it_and_no_daemon_is_ten() {
    let home = Home::new();
    home.project("notes");
    home.ize(&["status"]).fails(2, "which project?");
    home.ize(&["status", "nots"]).fails(3, "did you mean `notes`?");
    home.ize(&["status", "-p", "nope"]).fails(3, "no project `nope`");
    home.ize(&["status", "./notes"]).fails(3, "not inside a mount");
    home.ize(&["sync", "notes"]).fails(10, "no daemon has the project");
    home.ize(&["sync", "-p", "notes"]).fails(10, "hint: ");
    home.ize(&["unmount", "notes"]).fails(3, "`notes` is not mounted");
}

#[test]
fn a_closed_stdout_ends_quietly_and_a_full_one_does_not() {
    let home = Home::new();
    for i in 0..50 {
        home.project(&format!("p{i}"));
    }
    let mut child = home.command(&["list", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""));

    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = home.command(&["list"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    ran(output).fails(8, "cannot write to stdout");
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    assert_eq!(home.command(&["--help"]).stdout(full).output().unwrap().status.code(), Some(8));
}

#[test]
fn a_verb_asks_the_daemon_and_shows_what_it_answers() {
    let home = Home::new();
    let project = home.project("notes");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (lock, _) = Lock::acquire(&project.layout).unwrap();
    let lock = Mutex::new(Some(lock));
    let heard = Arc::clone(&asked);
    let server = Server::start(&project.layout, rustix::process::geteuid().as_raw(), move |request: Request, _uid: u32| {
        heard.lock().unwrap().push(request.clone());
        match request {
            Request::Status => Response::ok(StatusReport { project: "notes".into(), appended: Lsn(0x1a2f), ..StatusReport::default() }),
            Request::Sync => Response::ok(serde_json::json!({ "durable": Lsn(0x1a2f) })),
            Request::Commit(c) if c.message.as_deref() == Some("nothing") => Response::ok(CommitReport { versions: vec![] }),
            Request::Commit(c) => Response::ok(CommitReport {
                versions: vec![CommittedVersion {
                    seq: VersionSeq(3),
                    id: "00000000000000ab".into(),
                    first: Lsn(1),
                    last: Lsn(2),
                    message: c.message.unwrap_or_default(),
                }],
            }),
            Request::Unmount(_) => {
                lock.lock().unwrap().take().unwrap().release_clean().unwrap();
                Response::ok(())
            }
            Request::Restore(_) | Request::Prune(_) | Request::Thin(_) | Request::Pijul | Request::PijulRebuild(_) => {
                Error::new(Class::Full, "no room").into()
            }
        }
    })
    .unwrap();
    assert!(home.ize(&["status", "notes"]).succeeds().contains("appended @1a2f"));
    let status: Value = serde_json::from_str(home.ize(&["status", "notes", "--json"]).succeeds()).unwrap();
    assert_eq!(status["appended"], 0x1a2f);
    let ran = home.ize(&["sync", "notes"]);
    assert_eq!(ran.succeeds(), "");
    assert!(ran.err.contains("durable through @1a2f"), "{}", ran.err);
    assert_eq!(home.ize(&["commit", "notes", "-m", "a b"]).succeeds(), "00000000000000ab\n");
    assert_eq!(home.ize(&["commit", "notes", "-m", "nothing"]).succeeds(), "");
    let ran = home.ize(&["unmount", "notes"]);
    ran.succeeds();
    assert!(ran.err.contains("unmounted `notes`"), "{}", ran.err);
    assert!(server.stop(Duration::from_secs(5)));
    // Status asks about Pijul too.
    assert_eq!(asked.lock().unwrap().iter().filter(|request| !matches!(request, Request::Pijul)).count(), 6);
    home.ize(&["sync", "notes"]).fails(10, "no daemon");
}

/// The other process of the lock test below, which starts it; by itself it has nothing to say.
#[test]
fn helper_hold_the_lock() {
    let Some(dir) = std::env::var_os("LOCK_TEST_PROJECT") else { return };
    let project = Project::open(PathBuf::from(dir)).unwrap();
    let (_lock, _) = Lock::acquire(&project.layout).unwrap();
    let mut stdout = std::io::stdout();
    stdout.write_all(b"\nheld\n").unwrap();
    stdout.flush().unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_lock_keeps_another_process_out_until_it_is_killed_and_then_tells_of_it() {
    let home = Home::new();
    let project = home.project("notes");
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_hold_the_lock", "--nocapture"])
        .env("LOCK_TEST_PROJECT", project.layout.dir())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    let mut stdout = other.stdout.take().unwrap();
    let mut byte = [0];
    while !said.ends_with(b"held\n") {
        assert_eq!(stdout.read(&mut byte).unwrap(), 1, "the other process ended: {}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
    let e = Lock::acquire(&project.layout).unwrap_err();
    assert_eq!(e.class, Class::Busy);
    assert!(e.message.contains(&format!("process {}", other.id())), "{e}");
    other.kill().unwrap();
    other.wait().unwrap();
    let (_lock, previous) = Lock::acquire(&project.layout).unwrap();
    assert_eq!((previous.clean, previous.same_boot), (false, true));
    assert_eq!(previous.holder.unwrap().pid, other.id());
}

#[test]
fn another_user_is_refused_even_where_the_modes_would_let_them_in() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;

    let home = Home::new();
    let project = home.project("notes");
    let me = rustix::process::geteuid().as_raw();
    // Root is let in everywhere, so root becomes nobody, and anybody else is told that the project is their neighbour's.
    let owner = if me == 0 { 0 } else { me + 1 };
    let _server = Server::start(&project.layout, owner, |_: Request, uid: u32| Response::ok(uid)).unwrap();
    let open = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    let all = project.layout.control_socket();
    all.ancestors().take_while(|p| p.starts_with(home.path())).for_each(open);
    open(&project.layout.identity());
    let binary = home.path().join("ize");
    std::fs::copy(env!("CARGO_BIN_EXE_ize"), &binary).unwrap();
    let mut command = Command::new(binary);
    command.args(["sync", "notes"]).env_clear().env("HOME", home.path()).current_dir("/").stdin(Stdio::null());
    if me == 0 {
        command.uid(65534).gid(65534);
    }
    ran(command.output().unwrap()).fails(9, "belongs to user");
}

#[test]
fn what_the_documentation_says_of_settings_and_exit_codes_is_so() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/config.md")).unwrap();
    let toml = text.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let home = Home::new();
    std::fs::create_dir(home.path().join("ize")).unwrap();
    std::fs::write(home.path().join("ize/config.toml"), toml).unwrap();
    let env = |n: &str| match n {
        "XDG_CONFIG_HOME" => Some(home.path().into()),
        "HOME" => Some("/home/ann".into()),
        _ => None,
    };
    let user = ConfigFile::load(&env).unwrap();
    assert_eq!(user.settings.len(), KEYS.len(), "each setting is shown");
    assert_eq!(user.central_dir.as_deref(), Some(Path::new("/home/ann/.local/share/ize")));
    let sources = Sources { user: &user, central: &ConfigFile::default(), project: None, env: &|_| None, flags: &[] };
    assert_eq!(sources.resolve().unwrap().settings, Settings::default(), "the example shows the defaults");
    // Every row of the table is a key, every key a row, each with its variable, default and range.
    let cells = |line: &str| line.trim_matches('|').split('|').map(|c| c.trim().trim_matches('`').to_owned()).collect::<Vec<_>>();
    let rows: Vec<_> = text.lines().filter(|l| l.starts_with("| `")).map(cells).collect();
    let keys: Vec<_> = KEYS.iter().map(|k| vec![k.name.to_owned(), config::variable(k.name), k.default.into(), k.range.into()]).collect();
    assert_eq!(rows[0][..2], ["central-dir", "IZE_CENTRAL_DIR"]);
    assert_eq!(rows[1..].iter().map(|row| row[..4].to_vec()).collect::<Vec<_>>(), keys);
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md")).unwrap();
    let classes = [
        Class::Failed,
        Class::Usage,
        Class::NotFound,
        Class::TornTail,
        Class::Damage,
        Class::Io,
        Class::Busy,
        Class::Full,
        Class::Refused,
        Class::DaemonGone,
    ];
    for class in classes {
        let row = format!("| {} | `{}` |", ize::cli::exit::code(class), class_name(class));
        assert!(text.contains(&row), "{row}");
    }
}

#[test]
fn a_slip_in_the_settings_of_a_project_is_named_and_hides_nothing() {
    let home = Home::new();
    let project = home.project("notes");
    let path = project.layout.identity();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}\n[settings.log]\nsync-interva = \"2s\"\n")).unwrap();
    assert!(home.ize(&["list"]).succeeds().starts_with("notes  "));
    let project = Project::open(project.layout.dir()).unwrap();
    let (layer, none) = ((project.identity.settings.as_slice(), path.as_path()), ConfigFile::default());
    let e = Sources { user: &none, central: &none, project: Some(layer), env: &|_| None, flags: &[] }.resolve().unwrap_err();
    assert_eq!(e.class, Class::Usage);
    assert!(e.message.contains("project.toml") && e.hint.unwrap().contains("`log.sync-interval`"), "{}", e.message);
}

#[test]
fn config_sets_gets_lists_and_unsets_each_layer() {
    let home = Home::new();
    home.project("notes");
    let get = |words: &[&str]| home.ize(&[&["config", "get", "group.idle"], words].concat()).succeeds().to_owned();
    assert_eq!(get(&[]), "2s\n");
    for (value, scope) in [("3s", &["--user"][..]), ("4s", &["--central"]), ("5s", &["--project", "notes"])] {
        let ran = home.ize(&[&["config", "set", "group.idle", value], scope].concat());
        assert_eq!(ran.succeeds(), "");
        assert_eq!(get(&["-p", "notes"]), format!("{value}\n"), "{}", ran.err);
    }
    assert_eq!(get(&[]), "4s\n", "without a project the central directory says it");
    let with = |name: &str, value: &str, words: &[&str]| ran(home.command(words).env(name, value).output().unwrap());
    assert_eq!(with("IZE_GROUP_IDLE", "6s", &["config", "get", "group.idle", "-p", "notes"]).succeeds(), "6s\n");
    with("IZE_GROUP_IDLE", "6", &["config", "list"]).fails(2, "IZE_GROUP_IDLE");
    let listed = home.ize(&["config", "list", "--json", "-p", "notes"]);
    let rows: Vec<Value> = listed.succeeds().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(rows.len(), KEYS.len() + 1);
    let row = |key: &str| rows.iter().find(|r| r["key"] == key).unwrap();
    assert_eq!((&row("group.idle")["value"], &row("group.idle")["origin"]), (&"5s".into(), &"project".into()));
    assert!(row("group.idle")["place"].as_str().unwrap().ends_with("/meta/project.toml"));
    assert_eq!((&row("central-dir")["origin"], &row("central-dir")["place"]), (&"default".into(), &Value::Null));
    let shown = home.ize(&["config", "list", "--origin"]);
    let row: Value = home
        .ize(&["config", "list", "--json"])
        .succeeds()
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .find(|r: &Value| r["key"] == "group.idle")
        .unwrap();
    assert_eq!(row["origin"], "central");
    let line = shown.succeeds().lines().find(|l| l.starts_with("group.idle")).unwrap();
    assert!(line.contains("= 4s") && line.ends_with(".local/share/ize/config.toml"), "{line}");
    // Nothing else in the files was touched, and each is taken out by itself.
    for (value, scope) in [("4s", &["--project", "notes"][..]), ("3s", &["--central"]), ("2s", &["--user"])] {
        home.ize(&[&["config", "unset", "group.idle"], scope].concat()).succeeds();
        assert_eq!(get(&["-p", "notes"]), format!("{value}\n"));
        home.ize(&[&["config", "unset", "group.idle"], scope].concat()).fails(3, "is not set");
    }
    home.ize(&["config", "set", "group.idel", "3s"]).fails(2, "did you mean `group.idle`?");
    home.ize(&["config", "get", "sync-interval"]).fails(2, "did you mean `log.sync-interval`?");
    home.ize(&["config", "set", "log.segment-size", "1KiB"]).fails(2, "outside 1 MiB");
    home.ize(&["config", "set", "group.idle", "3s", "--user", "-p", "notes"]).fails(2, "three different places");
    home.ize(&["config", "set", "group.idle", "3s", "-p", "nobody"]).fails(3, "no project");
    home.ize(&["config", "set", "central-dir", "/x", "-p", "notes"]).fails(2, "no setting of a project");
    home.ize(&["config", "set", "central-dir", "/x", "--central"]).fails(2, "itself");
    home.ize(&["config", "set", "central-dir", "x"]).fails(2, "absolute");
    home.ize(&["config", "set", "central-dir", "~/moved"]).succeeds();
    assert_eq!(home.ize(&["config", "get", "central-dir"]).succeeds().trim(), home.path().join("moved").to_str().unwrap());
}

#[test]
fn a_slip_in_a_config_file_is_named_and_can_be_taken_out() {
    let home = Home::new();
    home.project("notes");
    std::fs::write(home.central().config(), "[group]\nidel = \"3s\"\n").unwrap();
    home.ize(&["config", "list"]).fails(2, "did you mean `group.idle`?");
    assert!(home.ize(&["config", "list"]).err.contains(home.central().config().to_str().unwrap()));
    home.ize(&["config", "unset", "group.idel", "--central"]).succeeds();
    home.ize(&["config", "list"]).succeeds();
    std::fs::write(home.central().config(), "central-dir = \"/x\"\n").unwrap();
    home.ize(&["config", "list"]).fails(2, "itself");
    home.ize(&["config", "unset", "central-dir", "--central"]).succeeds();
    home.ize(&["config", "list"]).succeeds();
}
