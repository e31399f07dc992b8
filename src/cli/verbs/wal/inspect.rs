//! `ize wal inspect`.

use std::ops::ControlFlow;

use serde_json::{Map, json};

use super::filter::Filter;
use super::finding::{self, Finding};
use super::record::{Seen, hex_lines, hex_word};
use super::spool::Spool;
use super::stats::Stats;
use super::target::{self, Target};
use crate::cli::args::WalInspectArgs;
use crate::cli::output::fit::{self, Align};
use crate::cli::output::times::{self, Clock};
use crate::cli::output::{self, Out, Role};
use crate::cli::session::Session;
use crate::engine::names::Names;
use crate::error::Result;
use crate::ids::{Lsn, Time};
use crate::project::units::show_size;
use crate::wal::scan::{LogScan, SegmentInfo, SegmentState};

/// Columns of a digest that people see.
const DIGEST: usize = 16;

/// Shows segments and records, or sums, or follows the log. Beside a live writer it shows what has been appended so far. One segment at a
/// time is in memory, and the names of inodes.
///
/// # Errors
/// What the words mean; damage and I/O errors after what could be read was shown.
pub fn run(args: &WalInspectArgs, session: &mut Session) -> Result<()> {
    let target = target::find(args.word.as_deref(), session)?;
    let filter = Filter::new(args, &target, session)?;
    if args.follow {
        return super::follow::run(args, &target, &filter, session);
    }
    session.out.page(!session.global.no_pager && !args.json);
    let mut names = names_of(&target);
    // With a filter, or for sums, nobody asked for segments: one walk does.
    let listed = if args.segments || (filter.is_open() && !args.stats) { Some(list_segments(&target, args, session)?) } else { None };
    if args.segments {
        return conclude(&target, listed.as_ref(), args, session);
    }
    let end = listed.as_ref().map_or(Lsn(u64::MAX), |scan| scan.end);
    let mut stats = Stats::default();
    let mut spool = if args.reverse { Some(Spool::new(args.limit)?) } else { None };
    let mut clock = Clock::default();
    let mut left = if args.reverse { u64::MAX } else { args.limit.unwrap_or(u64::MAX) };
    let scan = target.walk(&mut |record, segment| {
        // What was appended after the list of segments was made is not shown half.
        if record.lsn > end || (left == 0 && listed.is_some()) {
            return Ok(ControlFlow::Break(()));
        }
        if left == 0 {
            return Ok(ControlFlow::Continue(()));
        }
        let mut seen = Seen::new(record, segment, &mut names);
        if target.wants(segment.id) && filter.wants(&mut seen) {
            if args.stats {
                stats.add(&seen);
            } else {
                let text = render(&mut seen, args, &mut clock, &session.out)?;
                match &mut spool {
                    Some(spool) => spool.push(text)?,
                    None => session.out.line(&text)?,
                }
            }
            left -= 1;
        }
        seen.learn();
        Ok(ControlFlow::Continue(()))
    })?;
    if let Some(spool) = spool {
        spool.show(true, &mut session.out)?;
    }
    if args.stats {
        stats.show(args.json, &mut session.out)?;
    }
    conclude(&target, listed.as_ref().or(scan.as_ref()), args, session)
}

/// Names, asking the versions of the project that the log is of.
#[must_use]
pub fn names_of(target: &Target) -> Names {
    Names::new(target.project.as_ref().map(|p| (p.layout.clone(), p.identity.id)))
}

/// A record as it is written: its line or object, and its bytes where they were asked for.
///
/// # Errors
/// Bytes that cannot be read.
pub fn render(seen: &mut Seen<'_, '_>, args: &WalInspectArgs, clock: &mut Clock, out: &Out) -> Result<String> {
    if args.json {
        let mut object = seen.json();
        if args.hex {
            object.insert("hex".into(), hex_word(&seen.raw()?).into());
        }
        return Out::json_text(&object);
    }
    let mut text = seen.text(clock, out);
    if args.hex {
        for line in hex_lines(&seen.raw()?, seen.record.offset) {
            text.push('\n');
            text += &line;
        }
    }
    Ok(text)
}

