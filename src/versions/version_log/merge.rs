//! What two versions in a row changed, as one list. For people and for `ize history PATH`: the states say the rest.

use std::collections::BTreeMap;

use super::{PathChange, What};

/// Bytes of paths that a version lists at most.
pub const LISTED_MAX: usize = 16 << 20;

/// What changed from before `earlier` to after `later`. Longer lists than [`LISTED_MAX`] are cut.
#[must_use]
pub fn merge_paths(earlier: Vec<PathChange>, later: Vec<PathChange>) -> Vec<PathChange> {
    if earlier.is_empty() {
        return later;
    }
    let moved: Vec<(Vec<u8>, Vec<u8>)> = earlier.iter().filter_map(|c| Some((c.path.clone(), from(c)?.to_vec()))).collect();
    // The name before both, of something that the earlier one only moved together with a directory above it.
    let origin = |path: &[u8]| {
        let above = moved.iter().filter_map(|(to, from)| Some((to.len(), from, below(path, to)?))).max_by_key(|(len, ..)| *len);
        above.map_or_else(|| path.to_vec(), |(_, from, rest)| [from, rest].concat())
    };
    let mut all: BTreeMap<Vec<u8>, What> = earlier.into_iter().map(|c| (c.path, c.what)).collect();
    // Everything that moves leaves its place before anything arrives: two may have changed places.
    let mut arriving = Vec::new();
    for change in &later {
        let Some(from) = from(change) else { continue };
        // Names in a directory stand between its name with `/` and with `0`, the next byte.
        let inside = [from, b"/"].concat()..[from, b"0"].concat();
        let under: Vec<Vec<u8>> = all.range(inside).filter(|(_, what)| **what != What::Removed).map(|(path, _)| path.clone()).collect();
        for path in under {
            let to = below(&path, from).map(|rest| [&change.path, rest].concat());
            if let (Some(what), Some(to)) = (all.remove(&path), to) {
                arriving.push((to, what));
            }
        }
        let what = match all.get(from) {
            Some(What::Removed) | None => What::Moved { from: origin(from) },
            Some(_) => match all.remove(from) {
                Some(What::Modified) | None => What::Moved { from: from.to_vec() },
                Some(what) => what,
            },
        };
        arriving.push((change.path.clone(), what));
    }
    for (path, what) in arriving {
        let back = matches!(&what, What::Moved { from } if *from == path);
        all.insert(path, if back { What::Modified } else { what });
    }
    for change in later {
        match (change.what, all.get(&change.path)) {
            (What::Moved { .. }, _) => {}
            (What::Added, Some(What::Removed)) => {
                all.insert(change.path, What::Modified);
            }
            (What::Added, None) => {
                all.insert(change.path, What::Added);
            }
            (What::Modified, None | Some(What::Removed)) => {
                all.insert(change.path, What::Modified);
            }
            (What::Added | What::Modified, Some(_)) => {}
            (What::Removed, Some(What::Added)) => {
                all.remove(&change.path);
            }
            (What::Removed, Some(What::Moved { from })) => {
                let from = from.clone();
                all.remove(&change.path);
                all.entry(from).or_insert(What::Removed);
            }
            (What::Removed, _) => {
                all.remove(&change.path);
                all.insert(origin(&change.path), What::Removed);
            }
        }
    }
    let mut bytes = 0;
    let fits = |(path, what): (Vec<u8>, What)| {
        let change = PathChange { path, what };
        bytes += change.path.len() + from(&change).map_or(0, <[u8]>::len) + 16;
        (bytes <= LISTED_MAX).then_some(change)
    };
    all.into_iter().map_while(fits).collect()
}

fn from(change: &PathChange) -> Option<&[u8]> {
    match &change.what {
        What::Moved { from } => Some(from),
        What::Added | What::Modified | What::Removed => None,
    }
}

/// What of `path` is behind `dir`, from the slash on, when it is in it.
fn below<'p>(path: &'p [u8], dir: &[u8]) -> Option<&'p [u8]> {
    path.strip_prefix(dir).filter(|rest| !dir.is_empty() && rest.first() == Some(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<PathChange> {
        let one = |word: &str| {
            let (sign, rest) = word.split_at(1);
            let (path, what) = match (sign, rest.split_once('>')) {
                ("+", _) => (rest, What::Added),
                ("~", _) => (rest, What::Modified),
                ("-", _) => (rest, What::Removed),
                (_, Some((from, to))) => (to, What::Moved { from: from.as_bytes().to_vec() }),
                _ => unreachable!("{word}"),
            };
            PathChange { path: path.as_bytes().to_vec(), what }
        };
        text.split_whitespace().map(one).collect()
    }

    #[test]
    fn two_lists_become_what_changed_over_both() {
        for (earlier, later, both) in [
            ("", "+a", "+a"),
            ("+a", "", "+a"),
            ("+a", "~a", "+a"),
            ("+a", "-a", ""),
            ("~a", "-a", "-a"),
            ("-a", "+a", "~a"),
            ("~a", "~b", "~a ~b"),
            ("+a", ">a>b", "+b"),
            ("~a", ">a>b", ">a>b"),
            (">a>b", ">b>c", ">a>c"),
            (">a>b", ">b>a", "~a"),
            (">a>b", "~b", ">a>b"),
            (">a>b", "-b", "-a"),
            ("+x", ">a>b >b>a", ">b>a >a>b +x"),
            ("~a", ">a>b >b>a", ">b>a >a>b"),
            ("+d +d/x", ">d>e", "+e +e/x"),
            (">d>e", "-e/x", ">d>e -d/x"),
            (">d>e", ">e/x>y", ">d>e >d/x>y"),
            (">d>e >e/x>z", ">z>w", ">d>e >e/x>w"),
        ] {
            let mut expected = list(both);
            expected.sort_by(|a, b| a.path.cmp(&b.path));
            let mut found = merge_paths(list(earlier), list(later));
            found.sort_by(|a, b| a.path.cmp(&b.path));
            assert_eq!(found, expected, "{earlier} then {later}");
        }
    }
}
