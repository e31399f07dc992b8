//! A process that feeds Pijul, then makes the repository anew, and dies at each of its steps in turn: by SIGKILL, and as if the power failed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::control::message::RebuildRequest;
use crate::engine::{Engine, pijul_index};
use crate::pijul::tests::{CRASH_AT, nothing_left_over};
use crate::pijul::{Owner, Repository};
use crate::project::layout::Central;
use crate::project::{Project, Settings, registry};
use crate::storage::Disk;

const DIR: &str = "IZE_TEST_PIJUL_FEED_CHILD";
const VERSIONS: u64 = 5;
const PATIENCE: Duration = Duration::from_secs(60);

fn engine(dir: &Path) -> Arc<Engine> {
    Engine::open(&Project::open(dir).unwrap(), &Settings::default()).unwrap()
}

/// Not a test of its own: the process that dies.
#[test]
fn child_feeds_and_rebuilds_until_it_dies() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let engine = engine(dir.as_ref());
    engine.feeder.wait_for(VersionSeq(VERSIONS), PATIENCE).unwrap();
    engine.feeder.rebuild(&RebuildRequest { discard: true, dry_run: false }).unwrap();
    engine.close().unwrap();
}

/// A project with versions that Pijul does not have.
fn project(central: &Path) -> Project {
    let project = registry::init(&Central::new(central), "p").unwrap();
    let options = CoreOptions {
        store: project.identity.id,
        owner: (project.identity.owner_uid, project.identity.owner_gid),
        segment_size: 1 << 20,
        ..options(true, true)
    };
    let core = Core::open(Disk::shared(), project.layout.clone(), &options).unwrap();
    for n in 0..VERSIONS {
        let ino = core.fs.create(&Caller::default(), Ino::ROOT, format!("f{n}").as_bytes(), 0o644, true).unwrap().ino;
        core.fs.write(&Caller::default(), ino, 0, format!("{n}\n").as_bytes(), false).unwrap();
        core.fs.locked().log(&Caller::default(), Mark { marker: Marker::Commit { message: None } }.into(), None, None).unwrap();
        core.replay_all().unwrap();
    }
    assert_eq!(core.history().checkpoint.version, VersionSeq(VERSIONS));
    core.close().unwrap();
    project
}

#[test]
fn dead_at_any_step_of_feeding_and_rebuilding_every_version_is_there_once_and_the_index_agrees() {
    let home = tempfile::tempdir().unwrap();
    let template = project(&home.path().join("template"));
    let mut steps = std::collections::BTreeSet::new();
    for kind in ["", "p"] {
        for number in 1.. {
            let projects = home.path().join(format!("c{kind}{number}")).join("projects");
            std::fs::create_dir_all(&projects).unwrap();
            let dir = projects.join(template.identity.id.to_string());
            assert!(Command::new("cp").arg("-r").arg(template.layout.dir()).arg(&dir).status().unwrap().success());
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "engine::tests::pijul_steps::child_feeds_and_rebuilds_until_it_dies", "--nocapture"])
                .env(DIR, &dir)
                .env(CRASH_AT, format!("{kind}{number}"))
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&child.stderr).into_owned();
            if child.status.success() {
                break;
            }
            let at = said.lines().find_map(|l| l.strip_prefix("dies at ")).unwrap_or_else(|| panic!("{said}")).to_owned();
            let engine = engine(&dir);
            engine.feeder.wait_for(VersionSeq(VERSIONS), PATIENCE).unwrap();
            let begun = std::time::Instant::now();
            while engine.project().layout.pijul_rebuild().exists() {
                assert!(begun.elapsed() < PATIENCE, "the rebuild does not go on after {at}");
                std::thread::sleep(Duration::from_millis(10));
            }
            engine.feeder.wait_for(VersionSeq(VERSIONS), PATIENCE).unwrap();
            engine.close().unwrap();
            let owner = Owner { uid: template.identity.owner_uid, gid: template.identity.owner_gid };
            let log = Repository::open_or_create(&dir, template.identity.id, owner).unwrap().log().unwrap();
            assert_eq!(log.iter().map(|e| e.coverage.unwrap().seq.0).collect::<Vec<_>>(), (1..=VERSIONS).collect::<Vec<_>>(), "after {at}");
            let index = pijul_index::lines(&engine.project().layout).unwrap();
            assert_eq!(
                index.iter().map(|l| (l.seq, &l.hash)).collect::<Vec<_>>(),
                log.iter().map(|e| (e.coverage.unwrap().seq, &e.hash)).collect::<Vec<_>>(),
                "after {at}"
            );
            nothing_left_over(&dir, &log, &at);
            steps.insert(at);
            std::fs::remove_dir_all(&dir).unwrap();
        }
    }
    let all = [
        "marked",
        "committed",
        "an index is appended to",
        "an index is written",
        "a repository is remade",
        "a repository is complete",
        "repositories are swapped",
        "an index is emptied",
        "an old repository is gone",
    ];
    for step in all {
        assert!(steps.contains(&format!("`{step}`")), "never died at `{step}`: {steps:?}");
    }
}
