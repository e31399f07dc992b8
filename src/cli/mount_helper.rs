//! Called as `mount.fuse.ize` (a link to this program in /sbin) ize takes the words of mount(8), so that it can stand in fstab:
//! `mount.fuse.ize ize:NAME DIR [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]`. They become those of `ize mount`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Class, Error, Result};
use crate::fuse::MountOptions;
use crate::project::mounts::SOURCE_PREFIX;

/// What mount(8) is told, see "EXIT STATUS" there: wrong words.
pub const WRONG_USAGE: u8 = 1;
/// What mount(8) is told: everything else.
pub const MOUNT_FAILED: u8 = 32;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `-f`: everything but the mount itself.
    Nothing,
    /// Run `ize` with these words.
    Run(Vec<OsString>),
}

/// True when the program was started under the name of a mount helper.
#[must_use]
pub fn is_called(program: &OsStr) -> bool {
    Path::new(program).file_name().is_some_and(|name| matches!(name.as_bytes(), b"mount.fuse.ize" | b"mount.ize"))
}

/// The words of `ize mount` for those of mount(8) (without the program's own name).
///
/// # Errors
/// [`Class::Usage`] for what mount(8) does not write, or what cannot be mounted.
pub fn translate(words: &[OsString]) -> Result<Asked> {
    let wrong = |what: String| Error::new(Class::Usage, what).hint("mount.fuse.ize ize:NAME DIR [-sfnv] [-o OPTIONS]");
    let (mut plain, mut options): (Vec<&OsStr>, Vec<String>) = (Vec::new(), Vec::new());
    let (mut sloppy, mut fake, mut verbose) = (false, false, 0);
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let Some(flags) = word.to_str().and_then(|w| w.strip_prefix('-')).filter(|f| !f.is_empty()) else {
            plain.push(word);
            continue;
        };
        for (at, flag) in flags.char_indices() {
            match flag {
                's' => sloppy = true,
                'f' => fake = true,
                'v' => verbose += 1,
                // No mtab is written; read-only and read-write are options too.
                'n' => {}
                'r' => options.push("ro".into()),
                'w' => options.push("rw".into()),
                'o' | 't' | 'N' => {
                    let attached = &flags[at + 1..];
                    let value = if attached.is_empty() { rest.next().and_then(|v| v.to_str()) } else { Some(attached) };
                    let value = value.ok_or_else(|| wrong(format!("-{flag} needs a value")))?;
                    match flag {
                        'o' => options.push(value.to_owned()),
                        'N' => return Err(wrong("mounting into another namespace is not supported".into())),
                        _ => {}
                    }
                    break;
                }
                other => return Err(wrong(format!("-{} is not known", other.escape_debug()))),
            }
        }
    }
    let [source, dir] = plain[..] else { return Err(wrong(format!("two words are wanted, {} given", plain.len()))) };
    let name = OsStr::from_bytes(source.as_bytes().strip_prefix(SOURCE_PREFIX.as_bytes()).unwrap_or(source.as_bytes()));
    let list = options.join(",");
    let (central, kept) = split(&list, sloppy);
    // Also for -f: a line of fstab that could not be mounted must not look as if it could.
    MountOptions::parse([list.as_str()]).or_else(|e| if sloppy { MountOptions::parse_sloppily(&list) } else { Err(e) })?;
    if fake {
        return Ok(Asked::Nothing);
    }
    let mut out: Vec<OsString> = vec!["ize".into()];
    if let Some(dir) = central {
        out.extend(["--central-dir".into(), dir.into()]);
    }
    out.push("mount".into());
    out.extend((0..verbose).map(|_| OsString::from("-v")));
    if !kept.is_empty() {
        out.extend(["-o".into(), kept.into()]);
    }
    out.extend(["--".into(), name.to_owned(), dir.to_owned()]);
    Ok(Asked::Run(out))
}

/// The central directory, which is a flag of ize, and the other options; sloppily only those that are known.
fn split(list: &str, sloppy: bool) -> (Option<&str>, String) {
    let central = list.split(',').filter_map(|w| w.strip_prefix("central-dir=")).next_back();
    let known = |w: &&str| !sloppy || MountOptions::parse([*w]).map_or_else(|e| e.class != Class::Usage, |_| true);
    let kept: Vec<&str> = list.split(',').filter(|w| !w.is_empty() && !w.starts_with("central-dir=")).filter(known).collect();
    (central, kept.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Asked> {
        translate(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    fn words(line: &str) -> Asked {
        Asked::Run(line.split(' ').map(OsString::from).collect())
    }

    #[test]
    fn the_words_of_mount_become_those_of_ize() {
        assert_eq!(run("ize:notes /mnt -o rw,allow_other").unwrap(), words("ize mount -o rw,allow_other -- notes /mnt"));
        assert_eq!(run("notes /mnt").unwrap(), words("ize mount -- notes /mnt"));
        assert_eq!(
            run("ize:notes /mnt -v -n -t fuse.ize -orw,noauto,central-dir=/srv/ize,nofail").unwrap(),
            words("ize --central-dir /srv/ize mount -v -o rw,noauto,nofail -- notes /mnt")
        );
        assert_eq!(run("-r ize:notes /mnt").unwrap(), words("ize mount -o ro -- notes /mnt"));
        assert_eq!(run("ize:notes /mnt -snvo ro,quota").unwrap(), words("ize mount -v -o ro -- notes /mnt"));
        assert_eq!(run("ize:notes /mnt -f").unwrap(), Asked::Nothing);
        assert_eq!(run("ize:-x /mnt").unwrap(), words("ize mount -- -x /mnt"));
    }

    #[test]
    fn what_mount_does_not_write_is_refused() {
        for line in ["ize:notes", "a b c", "ize:a /m -o", "ize:a /m -q", "ize:a /m -N 7", "ize:a /m -o quota", "ize:a /m -f -o quota"] {
            assert_eq!(run(line).unwrap_err().class, Class::Usage, "{line}");
        }
    }

    #[test]
    fn the_name_is_known_wherever_the_program_lies() {
        for name in ["mount.fuse.ize", "/sbin/mount.fuse.ize", "/sbin/mount.ize"] {
            assert!(is_called(OsStr::new(name)), "{name}");
        }
        for name in ["ize", "/usr/bin/ize", "mount.fuse.ize/ize", ""] {
            assert!(!is_called(OsStr::new(name)), "{name}");
        }
    }
}
