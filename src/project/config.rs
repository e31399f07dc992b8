//! Settings and where they come from. The first that says something wins: flag, `IZE_*` variable, the project's `project.toml`
//! (`[settings]`), `<central-dir>/config.toml`, the user's `config.toml`, default.
//!
//! A setting is written `section.key`; in TOML it stands under `[section]`, its variable is `IZE_SECTION_KEY`. [`KEYS`] is the only list;
//! docs/config.md repeats it, and a test compares the two.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Class, Error, Result};
use crate::project::layout::Central;
pub use crate::project::max_store::MaxStore;
pub use crate::project::nearest::nearest;
use crate::project::units;
use crate::versions::class::{self, ClassSettings};
use crate::versions::thinning::Ages;

/// Reads an environment variable. A parameter, so that tests need not change the process.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The environment of this process.
#[must_use]
pub fn process_env(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// Everything that can be set for a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Largest size of a log segment in bytes, 1 MiB to 256 MiB. `log.segment-size`, default 16 MiB.
    pub segment_size: u64,
    /// Whether the log names the arguments of the processes that did things; they may hold secrets. `log.command-lines`, default false.
    pub command_lines: bool,
    /// Longest time that an answered operation stays unsynced, 10 ms to 1 h. `log.sync-interval`, default 1 s.
    pub sync_interval: Duration,
    /// How long a write waits for room on a full disk before it is refused, 0 s to 10 min. `log.full-wait`, default 30 s.
    pub full_wait: Duration,
    /// Inodes that stay in memory although nothing is newer than their committed state, 1,000 to 100 million; 500 bytes or so each.
    /// `cache.inodes`, default 200,000.
    pub cache_inodes: usize,
    /// Idle time that ends a version, 10 ms to 1 h. `group.idle`, default 2 s.
    pub group_idle: Duration,
    /// Files and directories touched beyond which a version ends, 1 to 1,000,000. `group.paths`, default 1,000.
    pub group_paths: usize,
    /// Bytes written beyond which a version ends, 4 KiB to 16 GiB. `group.bytes`, default 64 MiB.
    pub group_bytes: u64,
    /// Age at which a version ends, 10 ms to 1 h. `group.age`, default 30 s.
    pub group_age: Duration,
    /// Versions that sessions with paths of their own make of what they do at one time, at most, 1 to 64; 1 is one for all of them.
    /// `group.parts`, default 16.
    pub group_parts: usize,
    /// Age beyond which pruning drops a segment; `None` is `never`. `prune.max-age`, default 7 d.
    pub prune_max_age: Option<Duration>,
    /// Bytes of log and payload that pruning leaves; `None` is `unlimited`. `prune.max-size`, default 4 GiB.
    pub prune_max_size: Option<u64>,
    /// Share of the file system, in percent, 0 to 90, that pruning leaves free where it can. `prune.min-free`, default 5.
    pub prune_min_free: u8,
    /// How often a mount looks whether a limit is passed, 10 ms to 1 h. `prune.interval`, default 10 s.
    pub prune_interval: Duration,
    /// What the project's directory may take before versions are thinned. `retention.max-store`, default 20 %.
    pub max_store: MaxStore,
    /// How densely versions stay when they are thinned. `retention.keep-all`, default 30 d; `retention.keep-hourly`, default 90 d;
    /// `retention.keep-daily`, default forever.
    pub ages: Ages,
    /// How long versions hold paths of class recent; `None` is forever. `retention.keep-recent`, default 7 d.
    pub keep_recent: Option<Duration>,
    /// Which paths have which class. `class.*`.
    pub classes: ClassSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            segment_size: 16 << 20,
            command_lines: false,
            sync_interval: Duration::from_secs(1),
            full_wait: Duration::from_secs(30),
            cache_inodes: 200_000,
            group_idle: Duration::from_secs(2),
            group_paths: 1000,
            group_bytes: 64 << 20,
            group_age: Duration::from_secs(30),
            group_parts: 16,
            prune_max_age: Some(Duration::from_secs(7 * 86_400)),
            prune_max_size: Some(4 << 30),
            prune_min_free: 5,
            prune_interval: Duration::from_secs(10),
            max_store: MaxStore::Percent(20),
            ages: Ages::default(),
            keep_recent: Some(Duration::from_secs(7 * 86_400)),
            classes: ClassSettings::default(),
        }
    }
}

