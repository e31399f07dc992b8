//! Random histories: after any number of versions a clone is the model, and the log has each version once.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::kit::*;
use crate::versions::node::FileKind;

fn random_thing(rng: &mut StdRng) -> Thing {
    let text = |rng: &mut StdRng| (0..rng.random_range(0..30)).map(|_| format!("line {}\n", rng.random_range(0..9))).collect::<String>();
    let mut thing = match rng.random_range(0..10) {
        0 => file([text(rng).as_bytes(), b"\0\xff"].concat()),
        1 => symlink(text(rng)),
        2 => file(""),
        3 => file(text(rng).trim_end()),
        _ => file(text(rng)),
    };
    if rng.random_bool(0.2) {
        thing.mode = *[0o755, 0o600, 0o4755].choose(rng).unwrap();
    }
    thing
}

fn random_name(rng: &mut StdRng) -> Vec<u8> {
    let names: [&[u8]; 9] = [b"a", b"b", b"c", b"x.d", b"x", b"\xff", b"n\nl", b".pijul", &[0xfe; 255]];
    names.choose(rng).unwrap().to_vec()
}

fn below(path: &[u8], dir: &[u8]) -> bool {
    path.starts_with(dir) && path.get(dir.len()) == Some(&b'/')
}

/// A few random operations, as programs do them; gives the renames from the first state to the last.
pub(super) fn mutate(rng: &mut StdRng, tree: &mut Tree) -> Vec<(Vec<u8>, Vec<u8>)> {
    // Where each path was at first; None for what is new. A rename moves these along.
    let start: Vec<Vec<u8>> = tree.keys().cloned().collect();
    let mut origin: std::collections::BTreeMap<Vec<u8>, Vec<u8>> = start.iter().map(|p| (p.clone(), p.clone())).collect();
    for _ in 0..rng.random_range(1..5) {
        let paths: Vec<Vec<u8>> = tree.keys().cloned().collect();
        let dirs: Vec<Vec<u8>> =
            tree.iter().filter(|(_, t)| t.kind == FileKind::Directory).map(|(p, _)| p.clone()).chain([vec![]]).collect();
        let parent = dirs.choose(rng).unwrap();
        let name = random_name(rng);
        let target = if parent.is_empty() { name } else { [&parent[..], b"/", &name].concat() };
        if target.split(|&b| b == b'/').count() > 4 {
            continue;
        }
        let remove = |tree: &mut Tree, origin: &mut std::collections::BTreeMap<_, _>, path: &[u8]| {
            tree.retain(|p, _| p != path && !below(p, path));
            origin.retain(|p: &Vec<u8>, _: &mut Vec<u8>| p != path && !below(p, path));
        };
        match rng.random_range(0..10) {
            0..4 => {
                let thing = random_thing(rng);
                if tree.get(&target).is_some_and(|t| t.kind == FileKind::Directory) {
                    remove(tree, &mut origin, &target);
                }
                tree.insert(target, thing);
            }
            4 => {
                let mode = if rng.random_bool(0.3) { 0o700 } else { 0o755 };
                if tree.get(&target).is_some_and(|t| t.kind != FileKind::Directory) {
                    remove(tree, &mut origin, &target);
                }
                tree.insert(target, Thing { mode, ..dir() });
            }
            5 | 6 => {
                if let Some(path) = paths.choose(rng) {
                    remove(tree, &mut origin, path);
                }
            }
            _ => {
                let Some(from) = paths.choose(rng).filter(|f| **f != target && !below(&target, f) && !below(f, &target)) else { continue };
                remove(tree, &mut origin, &target);
                let moved: Vec<_> = tree.keys().filter(|p| *p == from || below(p, from)).cloned().collect();
                for path in moved {
                    let to = [&target[..], &path[from.len()..]].concat();
                    let thing = tree.remove(&path).unwrap();
                    tree.insert(to.clone(), thing);
                    if let Some(first) = origin.remove(&path) {
                        origin.insert(to, first);
                    }
                }
            }
        }
    }
    // Renamed: came from elsewhere, and not merely carried by a directory above that came the same way.
    let mut renames = Vec::new();
    for (now, first) in &origin {
        let split = |p: &[u8]| p.iter().rposition(|&b| b == b'/').map_or((vec![], p.to_vec()), |i| (p[..i].to_vec(), p[i + 1..].to_vec()));
        let ((now_dir, now_name), (first_dir, first_name)) = (split(now), split(first));
        let same_dir = if now_dir.is_empty() { first_dir.is_empty() } else { origin.get(&now_dir) == Some(&first_dir) };
        if !(same_dir && now_name == first_name) {
            renames.push((first.clone(), now.clone()));
        }
    }
    renames
}

#[test]
fn random_histories_come_back_from_a_clone() {
    // More of them than a run of the suite has time for: `IZE_TEST_SEEDS=100`.
    let seeds = std::env::var("IZE_TEST_SEEDS").map_or(4, |s| s.parse().unwrap());
    for seed in 0..seeds {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut b = Bench::new();
        for n in 1..=60 {
            let mut new = b.tree.clone();
            let renames = mutate(&mut rng, &mut new);
            let renames: Vec<(&[u8], &[u8])> = renames.iter().map(|(a, z)| (&a[..], &z[..])).collect();
            b.step(new, &renames);
            if n % 20 == 0 {
                b.check();
            }
        }
        let want: Vec<u64> = (1..=60).rev().map(|n| n * 16).collect();
        assert_eq!(logged(b.home.path(), &b.project()), want, "seed {seed}");
    }
}
