//! Recovery's last resort on a full disk: the last pack written again where it is, instead of a copy.

use super::append::{Behind, OpenPack};
use super::error::Doing;
use super::index::PackInfo;
use super::open::Walk;
use super::pack::{EntryHead, PACK_HEADER_LEN, PackHeader};
use super::walk::bad_block;
use super::{BlobError, Blobs, BlobsReport, Rewritten};
use crate::ids::PackId;

impl Blobs {
    /// Writes the last pack again where it is, byte for byte: on a disk without room for a copy. What the page cache holds and the disk perhaps
    /// does not is dirty again, and synced; what is torn at the end is cut. `None` when an entry before the last is not sound: only a copy can
    /// leave that out.
    pub(super) fn rewrite_in_place(
        &self,
        id: PackId,
        header: &PackHeader,
        entries: &[EntryHead],
        found: &Walk,
        report: &mut BlobsReport,
    ) -> Result<Option<OpenPack>, BlobError> {
        let path = self.pack_path(id);
        let file = self.storage.open(&path).doing("open", &path)?;
        // The generation stays: offsets do, and so what readers and indexes know of it.
        let header = PackHeader { generation: header.generation.wrapping_sub(1), ..*header }.encode();
        let mut bytes = Vec::new();
        let (mut kept, mut end) = (entries, found.end.max(PACK_HEADER_LEN));
        for (index, entry) in entries.iter().enumerate() {
            bytes.resize(entry.total_len() as usize, 0);
            file.read_exact_at(&mut bytes, entry.offset).doing("read", &path)?;
            let (head, data) = bytes.split_at(entry.head_len());
            if bad_block(entry, head, data).is_some() {
                if index + 1 < entries.len() {
                    return Ok(None);
                }
                (kept, end) = (&entries[..index], entry.offset);
                break;
            }
            file.write_at(&[&bytes], entry.offset).doing("write", &path)?;
        }
        file.write_at(&[&header], 0).doing("write", &path)?;
        if found.len > end {
            file.set_len(end).doing("cut", &path)?;
        }
        file.sync_data().doing("sync", &path)?;
        self.storage.sync_dir(&self.dir).doing("sync the directory", &self.dir)?;
        report.rewritten = Some(Rewritten { pack: id, kept: kept.len() as u64, dropped: 0, cut: found.len.saturating_sub(end) });
        self.drop_contents(id);
        self.add_pack(id, PackInfo { end, header: Some(header), ..PackInfo::default() })?;
        self.enter_all(id, kept);
        Ok(Some(OpenPack { id, file, end, name_unsynced: false, dirty_tail: false, behind: Behind::default() }))
    }
}
