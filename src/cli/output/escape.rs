//! Text that came from elsewhere (names, messages, payloads) on its way to a terminal or into JSON: it moves no cursor, hides nothing and
//! turns no line around.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Map, Value};

use crate::project::base64;

/// True for characters that a terminal acts on or does not show: control characters, marks of direction (a name could pretend to end
/// otherwise than it does), invisible ones, line and paragraph separators.
#[must_use]
pub const fn is_hidden(c: char) -> bool {
    matches!(c,
        '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn push_escaped(out: &mut String, c: char) {
    match c {
        '\n' | '\t' | '\r' | '\\' => out.extend(c.escape_default()),
        _ => out.extend(c.escape_unicode()),
    }
}

/// Text for people: on a terminal its hidden characters are escaped (but newline and tab), so that no name or message can move the cursor.
#[must_use]
pub fn shown(text: &str, terminal: bool) -> String {
    if !terminal {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) && c != '\n' && c != '\t' { push_escaped(&mut out, c) } else { out.push(c) }
    }
    out
}

/// A name or path in a line: bytes that are not UTF-8 as `\xff`, hidden characters as `\n` or `\u{1b}`, a backslash doubled, so that
/// one name is one line and no two names look alike.
#[must_use]
pub fn name(bytes: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(bytes)
        && bytes.iter().all(|b| (0x20..0x7f).contains(b) && *b != b'\\')
    {
        return text.to_owned();
    }
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' || is_hidden(c) { push_escaped(&mut out, c) } else { out.push(c) }
        }
        for b in chunk.invalid() {
            let _ = write!(out, "\\x{b:02x}");
        }
    }
    out
}

/// A path as people read it.
#[must_use]
pub fn name_of(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    name(path.as_os_str().as_bytes())
}

/// A path in JSON: `key`, and `key_b64` with the bytes when they are not UTF-8 (`key` is then only a likeness).
pub fn put_path(object: &mut Map<String, Value>, key: &str, bytes: &[u8]) {
    object.insert(key.into(), String::from_utf8_lossy(bytes).into());
    if std::str::from_utf8(bytes).is_err() {
        object.insert(format!("{key}_b64"), base64::encode(bytes).into());
    }
}

/// The same for the path of a file.
pub fn put_file(object: &mut Map<String, Value>, key: &str, path: &Path) {
    use std::os::unix::ffi::OsStrExt;
    put_path(object, key, path.as_os_str().as_bytes());
}

/// One value as one line of JSON that a terminal shows as it is: what JSON lets stand although a terminal acts on it is written `\u....`.
///
/// # Errors
/// As `serde_json`.
pub fn json(value: &impl serde::Serialize) -> serde_json::Result<String> {
    let text = serde_json::to_string(value)?;
    // Nearly all: JSON itself escapes the control characters below DEL.
    if text.is_ascii() && !text.as_bytes().contains(&0x7f) {
        return Ok(text);
    }
    if !text.chars().any(is_hidden) {
        return Ok(text);
    }
    // Such characters stand inside strings only, where an escape is the same text.
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hidden(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_name_is_one_line_and_no_two_names_look_alike() {
        for (bytes, text) in [
            (&b"plain"[..], "plain"),
            ("\u{e9}\u{4e2d}".as_bytes(), "\u{e9}\u{4e2d}"),
            (b"a\nb", "a\\nb"),
            (b"\x1b[31m", "\\u{1b}[31m"),
            (b"\xff\xfe", "\\xff\\xfe"),
            (b"\\xff", "\\\\xff"),
            ("\u{85}".as_bytes(), "\\u{85}"),
            ("cod\u{202e}txt.exe".as_bytes(), "cod\\u{202e}txt.exe"),
            ("a\u{200b}b\u{feff}".as_bytes(), "a\\u{200b}b\\u{feff}"),
            (b"it's", "it's"),
        ] {
            assert_eq!(name(bytes), text);
        }
    }

    #[test]
    fn control_characters_reach_no_terminal_but_pipes_get_the_text() {
        assert_eq!(shown("a\x1b[2Jb\n", true), "a\\u{1b}[2Jb\n");
        assert_eq!(shown("a\u{202e}b\t\u{9b}", true), "a\\u{202e}b\t\\u{9b}");
        assert_eq!(shown("a\x1b[2Jb", false), "a\x1b[2Jb");
    }

    #[test]
    fn a_path_that_is_not_utf8_keeps_its_bytes_in_json() {
        let mut object = Map::new();
        put_path(&mut object, "path", b"a");
        assert_eq!(Value::from(object.clone()), json!({"path": "a"}));
        put_path(&mut object, "path", b"\xff");
        assert_eq!(Value::from(object), json!({"path": "\u{fffd}", "path_b64": "/w=="}));
    }

    #[test]
    fn json_says_the_same_text_and_shows_nothing_hidden() {
        let text = "a\u{9b}2J\u{7f}\u{202e}\x1b\n\u{e0041}\u{e9}\"\\";
        let line = json(&json!({ "name": text })).unwrap();
        assert!(!line.chars().any(is_hidden), "{line}");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["name"], text);
        assert!(line.contains("\\udb40\\udc41") && line.contains('\u{e9}'), "{line}");
    }
}
