//! Histories of the log and the blob store on the simulated disk: what is done to them, what goes wrong, and what must hold afterwards.
//!
//! [`step`] says what a history is made of and draws one from a seed or from any bytes; [`world`] does it and checks, after every opening,
//! that what came back is a prefix of what was answered and holds all that was reported durable. Used by `tests/wal_faults.rs` and by the
//! fuzz target `stateful`.

pub mod step;
pub mod world;

use ize::storage::sim::shrink;
pub use step::{Step, draw, simpler};
pub use world::World;

/// Does a whole history and then what shows that the store is healthy: it opens, holds what it must, and goes on.
///
/// # Errors
/// What does not hold, in words.
pub fn run(steps: &[Step]) -> Result<(), String> {
    let mut world = World::new();
    for (i, step) in steps.iter().enumerate() {
        world.step(step).map_err(|e| format!("step {i}, {step:?}: {e}"))?;
    }
    world.finish().map_err(|e| format!("at the end: {e}"))
}

/// The result of [`run`], a panic being a failure too.
pub fn outcome(steps: &[Step]) -> Result<(), String> {
    std::panic::catch_unwind(|| run(steps)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_else(|| "panic".into()))
    })
}

/// Makes a failing history small and tells it as a test that can be kept.
pub fn story(steps: &[Step], fails: impl Fn(&[Step]) -> Option<String>) -> String {
    let small = shrink(steps, simpler, |steps| fails(steps).is_some(), 3000);
    let why = fails(&small).unwrap_or_else(|| "it fails only sometimes".into());
    format!("{why}\nshrunk from {} to {} steps:\n    check(&[{}]);", steps.len(), small.len(), step::as_rust(&small))
}
