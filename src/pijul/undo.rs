//! Taking one change of a text out of the middle, and putting it back, by patch theory: of three texts (before the change, after it, now)
//! Pijul makes changes in a repository in memory, unrecords the one in the middle, and what is left is the text.
//!
//! Why not in the project's own repository. There an undone change stays in the log, and what was built on it stays its dependant for ever:
//! "undo those first" would be no way out. A hot file that was founded anew makes a dependant of every later change. And it may lag, be
//! thinned out, or be somebody's to repair. The three texts are in the versions, the same diff is made of them, and what no longer differs
//! now is no obstacle. Where no change was undone before, `pijul unrecord` in a clone gives the same text (tests/undo.rs).
//!
//! Nothing is written anywhere: the transaction is dropped, never committed.

use std::collections::BTreeMap;

use libpijul::change::ChangeHeader;
use libpijul::changestore::ChangeStore;
use libpijul::changestore::memory::Memory;
use libpijul::pristine::sanakirja::{MutTxn0, Pristine};
use libpijul::pristine::{ChangeId, Vertex};
use libpijul::record::Builder;
use libpijul::small_string::SmallString;
use libpijul::unrecord::{TouchedInodes, UnrecordError};
use libpijul::vertex_buffer::VertexBuffer;
use libpijul::{Algorithm, ArcTxn, ChannelRef, DEFAULT_SEPARATOR, Hash, MutTxnT, MutTxnTExt, TxnTExt};

use crate::error::Result;
use crate::pijul::apply::refused;
use crate::pijul::repository::guarded;
use crate::pijul::view::{Put, View};

/// The only file.
const FILE: &str = "f";
/// Address space of a repository in memory, in bytes. What is not used takes no memory; it grows beyond.
const SPACE: u64 = 64 << 20;

/// What is left of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// This.
    Text(Vec<u8>),
    /// The two sides contradict one another: the text with Pijul's marks of conflict.
    Conflict(Vec<u8>),
    /// What came later was built on the change: it cannot be taken out alone.
    Needed,
}

/// The text `now` without the change from `before` to `after`.
///
/// # Errors
/// What libpijul says.
pub fn take_out(before: &[u8], after: &[u8], now: &[u8]) -> Result<Left> {
    guarded("taking a change out of a text", || {
        let bench = Bench::new()?;
        let main = bench.channel("main")?;
        bench.record(&main, "before", before)?;
        let Some(middle) = bench.record(&main, "the change", after)? else { return Ok(Left::Text(now.to_vec())) };
        bench.record(&main, "later", now)?;
        let mut touched = TouchedInodes::default();
        let taken = bench.txn.write().unrecord(&bench.store, &main, &middle, 0, &mut touched);
        match taken {
            Ok(_) => bench.read(&main),
            Err(UnrecordError::ChangeIsDependedUpon { .. }) => Ok(Left::Needed),
            Err(e) => Err(refused("cannot unrecord")(e)),
        }
    })
}

/// The text `now`, which grew out of `before`, with the change from `before` to `after`.
///
/// # Errors
/// What libpijul says.
pub fn put_back(before: &[u8], after: &[u8], now: &[u8]) -> Result<Left> {
    guarded("putting a change back into a text", || {
        let bench = Bench::new()?;
        let main = bench.channel("main")?;
        bench.record(&main, "before", before)?;
        let name: SmallString = "side".parse().map_err(refused("cannot name a channel"))?;
        let side = bench.txn.write().fork(&main, &name).map_err(refused("cannot fork"))?;
        let change = bench.record(&side, "the change", after)?;
        bench.record(&main, "later", now)?;
        if let Some(change) = change {
            let mut channel = main.write();
            let applied = bench.txn.write().apply_change(&bench.store, &mut *channel, &change);
            applied.map_err(refused("cannot apply"))?;
        }
        bench.read(&main)
    })
}

