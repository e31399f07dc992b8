//! Names: any bytes of 1 to 255, turned into names Pijul can hold, and back.
//!
//! A name that is UTF-8 without control characters stays as it is, but for a `%` that could be taken for an escape. Every other byte is
//! written `%XX` (upper case). `.pijul` (anywhere: a client run below it would take it for a repository) and a top-level `.ize-meta` get
//! their dot escaped. A name whose escaped form is longer than 255 bytes becomes `%~` and 40 hexadecimal digits of its BLAKE3 hash; its
//! sidecar says the name.
//!
//! Rule: two different names never give one escaped name, and [`unescape`] undoes [`escape`].

use std::fmt::Write as _;

/// Longest name in bytes: of libpijul and of Linux.
pub const NAME_MAX: usize = 255;
/// Directory of the sidecars, at the top of the tree.
pub const META_DIR: &str = ".ize-meta";
/// Begins a name that was too long.
const LONG: &str = "%~";

fn is_hex(b: Option<&u8>) -> bool {
    matches!(b, Some(b'0'..=b'9' | b'A'..=b'F'))
}

/// `bytes` as text without control characters, injectively. Knows nothing of reserved or overlong names.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    let hex = |out: &mut String, bytes: &[u8]| {
        for b in bytes {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{b:02X}");
        }
    };
    let mut at = 0;
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            let next = at + c.len_utf8();
            let like_escape = c == '%' && (bytes.get(next) == Some(&b'~') || (is_hex(bytes.get(next)) && is_hex(bytes.get(next + 1))));
            if like_escape || c.is_control() {
                hex(&mut out, &bytes[at..next])
            } else {
                out.push(c)
            }
            at = next;
        }
        hex(&mut out, chunk.invalid());
        at += chunk.invalid().len();
    }
    out
}

/// The bytes that [`escape`] was given. Text it never gives is read as it stands.
#[must_use]
pub fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&b) = bytes.get(at) {
        let code = if b == b'%' && is_hex(bytes.get(at + 1)) && is_hex(bytes.get(at + 2)) {
            text.get(at + 1..at + 3).and_then(|d| u8::from_str_radix(d, 16).ok())
        } else {
            None
        };
        out.push(code.unwrap_or(b));
        at += if code.is_some() { 3 } else { 1 };
    }
    out
}

fn hashed(bytes: &[u8]) -> String {
    let hash = blake3::hash(bytes).to_hex();
    format!("{LONG}{}", &hash[..40])
}

/// One component of a path; `top` when it is directly below the root.
#[must_use]
pub fn component(name: &[u8], top: bool) -> String {
    let escaped = match name {
        b".pijul" => "%2Epijul".to_owned(),
        b".ize-meta" if top => "%2Eize-meta".to_owned(),
        _ => escape(name),
    };
    if escaped.len() > NAME_MAX { hashed(name) } else { escaped }
}

/// A whole path; the empty path stays empty.
#[must_use]
pub fn path(raw: &[u8]) -> String {
    let mut out = String::with_capacity(raw.len());
    for (i, name) in raw.split(|&b| b == b'/').filter(|c| !c.is_empty()).enumerate() {
        if i > 0 {
            out.push('/');
        }
        out.push_str(&component(name, i == 0));
    }
    out
}

/// The last name of a raw path.
#[must_use]
pub fn last(raw: &[u8]) -> &[u8] {
    raw.rsplit(|&b| b == b'/').next().unwrap_or(raw)
}

/// True when the component was too long and only its sidecar knows the name.
#[must_use]
pub fn is_long(component: &str) -> bool {
    component.starts_with(LONG)
}

fn suffixed(component: &str, suffix: &str) -> String {
    let whole = format!("{component}{suffix}");
    if whole.len() > NAME_MAX { format!("{}{suffix}", hashed(whole.as_bytes())) } else { whole }
}

/// Where the sidecar of a Pijul path is: `.ize-meta/dir.d/name.ize`; of the root `.ize-meta/.ize`. Directories are mirrored, so that one
/// rename carries the sidecars of everything below.
#[must_use]
pub fn sidecar(path: &str) -> String {
    match path.rsplit_once('/') {
        Some((dir, name)) => format!("{}/{}", mirror(dir), suffixed(name, ".ize")),
        None => format!("{META_DIR}/{}", suffixed(path, ".ize")),
    }
}

/// Whether a path, in Pijul's names, is a sidecar or a directory of them.
#[must_use]
pub fn is_meta(path: &str) -> bool {
    path.strip_prefix(META_DIR).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The directory that holds the sidecars of what is in the directory `path`.
#[must_use]
pub fn mirror(path: &str) -> String {
    let mut out = META_DIR.to_owned();
    for name in path.split('/').filter(|c| !c.is_empty()) {
        out.push('/');
        out.push_str(&suffixed(name, ".d"));
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_names_stay() {
        for name in ["a", "Makefile", "100%", "50% off", "ä ö", "%zz", "日本", "a%2", ".ignore", "..."] {
            assert_eq!(component(name.as_bytes(), true), name);
        }
    }

    #[test]
    fn odd_names_are_escaped_and_come_back() {
        for (raw, escaped) in [
            (&b".pijul"[..], "%2Epijul"),
            (b".ize-meta", "%2Eize-meta"),
            (b"%2Epijul", "%252Epijul"),
            (b"%~abc", "%25~abc"),
            (b"a\nb", "a%0Ab"),
            (b"\xff\xfe", "%FF%FE"),
            (b"%\n", "%%0A"),
            (b"%A\x01", "%A%01"),
            ("\u{85}".as_bytes(), "%C2%85"),
        ] {
            assert_eq!(component(raw, true), escaped);
            assert_eq!(unescape(escaped), raw);
        }
        assert_eq!(component(b".ize-meta", false), ".ize-meta");
        assert_eq!(component(b".pijul", false), "%2Epijul");
    }

    #[test]
    fn no_component_is_longer_than_pijul_can_hold() {
        let fits = vec![b'a'; 255];
        assert_eq!(component(&fits, false).len(), 255);
        let over = [vec![b'a'; 253], vec![1]].concat();
        assert_eq!(escape(&over).len(), 256);
        assert!(is_long(&component(&over, false)));
        assert_ne!(component(&over, false), component(&vec![0xff; 255], false));
        for name in [&fits, &over] {
            for part in sidecar(&component(name, true)).split('/').chain(mirror(&component(name, true)).split('/')) {
                assert!(part.len() <= NAME_MAX);
            }
        }
    }

    #[test]
    fn sidecars_mirror_the_tree() {
        assert_eq!(sidecar("a/b/c"), ".ize-meta/a.d/b.d/c.ize");
        assert_eq!(mirror("a/b"), ".ize-meta/a.d/b.d");
        assert_eq!(sidecar(""), ".ize-meta/.ize");
    }

    proptest! {
        #[test]
        fn escape_is_undone(bytes in proptest::collection::vec(prop_oneof![Just(b'%'), Just(b'4'), Just(b'~'), Just(b'F'), any::<u8>()], 1..40)) {
            let escaped = escape(&bytes);
            prop_assert!(!escaped.chars().any(char::is_control));
            prop_assert!(!is_long(&escaped));
            prop_assert_eq!(unescape(&escaped), bytes);
        }
    }
}
