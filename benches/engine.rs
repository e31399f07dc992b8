//! The log and the blob store without a mount: what an append, a durable append and a put cost.

#![allow(missing_docs, clippy::expect_used, reason = "a bench that cannot go on stops; criterion's macro makes functions without docs")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ize::blobs::{Blobs, Encoding, OpenMode};
use ize::engine::core::{Core, CoreOptions};
use ize::engine::group::GroupLimits;
use ize::fs::journal::Caller;
use ize::ids::{Ino, StoreId};
use ize::project::Layout;
use ize::storage::Disk;

fn core(dir: &std::path::Path) -> Core {
    let options = CoreOptions {
        store: StoreId::random(),
        owner: (0, 0),
        clean: true,
        same_boot: true,
        segment_size: 4 << 20,
        prepare: true,
        limits: GroupLimits::default(),
        reserve: 0,
        command_lines: false,
        cache_inodes: 200_000,
    };
    Core::open(Disk::shared(), Layout::new(dir), &options).expect("a new store opens")
}

fn writes(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let core = core(dir.path());
    let caller = Caller { pid: std::process::id(), uid: 0, gid: 0 };
    let file = core.fs.create(&caller, Ino::ROOT, b"f", 0o644, true).expect("a file").ino;
    let mut group = c.benchmark_group("write");
    for len in [200usize, 4096, 131_072] {
        let bytes: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("{len} B, logged and applied"), |b| {
            b.iter(|| core.fs.write(&caller, file, 0, black_box(&bytes), false).expect("written"));
        });
    }
    let bytes = [7; 4096];
    group.throughput(Throughput::Bytes(4096));
    group.bench_function("4096 B, durable", |b| {
        b.iter(|| {
            core.fs.write(&caller, file, 0, black_box(&bytes), false).expect("written");
            core.sync().expect("synced");
        });
    });
    group.finish();
}

fn blobs(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let mode = OpenMode::Write { clean: true };
    let (blobs, _) = Blobs::open(Disk::shared(), dir.path().join("blobs"), StoreId::random(), mode).expect("a new store opens");
    let blobs = Arc::new(blobs);
    let mut group = c.benchmark_group("blob");
    for len in [64 << 10, 1 << 20] {
        let mut bytes = vec![0u8; len];
        let mut n = 0u64;
        group.throughput(Throughput::Bytes(len as u64));
        group.sample_size(20);
        group.bench_function(format!("put of {} KiB, new", len >> 10), |b| {
            b.iter(|| {
                n += 1;
                bytes[..8].copy_from_slice(&n.to_le_bytes());
                blobs.put(black_box(&bytes), Encoding::Raw).expect("stored")
            });
        });
        let id = blobs.put(&bytes, Encoding::Raw).expect("stored");
        group.bench_function(format!("get of {} KiB, warm", len >> 10), |b| b.iter(|| blobs.get(black_box(&id)).expect("there")));
    }
    group.finish();
}

criterion_group!(benches, writes, blobs);
criterion_main!(benches);
