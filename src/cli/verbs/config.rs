//! `ize config get|set|unset|list`.

use std::ffi::OsStr;
use std::path::PathBuf;

use serde_json::json;

use crate::cli::args::{ConfigGetArgs, ConfigListArgs, ConfigScope, ConfigSetArgs, ConfigUnsetArgs, ConfigVerb};
use crate::cli::grammar::Paths;
use crate::cli::output;
use crate::cli::session::Session;
use crate::error::{Class, Error, Result};
use crate::project::config::{self, CENTRAL_DIR, ConfigFile, Layer, Settings, Value};
use crate::project::{Project, config_edit, registry};

/// Does one of the four.
///
/// # Errors
/// An unknown setting (with the nearest known one), a value that does not read, a file that does not parse or cannot be written.
pub fn run(verb: &ConfigVerb, session: &mut Session) -> Result<()> {
    match verb {
        ConfigVerb::Get(args) => get(args, session),
        ConfigVerb::Set(args) => set(args, session),
        ConfigVerb::Unset(args) => unset(args, session),
        ConfigVerb::List(args) => list(args, session),
    }
}

/// The project that is meant: that of `-p`, else of the mount that we are in, if we are.
fn project(session: &Session) -> Result<Option<Project>> {
    match &session.global.project {
        Some(word) => registry::find(&session.central()?, word).map(Some),
        None => Ok(session.meant(&[], Paths::Zero).ok().map(|m| m.project)),
    }
}

/// Every value that holds, the central directory first.
fn values(session: &Session) -> Result<Vec<Value>> {
    let mut all = vec![central_dir(session)?];
    all.extend(session.resolved(project(session)?.as_ref(), &[])?.values);
    Ok(all)
}

fn central_dir(session: &Session) -> Result<Value> {
    let text = session.central()?.dir().to_string_lossy().into_owned();
    // clap puts the variable where the flag is.
    let variable = std::env::var_os("IZE_CENTRAL_DIR").filter(|v| !v.is_empty());
    let (layer, place) = match &session.global.central_dir {
        Some(dir) if variable.as_deref() == Some(dir.as_os_str()) => (Layer::Environment, "IZE_CENTRAL_DIR".to_owned()),
        Some(_) => (Layer::Flag, "command line".to_owned()),
        None => match session.user_config()? {
            ConfigFile { central_dir: Some(_), path: Some(path), .. } => (Layer::User, path.display().to_string()),
            _ => (Layer::Default, String::new()),
        },
    };
    Ok(Value { key: CENTRAL_DIR, text, layer, place })
}

fn name(word: &OsStr) -> Result<&str> {
    let name = word.to_str().ok_or_else(|| Error::new(Class::Usage, "the name of a setting is plain text"))?;
    if name != CENTRAL_DIR {
        config::key(name, "command line")?;
    }
    Ok(name)
}

fn get(args: &ConfigGetArgs, session: &mut Session) -> Result<()> {
    let name = name(&args.key)?;
    let value = if name == CENTRAL_DIR { Some(central_dir(session)?) } else { values(session)?.into_iter().find(|v| v.key == name) };
    value.map_or(Ok(()), |v| session.out.line(&v.text))
}

fn list(args: &ConfigListArgs, session: &mut Session) -> Result<()> {
    let all = values(session)?;
    let width = |text: fn(&Value) -> &str| all.iter().map(|v| text(v).chars().count()).max().unwrap_or(0);
    let (keys, texts) = (width(|v| v.key), width(|v| &v.text));
    for v in &all {
        if args.json {
            let place = (!v.place.is_empty()).then_some(&v.place);
            session.out.json(&json!({ "key": v.key, "value": v.text, "origin": v.layer, "place": place }))?;
        } else if args.origin {
            let place = if v.place.is_empty() { "default" } else { &v.place };
            session.out.line(&format!(
                "{:keys$} = {:texts$}  {}",
                v.key,
                output::name(v.text.as_bytes()),
                output::name(place.as_bytes())
            ))?;
        } else {
            session.out.line(&format!("{:keys$} = {}", v.key, output::name(v.text.as_bytes())))?;
        }
    }
    Ok(())
}

/// Where a value is to be written.
enum Target {
    File(PathBuf),
    Project(Box<Project>),
}

fn target(scope: ConfigScope, name: &str, session: &Session) -> Result<Target> {
    let target = match &session.global.project {
        Some(_) if scope.user || scope.central => {
            return Err(Error::new(Class::Usage, "--user, --central and --project are three different places").hint("give one of them"));
        }
        Some(word) => Target::Project(Box::new(registry::find(&session.central()?, word)?)),
        None if scope.central => Target::File(session.central()?.config()),
        None => Target::File(ConfigFile::users(&config::process_env).ok_or_else(|| {
            Error::new(Class::Usage, "there is no place for the user's config.toml: HOME is not set")
                .hint("use --central or --project NAME")
        })?),
    };
    Ok(target).and_then(|t| match t {
        Target::Project(_) if name == CENTRAL_DIR => {
            Err(Error::new(Class::Usage, "`central-dir` is no setting of a project").hint("use --user"))
        }
        other => Ok(other),
    })
}

fn set(args: &ConfigSetArgs, session: &mut Session) -> Result<()> {
    let name = name(&args.key)?;
    let value = args.value.to_str().ok_or_else(|| Error::new(Class::Usage, "a value is plain text"))?.trim();
    if name == CENTRAL_DIR {
        if args.scope.central {
            return Err(Error::new(Class::Usage, "`central-dir` cannot be said in the central directory itself").hint("use --user"));
        }
        config::absolute(value, "command line", &config::process_env)?;
    } else {
        Settings::default().apply(&[(name.to_owned(), value.to_owned())], "command line")?;
    }
    let place = write(target(args.scope, name, session)?, name, Some(value))?.0;
    output::report(&format!("`{name}` is {value} in {place}; a mount that is there keeps what it has until it is mounted again"));
    Ok(())
}

fn unset(args: &ConfigUnsetArgs, session: &mut Session) -> Result<()> {
    // A name that is not known may stand in a file, and this is how it gets out.
    let name = args.key.to_str().ok_or_else(|| Error::new(Class::Usage, "the name of a setting is plain text"))?;
    let (place, changed) = write(target(args.scope, name, session)?, name, None)?;
    if !changed {
        config::key(name, "command line").map(drop).or_else(|e| if name == CENTRAL_DIR { Ok(()) } else { Err(e) })?;
        return Err(
            Error::new(Class::NotFound, format!("`{name}` is not set in {place}")).hint("`ize config list --origin` says where it is")
        );
    }
    output::report(&format!("`{name}` is no longer set in {place}"));
    Ok(())
}

/// Writes it; where, and whether anything changed.
fn write(target: Target, name: &str, value: Option<&str>) -> Result<(String, bool)> {
    match target {
        Target::File(path) => Ok((path.display().to_string(), config_edit::set(&path, name, value)?)),
        Target::Project(project) => {
            let path = project.layout.identity();
            let mut identity = project.identity;
            let before = identity.settings.clone();
            identity.settings.retain(|(key, _)| key != name);
            identity.settings.extend(value.map(|v| (name.to_owned(), v.to_owned())));
            let changed = identity.settings != before;
            if changed {
                identity.write(&path)?;
            }
            Ok((path.display().to_string(), changed))
        }
    }
}