/// Which of the texts that followed, by their places, were built on the change from `before` to `after`, directly or by way of others.
///
/// # Errors
/// What libpijul says.
pub fn built_on(before: &[u8], after: &[u8], later: &[Vec<u8>]) -> Result<Vec<usize>> {
    guarded("looking for what was built on a change", || {
        let bench = Bench::new()?;
        let main = bench.channel("main")?;
        bench.record(&main, "before", before)?;
        let Some(change) = bench.record(&main, "the change", after)? else { return Ok(Vec::new()) };
        let (mut on, mut places) = (vec![change], Vec::new());
        for (place, text) in later.iter().enumerate() {
            let Some(hash) = bench.record(&main, "later", text)? else { continue };
            let needs = bench.store.get_dependencies(&hash).map_err(refused("cannot read a change"))?;
            if needs.iter().any(|need| on.contains(need)) {
                on.push(hash);
                places.push(place);
            }
        }
        Ok(places)
    })
}

/// A repository in memory with one file.
struct Bench {
    txn: ArcTxn<MutTxn0>,
    store: Memory,
    // Below the transaction, so that it is dropped after it.
    _pristine: Pristine,
}

impl Bench {
    fn new() -> Result<Self> {
        let pristine = Pristine::new_anon_with_size(SPACE).map_err(refused("cannot make a repository in memory"))?;
        let txn = pristine.arc_txn_begin().map_err(refused("cannot begin"))?;
        Ok(Self { txn, store: Memory::new(), _pristine: pristine })
    }

    fn channel(&self, name: &str) -> Result<ChannelRef<MutTxn0>> {
        let name: SmallString = name.parse().map_err(refused("cannot name a channel"))?;
        let channel = self.txn.write().open_or_create_channel(&name).map_err(refused("cannot open a channel"))?;
        self.txn.write().add_file(FILE, 0).map_err(refused("cannot add a file"))?;
        Ok(channel)
    }

    /// Records the text as the file's next one; `None` when it is the same.
    fn record(&self, channel: &ChannelRef<MutTxn0>, message: &str, text: &[u8]) -> Result<Option<Hash>> {
        let put = Put::File { bytes: text.to_vec(), executable: false };
        let view = View::new(BTreeMap::from([(FILE.to_owned(), put)]));
        let mut builder = Builder::new();
        let (algorithm, separator) = (Algorithm::ImaraHistogram, &DEFAULT_SEPARATOR);
        let done = builder.record(self.txn.clone(), algorithm, false, separator, channel.clone(), &view, &self.store, FILE, 1);
        done.map_err(refused("cannot record a text"))?;
        let recorded = builder.finish();
        if recorded.actions.is_empty() {
            return Ok(None);
        }
        let updates = recorded.updatables.clone();
        let header =
            ChangeHeader { message: message.to_owned(), description: None, timestamp: jiff::Timestamp::UNIX_EPOCH, authors: Vec::new() };
        let change = recorded.into_change(&*self.txn.read(), channel, header);
        let mut change = change.map_err(refused("cannot make a change"))?;
        let hash = self.store.save_change(&mut change, |_, _| Ok::<_, libpijul::changestore::memory::Error>(()));
        let hash = hash.map_err(refused("cannot keep a change"))?;
        self.txn.write().apply_local_change(channel, &change, &hash, &updates).map_err(refused("cannot apply a change"))?;
        Ok(Some(hash))
    }

    fn read(&self, channel: &ChannelRef<MutTxn0>) -> Result<Left> {
        let found = self.txn.read().follow_oldest_path(&self.store, channel, FILE);
        let (position, _) = found.map_err(refused("cannot find a text"))?;
        let mut text = Text::default();
        libpijul::output::output_file(&self.store, &self.txn, channel, position, &mut text).map_err(refused("cannot read a text"))?;
        Ok(if text.conflict { Left::Conflict(text.bytes) } else { Left::Text(text.bytes) })
    }
}

/// Takes what Pijul puts out.
#[derive(Default)]
struct Text {
    bytes: Vec<u8>,
    conflict: bool,
}

impl VertexBuffer for Text {
    fn output_line<E, F>(&mut self, key: Vertex<ChangeId>, contents: F) -> Result<(), E>
    where
        E: From<std::io::Error>,
        F: FnOnce(&mut [u8]) -> Result<(), E>,
    {
        let at = self.bytes.len();
        self.bytes.resize(at + (key.end - key.start), 0);
        contents(self.bytes.get_mut(at..).unwrap_or_default())
    }

