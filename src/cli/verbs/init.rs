//! `ize init NAME`.

use crate::cli::args::InitArgs;
use crate::cli::output;
use crate::cli::session::Session;
use crate::error::{Class, Error, Result};
use crate::project::{mounts, registry};

/// Creates a project.
///
/// # Errors
/// As [`registry::init`].
pub fn run(args: &InitArgs, session: &mut Session) -> Result<()> {
    if session.global.project.is_some() {
        return Err(Error::new(Class::Usage, "`ize init` takes the name as a word, not with -p"));
    }
    // A name that is not UTF-8 goes on with the character that stands for what is not one, and is refused in the usual words.
    let name = args.name.to_string_lossy();
    let central = session.central()?;
    mounts::refuse_store_on_ize(central.dir())?;
    let project = registry::init(&central, &name)?;
    output::report(&format!("created project `{name}` in {}", project.layout.dir().display()));
    Ok(())
}
