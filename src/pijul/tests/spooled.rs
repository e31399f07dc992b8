//! Contents of changes for an output.

use libpijul::Hash;
use libpijul::changestore::ChangeStore;
use libpijul::pristine::{Base32, Vertex};

use super::kit::*;
use crate::pijul::spooled::Spooled;
use crate::pijul::store::ChangeFiles;

#[test]
fn the_contents_of_a_change_are_read_once() {
    let mut b = Bench::new();
    let hash = b.step(tree([("a", file("first\n")), ("b", file("second\n"))]), &[]).hash().to_owned();
    let hash = Hash::from_base32(hash.as_bytes()).unwrap();
    let files = ChangeFiles::new(b.project().join(".pijul/changes"));
    let spooled = Spooled::new(files.clone()).unwrap();
    let all = files.get_change(&hash).unwrap().contents;
    let key = |start: u64, end: u64| Vertex {
        change: Some(hash),
        start: libpijul::pristine::ChangePosition(start.into()),
        end: libpijul::pristine::ChangePosition(end.into()),
    };
    let read = |spooled: &Spooled, start: u64, end: u64| {
        let mut buf = vec![0; (end - start) as usize];
        spooled.get_contents_ext(key(start, end), &mut buf).map(|_| buf)
    };
    assert_eq!(read(&spooled, 3, 9).unwrap(), all[3..9]);
    std::fs::remove_file(files.path(&hash)).unwrap();
    assert_eq!(read(&spooled, 0, all.len() as u64).unwrap(), all);
    assert!(read(&spooled, 1, all.len() as u64 + 1).is_err());
    assert!(read(&Spooled::new(files).unwrap(), 3, 9).is_err());
}
