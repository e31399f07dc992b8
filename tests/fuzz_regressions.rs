//! Every input with which a fuzz target once failed, and every seed it starts from, through the same code.
#![allow(missing_docs, dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fuzzed;
mod history;

use std::path::Path;

type Run = fn(&[u8]);

fn replay(target: &str, run: Run) -> usize {
    let mut inputs = 0;
    for place in ["tests/regressions", "fuzz/seeds"] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(place).join(target);
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let done = std::panic::catch_unwind(|| run(&bytes));
            assert!(done.is_ok(), "{} fails again", path.display());
            inputs += 1;
        }
    }
    inputs
}

#[test]
fn no_segment_that_once_failed_fails_again() {
    assert!(replay("segment", fuzzed::segment) >= 4);
}

#[test]
fn no_operation_that_once_failed_fails_again() {
    assert!(replay("operation", fuzzed::operation) >= 18);
}

#[test]
fn no_history_that_once_failed_fails_again() {
    assert!(replay("stateful", fuzzed::stateful) >= 4);
}

/// What a fuzzer does, without one: changes of the seeds, and changes of those. `IZE_TEST_FUZZ` says how many a target.
#[test]
fn changes_of_the_seeds_do_no_harm() {
    use ize::storage::sim::Seeded;
    let times: u64 = std::env::var("IZE_TEST_FUZZ").ok().map_or(400, |n| n.parse().expect("IZE_TEST_FUZZ is a number"));
    let targets: [(&str, Run); 3] = [("segment", fuzzed::segment), ("operation", fuzzed::operation), ("stateful", fuzzed::stateful)];
    for (target, run) in targets {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
        let mut pool: Vec<Vec<u8>> = std::fs::read_dir(&dir).unwrap().map(|e| std::fs::read(e.unwrap().path()).unwrap()).collect();
        pool.sort();
        for seed in 0..times {
            let mut rng = Seeded::new(seed);
            let mut input = pool[rng.below(pool.len() as u64) as usize].clone();
            for _ in 0..=rng.below(5) {
                let at = rng.below(input.len() as u64 + 1) as usize;
                match rng.below(5) {
                    0 if at < input.len() => input[at] = rng.draw() as u8,
                    1 if at < input.len() => input[at] ^= 1 << rng.below(8),
                    2 => input.truncate(at.max(1)),
                    3 => input.insert(at, rng.draw() as u8),
                    _ => {
                        let other = &pool[rng.below(pool.len() as u64) as usize];
                        let from = rng.below(other.len() as u64) as usize;
                        let piece = other[from..(from + rng.below(40) as usize).min(other.len())].to_vec();
                        input.splice(at..at, piece);
                    }
                }
            }
            let done = std::panic::catch_unwind(|| run(&input));
            assert!(done.is_ok(), "{target} fails at change {seed}: {input:?}");
            if rng.below(8) == 0 && input.len() < 3000 {
                pool.push(input);
            }
        }
    }
}

