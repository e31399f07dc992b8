//! What import and export say at their end.

use serde_json::{Map, Value, json};

use crate::cli::output::{self, put_path};
use crate::cli::session::Session;
use crate::engine::outside::{Problems, Trouble};
use crate::error::{Class, Error, Result};

/// Problems that are told one by one to people.
const TOLD: usize = 100;

/// Tells what is not as it should be, then the summary: `line` for people, `figures` as JSON. Gives the error that this is, if it is one.
///
/// # Errors
/// `Io` when something is missing, `Failed` when something is not as in the source; those of stdout.
pub(super) fn conclude(session: &mut Session, json: bool, problems: &Problems, what: &str, line: &str, figures: Value) -> Result<()> {
    let (problems, counts) = problems.take();
    for (i, problem) in problems.iter().enumerate() {
        if json {
            let mut object = Map::new();
            object.insert("type".into(), "problem".into());
            object.insert("trouble".into(), problem.trouble.name().into());
            put_path(&mut object, "path", &problem.path);
            object.insert("why".into(), problem.why.clone().into());
            session.out.json(&object)?;
        } else if i < TOLD {
            let path = if problem.path.is_empty() { ".".to_owned() } else { output::name(&problem.path) };
            output::warn(&format!("{path}: {}", problem.why));
        }
    }
    let all: u64 = counts.iter().sum();
    if !json && all > TOLD as u64 {
        output::warn(&format!("and {} more; --json tells all", all - TOLD as u64));
    }
    let count = |trouble: Trouble| counts[trouble as usize];
    if json {
        let mut object = figures;
        object["type"] = "summary".into();
        object["problems"] = json!({
            "skipped": count(Trouble::Skipped), "changed": count(Trouble::Changed), "attribute": count(Trouble::Attribute),
            "missing": count(Trouble::Missing),
        });
        session.out.json(&object)?;
    } else {
        output::report(line);
    }
    let (missing, other) = (count(Trouble::Missing), count(Trouble::Changed) + count(Trouble::Attribute));
    if missing > 0 {
        return Err(Error::new(Class::Io, format!("the {what} is done, but {missing} paths are missing in it")));
    }
    if other > 0 {
        return Err(Error::new(Class::Failed, format!("the {what} is done, but not all is as it should be: {other} times")));
    }
    Ok(())
}

/// How many times as large `a` is, to two digits; 1 where there is nothing.
pub(super) fn ratio(a: u64, b: u64) -> f64 {
    if a == 0 || b == 0 { 1.0 } else { (a as f64 / b as f64 * 100.0).round() / 100.0 }
}
