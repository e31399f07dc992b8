//! Blobs by their ids, and what nothing names.

use std::path::Path;

use ize::ids::BlobId;
use rand::prelude::*;

use crate::kit::*;
use crate::support::Home;

#[test]
fn what_nothing_names_any_more_goes_with_all_garbage() {
    let home = Home::new();
    home.mount();
    let at = |name: &str| home.mount.join(name);
    // Without history, so that it goes with the log; among bytes that stay (and came in small writes), so that no prune rewrites their pack.
    let mut noise = vec![0; 2_000_000];
    StdRng::seed_from_u64(3).fill_bytes(&mut noise);
    let mut file = std::fs::File::create(at("noise")).unwrap();
    noise.chunks(20_000).for_each(|piece| std::io::Write::write_all(&mut file, piece).unwrap());
    drop(file);
    std::fs::write(at(".izeignore"), "large\n").unwrap();
    home.ok(&["commit", "p"]);
    std::fs::write(at("large"), much(SECRET)).unwrap();
    home.ok(&["commit", "p"]);
    std::fs::remove_file(at("large")).unwrap();
    // And an open file without a name, which the state of the version has.
    let mut open = std::fs::File::create(at("open")).unwrap();
    std::io::Write::write_all(&mut open, format!("{SECRET} without a name").as_bytes()).unwrap();
    std::fs::remove_file(at("open")).unwrap();
    home.ok(&["commit", "p"]);
    std::fs::write(at("last"), "last").unwrap();
    home.ok(&["commit", "p"]);
    drop(open);
    home.ok(&["wal", "prune", "p", "--max-size", "0"]);
    home.unmount();
    let before = versions(&home);
    let found = places(&home.project(), SECRET);
    assert!(!found.is_empty() && found.iter().all(|place| place.ends_with("pack")), "{found:?}");
    assert!(before.iter().all(|(_, tree)| !tree.contains_key(Path::new("large"))));
    assert_eq!(home.ize(&purge(&["large", "--confirm", "p"])).code, 3);
    for words in [&["--garbage", "large"][..], &["--garbage", "--keep-current"], &["--garbage", "--everywhere"]] {
        assert_eq!(home.ize(&purge(words)).code, 2, "{words:?}");
    }
    let shown = home.ok(&purge(&["--garbage", "--dry-run", "--json"]));
    let shown: serde_json::Value = serde_json::from_str(shown.lines().next().unwrap()).unwrap();
    assert!(shown["garbage_blobs"].as_u64().unwrap() > 0 && shown["garbage_bytes"].as_u64().unwrap() > 0, "{shown}");
    assert_eq!((&shown["unlinked"], &shown["inodes"]), (&1.into(), &0.into()), "{shown}");
    home.ok(&purge(&["--garbage", "--confirm", "p"]));
    assert_eq!(places(&home.project(), SECRET), [] as [String; 0]);
    assert_eq!(versions(&home), before);
    assert!(home.ok(&["fsck", "p", "--deep"]).contains("clean"));
}

#[test]
fn a_purged_blob_leaves_entries_that_say_so_and_can_be_written_over() {
    let home = Home::new();
    home.mount();
    let secret = format!("{SECRET}\n").repeat(100);
    for name in ["a", "b"] {
        std::fs::write(home.mount.join(name), &secret).unwrap();
    }
    std::fs::write(home.mount.join("c"), "other").unwrap();
    home.ok(&["commit", "p"]);
    let first = home.history()[0]["id"].as_str().unwrap().to_owned();
    std::fs::remove_file(home.mount.join("b")).unwrap();
    home.unmount();
    let id = BlobId::of(secret.as_bytes()).to_string();
    let unknown = home.ize(&["purge", "p", "--blob", &BlobId::of(b"?").to_string(), "--confirm", "p"]);
    assert_eq!(unknown.code, 3, "{unknown:?}");
    let said = home.ok(&["purge", "p", "--blob", &id, "--confirm", "p"]);
    assert!(said.contains("    a\n") && said.contains("    b\n"), "{said}");
    assert_eq!(places(&home.project(), SECRET), [] as [String; 0]);
    let fsck = home.ok(&["fsck", "p", "--deep"]);
    assert!(fsck.contains("clean") && fsck.contains("1 blobs that states name are gone on purpose"), "{fsck}");
    for (path, at) in [("a", "now"), ("b", first.as_str())] {
        let cat = home.ize(&["cat", "p", path, "--at", at]);
        assert!(cat.code == 1 && cat.err.contains("purged on"), "{cat:?}");
    }
    assert_eq!(home.ok(&["cat", "p", "c", "--at", &first]), "other");
    home.mount();
    let a = home.mount.join("a");
    assert_eq!(std::fs::metadata(&a).unwrap().len(), secret.len() as u64);
    assert_eq!(std::fs::read(&a).unwrap_err().raw_os_error(), Some(libc::EIO));
    let restore = home.ize(&["restore", "p", "b", "--at", &first]);
    assert!(restore.code != 0 && restore.err.contains("purged on"), "{restore:?}");
    assert!(!home.mount.join("b").exists());
    // Appended to, it becomes a version all the same; the bytes before are zeros.
    use std::io::Write;
    std::fs::OpenOptions::new().append(true).open(&a).unwrap().write_all(b"more").unwrap();
    home.ok(&["commit", "p"]);
    let mut expected = vec![0; secret.len()];
    expected.extend_from_slice(b"more");
    assert_eq!(home.ize(&["cat", "p", "a"]).bytes, expected);
    // The same content saved again is content again.
    std::fs::write(home.mount.join("d"), &secret).unwrap();
    home.ok(&["commit", "p"]);
    assert_eq!(home.ok(&["cat", "p", "b", "--at", &first]), secret);
    home.unmount();
    assert!(home.ok(&["fsck", "p", "--deep"]).contains("0 blobs that states name are gone"));
    // Damage in what tells purged from missing is named, and nothing begins that could not end.
    let path = home.project().join("meta/purged");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[5] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    for words in [&["fsck", "p"][..], &["purge", "p", "c", "--confirm", "p"]] {
        let said = home.ize(words);
        assert!(said.code == 5 && format!("{}{}", said.out, said.err).contains("meta/purged"), "{words:?}: {said:?}");
    }
    assert!(!home.project().join("meta/purge").exists());
    std::fs::remove_file(&path).unwrap();
    home.ok(&["purge", "p", "c", "--confirm", "p"]);
    assert!(home.ok(&["fsck", "p", "--deep"]).contains("clean"));
}