/// Writes the seeds: `cargo test --test fuzz_regressions -- --ignored`.
#[test]
#[ignore = "writes files"]
fn make_the_seeds() {
    use ize::ids::{BlobId, Ino, Time};
    use ize::op::{AllocateMode, Data, Entry, Marker, Operation, RenameMode, Stamp, encode};
    use ize::storage::sim::Seeded;
    use ize::versions::node::FileKind;

    let put = |target: &str, name: &str, bytes: &[u8]| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target).join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    let golden = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/segment-v1.seg")).unwrap();
    put("segment", "golden", &[&[0], &golden[..]].concat());
    let mut rng = Seeded::new(1);
    for seed in 0..6 {
        // Dressed up: an odd first byte; then header fields and what follows.
        let mut bytes = vec![(seed * 37) | 1, 1, 1, 0];
        for _ in 0..12 {
            bytes.extend([rng.below(8) as u8, rng.below(32) as u8]);
            bytes.extend((0..rng.below(30)).map(|_| rng.draw() as u8));
        }
        put("segment", &format!("dressed-{seed}"), &bytes);
    }
    for seed in 0..8 {
        let mut rng = Seeded::new(seed);
        put("stateful", &format!("history-{seed}"), &(0..160).map(|_| rng.draw() as u8).collect::<Vec<u8>>());
    }
    // As the crate arbitrary reads a byte and two vectors: each byte of the first behind an odd one, then an even one, then the second.
    let pack = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pack-1.bin")).unwrap();
    for dress in [0, 3, 7, 15, 16, 32] {
        let first: Vec<u8> = pack.iter().take(3000).flat_map(|b| [1, *b]).collect();
        put("pack", &format!("dressed-{dress}"), &[&[dress], &first[..], &[0], &pack[pack.len().min(64)..pack.len().min(700)]].concat());
    }
    let (dir, ino, to_dir, name) = (Ino(1), Ino(77), Ino(3), b"na\xffme".to_vec());
    let time = Time { secs: 1_700_000_000, nanos: 5 };
    let operations: Vec<Operation> = vec![
        ize::op::Create { dir, name: name.clone(), ino, mode: 0o644, uid: 1000, gid: 1000 }.into(),
        ize::op::Mkdir { dir, name: name.clone(), ino, mode: 0o755, uid: 0, gid: 0 }.into(),
        ize::op::Mknod { dir, name: name.clone(), ino, what: FileKind::Fifo, mode: 0o600, uid: 0, gid: 0, rdev: 0 }.into(),
        ize::op::Symlink { dir, name: name.clone(), ino, target: b"../x".to_vec(), uid: 0, gid: 0 }.into(),
        ize::op::Link { ino, dir, name: name.clone() }.into(),
        ize::op::Unlink { dir, name: name.clone(), ino }.into(),
        ize::op::Rmdir { dir, name: name.clone(), ino }.into(),
        ize::op::Rename { dir, name: name.clone(), ino, to_dir, to_name: b"b".to_vec(), mode: RenameMode::Exchange(Ino(9)) }.into(),
        ize::op::Write { ino, offset: 1 << 33, data: Data::Inline(5), size_after: 1 << 34, mode_after: Some(0o755) }.into(),
        ize::op::Write { ino, offset: 0, data: Data::Blob { id: BlobId([9; 32]), len: 70_000 }, size_after: 70_000, mode_after: None }
            .into(),
        ize::op::Truncate { ino, old_size: 9, size: 3, mode_after: None }.into(),
        ize::op::Fallocate { ino, mode: AllocateMode::PunchHole, offset: 4096, len: 4096, size_after: 9000 }.into(),
        ize::op::Clone { from: Ino(5), from_offset: 0, ino, offset: 10, len: 4, size_after: 14, mode_after: None }.into(),
        ize::op::Chmod { ino, old: 0o644, new: 0o600 }.into(),
        ize::op::Chown { ino, old: (0, 0), new: (1000, 1000), mode_after: None }.into(),
        ize::op::Utimens { ino, old: (time, time), atime: None, mtime: Some(time) }.into(),
        ize::op::SetXattr { ino, name: b"user.a".to_vec(), value: vec![0, 255] }.into(),
        ize::op::RemoveXattr { ino, name: b"user.a".to_vec() }.into(),
        ize::op::Forget { ino }.into(),
        ize::op::Mark { marker: Marker::Restore { at: ize::ids::Lsn(9), paths: vec![name.clone()] } }.into(),
        ize::op::Mark { marker: Marker::Commit { message: Some("m".into()) } }.into(),
    ];
    for (i, op) in operations.into_iter().enumerate() {
        let inline = matches!(&op, Operation::Write(w) if matches!(w.data, Data::Inline(_)));
        let stamp = Stamp { time, behind: 3, link: Some(ize::ids::Lsn(4)), ..Stamp::default() };
        let (kind, version, mut body) = encode(&Entry { stamp, op }).unwrap();
        if inline {
            body.extend_from_slice(b"hello");
        }
        let [high, low] = kind.to_be_bytes();
        put("operation", &format!("kind-{kind:02x}-{i}"), &[&[high, low, version], &body[..]].concat());
    }
}
