//! A file whose pieces stand in pages: what an edit stores, what a damaged page costs, that the sweep keeps pages, and that rescue reads them.

use std::collections::HashSet;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use ize::ids::BlobId;
use rand::prelude::*;

use crate::kit::*;
use crate::support::{Home, said, sh};

const LEN: usize = 40 << 20;
const EDIT: usize = 20 << 20;

/// Three versions of `big`: as it was made, with 4 KiB of others in the middle, and longer; and `same`, the bytes of the second one.
fn paged() -> (Home, Vec<u8>) {
    let home = Home::new();
    home.ok(&["config", "set", "group.idle", "1h"]);
    home.mount();
    let big = home.mount.join("big");
    let mut rng = StdRng::seed_from_u64(11);
    let mut bytes = vec![0; LEN];
    rng.fill_bytes(&mut bytes);
    std::fs::write(&big, &bytes).unwrap();
    std::fs::write(home.mount.join("small"), "small").unwrap();
    home.ok(&["commit", "p"]);
    rng.fill_bytes(&mut bytes[EDIT..EDIT + 4096]);
    std::fs::File::options().write(true).open(&big).unwrap().write_all_at(&bytes[EDIT..EDIT + 4096], EDIT as u64).unwrap();
    std::fs::write(home.mount.join("same"), &bytes).unwrap();
    home.ok(&["commit", "p"]);
    let end = bytes.len() as u64;
    bytes.extend_from_slice(&[7; 5000]);
    std::fs::File::options().write(true).open(&big).unwrap().write_all_at(&[7; 5000], end).unwrap();
    home.ok(&["commit", "p"]);
    home.unmount();
    (home, bytes)
}

fn rescue(home: &Home, central: &Path, out: &str) -> (i32, String) {
    let (store, out) = (only(&central.join("projects")), home.path().join(out));
    let said = said(Command::new("python3").arg(store.join("meta/rescue.py")).arg(&store).arg(&out).output().unwrap());
    (said.code, said.err)
}

#[test]
fn pages_of_pieces_are_shared_kept_checked_and_rescued() {
    let (home, bytes) = paged();
    let named = Named::of(&home);
    let pages = |seq| named.pages_of(seq, "big");
    let ids = |seq| pages(seq).iter().map(|(_, page)| page.id).collect::<HashSet<BlobId>>();
    let all = pages(1).len();
    assert!(all >= 2 && pages(3).iter().map(|(_, page)| page.len).sum::<u64>() == bytes.len() as u64);
    assert_eq!(ids(2).difference(&ids(1)).count(), 1, "an edit is in one page");
    assert_eq!(ids(3).difference(&ids(2)).count(), 1, "and so is what is appended");
    assert_eq!(named.entry(2, "big"), named.entry(2, "same"), "the same bytes have the same pages");

    // What is named is kept, and everything is read through it.
    home.ok(&["wal", "prune", "p", "--max-size", "0"]);
    assert_eq!(fsck(&home, &home.central(), true).code, 0);
    let cat = |central: &Path, seq: usize| {
        let id = home.history()[3 - seq]["id"].as_str().unwrap().to_owned();
        home.command(&["cat", "p", "big", "--at", &id]).arg("--central-dir").arg(central).output().unwrap().stdout
    };
    assert!(cat(&home.central(), 3) == bytes);
    let (first, last) = (cat(&home.central(), 1), &bytes[..LEN]);
    assert!(first.len() == LEN && first[..EDIT] == last[..EDIT] && first[EDIT + 4096..] == last[EDIT + 4096..] && first != last);

    // A page that only the first version has; one that all have; the list of the last.
    let (_, old) = pages(1).into_iter().find(|(_, page)| !ids(2).contains(&page.id)).unwrap();
    let (_, told) = damaged(&home, "old page", false, |c| flip_blob(c, old.id, Where::Bytes));
    let finding = finds("old page", &told, 5, "state", Some("big"), (1, 1), false);
    assert!(finding["mend"].as_str().unwrap().starts_with("the newest state is sound"), "{finding}");
    let (start, shared) = pages(1).into_iter().find(|(_, page)| ids(3).contains(&page.id)).unwrap();
    let (copy, told) = damaged(&home, "page", false, |c| flip_blob(c, shared.id, Where::Bytes));
    let finding = finds("page", &told, 5, "state", Some("big"), (1, 3), true);
    assert!(finding["what"].as_str().unwrap().contains(&shared.id.to_string()), "{finding}");
    assert!(finding["paths"].as_array().unwrap().iter().any(|p| p["path"] == "same"), "{finding}");
    readable(&home, &copy, &["small"]);

    // Rescue brings out all of it, and what is readable where a page is lost.
    let (code, err) = rescue(&home, &home.central(), "out");
    assert_eq!(code, 0, "{err}");
    assert!(std::fs::read(home.path().join("out/big")).unwrap() == bytes);
    assert!(std::fs::read(home.path().join("out/same")).unwrap() == bytes[..LEN]);
    let (code, err) = rescue(&home, &copy, "less");
    assert_eq!(code, 1, "{err}");
    let end = start + shared.len;
    for name in ["big", "same"] {
        assert!(err.contains(&format!("LOST: {name}: bytes {start} to {}: ", end - 1)), "{err}");
    }
    let aside = sh(home.path(), "ls less.damaged/*-big");
    let mut expected = bytes.clone();
    expected[start as usize..end as usize].fill(0);
    assert!(std::fs::read(home.path().join(aside.trim())).unwrap() == expected);
}
