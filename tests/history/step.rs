//! What a history is made of.

use ize::storage::sim::{Effect, Fault};

/// One thing that is done to the store, or that happens to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A batch of records, each with so many bytes of body and, if so, a blob of so many bytes that it names.
    Append(Vec<(u32, Option<u32>)>),
    /// Everything appended becomes durable.
    Sync,
    /// The active segment is sealed.
    Seal,
    /// What is appended is sealed, and the checkpoint moved behind it.
    Checkpoint,
    /// The oldest segments go until this many bytes are left.
    Prune(u32),
    /// Sealed, and closed in order.
    Close,
    /// The process dies; the page cache survives.
    Kill,
    /// Power is lost; the seed chooses what of the unsynced survives.
    Cut(u64),
    /// At the n-th call of the disk from now.
    Fault(u64, Fault),
    /// So many more bytes fit on the disk, or any number.
    Room(Option<u32>),
}

/// Draws numbers below the one given; `None` when there are no more.
pub type Source<'a> = dyn FnMut(u64) -> Option<u64> + 'a;

fn effect(source: &mut Source<'_>) -> Option<Effect> {
    Some(match source(4)? {
        0 => Effect::None,
        1 => Effect::All,
        _ => Effect::Some(source(256)?),
    })
}

fn fault(source: &mut Source<'_>) -> Option<Fault> {
    Some(match source(8)? {
        0..=2 => Fault::Crash(effect(source)?),
        3 => Fault::Short,
        4 => Fault::Error { errno: libc::ENOSPC, effect: effect(source)? },
        5 => Fault::Error { errno: libc::EDQUOT, effect: effect(source)? },
        _ => Fault::Error { errno: libc::EIO, effect: effect(source)? },
    })
}

fn batch(source: &mut Source<'_>) -> Option<Vec<(u32, Option<u32>)>> {
    let mut records = Vec::new();
    for _ in 0..=source(3)? {
        let len = if source(6)? == 0 { source(18_000)? } else { source(900)? };
        let blob = match source(5)? {
            0 => Some(source(6_000)? as u32),
            _ => None,
        };
        records.push((len as u32, blob));
    }
    Some(records)
}

/// A history of at most `most` steps; with `faults`, things also go wrong in it.
pub fn draw(source: &mut Source<'_>, most: usize, faults: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    while steps.len() < most {
        let Some(step) = one(source, faults) else { break };
        steps.push(step);
    }
    steps
}

fn one(source: &mut Source<'_>, faults: bool) -> Option<Step> {
    Some(match source(if faults { 32 } else { 24 })? {
        0..=10 => Step::Append(batch(source)?),
        11..=14 => Step::Sync,
        15..=16 => Step::Seal,
        17..=18 => Step::Checkpoint,
        19 => Step::Prune(source(100_000)? as u32),
        20 => Step::Close,
        21 => Step::Kill,
        22..=23 => Step::Cut(source(1 << 16)?),
        24..=29 => Step::Fault(1 + source(40)?, fault(source)?),
        30 => Step::Room(Some(source(90_000)? as u32)),
        _ => Step::Room(None),
    })
}

/// Simpler forms of a step, simplest first.
pub fn simpler(step: &Step) -> Vec<Step> {
    match step {
        Step::Append(records) => {
            let small = vec![(0, None)];
            let mut forms = vec![Step::Append(small.clone())];
            if records.len() > 1 {
                forms.extend((0..records.len()).map(|at| Step::Append([&records[..at], &records[at + 1..]].concat())));
            }
            forms.push(Step::Append(records.iter().map(|(len, _)| (*len, None)).collect()));
            forms.push(Step::Append(records.iter().map(|(_, blob)| (0, *blob)).collect()));
            forms.push(Step::Append(records.iter().map(|(len, blob)| (*len, blob.map(|b| b / 2))).collect()));
            forms.push(Step::Append(records.iter().map(|(len, blob)| (len / 2, *blob)).collect()));
            forms.retain(|form| weight(form) < weight(step));
            forms
        }
        Step::Prune(max) if *max > 0 => vec![Step::Prune(0), Step::Prune(max / 2)],
        Step::Cut(seed) => (0..(*seed).min(12)).map(Step::Cut).collect(),
        Step::Close => vec![Step::Seal],
        Step::Fault(n, fault) => {
            let calls = [n / 2, n - 1].into_iter().filter(|m| *m > 0 && m < n).map(|m| Step::Fault(m, *fault));
            let plain = match *fault {
                Fault::Crash(Effect::Some(_)) => vec![Fault::Crash(Effect::None), Fault::Crash(Effect::All)],
                Fault::Error { errno, effect: Effect::Some(_) } => {
                    vec![Fault::Error { errno, effect: Effect::None }, Fault::Error { errno, effect: Effect::All }]
                }
                _ => Vec::new(),
            };
            calls.chain(plain.into_iter().map(|fault| Step::Fault(*n, fault))).collect()
        }
        Step::Room(Some(n)) if *n > 0 => vec![Step::Room(Some(0)), Step::Room(Some(n / 2))],
        _ => Vec::new(),
    }
}

fn weight(step: &Step) -> u64 {
    match step {
        Step::Append(records) => records.iter().map(|(len, blob)| 1 + u64::from(*len) + blob.map_or(0, |b| 1 + u64::from(b))).sum(),
        _ => 0,
    }
}

/// The steps as they would be written down.
pub fn as_rust(steps: &[Step]) -> String {
    let effect = |effect: &Effect| match effect {
        Effect::None => "Effect::None".to_owned(),
        Effect::All => "Effect::All".to_owned(),
        Effect::Some(seed) => format!("Effect::Some({seed})"),
    };
    let fault = |fault: &Fault| match fault {
        Fault::Crash(e) => format!("Fault::Crash({})", effect(e)),
        Fault::Error { errno, effect: e } => format!("Fault::Error {{ errno: {errno}, effect: {} }}", effect(e)),
        Fault::Short => "Fault::Short".to_owned(),
    };
    let one = |step: &Step| match step {
        Step::Append(records) => format!("Step::Append(vec!{records:?})"),
        Step::Fault(n, f) => format!("Step::Fault({n}, {})", fault(f)),
        other => format!("Step::{other:?}"),
    };
    steps.iter().map(one).collect::<Vec<_>>().join(", ")
}