type Setter = fn(&mut Settings, &str) -> Result<(), String>;

/// A setting.
#[derive(Debug)]
pub struct Key {
    /// `section.key`.
    pub name: &'static str,
    /// What holds when nobody says anything, as it is written.
    pub default: &'static str,
    /// What may be said.
    pub range: &'static str,
    set: Setter,
}

/// Name of the one setting that is none of a project: where the projects are.
pub const CENTRAL_DIR: &str = "central-dir";

/// Every setting of a project.
pub const KEYS: &[Key] = &[
    Key {
        name: "log.segment-size",
        default: "16MiB",
        range: "1MiB to 256MiB",
        set: |s, v| {
            let size = units::size(v)?;
            if !(1 << 20..=256 << 20).contains(&size) {
                return Err(format!("{} is outside 1 MiB to 256 MiB", units::show_size(size)));
            }
            s.segment_size = size;
            Ok(())
        },
    },
    Key {
        name: "log.command-lines",
        default: "false",
        range: "true or false",
        set: |s, v| {
            s.command_lines = v.parse().map_err(|_| format!("`{v}` is neither `true` nor `false`"))?;
            Ok(())
        },
    },
    Key { name: "log.sync-interval", default: "1s", range: "10ms to 1h", set: |s, v| pause(v).map(|d| s.sync_interval = d) },
    Key {
        name: "log.full-wait",
        default: "30s",
        range: "0s to 10m",
        set: |s, v| {
            let wait = units::duration(v)?;
            if wait > Duration::from_secs(600) {
                return Err(format!("{} is more than 10m", units::show_duration(wait)));
            }
            s.full_wait = wait;
            Ok(())
        },
    },
    Key {
        name: "cache.inodes",
        default: "200000",
        range: "1000 to 100000000",
        set: |s, v| number(v, 1000, 100_000_000).map(|n| s.cache_inodes = n),
    },
    Key { name: "group.idle", default: "2s", range: "10ms to 1h", set: |s, v| pause(v).map(|d| s.group_idle = d) },
    Key { name: "group.paths", default: "1000", range: "1 to 1000000", set: |s, v| number(v, 1, 1_000_000).map(|n| s.group_paths = n) },
    Key {
        name: "group.bytes",
        default: "64MiB",
        range: "4KiB to 16GiB",
        set: |s, v| {
            let size = units::size(v)?;
            if !(4 << 10..=16 << 30).contains(&size) {
                return Err(format!("{} is outside 4 KiB to 16 GiB", units::show_size(size)));
            }
            s.group_bytes = size;
            Ok(())
        },
    },
    Key { name: "group.age", default: "30s", range: "10ms to 1h", set: |s, v| pause(v).map(|d| s.group_age = d) },
    Key { name: "group.parts", default: "16", range: "1 to 64", set: |s, v| number(v, 1, 64).map(|n| s.group_parts = n) },
    Key {
        name: "prune.max-age",
        default: "7d",
        range: "a length of time, or never",
        set: |s, v| {
            s.prune_max_age = if v == "never" { None } else { Some(units::duration(v)?) };
            Ok(())
        },
    },
    Key {
        name: "prune.max-size",
        default: "4GiB",
        range: "a size, or unlimited",
        set: |s, v| {
            s.prune_max_size = if v == "unlimited" { None } else { Some(units::size(v)?) };
            Ok(())
        },
    },
    Key {
        name: "prune.min-free",
        default: "5%",
        range: "0% to 90%",
        set: |s, v| {
            let percent = v.strip_suffix('%').unwrap_or(v).trim().parse::<u8>().ok().filter(|n| *n <= 90);
            s.prune_min_free = percent.ok_or_else(|| format!("`{v}` is no share from 0% to 90%"))?;
            Ok(())
        },
    },
    Key { name: "prune.interval", default: "10s", range: "10ms to 1h", set: |s, v| pause(v).map(|d| s.prune_interval = d) },
    Key {
        name: "retention.max-store",
        default: "20%",
        range: "a size, 1% to 100%, or unlimited",
        set: |s, v| MaxStore::parse(v).map(|max| s.max_store = max),
    },
    Key { name: "retention.keep-all", default: "30d", range: "a length of time", set: |s, v| units::duration(v).map(|d| s.ages.all = d) },
    Key {
        name: "retention.keep-hourly",
        default: "90d",
        range: "a length of time",
        set: |s, v| units::duration(v).map(|d| s.ages.hourly = d),
    },
    Key {
        name: "retention.keep-daily",
        default: "forever",
        range: "a length of time, or forever",
        set: |s, v| forever(v).map(|d| s.ages.daily = d),
    },
    Key {
        name: "retention.keep-recent",
        default: "7d",
        range: "a length of time, or forever",
        set: |s, v| forever(v).map(|d| s.keep_recent = d),
    },
    Key { name: "class.keep", default: "", range: "patterns", set: |s, v| patterns(v).map(|p| s.classes.keep = p) },
    Key { name: "class.recent", default: class::RECENT, range: "patterns", set: |s, v| patterns(v).map(|p| s.classes.recent = p) },
    Key { name: "class.none", default: "", range: "patterns", set: |s, v| patterns(v).map(|p| s.classes.none = p) },
    Key {
        name: "class.cachedir-tag",
        default: "recent",
        range: "keep, recent or none",
        set: |s, v| v.parse().map(|class| s.classes.cachedir_tag = class),
    },
];

