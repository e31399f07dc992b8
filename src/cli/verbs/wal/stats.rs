//! Operations and bytes, per kind and per process.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::record::{By, Seen};
use crate::cli::output::fit::{self, Align};
use crate::cli::output::{Out, Role};
use crate::error::Result;
use crate::project::units::show_size;

/// What some records come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    /// Records; of a process, operations.
    operations: u64,
    /// Bytes of files that writes carry.
    written: u64,
    /// Bytes that the records take in the log, and their payload in packs.
    stored: u64,
}

impl Sum {
    fn add(&mut self, written: u64, stored: u64) {
        self.operations += 1;
        self.written = self.written.saturating_add(written);
        self.stored = self.stored.saturating_add(stored);
    }

    fn put(self, json: &mut Map<String, Value>) {
        json.insert("operations".into(), self.operations.into());
        json.insert("bytes".into(), self.written.into());
        json.insert("stored".into(), self.stored.into());
    }

    fn cells(self, first: String) -> [String; 4] {
        [first, self.operations.to_string(), show_size(self.written), show_size(self.stored)]
    }
}

/// The sums so far.
#[derive(Debug, Default)]
pub struct Stats {
    all: Sum,
    kinds: BTreeMap<&'static str, Sum>,
    processes: BTreeMap<By, Sum>,
}

impl Stats {
    /// Adds one record.
    pub fn add(&mut self, seen: &Seen<'_, '_>) {
        let (written, stored) = (seen.written(), seen.stored());
        self.all.add(written, stored);
        self.kinds.entry(seen.kind()).or_default().add(written, stored);
        if let Some(by) = seen.by() {
            self.processes.entry(by).or_default().add(written, stored);
        }
    }

    /// Shows them: tables for people, the largest first, or objects.
    ///
    /// # Errors
    /// Those of writing.
    pub fn show(&self, json: bool, out: &mut Out) -> Result<()> {
        let mut kinds: Vec<_> = self.kinds.iter().collect();
        kinds.sort_by_key(|(_, sum)| std::cmp::Reverse((sum.stored, sum.operations)));
        let mut processes: Vec<_> = self.processes.iter().collect();
        processes.sort_by_key(|(_, sum)| std::cmp::Reverse((sum.stored, sum.operations)));
        if json {
            for (kind, sum) in kinds {
                let mut object = stats("kind");
                object.insert("kind".into(), (*kind).into());
                sum.put(&mut object);
                out.json(&object)?;
            }
            for (by, sum) in processes {
                let mut object = stats("process");
                by.put(&mut object);
                sum.put(&mut object);
                out.json(&object)?;
            }
            let mut object = stats("all");
            self.all.put(&mut object);
            return out.json(&object);
        }
        let by_kind = kinds.iter().map(|(kind, sum)| sum.cells((**kind).to_owned()));
        table("kind", by_kind.chain([self.all.cells("all".to_owned())]).collect(), out)?;
        out.line("")?;
        let room = out.columns().map_or(usize::MAX, |c| c.saturating_sub(44).max(16));
        table("process", processes.iter().map(|(by, sum)| sum.cells(fit::elide(&by.text(), room))).collect(), out)
    }
}

fn stats(by: &str) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("type".into(), "stats".into());
    object.insert("by".into(), by.into());
    object
}

fn table(what: &str, mut rows: Vec<[String; 4]>, out: &mut Out) -> Result<()> {
    rows.insert(0, [what.to_owned(), "operations".to_owned(), "written".to_owned(), "stored".to_owned()]);
    let widths = fit::widths(&rows);
    for (i, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .enumerate()
            .map(|(n, (cell, width))| fit::pad(cell, width, if n == 0 { Align::Left } else { Align::Right }))
            .collect();
        let line = cells.join("  ");
        let line = if i == 0 { out.paint(Role::Heading, &line) } else { line };
        out.line(line.trim_end())?;
    }
    Ok(())
}
