//! `ize cat`.

use std::os::unix::ffi::OsStrExt;

use crate::cli::args::CatArgs;
use crate::cli::grammar::Paths;
use crate::cli::output;
use crate::cli::session::Session;
use crate::engine::states::Store;
use crate::error::{Class, Error, Result};
use crate::ids::Ino;
use crate::storage::Disk;
use crate::tree::{Body, Tree};

/// Bytes written at a time.
const WINDOW: u64 = 1 << 20;
/// Symbolic links followed at most, as the kernel does.
const LINKS: usize = 40;

/// Writes the bytes that a file had at a moment.
///
/// # Errors
/// What the words mean; `NotFound` when there was no such file; damage or I/O errors.
pub fn run(args: &CatArgs, session: &mut Session) -> Result<()> {
    let meant = session.meant(&args.words, Paths::One)?;
    let when = session.when(&args.at)?;
    // What is sound is readable, whatever else is not.
    let store = Store::open_damaged(Disk::shared(), &meant.project.layout, meant.project.identity.id)?;
    let mut tree = store.resolve(&when)?;
    let root = tree.base_root();
    let path = meant.paths.first().map(|p| p.as_os_str().as_bytes().to_vec()).unwrap_or_default();
    write(&mut tree, &path, session).map_err(|e| store.explain(root, e))
}

fn write(tree: &mut Tree, path: &[u8], session: &mut Session) -> Result<()> {
    let ino = follow(tree, path)?;
    let size = match &tree.inode(ino)?.body {
        Body::File(_) => tree.inode(ino)?.size,
        Body::Dir(_) => return Err(Error::new(Class::Failed, format!("`{}` was a directory", output::name(path)))),
        Body::Symlink(_) | Body::Special => {
            return Err(Error::new(Class::Failed, format!("`{}` was no regular file", output::name(path))));
        }
    };
    let mut at = 0;
    let mut buffer = Vec::new();
    while at < size {
        let plan = tree.read_plan(ino, at, WINDOW)?;
        buffer.resize(usize::try_from(plan.len()).unwrap_or(0), 0);
        plan.read(&**tree.blobs(), &mut buffer)?;
        session.out.bytes(&buffer)?;
        at += plan.len().max(1);
    }
    Ok(())
}

/// The file at a path of that state; symbolic links are followed as long as they stay inside.
fn follow(tree: &mut Tree, path: &[u8]) -> Result<Ino> {
    let gone = |p: &[u8]| {
        Error::new(Class::NotFound, format!("there was no `{}` at that moment", output::name(p)))
            .hint(format!("`ize history {}` lists the changes of a path", output::name(path)))
    };
    let mut at = path.to_vec();
    for _ in 0..LINKS {
        let ino = tree.resolve(&at)?.ok_or_else(|| gone(&at))?;
        let Body::Symlink(target) = &tree.inode(ino)?.body else { return Ok(ino) };
        let target = target.to_vec();
        if target.first() == Some(&b'/') {
            let shown = output::name(&target);
            return Err(Error::new(Class::Failed, format!("`{}` was a link to {shown}, outside the project", output::name(&at))));
        }
        let mut parts: Vec<&[u8]> = at.split(|&b| b == b'/').collect();
        parts.pop();
        for part in target.split(|&b| b == b'/') {
            match part {
                b"" | b"." => {}
                b".." if parts.pop().is_none() => {
                    let shown = output::name(&target);
                    return Err(Error::new(Class::Failed, format!("`{}` was a link to {shown}, outside the project", output::name(&at))));
                }
                b".." => {}
                part => parts.push(part),
            }
        }
        at = parts.join(&b'/');
    }
    Err(Error::new(Class::Failed, format!("`{}` leads through too many links", output::name(path))))
}
