//! Files whose pieces stand in pages.

use std::os::unix::fs::FileExt;

use rand::prelude::*;

use crate::kit::*;
use crate::support::Home;

/// The bytes that go are named by one page of many, which two files share in some versions.
#[test]
fn a_secret_in_a_large_file_goes_with_the_file_or_the_blob_and_what_shares_its_pages_stays() {
    const LEN: usize = 24 << 20;
    let home = Home::new();
    home.mount();
    let at = |name: &str| home.mount.join(name);
    let mut bytes = vec![0; LEN];
    StdRng::seed_from_u64(21).fill_bytes(&mut bytes);
    std::fs::write(at("large"), &bytes).unwrap();
    std::fs::write(at("copy"), &bytes).unwrap();
    home.ok(&["commit", "p"]);
    // Into one of them, for the length of one version.
    let secret = SECRET.repeat(4000);
    let place = 12 << 20;
    let write = |bytes: &[u8]| std::fs::File::options().write(true).open(at("large")).unwrap().write_all_at(bytes, place as u64).unwrap();
    write(secret.as_bytes());
    home.ok(&["commit", "p"]);
    write(&bytes[place..place + secret.len()]);
    home.ok(&["commit", "p"]);
    home.unmount();
    let before = versions(&home);
    assert!(!places(&home.project(), SECRET).is_empty());
    // What the copy shares with it is told, and stays where that is said.
    let refused = home.ize(&purge(&["large", "--confirm", "p"]));
    assert!(refused.code == 9 && refused.out.contains("copy"), "{refused:?}");
    home.ok(&purge(&["large", "--leave-others", "--confirm", "p"]));
    assert_eq!(places(&home.project(), SECRET), [] as [String; 0]);
    let after = versions(&home);
    assert_eq!(after.len(), before.len());
    for ((id, was), (now_id, now)) in before.iter().zip(&after) {
        let left: Vec<_> = was.iter().filter(|(path, _)| *path != std::path::Path::new("large")).collect();
        assert_eq!((id, left), (now_id, now.iter().collect()));
    }
    assert!(home.ok(&["fsck", "p", "--deep"]).contains("clean"));
    let copy = home.command(&["cat", "p", "copy"]).output().unwrap().stdout;
    assert!(copy == bytes);
    // One of its chunks by its id: the file says where bytes are missing, and the rest of it is read.
    let project = ize::project::Project::open(home.project()).unwrap();
    let store = ize::engine::states::Store::open(&project.layout, project.identity.id).unwrap();
    let mut tree = store.resolve(&ize::control::message::When::Now { back: 0 }).unwrap();
    let ino = tree.resolve(b"copy").unwrap().unwrap();
    let content = tree.peek(ino).map(|inode| match &inode.body {
        ize::tree::Body::File(file) => file.base_content().clone(),
        _ => panic!("copy is no file"),
    });
    let content = content.unwrap();
    assert!(matches!(content, ize::versions::node::Content::PieceTree { .. }), "{content:?}");
    let pieces = ize::versions::piece_tree::all(&**store.blobs(), &content).unwrap();
    let start: u64 = pieces[..200].iter().map(ize::versions::node::Piece::len).sum();
    let ize::versions::node::Piece::Chunk { id, len } = pieces[200] else { panic!("a hole") };
    drop((tree, store));
    home.ok(&purge(&["--blob", &id.to_string(), "--confirm", "p"]));
    assert!(home.ok(&["fsck", "p", "--deep"]).contains("purged on"));
    home.mount();
    let file = std::fs::File::open(at("copy")).unwrap();
    // The kernel reads whole pages.
    let mut front = vec![0; start as usize & !4095];
    file.read_exact_at(&mut front, 0).unwrap();
    assert!(bytes.starts_with(&front));
    assert!(file.read_exact_at(&mut vec![0; len as usize], start).is_err());
    let behind = (start as usize + len as usize).next_multiple_of(4096);
    let mut rest = vec![0; LEN - behind];
    file.read_exact_at(&mut rest, behind as u64).unwrap();
    assert!(rest == bytes[behind..]);
    drop(file);
    home.unmount();
}
