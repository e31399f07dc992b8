//! A large file that is being written from front to back over a simulated disk: wherever that is cut short, its front is there.

use super::*;

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(11).fill_bytes(&mut bytes);
    bytes
}

const PIECE: usize = 300_000;
const PIECES: usize = 26;

/// What was answered and what was durable before the disk stopped.
fn work(core: &Core, bytes: &[u8]) -> (usize, usize) {
    let caller = Caller::default();
    let (mut answered, mut durable) = (0, 0);
    let Ok(file) = core.fs.create(&caller, Ino::ROOT, b"large", 0o644, true) else { return (0, 0) };
    for (n, piece) in bytes.chunks(PIECE).enumerate() {
        if core.fs.write(&caller, file.ino, answered as u64, piece, false).is_err() {
            break;
        }
        answered += piece.len();
        let done = match n {
            17 | 23 => core.sync(),
            19 => core.replay(false).map(drop),
            21 => core.prune(Limits { max_size: Some(0), ..Limits::default() }, false).map(drop),
            _ => continue,
        };
        if done.is_err() {
            break;
        }
        if matches!(n, 17 | 23) {
            durable = answered;
        }
    }
    (answered, durable)
}

fn content(core: &Core) -> Vec<u8> {
    let found = core.fs.lookup(Ino::ROOT, b"large").unwrap();
    found.map_or_else(Vec::new, |stat| core.fs.read(stat.ino, 0, 1 << 30).unwrap())
}

#[test]
fn a_stream_that_is_cut_short_at_any_call_leaves_its_front() {
    let bytes = noise(PIECE * PIECES);
    // Up to here nothing is cut into chunks.
    let quiet = {
        let disk = SimDisk::new();
        let core = open(&disk, true, true).unwrap();
        let before = disk.calls();
        work(&core, &bytes[..PIECE * 13]);
        disk.calls() - before
    };
    let (mut n, mut cut) = (quiet, 0);
    loop {
        let disk = SimDisk::new();
        let core = open(&disk, true, true).unwrap();
        disk.crash_at_call(n);
        let (answered, durable) = work(&core, &bytes);
        let done = answered == bytes.len();
        drop(core);
        for (which, left, least) in [("kill", disk.kill(), answered), ("power", disk.crash(n), durable)] {
            let story = format!("{which} at call {n}, {answered} answered, {durable} durable");
            let core = open(&left, false, which == "kill").unwrap_or_else(|e| panic!("{story}: {e}"));
            let found = content(&core);
            assert!(found.len() >= least && bytes.starts_with(&found), "{story}: {} bytes", found.len());
            core.replay(true).unwrap_or_else(|e| panic!("{story}: {e}"));
            core.prune(Limits { max_size: Some(0), ..Limits::default() }, false).unwrap_or_else(|e| panic!("{story}: {e}"));
            assert!(content(&core) == found, "{story}: after prune");
            core.close().unwrap();
            sessions::check_versions(&left, &story);
        }
        cut += u32::from(!done);
        if done && n > quiet {
            break;
        }
        n += 3 + n % 4;
    }
    assert!(cut > 20, "{cut} crashes");
}

/// Between being stored and being named by a record a chunk belongs to nobody.
#[test]
fn no_sweep_takes_a_chunk_before_its_record_is_there() {
    use crate::fs::journal::Journal;
    let core = open(&SimDisk::new(), true, true).unwrap();
    let shared = (std::sync::Arc::clone(&core.log), std::sync::Arc::clone(&core.blobs));
    let kept = (std::sync::Arc::clone(&core.meter), std::sync::Arc::clone(&core.cuts));
    let journal = super::super::journal::LogJournal::new(shared.0, shared.1, "/p".into(), Default::default(), false, kept.0, kept.1);
    let bytes = noise(150_000);
    let mut pieces = [&bytes[..70_000], &bytes[70_000..]].into_iter();
    let chunks = journal.put_chunks(bytes.len(), &mut || pieces.next()).unwrap();
    let ids = chunks.ids.clone();
    assert_eq!(ids, [crate::ids::BlobId::of(&noise(150_000)[..70_000]), crate::ids::BlobId::of(&noise(150_000)[70_000..])]);
    std::thread::scope(|scope| {
        let sweeper = scope.spawn(|| {
            let options = crate::blobs::SweepOptions { garbage_percent: 0, ..Default::default() };
            core.sweep(&core.replayer(), options).unwrap();
        });
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert!(!sweeper.is_finished() && ids.iter().all(|id| core.blobs.contains(id).unwrap().is_some()));
        drop(chunks);
        sweeper.join().unwrap();
    });
    assert!(ids.iter().all(|id| core.blobs.contains(id).unwrap().is_none()), "no record came");
}

/// The chunks of a stream are the versions' too: they stay when segments go, and are no reason to prune.
#[test]
fn a_stream_larger_than_the_limit_of_the_log_is_pruned_for_once_and_not_again_and_again() {
    use super::super::{clock::ClockWatch, upkeep::Upkeep};
    const LIMIT: u64 = 6 << 20;
    let core = Arc::new(open(&SimDisk::new(), true, true).unwrap());
    core.log.limit_payload(1 << 20);
    let (caller, bytes) = (Caller::default(), noise(PIECE * 60));
    let file = core.fs.create(&caller, Ino::ROOT, b"large", 0o644, true).unwrap();
    for (n, piece) in bytes.chunks(PIECE).enumerate() {
        core.fs.write(&caller, file.ino, (n * PIECE) as u64, piece, false).unwrap();
    }
    core.replay(true).unwrap();
    let settings = crate::project::config::Settings { prune_max_size: Some(LIMIT), prune_max_age: None, ..Default::default() };
    let clock = ClockWatch::from(crate::ids::Time::now(), crate::project::lock::since_boot());
    let mut upkeep = Upkeep::new(Arc::clone(&core), settings, clock, Arc::default());
    let counted = || core.log.usage().bytes + core.log.usage().payload;
    assert!(upkeep.due().is_some(), "nobody has looked yet");
    upkeep.look().unwrap();
    assert!(counted() > LIMIT, "{} bytes are counted of which most are shared", counted());
    assert!(upkeep.due().is_none(), "{} of {} bytes are the log's own", core.log_size(), counted());
    let pruned = core.prune(Limits { max_size: Some(LIMIT), ..Limits::default() }, true).unwrap();
    let own: u64 = pruned.segments.iter().map(|s| s.bytes + s.payload).sum();
    assert!(own <= core.log_size() && core.log_size() <= own + (1 << 20), "{own} and {}", core.log_size());

    // What is overwritten is the log's alone, and counts.
    let segments = core.log.usage().segments;
    for n in 0..40 {
        core.fs.write(&caller, file.ino, 0, &bytes[n * 1000..n * 1000 + PIECE], false).unwrap();
    }
    core.replay(true).unwrap();
    assert!(core.log.usage().segments > segments && upkeep.due().is_some(), "{} bytes", core.log_size());
    upkeep.look().unwrap();
    assert!(upkeep.due().is_none() && core.log_size() <= LIMIT, "{} bytes", core.log_size());
    assert!(content(&core)[PIECE..] == bytes[PIECE..]);

    // When versions go, nothing is known any more of what was shared with them.
    core.shared.forget();
    assert_eq!(core.log_size(), counted());
}
