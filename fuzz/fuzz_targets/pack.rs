//! Any bytes as packs, and as the index file of one: opening, reading, checking and writing on never panic, and what is given out as a blob
//! has the hash that it was asked by. The first byte says how the rest is dressed up: as it is, or with sound headers, heads and tables put
//! over it, so that the reader gets past the checksums.
#![no_main]

use std::path::Path;

use ize::blobs::pack::{ENTRY_HEAD_LEN, EntryHead, PACK_HEADER_LEN, PackHeader, Stored, pack_file_name};
use ize::blobs::{Blobs, Encoding, OpenMode};
use ize::ids::{BlobId, PackId, StoreId};
use ize::storage::Storage;
use ize::storage::sim::SimDisk;
use libfuzzer_sys::fuzz_target;

const STORE: StoreId = StoreId([7; 16]);

fn write(disk: &SimDisk, name: &str, bytes: &[u8]) {
    let file = disk.create_new(&Path::new("/blobs").join(name)).expect("a fresh disk");
    file.write_at(&[bytes], 0).expect("a disk in memory");
}

/// Makes the head at `at` sound again, if it may be one: its CRC, and with `deep` its table too.
fn mend(bytes: &mut [u8], at: usize, deep: bool) -> Option<usize> {
    let entry = EntryHead::parse(bytes.get(at..)?, at as u64)?;
    let end = at.checked_add(usize::try_from(entry.total_len()).ok()?)?;
    let data = at + entry.head_len();
    let stored = bytes.get(data..data + entry.stored_len as usize)?.to_vec();
    if end > bytes.len() {
        return None;
    }
    if deep {
        bytes[data + stored.len()..end].fill(0);
    }
    let head = entry.encode(STORE, PackId(1), &EntryHead::sums(&stored));
    bytes[at..at + if deep { head.len() } else { ENTRY_HEAD_LEN }].copy_from_slice(&head[..if deep { head.len() } else { ENTRY_HEAD_LEN }]);
    Some(end)
}

fuzz_target!(|data: (u8, Vec<u8>, Vec<u8>)| {
    let (dress, mut bytes, other) = data;
    if dress & 1 != 0 {
        let header = PackHeader { store: STORE, pack: PackId(1), previous: PackId(0), previous_len: 0, generation: u32::from(dress) };
        bytes.resize(bytes.len().max(PACK_HEADER_LEN as usize), 0);
        bytes[..PACK_HEADER_LEN as usize].copy_from_slice(&header.encode());
    }
    if dress & 2 != 0 {
        // Heads where the bytes say one might be, and one at the front in any case.
        let first = PACK_HEADER_LEN as usize;
        if let Some(room) = bytes.len().checked_sub(first + ENTRY_HEAD_LEN + 4) {
            let stored = bytes[first + ENTRY_HEAD_LEN + 4..][..room.min(60_000)].to_vec();
            let encoding = if dress & 8 != 0 { Stored::Zstd } else { Stored::Raw };
            let raw_len = if encoding == Stored::Raw { stored.len() as u32 } else { 1 << 20 };
            let id = BlobId::of(&stored);
            let entry = EntryHead { offset: PACK_HEADER_LEN, encoding, raw_len, stored_len: stored.len() as u32, id };
            let head = entry.encode(STORE, PackId(1), &EntryHead::sums(&stored));
            if head.len() == ENTRY_HEAD_LEN + 4 {
                bytes[first..first + head.len()].copy_from_slice(&head);
                bytes.extend_from_slice(&[0; 8][..entry.padding()]);
            }
        }
        let mut at = first;
        while at + ENTRY_HEAD_LEN <= bytes.len() {
            at = mend(&mut bytes, at, dress & 4 != 0).unwrap_or(at + 8);
        }
    }
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/blobs")).expect("a fresh disk");
    write(&disk, &pack_file_name(PackId(1)), &bytes);
    if dress & 16 != 0 {
        write(&disk, &format!("{}.index", PackId(1)), &other);
    }
    if dress & 32 != 0 {
        let header = PackHeader { store: STORE, pack: PackId(2), previous: PackId(1), previous_len: bytes.len() as u64, generation: 0 };
        write(&disk, &pack_file_name(PackId(2)), &[&header.encode()[..], &other].concat());
    }

    for mode in [OpenMode::ReadOnly, OpenMode::Write { clean: true }, OpenMode::Write { clean: false }] {
        let disk = disk.kill();
        let Ok((blobs, _)) = Blobs::open(disk.shared(), "/blobs".into(), STORE, mode) else { continue };
        let mut ids = vec![BlobId::of(&bytes)];
        blobs
            .each(&mut |id, _| {
                ids.push(id);
                Ok(())
            })
            .expect("a disk that reads");
        for id in &ids {
            if let Ok(blob) = blobs.get(id) {
                assert_eq!(BlobId::of(&blob), *id);
                let mut part = vec![0; 9];
                if let Ok(n) = blobs.read_at(id, 3, &mut part) {
                    assert_eq!(part[..n], blob[blob.len().min(3)..blob.len().min(12)]);
                }
            }
            let _ = blobs.verify(id);
        }
        let _ = blobs.verify_packs(&mut |_| {}).expect("a disk that reads");
        if mode != OpenMode::ReadOnly {
            let id = blobs.put(&other, Encoding::Compress).expect("room");
            assert_eq!(blobs.get(&id).expect("just put"), other);
            blobs.sweep(&|kept| *kept == id).expect("room");
            blobs.sync().expect("a disk that syncs");
            assert_eq!(blobs.get(&id).expect("kept"), other);
        }
    }
});
