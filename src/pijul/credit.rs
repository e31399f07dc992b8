//! Who each line of a text is from. Pijul's graph says it of a file since its foundation. What was before, the change that founded the file
//! anew says itself ([`wear`](super::wear)): a line in its description for each such file,
//!
//! ```text
//! credit 57.1041 3=1,1@300,1,20=5 notes/a.txt
//! ```
//! of the former foundation (version 57, the file at position 1041 of its change), the lines of the new text in order, and the path as Pijul
//! has it. `COUNT=LINE`: as many lines, which were line LINE and following of the text that the former foundation began with. `COUNT@SEQ`:
//! lines of this version. `COUNT`: lines that are new with this change.
//!
//! So there are never more runs than two for each place that the edits since the former foundation changed, and one: credit takes less
//! than the edits did, however large the text and however long its history. Who a line is from is found by going back from foundation to
//! foundation. Versions, not hashes: they are shorter, and the log is in their order. A change that ize did not write is `COUNT@HASH`.

use std::fmt::Write as _;

use libpijul::change::{Atom, Hunk};
use libpijul::changestore::ChangeStore;
use libpijul::pristine::sanakirja::MutTxn0;
use libpijul::pristine::{Base32, ChangeId, GraphTxnT, Position, Vertex};
use libpijul::vertex_buffer::VertexBuffer;
use libpijul::{ArcTxn, ChannelRef, Hash};

use crate::error::{Class, Error, Result};
use crate::ids::VersionSeq;
use crate::pijul::apply::refused;
use crate::pijul::header;
use crate::pijul::store::ChangeFiles;

/// Begins the line of a description.
const KEY: &str = "credit ";

/// A text out of the graph, and where its bytes came from.
#[derive(Default)]
pub(super) struct Text {
    pub(super) bytes: Vec<u8>,
    spans: Vec<Span>,
    /// It has marks of conflict in it.
    pub(super) conflict: bool,
}

/// A part of a text: one vertex.
struct Span {
    /// Where it begins in the text.
    at: usize,
    /// The change that brought it.
    change: ChangeId,
    /// Where it begins in what the change holds.
    start: u64,
}

impl Text {
    /// Of each line, the change that brought it, and the line's place in what that change holds.
    pub(super) fn lines(&self) -> Vec<(ChangeId, u64)> {
        let mut out = Vec::new();
        let (mut at, mut span) = (0, 0);
        while at < self.bytes.len() {
            while self.spans.get(span + 1).is_some_and(|next| next.at <= at) {
                span += 1;
            }
            let Some(found) = self.spans.get(span) else { break };
            out.push((found.change, found.start + at.saturating_sub(found.at) as u64));
            let rest = self.bytes.get(at..).unwrap_or_default();
            at += rest.iter().position(|&b| b == b'\n').map_or(rest.len(), |n| n + 1);
        }
        out
    }
}

impl VertexBuffer for Text {
    fn output_line<E, F>(&mut self, key: Vertex<ChangeId>, contents: F) -> Result<(), E>
    where
        E: From<std::io::Error>,
        F: FnOnce(&mut [u8]) -> Result<(), E>,
    {
        let at = self.bytes.len();
        self.bytes.resize(at + (key.end - key.start), 0);
        contents(self.bytes.get_mut(at..).unwrap_or_default())?;
        if self.bytes.len() > at {
            self.spans.push(Span { at, change: key.change, start: key.start.into() });
        }
        Ok(())
    }

    fn output_conflict_marker<C: ChangeStore>(&mut self, _: &str, _: usize, _: Option<(&C, &[&Hash])>) -> Result<(), std::io::Error> {
        self.conflict = true;
        Ok(())
    }
}

/// The text of a file at the head.
pub(super) fn read(
    store: &ChangeFiles,
    txn: &ArcTxn<MutTxn0>,
    channel: &ChannelRef<MutTxn0>,
    position: Position<ChangeId>,
) -> Result<Text> {
    let mut text = Text::default();
    libpijul::output::output_file(store, txn, channel, position, &mut text).map_err(refused("cannot read a text"))?;
    Ok(text)
}

/// The change that founded a file, and what it says of it.
pub(super) struct Foundation {
    /// The version that it is; `None` where ize did not write it.
    pub(super) seq: Option<VersionSeq>,
    /// Places of the newlines of the text that the file began with, in what the change holds.
    newlines: Vec<u64>,
    /// Where that text is there.
    text: std::ops::Range<u64>,
    /// Who its lines are from, where the file was there before.
    pub(super) carried: Option<Carried>,
}