fn forever(text: &str) -> Result<Option<Duration>, String> {
    if text == "forever" { Ok(None) } else { units::duration(text).map(Some) }
}

fn patterns(text: &str) -> Result<Vec<String>, String> {
    let all = class::patterns(text);
    all.iter().try_for_each(|p| class::check_pattern(p))?;
    Ok(all)
}

/// The setting of this name.
///
/// # Errors
/// [`Class::Usage`] with the nearest known name; `origin` is where it was said.
pub fn key(name: &str, origin: &str) -> Result<&'static Key> {
    KEYS.iter().find(|k| k.name == name).ok_or_else(|| unknown(name, origin, "setting"))
}

fn pause(text: &str) -> Result<Duration, String> {
    let length = units::duration(text)?;
    if !(Duration::from_millis(10)..=Duration::from_secs(3600)).contains(&length) {
        return Err(format!("{} is outside 10ms to 1h", units::show_duration(length)));
    }
    Ok(length)
}

fn number(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let number = text.replace(['_', ','], "").parse().ok().filter(|n| (least..=most).contains(n));
    number.ok_or_else(|| format!("`{text}` is no number from {least} to {most}"))
}

/// Variable that sets `key`: `log.segment-size` is `IZE_LOG_SEGMENT_SIZE`.
#[must_use]
pub fn variable(key: &str) -> String {
    format!("IZE_{}", key.to_uppercase().replace(['.', '-'], "_"))
}

impl Settings {
    /// Applies one layer; `origin` names it in errors.
    ///
    /// # Errors
    /// [`Class::Usage`]: an unknown key (with the nearest known one), or a value that does not read.
    pub fn apply(&mut self, layer: &[(String, String)], origin: &str) -> Result<()> {
        for (name, value) in layer {
            let key = key(name, origin)?;
            (key.set)(self, value).map_err(|why| Error::new(Class::Usage, format!("{origin}: `{name}`: {why}")))?;
        }
        Ok(())
    }
}

/// Where a value was said, the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// Nowhere.
    Default,
    /// In the user's `config.toml`.
    User,
    /// In the `config.toml` of the central directory.
    Central,
    /// In the project's `project.toml`.
    Project,
    /// In an `IZE_*` variable.
    Environment,
    /// On the command line.
    Flag,
}

/// A value that holds, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// `section.key`.
    pub key: &'static str,
    /// As it was written.
    pub text: String,
    /// Where.
    pub layer: Layer,
    /// File or variable; empty for the default.
    pub place: String,
}

/// Everything that may say something about a setting.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The user's file.
    pub user: &'a ConfigFile,
    /// The central directory's file.
    pub central: &'a ConfigFile,
    /// What the project says, and its file.
    pub project: Option<(&'a [(String, String)], &'a Path)>,
    /// The environment.
    pub env: Env<'a>,
    /// The command line.
    pub flags: &'a [(String, String)],
}