fn conclude(target: &Target, scan: Option<&LogScan>, args: &WalInspectArgs, session: &mut Session) -> Result<()> {
    let of_log = scan.into_iter().flat_map(|s| &s.findings).map(Finding::from);
    let findings: Vec<Finding> = of_log.chain(target.trouble.clone()).collect();
    finding::show(&findings, args.json, session)
}

fn list_segments(target: &Target, args: &WalInspectArgs, session: &mut Session) -> Result<LogScan> {
    let scan = target.walk(&mut |_, _| Ok(ControlFlow::Continue(())))?.unwrap_or_default();
    if args.json {
        scan.segments.iter().try_for_each(|s| session.out.json(&segment_json(s)))?;
        return Ok(scan);
    }
    let now = Time::now();
    let rows: Vec<[String; 7]> = scan.segments.iter().map(|s| segment_cells(s, now)).collect();
    let widths = fit::widths(&rows);
    // "segment ", and two columns between cells.
    let all = 8 + widths.iter().sum::<usize>() + 2 * (widths.len() - 1);
    let shown = if session.out.columns().is_some_and(|c| all > c) { widths.len() - 1 } else { widths.len() };
    for (row, s) in rows.iter().zip(&scan.segments) {
        let align = [Align::Left, Align::Left, Align::Left, Align::Right, Align::Right, Align::Right, Align::Left];
        let role = match s.state {
            SegmentState::Sealed => Role::Good,
            SegmentState::Active => Role::Change,
            SegmentState::TornTail => Role::Warning,
            SegmentState::Damaged => Role::Bad,
        };
        let cells: Vec<String> = (0..shown)
            .map(|n| {
                let cell = fit::pad(&row[n], widths[n], align[n]);
                match n {
                    0 | 2 => session.out.paint(Role::Id, &cell),
                    1 => session.out.paint(role, &cell),
                    6 => session.out.paint(Role::Aside, &cell),
                    _ => cell,
                }
            })
            .collect();
        session.out.line(&format!("segment {}", cells.join("  ")))?;
    }
    Ok(scan)
}

/// The name of a state, as JSON has it.
fn state_word(state: SegmentState) -> &'static str {
    match state {
        SegmentState::Sealed => "sealed",
        SegmentState::Active => "active",
        SegmentState::TornTail => "torn-tail",
        SegmentState::Damaged => "damaged",
    }
}

fn segment_cells(s: &SegmentInfo, now: Time) -> [String; 7] {
    let range = if s.records == 0 { "no records".to_owned() } else { format!("{}..{}", s.first_lsn, s.last_lsn) };
    let records = if s.records == 1 { "1 record".to_owned() } else { format!("{} records", s.records) };
    let age = s.last_time().map(|t| times::age(t, now)).unwrap_or_default();
    let digest = hex_word(&s.digest);
    [
        s.id.to_string(),
        state_word(s.state).to_owned(),
        range,
        records,
        show_size(s.bytes),
        age,
        digest.get(..DIGEST).unwrap_or_default().to_owned(),
    ]
}

fn segment_json(s: &SegmentInfo) -> Map<String, serde_json::Value> {
    let mut object = Map::new();
    object.insert("type".into(), "segment".into());
    object.insert("id".into(), s.id.0.into());
    output::put_file(&mut object, "file", &s.file);
    object.insert("state".into(), state_word(s.state).into());
    object.insert("first_lsn".into(), s.first_lsn.0.into());
    object.insert("last_lsn".into(), s.last_lsn.0.into());
    object.insert("records".into(), s.records.into());
    object.insert("bytes".into(), s.bytes.into());
    object.insert("used".into(), s.used.into());
    object.insert("payload".into(), s.payload.into());
    object.insert("epoch".into(), json!(s.header.as_ref().map(|h| h.epoch)));
    object.insert("created".into(), json!(s.header.as_ref().map(|h| output::json_time(h.created))));
    object.insert("last_time".into(), json!(s.last_time().map(output::json_time)));
    object.insert("digest".into(), hex_word(&s.digest).into());
    object
}
