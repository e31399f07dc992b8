//! An import beside what the daemon does by itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::blobs::SweepOptions;
use crate::project::layout::Central;
use crate::project::{Settings, registry};

/// What has been read and not logged keeps a sweep from beginning, and whoever sweeps keeps replay from getting on.
#[test]
fn a_sweep_that_waits_for_an_import_that_waits_for_replay_is_let_through() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    for n in 0..6000 {
        let dir = from.join(format!("{}", n % 60));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("{n}")), format!("{n}")).unwrap();
    }
    let central = Central::new(dir.path().join("central"));
    let project = registry::init(&central, "p").unwrap();
    // Groups of a few hundred records.
    let settings = Settings { group_paths: 20, ..Settings::default() };
    let engine = Engine::open_in_front(&project, &settings).unwrap();
    let source = Source::open(&from, central.dir()).unwrap();
    let (counters, problems, over) = (Counters::default(), Problems::default(), AtomicBool::new(false));
    let begun = Instant::now();
    let sweeps = std::thread::scope(|scope| {
        let sweeping = scope.spawn(|| {
            let mut sweeps = 0;
            while !over.load(Ordering::SeqCst) {
                engine.core().sweep(&engine.core().replayer(), SweepOptions::default()).unwrap();
                sweeps += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            sweeps
        });
        let done = run(&engine, Origin::Directory(&source), &counters, &problems, false);
        over.store(true, Ordering::SeqCst);
        done.unwrap();
        sweeping.join().unwrap()
    });
    // Far from the time after which an import gives up.
    assert!(sweeps > 1 && begun.elapsed() < Duration::from_secs(100), "{sweeps}");
    engine.commit(None).unwrap();
    assert_eq!(counters.now().0, 6061);
    let mut writer = engine.core().fs.locked();
    for n in [0, 59, 3000, 5999] {
        let dir = writer.tree().lookup(crate::ids::Ino::ROOT, format!("{}", n % 60).as_bytes()).unwrap().unwrap();
        let file = writer.tree().lookup(dir.ino, format!("{n}").as_bytes()).unwrap().unwrap();
        let plan = writer.tree().read_plan(file.ino, 0, 100).unwrap();
        let mut bytes = vec![0; plan.len() as usize];
        plan.read(&*engine.core().blobs, &mut bytes).unwrap();
        assert_eq!(bytes, format!("{n}").as_bytes());
    }
    drop(writer);
    engine.close().unwrap();
}
