//! `ize wal inspect --follow`: the last records, then those to come, across new segments, pruned ones and recoveries, until Ctrl-C.

use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::filter::Filter;
use super::inspect::{names_of, render};
use super::record::Seen;
use super::spool::Spool;
use super::target::Target;
use crate::cli::args::WalInspectArgs;
use crate::cli::output;
use crate::cli::output::times::Clock;
use crate::cli::session::Session;
use crate::error::{Class, Error, Result};
use crate::ids::{Lsn, SegmentId};
use crate::wal::format::{
    Framing, HEADER_LEN, Header, HeaderFault, MAX_BODY, RECORD_HEADER_LEN, framed_len, segment_of_name, segment_path,
};
use crate::wal::scan::SegmentState;
use crate::wal::{Record, Segment, WalError};

/// How often it is looked whether there is more.
const PAUSE: Duration = Duration::from_millis(100);
/// Records that are shown first unless -n says otherwise, as with tail.
const LAST: u64 = 10;
/// Bytes read at a time; any record fits.
const WINDOW: usize = framed_len(MAX_BODY) + (64 << 10);

/// Shows the last records and then each one that is appended.
///
/// # Errors
/// `Usage` for a single segment; what walking and reading the log says.
pub fn run(args: &WalInspectArgs, target: &Target, filter: &Filter, session: &mut Session) -> Result<()> {
    if target.only.is_some() {
        return Err(
            Error::new(Class::Usage, "--follow follows a log, not one segment").hint("name the project or the directory of the segments")
        );
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(|e| Error::io("cannot wait for Ctrl-C", e))?;
    }
    session.out.live();
    let mut names = names_of(target);
    let mut clock = Clock::default();
    let wanted = args.limit.unwrap_or(LAST);
    let mut last = Spool::new(Some(wanted))?;
    // Counted first: to write all that are not shown would cost more than to read them twice.
    let Some(matching) = count(target, filter, &stop)? else { return Ok(()) };
    let mut seen_so_far = 0u64;
    let scan = target.walk(&mut |record, segment| {
        if stop.load(Ordering::Relaxed) {
            return Ok(ControlFlow::Break(()));
        }
        let mut seen = Seen::new(record, segment, &mut names);
        if filter.wants(&mut seen) {
            seen_so_far += 1;
            if seen_so_far.saturating_add(wanted) > matching {
                last.push(render(&mut seen, args, &mut clock, &session.out)?)?;
            }
        }
        seen.learn();
        Ok(ControlFlow::Continue(()))
    })?;
    let Some(scan) = scan else { return Ok(()) };
    last.show(false, &mut session.out)?;
    for finding in &scan.findings {
        output::warn(&format!("{}, offset {}, LSN {}: {}", output::name_of(&finding.file), finding.offset, finding.lsn, finding.what));
    }
    let mut follower = Follower { target, at: None, next: SegmentId(0) };
    if let Some(last) = scan.segments.last() {
        follower.next = last.id.next();
        if last.state != SegmentState::Sealed {
            follower.at = follower.open(last.id, Some((last.used, last.last_lsn.next())))?.at();
        }
    }
    while !stop.load(Ordering::Relaxed) && !output::nobody_reads_stdout() {
        let moved = follower.step(&mut |record, segment| {
            let mut seen = Seen::new(record, segment, &mut names);
            if filter.wants(&mut seen) {
                let text = render(&mut seen, args, &mut clock, &session.out)?;
                session.out.line(&text)?;
            }
            seen.learn();
            Ok(())
        })?;
        if !moved {
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// How many records the filter wants so far; `None` when stopped.
fn count(target: &Target, filter: &Filter, stop: &AtomicBool) -> Result<Option<u64>> {
    let mut names = names_of(target);
    let mut matching = 0;
    let scan = target.walk(&mut |record, segment| {
        if stop.load(Ordering::Relaxed) {
            return Ok(ControlFlow::Break(()));
        }
        if filter.is_open() {
            matching += 1;
            return Ok(ControlFlow::Continue(()));
        }
        let mut seen = Seen::new(record, segment, &mut names);
        matching += u64::from(filter.wants(&mut seen));
        seen.learn();
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(scan.map(|_| matching))
}

/// Where in the log it is.
struct Follower<'a> {
    target: &'a Target,
    /// The segment that is read, if it is there.
    at: Option<At>,
    /// The segment that comes then; a later one if that is gone.
    next: SegmentId,
}

struct At {
    segment: Arc<Segment>,
    /// Which file it is: recovery puts a copy in its place.
    file: (u64, u64),
    offset: u64,
    expected: Lsn,
}

enum Opened {
    At(At),
    /// Not there, or not any more.
    Absent,
    /// There, and of no use.
    Damaged,
}

impl Opened {
    fn at(self) -> Option<At> {
        if let Self::At(at) = self { Some(at) } else { None }
    }
}

type Take<'a> = dyn FnMut(&Record<'_>, &Arc<Segment>) -> Result<()> + 'a;

impl Follower<'_> {
    fn path(&self, id: SegmentId) -> std::path::PathBuf {
        segment_path(&self.target.dir, id)
    }

    /// Opens a segment at its first record, or where it was left.
    fn open(&self, id: SegmentId, from: Option<(u64, Lsn)>) -> Result<Opened> {
        let path = self.path(id);
        let identity = || std::fs::metadata(&path).map(|m| (m.dev(), m.ino())).ok();
        let Some(file) = identity() else { return Ok(Opened::Absent) };
        let Ok(opened) = self.target.storage.open_read(&path) else { return Ok(Opened::Absent) };
        if identity() != Some(file) {
            return Ok(Opened::Absent);
        }
        let mut head = [0; HEADER_LEN];
        if opened.read_exact_at(&mut head, 0).is_err() {
            return Ok(Opened::Absent);
        }
        let header = match Header::decode(&head, Some(self.target.store), id) {
            Ok(header) => header,
            Err(HeaderFault::Unsupported(what)) => return Err(WalError::Unsupported { file: path, what }.into()),
            Err(HeaderFault::Damaged(what)) => {
                output::warn(&format!("{}: {what}; it is passed over", output::name_of(&path)));
                return Ok(Opened::Damaged);
            }
        };
        let (offset, expected) = from.unwrap_or((HEADER_LEN as u64, header.first_lsn));
        Ok(Opened::At(At { segment: Arc::new(Segment::new(id, opened)), file, offset, expected }))
    }

    /// Numbers of the segments that are there.
    fn list(&self) -> Result<Vec<SegmentId>> {
        let dir = &self.target.dir;
        let names = self.target.storage.list(dir).map_err(|e| Error::io(format!("cannot list {}", output::name_of(dir)), e))?;
        let mut ids: Vec<SegmentId> = names.iter().filter_map(|n| segment_of_name(n)).collect();
        ids.sort();
        Ok(ids)
    }

    /// Gives what has been appended since to `take`; false when there was nothing.
    fn step(&mut self, take: &mut Take<'_>) -> Result<bool> {
        let Some(at) = &mut self.at else { return self.enter() };
        // Listed before it is read: a successor that is in the list was made after this one got its footer.
        let followed = {
            let next = at.segment.id.next();
            let path = segment_path(&self.target.dir, next);
            self.target.storage.open_read(&path).is_ok()
        };
        let mut any = false;
        loop {
            match at.read(self.target, take)? {
                Read::Some => any = true,
                Read::Sealed => {
                    self.next = at.segment.id.next();
                    self.at = None;
                    return Ok(true);
                }
                Read::Nothing => break,
            }
        }
        if any {
            return Ok(true);
        }
        let id = at.segment.id;
        let place = Some((at.offset, at.expected));
        let now = std::fs::metadata(segment_path(&self.target.dir, id)).map(|m| (m.dev(), m.ino())).ok();
        if now.is_some_and(|now| now != at.file) {
            // Recovery put its copy there, in which every record has kept its place.
            if let Opened::At(at) = self.open(id, place)? {
                self.at = Some(at);
                return Ok(true);
            }
        } else if now.is_none() || followed {
            let offset = at.offset;
            if now.is_some() {
                output::warn(&format!("{}: no valid record at offset {offset}, yet a segment follows", output::name_of(&self.path(id))));
            }
            self.next = id.next();
            self.at = None;
            return Ok(true);
        }
        Ok(false)
    }

    /// Goes on with the next segment, as soon as there is one.
    fn enter(&mut self) -> Result<bool> {
        let Some(id) = self.list()?.into_iter().find(|id| *id >= self.next) else { return Ok(false) };
        if id != self.next && self.next != SegmentId(0) {
            output::warn(&format!("segments {} to {} went before they could be shown", self.next, SegmentId(id.0.saturating_sub(1))));
        }
        let opened = self.open(id, None)?;
        self.next = if matches!(opened, Opened::Absent) { id } else { id.next() };
        self.at = opened.at();
        Ok(self.at.is_some())
    }
}

enum Read {
    Some,
    Sealed,
    Nothing,
}

impl At {
    /// Reads on from where it is.
    fn read(&mut self, target: &Target, take: &mut Take<'_>) -> Result<Read> {
        let framing = Framing::new(target.store, self.segment.id);
        let mut bytes = vec![0; WINDOW];
        let file = self.segment.file();
        let doing = || format!("cannot read {}", output::name_of(&segment_path(&target.dir, self.segment.id)));
        // A first look at a header's worth: mostly there is nothing yet.
        let mut len = file.read_at(&mut bytes[..RECORD_HEADER_LEN], self.offset).map_err(|e| Error::io(doing(), e))?;
        if len > 0 && bytes[..len].iter().any(|b| *b != 0) {
            len = 0;
            while len < bytes.len() {
                match file.read_at(&mut bytes[len..], self.offset + len as u64) {
                    Ok(0) => break,
                    Ok(n) => len += n,
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(Error::io(doing(), e)),
                }
            }
        }
        let mut rest = bytes.get(..len).unwrap_or_default();
        let mut any = false;
        while let Some(head) = framing.record(rest, self.offset).filter(|head| head.lsn == self.expected) {
            let framed = framed_len(head.body_len);
            let Some(body) = rest.get(RECORD_HEADER_LEN..RECORD_HEADER_LEN + head.body_len) else { break };
            let record = Record::new(&head, body, self.offset);
            take(&record, &self.segment)?;
            any = true;
            self.offset += framed as u64;
            self.expected = head.lsn.next();
            rest = rest.get(framed..).unwrap_or_default();
        }
        if any {
            return Ok(Read::Some);
        }
        Ok(if framing.read_footer(rest, self.offset).is_some() { Read::Sealed } else { Read::Nothing })
    }
}