    fn output_conflict_marker<C: ChangeStore>(&mut self, s: &str, _: usize, sides: Option<(&C, &[&Hash])>) -> Result<(), std::io::Error> {
        self.conflict = true;
        if !self.bytes.is_empty() && !self.bytes.ends_with(b"\n") {
            self.bytes.push(b'\n');
        }
        self.bytes.extend_from_slice(s.as_bytes());
        for hash in sides.into_iter().flat_map(|(store, all)| all.iter().map(move |hash| (store, hash))) {
            let message = hash.0.get_header(hash.1).map(|header| header.message).unwrap_or_default();
            self.bytes.extend_from_slice(format!(" [{message}]").as_bytes());
        }
        self.bytes.push(b'\n');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lines: &[&str]) -> Vec<u8> {
        lines.iter().flat_map(|l| format!("{l}\n").into_bytes()).collect()
    }

    fn numbers(changed: &[(usize, &str)]) -> Vec<u8> {
        let mut all: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        for (n, line) in changed {
            all[*n] = (*line).to_owned();
        }
        text(&all.iter().map(String::as_str).collect::<Vec<_>>())
    }

    #[test]
    fn one_edit_goes_and_the_later_ones_stay() {
        let (before, after) = (numbers(&[]), numbers(&[(3, "three")]));
        let now = numbers(&[(3, "three"), (0, "zero"), (15, "fifteen")]);
        let left = numbers(&[(0, "zero"), (15, "fifteen")]);
        assert_eq!(take_out(&before, &after, &now).unwrap(), Left::Text(left.clone()));
        assert_eq!(put_back(&before, &after, &left).unwrap(), Left::Text(now));
    }

    #[test]
    fn lines_that_went_come_back_and_lines_that_came_go() {
        let before = text(&["a", "b", "c", "d", "e"]);
        let after = text(&["a", "c", "new", "d", "e"]);
        let now = text(&["a", "c", "new", "d", "e", "end"]);
        assert_eq!(take_out(&before, &after, &now).unwrap(), Left::Text(text(&["a", "b", "c", "d", "e", "end"])));
        // Without a newline at the end, and of nothing.
        assert_eq!(take_out(b"", b"x", b"x").unwrap(), Left::Text(Vec::new()));
        assert_eq!(take_out(b"1\n2", b"1\n2\n", b"0\n1\n2\n").unwrap(), Left::Text(b"0\n1\n2".to_vec()));
    }

    #[test]
    fn what_was_built_on_a_change_keeps_it_and_is_told() {
        let (before, after) = (numbers(&[]), numbers(&[(3, "three")]));
        let now = numbers(&[(3, "THREE"), (15, "x")]);
        assert_eq!(take_out(&before, &after, &now).unwrap(), Left::Needed);
        let later = [numbers(&[(3, "three"), (15, "x")]), after.clone(), numbers(&[(3, "THREE")]), now];
        assert_eq!(built_on(&before, &after, &later).unwrap(), [2]);
        // What was undone meanwhile is no obstacle any more.
        assert_eq!(take_out(&before, &after, &after).unwrap(), Left::Text(before));
    }

    #[test]
    fn a_contradiction_is_a_conflict() {
        let (before, after) = (numbers(&[]), numbers(&[(3, "three")]));
        let now = numbers(&[(3, "drei")]);
        let Left::Conflict(shown) = put_back(&before, &after, &now).unwrap() else { panic!("no conflict") };
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.contains(">>>>>>>") && shown.contains("three") && shown.contains("drei"), "{shown}");
        // Lines that come back where later ones were put.
        let (before, after) = (text(&["a", "b", "c"]), text(&["a", "c"]));
        let left = take_out(&before, &after, &text(&["a", "between", "c"])).unwrap();
        assert!(matches!(left, Left::Conflict(_)), "{left:?}");
    }

    #[test]
    fn a_large_text_takes_no_longer_than_it_must() {
        let line = |n: usize| format!("line number {n}\n");
        let before: String = (0..40_000).map(line).collect();
        let after = before.replace("number 20000\n", "number twenty thousand\n");
        let now = after.replace("number 7\n", "number seven\n");
        let begun = std::time::Instant::now();
        let left = take_out(before.as_bytes(), after.as_bytes(), now.as_bytes()).unwrap();
        assert_eq!(left, Left::Text(before.replace("number 7\n", "number seven\n").into_bytes()));
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
    }
}
