//! Columns as wide as they look, and lines that fit the terminal.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Columns that a text takes on a terminal.
#[must_use]
pub fn width(text: &str) -> usize {
    if text.bytes().all(|b| (0x20..0x7f).contains(&b)) { text.len() } else { text.width() }
}

/// Stands for what was left out.
const ELLIPSIS: &str = "…";

/// `text` in at most `columns`, its middle left out: a path is known by how it begins and ends, more by how it ends.
#[must_use]
pub fn elide(text: &str, columns: usize) -> String {
    // No character is wider than its bytes are many.
    if text.len() <= columns || width(text) <= columns {
        return text.to_owned();
    }
    let Some(room) = columns.checked_sub(1) else { return String::new() };
    let front = head(text, room / 3);
    let back = tail(text, room - width(front));
    format!("{front}{ELLIPSIS}{back}")
}

fn head(text: &str, columns: usize) -> &str {
    let mut used = 0;
    let mut end = 0;
    for (at, c) in text.char_indices() {
        used += c.width().unwrap_or(0);
        if used > columns {
            break;
        }
        end = at + c.len_utf8();
    }
    &text[..end]
}

fn tail(text: &str, columns: usize) -> &str {
    let mut used = 0;
    let mut start = text.len();
    for (at, c) in text.char_indices().rev() {
        used += c.width().unwrap_or(0);
        if used > columns {
            break;
        }
        start = at;
    }
    &text[start..]
}

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// `text` filled up to `columns`.
#[must_use]
pub fn pad(text: &str, columns: usize, align: Align) -> String {
    let fill = " ".repeat(columns.saturating_sub(width(text)));
    match align {
        Align::Left => format!("{text}{fill}"),
        Align::Right => format!("{fill}{text}"),
    }
}

/// Widths of the columns of `rows`.
#[must_use]
pub fn widths<const N: usize>(rows: &[[String; N]]) -> [usize; N] {
    let mut widths = [0; N];
    for row in rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(width(cell));
        }
    }
    widths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_loses_its_middle_and_never_half_a_character() {
        assert_eq!(elide("short", 5), "short");
        assert_eq!(elide("a/very/long/path/name.txt", 13), "a/ve…name.txt");
        for columns in 0..30 {
            for text in [
                "\u{4e2d}\u{6587}\u{4e2d}\u{6587}\u{4e2d}\u{6587}\u{4e2d}\u{6587}",
                "e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}",
                "0123456789012345678901234",
            ] {
                let fitted = elide(text, columns);
                assert!(width(&fitted) <= columns, "{fitted:?} in {columns}");
            }
        }
    }

    #[test]
    fn columns_are_as_wide_as_they_look() {
        assert_eq!(pad("\u{4e2d}", 4, Align::Left), "\u{4e2d}  ");
        assert_eq!(pad("12", 4, Align::Right), "  12");
        assert_eq!(pad("12345", 4, Align::Right), "12345");
        assert_eq!(widths(&[["a".into(), "bbb".into()], ["\u{4e2d}\u{6587}".into(), "b".into()]]), [4, 3]);
    }
}