/// What holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The settings.
    pub settings: Settings,
    /// The same, one by one, in the order of [`KEYS`].
    pub values: Vec<Value>,
}

impl Sources<'_> {
    /// What holds.
    ///
    /// # Errors
    /// As [`Settings::apply`], naming the file, variable or flag that is wrong.
    pub fn resolve(&self) -> Result<Resolved> {
        let mut out = Resolved {
            settings: Settings::default(),
            values: KEYS
                .iter()
                .map(|k| Value { key: k.name, text: k.default.into(), layer: Layer::Default, place: String::new() })
                .collect(),
        };
        let mut put = |layer: Layer, values: &[(String, String)], place: &str| -> Result<()> {
            out.settings.apply(values, place)?;
            for (key, text) in values {
                for value in out.values.iter_mut().filter(|v| v.key == key) {
                    *value = Value { key: value.key, text: text.clone(), layer, place: place.into() };
                }
            }
            Ok(())
        };
        put(Layer::User, &self.user.settings, &self.user.origin())?;
        put(Layer::Central, &self.central.settings, &self.central.origin())?;
        if let Some((values, path)) = self.project {
            put(Layer::Project, values, &path.display().to_string())?;
        }
        for key in KEYS {
            let name = variable(key.name);
            if let Some(value) = (self.env)(&name).filter(|v| !v.is_empty()) {
                put(Layer::Environment, &[(key.name.to_owned(), value.to_string_lossy().into_owned())], &name)?;
            }
        }
        put(Layer::Flag, self.flags, "command line")?;
        Ok(out)
    }
}

/// A `config.toml`: the user's, or the central directory's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigFile {
    /// The file, `None` when there is none.
    pub path: Option<PathBuf>,
    /// `central-dir`, absolute; in the user's only.
    pub central_dir: Option<PathBuf>,
    /// The rest, as `(key, value)`.
    pub settings: Vec<(String, String)>,
}

impl ConfigFile {
    /// Where the user's is: `$XDG_CONFIG_HOME/ize/config.toml`, default `~/.config/ize/config.toml`; `None` without a home.
    #[must_use]
    pub fn users(env: Env<'_>) -> Option<PathBuf> {
        xdg(env, "XDG_CONFIG_HOME", ".config").map(|d| d.join("ize/config.toml"))
    }

    /// Reads the user's. No file is no error.
    ///
    /// # Errors
    /// [`Class::Usage`] for what does not parse or is not known, [`Class::Io`] for what cannot be read.
    pub fn load(env: Env<'_>) -> Result<Self> {
        Self::users(env).map_or_else(|| Ok(Self::default()), |path| Self::read(path, env))
    }

    /// Reads that of the central directory. No file is no error.
    ///
    /// # Errors
    /// As [`ConfigFile::load`]; `central-dir` in it is one.
    pub fn of_central(central: &Central) -> Result<Self> {
        let read = Self::read(central.config(), &|_| None)?;
        match (&read.central_dir, &read.path) {
            (Some(_), Some(path)) => {
                Err(Error::new(Class::Usage, format!("{}: `central-dir` cannot be said in the central directory itself", path.display()))
                    .hint("`ize config unset central-dir --central` takes it out"))
            }
            _ => Ok(read),
        }
    }

    fn read(path: PathBuf, env: Env<'_>) -> Result<Self> {
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text, path, env),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => Ok(Self::default()),
            Err(e) => Err(Error::io(format!("cannot read {}", path.display()), e)),
        }
    }

    fn parse(text: &str, path: PathBuf, env: Env<'_>) -> Result<Self> {
        let origin = path.display().to_string();
        let mut table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            let line = e.span().map_or(1, |s| text.as_bytes().iter().take(s.start).filter(|b| **b == b'\n').count() + 1);
            Error::new(Class::Usage, format!("{origin}, line {line}: {}", e.message()))
        })?;
        let central_dir = match table.remove(CENTRAL_DIR) {
            None => None,
            Some(toml::Value::String(text)) => Some(absolute(&text, &origin, env)?),
            Some(_) => return Err(Error::new(Class::Usage, format!("{origin}: `central-dir` must be a string"))),
        };
        let settings = flatten(&table).map_err(|e| Error { message: format!("{origin}: {}", e.message), ..e })?;
        Settings::default().apply(&settings, &origin)?;
        Ok(Self { path: Some(path), central_dir, settings })
    }

    fn origin(&self) -> String {
        self.path.as_ref().map_or_else(|| "config.toml".into(), |p| p.display().to_string())
    }
}

