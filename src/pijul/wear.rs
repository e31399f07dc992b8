//! How worn a file is. Its graph keeps every vertex that it ever had, and libpijul walks them: a file costs more with each edit. So the
//! change that would be the next edit of a worn file founds it anew: it deletes the file and adds it again with all its text, in one change.
//! Nothing of the history is lost by that: all changes stay in the log, and who each line is from is carried over ([`credit`]).
//!
//! Nothing is kept for this. The repository tells: which changes touched a file since its foundation is in a table of libpijul's, and how many
//! vertices it has is counted, up to a bound, when the number of those changes is a power of two. So the same versions give the same
//! changes, whoever records them and after whatever crash.
//!
//! Only an edit founds anew: a version that leaves the text as it is, or moves the file, does not.

use std::collections::HashSet;

use libpijul::pristine::sanakirja::MutTxn0;
use libpijul::pristine::{ChangeId, EdgeFlags, GraphTxnT, Position};
use libpijul::{ArcTxn, ChannelRef, ChannelTxnT, DepsTxnT, Inode, TreeTxnT, TxnTExt};

use crate::error::{Class, Result};
use crate::pijul::apply::refused;
use crate::pijul::credit::{self, Carried};
use crate::pijul::store::ChangeFiles;

/// What a file may come to before it is founded anew.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Changes that touched it since its foundation, that one among them.
    pub(super) touched: usize,
    /// Vertices of its graph, dead ones too.
    pub(super) vertices: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { touched: 100, vertices: 4_096 }
    }
}

/// Who the lines of a file are from that is to be founded anew with this text; `None` when it is not worn, or would not change.
pub(super) fn carried(
    txn: &ArcTxn<MutTxn0>,
    channel: &ChannelRef<MutTxn0>,
    store: &ChangeFiles,
    (inode, text): (Inode, &[u8]),
    limits: Limits,
) -> Result<Option<Carried>> {
    let position = txn.read().get_inodes(&inode, None).map_err(refused("cannot read the tree"))?.copied();
    let Some(position) = position else { return Ok(None) };
    if !worn(&txn.read(), channel, position, limits)? {
        return Ok(None);
    }
    let done = credit::read(store, txn, channel, position).and_then(|old| {
        if old.conflict || old.bytes == text { Ok(None) } else { credit::carry(store, txn, position, &old, text).map(Some) }
    });
    match done {
        // No reason to refuse the version: it is an edit like any other, only a slower one.
        Err(e) if e.class == Class::Failed => {
            tracing::warn!("a worn file is not founded anew: {e}");
            Ok(None)
        }
        done => done,
    }
}

fn worn(txn: &MutTxn0, channel: &ChannelRef<MutTxn0>, position: Position<ChangeId>, limits: Limits) -> Result<bool> {
    let mut touched = 0;
    for entry in txn.iter_touched(&position).map_err(refused("cannot read what was touched"))? {
        let (at, _) = entry.map_err(refused("cannot read what was touched"))?;
        if *at > position {
            break;
        }
        touched += usize::from(*at == position);
        if touched >= limits.touched {
            return Ok(true);
        }
    }
    Ok(touched > 1 && touched.is_power_of_two() && has_more_vertices(txn, channel, position, limits.vertices)?)
}

/// Whether the graph of a file has more vertices than this, dead or alive.
fn has_more_vertices(txn: &MutTxn0, channel: &ChannelRef<MutTxn0>, position: Position<ChangeId>, limit: usize) -> Result<bool> {
    let channel = channel.read();
    let first = position.inode_vertex();
    let (mut seen, mut open) = (HashSet::from([first]), vec![first]);
    while let Some(vertex) = open.pop() {
        let edges = txn.iter_adjacent(&channel, vertex, EdgeFlags::empty(), EdgeFlags::all() - EdgeFlags::PARENT);
        for edge in edges.map_err(refused("cannot read the graph"))? {
            let edge = edge.map_err(refused("cannot read the graph"))?;
            if edge.flag().contains(EdgeFlags::PARENT) || edge.flag().contains(EdgeFlags::FOLDER) {
                continue;
            }
            let to = *txn.find_block(txn.graph(&channel), edge.dest()).map_err(refused("cannot read the graph"))?;
            if seen.insert(to) {
                if seen.len() > limit {
                    return Ok(true);
                }
                open.push(to);
            }
        }
    }
    Ok(false)
}