impl Foundation {
    /// The foundation of the file at this position of a change.
    pub(super) fn read(store: &ChangeFiles, hash: &Hash, at: u64) -> Result<Self> {
        let change = store.load(hash).map_err(refused("cannot read a change"))?;
        let found = change.hashed.changes.iter().find_map(|hunk| match hunk {
            Hunk::FileAdd { add_inode: Atom::NewVertex(inode), contents, path, .. } if u64::from(inode.start) == at => {
                let range = match contents {
                    Some(Atom::NewVertex(text)) => text.start.into()..text.end.into(),
                    _ => 0..0,
                };
                Some((path, range))
            }
            _ => None,
        });
        let description = change.hashed.header.description.as_deref().unwrap_or_default();
        let (path, text) = found.unzip();
        let text = text.unwrap_or_default();
        let bytes = usize::try_from(text.start).ok().zip(usize::try_from(text.end).ok()).and_then(|(a, b)| change.contents.get(a..b));
        let newlines = (text.start..).zip(bytes.unwrap_or_default()).filter(|(_, b)| **b == b'\n').map(|(n, _)| n).collect();
        let carried = path.and_then(|path| Carried::find(description, path));
        Ok(Self { seq: header::parse(description).map(|c| c.seq), newlines, text, carried })
    }

    /// Which line of the text that the file began with is at this place of what the change holds; the first is 1.
    pub(super) fn line(&self, place: u64) -> Option<u64> {
        self.text.contains(&place).then(|| self.newlines.partition_point(|n| *n < place) as u64 + 1)
    }
}

/// Who some lines are from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// The change that says it.
    Itself,
    /// This version.
    Version(VersionSeq),
    /// A change that ize did not write, in base32.
    Foreign(String),
    /// They were this line and following of the text that the former foundation began with.
    Former(u64),
}

/// Who the lines of a file are from that was founded anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Carried {
    /// The former foundation: its version, and the file's position in its change. Not there where the file then began.
    pub(super) former: Option<(VersionSeq, u64)>,
    /// The last line of each run, and who its lines are from.
    runs: Vec<(u64, Of)>,
}

impl Carried {
    fn push(&mut self, of: Of) {
        let before = self.runs.len().checked_sub(2).and_then(|n| self.runs.get(n)).map_or(0, |(last, _)| *last);
        let end = self.runs.last().map_or(0, |(last, _)| *last);
        match (self.runs.last_mut(), &of) {
            (Some((last, Of::Former(first))), Of::Former(line)) if *first + (end - before) == *line => *last += 1,
            (_, Of::Former(_)) => self.runs.push((end + 1, of)),
            (Some((last, same)), of) if same == of => *last += 1,
            _ => self.runs.push((end + 1, of)),
        }
    }

    /// Who a line is from; the first is 1.
    pub(super) fn of(&self, line: u64) -> Of {
        let run = self.runs.partition_point(|(last, _)| *last < line);
        let before = run.checked_sub(1).and_then(|n| self.runs.get(n)).map_or(0, |(last, _)| *last);
        match self.runs.get(run) {
            Some((_, Of::Former(first))) => Of::Former(first + (line - before).saturating_sub(1)),
            Some((_, of)) => of.clone(),
            None => Of::Itself,
        }
    }

    /// The line for the description, with a newline before it. `path` is Pijul's.
    pub(super) fn line(&self, path: &str) -> String {
        let mut out = format!("\n{KEY}");
        // Writing to a String cannot fail.
        let _ = match self.former {
            Some((seq, at)) => write!(out, "{seq}.{at} "),
            None => write!(out, "- "),
        };
        let mut before = 0;
        for (last, of) in &self.runs {
            out.push_str(if before == 0 { "" } else { "," });
            let count = last - before;
            before = *last;
            let _ = match of {
                Of::Itself => write!(out, "{count}"),
                Of::Version(seq) => write!(out, "{count}@{seq}"),
                Of::Foreign(hash) => write!(out, "{count}@{hash}"),
                Of::Former(line) => write!(out, "{count}={line}"),
            };
        }
        let _ = write!(out, " {path}");
        out
    }

    /// What a description says of the path.
    fn find(description: &str, path: &str) -> Option<Self> {
        description.lines().filter_map(|line| line.strip_prefix(KEY)).find_map(|line| {
            let mut words = line.splitn(3, ' ');
            let (former, runs) = (words.next()?, words.next()?);
            (words.next()? == path).then(|| Self::parse(former, runs)).flatten()
        })
    }

    fn parse(former: &str, runs: &str) -> Option<Self> {
        let former = match former {
            "-" => None,
            former => {
                let (seq, at) = former.split_once('.')?;
                Some((VersionSeq(seq.parse().ok()?), at.parse().ok()?))
            }
        };
        let run = |run: &str| -> Option<(u64, Of)> {
            if let Some((count, line)) = run.split_once('=') {
                return Some((count.parse().ok()?, Of::Former(line.parse().ok()?)));
            }
            let Some((count, of)) = run.split_once('@') else { return Some((run.parse().ok()?, Of::Itself)) };
            let of = of.parse().map_or_else(|_| Of::Foreign(of.to_owned()), |seq| Of::Version(VersionSeq(seq)));
            Some((count.parse().ok()?, of))
        };
        let (mut out, mut last) = (Self { former, runs: Vec::new() }, 0_u64);
        for (count, of) in runs.split(',').filter(|r| !r.is_empty()).map(run).collect::<Option<Vec<_>>>()? {
            last = last.checked_add(count)?;
            out.runs.push((last, of));
        }
        Some(out)
    }
}