/// The path that a `central-dir` means: absolute, or under `~/`.
///
/// # Errors
/// [`Class::Usage`] for any other.
pub fn absolute(text: &str, origin: &str, env: Env<'_>) -> Result<PathBuf> {
    let path = match (text, text.strip_prefix("~/"), home(env)) {
        ("~", _, Some(home)) => home,
        (_, Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(text),
    };
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(Error::new(
            Class::Usage,
            format!("{origin}: `central-dir` must be absolute or start with `~/`, it is `{}`", text.escape_debug()),
        ))
    }
}

fn home(env: Env<'_>) -> Option<PathBuf> {
    env("HOME").map(PathBuf::from).filter(|p| p.is_absolute())
}

fn xdg(env: Env<'_>, variable: &str, under_home: &str) -> Option<PathBuf> {
    // The XDG specification has relative values ignored.
    env(variable).map(PathBuf::from).filter(|p| p.is_absolute()).or_else(|| Some(home(env)?.join(under_home)))
}

/// The central directory: `flag` (where clap has put `IZE_CENTRAL_DIR` too), then `central-dir`, then `~/.local/share/ize` (XDG). A
/// relative flag is relative to the current directory.
///
/// # Errors
/// [`Class::Usage`] when nothing says where, [`Class::Io`] when the current directory is gone.
pub fn central(flag: Option<&Path>, user: &ConfigFile, env: Env<'_>) -> Result<Central> {
    if let Some(flag) = flag {
        let path = std::path::absolute(flag).map_err(|e| Error::io(format!("cannot use the central directory {}", flag.display()), e))?;
        return Ok(Central::new(path));
    }
    if let Some(dir) = &user.central_dir {
        return Ok(Central::new(dir));
    }
    xdg(env, "XDG_DATA_HOME", ".local/share").map(|d| Central::new(d.join("ize"))).ok_or_else(|| {
        Error::new(Class::Usage, "no place for projects: HOME is not set").hint("say where with --central-dir DIR or IZE_CENTRAL_DIR")
    })
}

/// `[section] key = value` as `section.key`, values as text.
///
/// # Errors
/// [`Class::Usage`] for a value that is neither text nor a whole number.
pub fn flatten(table: &toml::Table) -> Result<Vec<(String, String)>> {
    let mut out = Vec::new();
    for (section, value) in table {
        match value {
            toml::Value::Table(inner) => {
                for (key, value) in inner {
                    out.push((format!("{section}.{key}"), scalar(&format!("{section}.{key}"), value)?));
                }
            }
            other => out.push((section.clone(), scalar(section, other)?)),
        }
    }
    Ok(out)
}

fn scalar(key: &str, value: &toml::Value) -> Result<String> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Boolean(yes) => Ok(yes.to_string()),
        _ => Err(Error::new(Class::Usage, format!("`{}` must be text, e.g. \"7d\" or \"4MiB\"", key.escape_debug()))),
    }
}

/// The reverse of [`flatten`].
#[must_use]
pub fn unflatten(settings: &[(String, String)]) -> toml::Table {
    let mut table = toml::Table::new();
    for (key, value) in settings {
        let (section, key) = key.split_once('.').unwrap_or(("", key));
        let inner = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        if let toml::Value::Table(inner) = inner {
            inner.insert(key.to_owned(), toml::Value::String(value.clone()));
        }
    }
    table
}

fn unknown(key: &str, origin: &str, what: &str) -> Error {
    let error = Error::new(Class::Usage, format!("{origin}: there is no {what} `{}`", key.escape_debug()));
    let known = KEYS.iter().map(|k| k.name).chain([CENTRAL_DIR]);
    match nearest(key, known.clone()) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint(format!("known are {}", known.map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", "))),
    }
}

#[cfg(test)]
mod tests;