/// Who the lines of the text `new` are from, which the file is to be founded anew with, `old` being what it holds.
pub(super) fn carry(store: &ChangeFiles, txn: &ArcTxn<MutTxn0>, position: Position<ChangeId>, old: &Text, new: &[u8]) -> Result<Carried> {
    let external =
        |change: ChangeId| -> Result<Hash> { Ok(txn.read().get_external(&change).map_err(refused("cannot read the changes"))?.into()) };
    let foundation = Foundation::read(store, &external(position.change)?, position.pos.into())?;
    let former = foundation.seq.filter(|_| foundation.carried.is_some()).map(|seq| (seq, position.pos.into()));
    let mut known: std::collections::HashMap<ChangeId, Of> = std::collections::HashMap::new();
    let mut of = |(change, place): (ChangeId, u64)| -> Result<Of> {
        if let Some(line) = foundation.line(place).filter(|_| change == position.change && former.is_some()) {
            return Ok(Of::Former(line));
        }
        if let Some(of) = known.get(&change) {
            return Ok(of.clone());
        }
        let hash = external(change)?;
        let loaded = store.load(&hash).map_err(refused("cannot read a change"))?;
        let seq = loaded.hashed.header.description.as_deref().and_then(header::parse).map(|c| c.seq);
        let of = seq.map_or_else(|| Of::Foreign(hash.to_base32()), Of::Version);
        known.insert(change, of.clone());
        Ok(of)
    };
    let origins = old.lines();
    let mut out = Carried { former, runs: Vec::new() };
    let mut line = 0;
    for (before, after) in differences(&old.bytes, new)? {
        for origin in origins.get(line..before.start).unwrap_or_default() {
            out.push(of(*origin)?);
        }
        after.for_each(|_| out.push(Of::Itself));
        line = before.end;
    }
    for origin in origins.get(line..).unwrap_or_default() {
        out.push(of(*origin)?);
    }
    Ok(out)
}

type Lines = std::ops::Range<usize>;

/// Which lines of two texts differ, found as libpijul finds them.
fn differences(old: &[u8], new: &[u8]) -> Result<Vec<(Lines, Lines)>> {
    use imara_diff::sources::byte_lines_with_terminator as lines;
    if old.len().max(new.len()) > i32::MAX as usize {
        return Err(Error::new(Class::Failed, "a text is too long to be compared"));
    }
    let input = imara_diff::intern::InternedInput::new(lines(old), lines(new));
    let mut out = Vec::new();
    let range = |r: std::ops::Range<u32>| r.start as usize..r.end as usize;
    imara_diff::diff(imara_diff::Algorithm::Histogram, &input, |before, after| out.push((range(before), range(after))));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carried_credit_comes_back_from_a_description() {
        let mut carried = Carried { former: Some((VersionSeq(57), 1041)), runs: Vec::new() };
        let lines = [Of::Former(1), Of::Former(2), Of::Former(4), Of::Version(VersionSeq(300)), Of::Version(VersionSeq(300)), Of::Itself];
        for of in lines.iter().cloned().chain([Of::Foreign("ABC".into())]) {
            carried.push(of);
        }
        let text = format!("ize 1\nversion 2{}{}", carried.line("a b.txt"), carried.line("b.txt"));
        assert!(text.ends_with("\ncredit 57.1041 2=1,1=4,2@300,1,1@ABC b.txt"), "{text}");
        let found = Carried::find(&text, "a b.txt").unwrap();
        assert_eq!(found, carried);
        assert_eq!((1..=6).map(|n| found.of(n)).collect::<Vec<_>>(), lines);
        assert_eq!(found.of(99), Of::Itself);
        let fresh = Carried { former: None, runs: vec![(2, Of::Version(VersionSeq(1)))] };
        assert_eq!(Carried::find(&fresh.line("x"), "x"), Some(fresh));
        assert_eq!(Carried::find(&text, "c"), None);
        for broken in ["credit", "credit x 1 a", "credit 1.x 1 a", "credit - 1=x a", "credit - x@1 a"] {
            assert_eq!(Carried::find(broken, "a"), None, "{broken}");
        }
    }

    #[test]
    fn lines_that_differ_are_found() {
        assert_eq!(differences(b"a\nb\nc", b"a\nx\ny\nc").unwrap(), [(1..2, 1..3)]);
        assert_eq!(differences(b"a\nb", b"a\nb\n").unwrap(), [(1..2, 1..2)]);
        assert_eq!(differences(b"", b"").unwrap(), []);
    }
}
