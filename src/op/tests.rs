//! Every kind of operation encodes and decodes to itself, and bodies are frozen.

use super::*;
use crate::ids::Time;

fn every_operation() -> Vec<Operation> {
    let (dir, ino, name) = (Ino(1), Ino(300), b"na\xffme".to_vec());
    let (mode, uid, gid) = (0o4755, 1000, 100);
    let t = |secs| Time { secs, nanos: 999_999_999 };
    vec![
        Create { dir, name: name.clone(), ino, mode, uid, gid }.into(),
        Mkdir { dir, name: name.clone(), ino, mode, uid, gid }.into(),
        Mknod { dir, name: name.clone(), ino, what: FileKind::BlockDevice, mode, uid, gid, rdev: 0x801 }.into(),
        Symlink { dir, name: name.clone(), ino, target: b"../x".to_vec(), uid, gid }.into(),
        Link { ino, dir, name: name.clone() }.into(),
        Unlink { dir, name: name.clone(), ino }.into(),
        Rmdir { dir, name: name.clone(), ino }.into(),
        Rename { dir, name: name.clone(), ino, to_dir: Ino(2), to_name: b"b".to_vec(), mode: RenameMode::Free }.into(),
        Rename { dir, name: name.clone(), ino, to_dir: Ino(2), to_name: b"b".to_vec(), mode: RenameMode::Replace(Ino(9)) }.into(),
        Rename { dir, name: name.clone(), ino, to_dir: Ino(2), to_name: b"b".to_vec(), mode: RenameMode::Exchange(Ino(9)) }.into(),
        Write { ino, offset: 1 << 40, data: Data::Inline(5), size_after: (1 << 40) + 5, mode_after: Some(0o755) }.into(),
        Write { ino, offset: 0, data: Data::Blob { id: BlobId([3; 32]), len: 70_000 }, size_after: 70_000, mode_after: None }.into(),
        Truncate { ino, old_size: 7, size: 3, mode_after: None }.into(),
        Fallocate { ino, mode: AllocateMode::PunchHole, offset: 1, len: 2, size_after: 7 }.into(),
        Clone { from: Ino(8), from_offset: 1, ino, offset: 2, len: 3, size_after: 5, mode_after: None }.into(),
        Chmod { ino, old: 0o644, new: 0o600 }.into(),
        Chown { ino, old: (0, 0), new: (1, 2), mode_after: Some(0o755) }.into(),
        Utimens { ino, old: (t(-1), t(0)), atime: None, mtime: Some(t(i64::MAX)) }.into(),
        SetXattr { ino, name: b"user.a".to_vec(), value: vec![0, 255] }.into(),
        RemoveXattr { ino, name: b"user.a".to_vec() }.into(),
        Forget { ino }.into(),
        Mark { marker: Marker::Commit { message: Some("m".to_owned()) } }.into(),
        Mark { marker: Marker::Restore { at: Lsn(5), paths: vec![b"a".to_vec()] } }.into(),
        Mark { marker: Marker::Unmount }.into(),
    ]
}

fn entry(op: Operation) -> Entry {
    let process = ProcessKey { pid: 4711, start: 123_456 };
    Entry { stamp: Stamp { time: Time { secs: 1_760_000_000, nanos: 5 }, behind: 3, process, link: Some(Lsn(77)) }, op }
}

#[test]
fn every_kind_survives_encoding_and_has_a_name() {
    let mut kinds = std::collections::BTreeSet::new();
    for op in every_operation() {
        let entry = entry(op);
        let (kind, version, mut body) = encode(&entry).unwrap();
        kinds.insert(kind);
        let payload: &[u8] = if matches!(&entry.op, Operation::Write(w) if w.data == Data::Inline(5)) { b"hello" } else { b"" };
        body.extend_from_slice(payload);
        assert_ne!(entry.op.name(), "unknown");
        assert_eq!(decode(kind, version, &body).unwrap(), Decoded::Operation { entry, payload });
        // One byte more or less is an error, whatever the kind.
        body.push(0);
        assert!(decode(kind, version, &body).is_err(), "trailing bytes of kind {kind:#x}");
        body.truncate(body.len() - 2);
        assert!(decode(kind, version, &body).is_err(), "cut body of kind {kind:#x}");
        assert_eq!(decode(kind, version + 1, &body), Err(DecodeError::UnknownVersion(kind, version + 1)));
    }
    assert_eq!(kinds.len(), KIND_COUNT, "a kind has no test");
}

const KIND_COUNT: usize = 19;

#[test]
fn unknown_kinds_are_refused_below_and_skipped_from_0x8000() {
    assert_eq!(decode(0x7fff, 1, b""), Err(DecodeError::UnknownKind(0x7fff)));
    assert_eq!(decode(KIND_OPTIONAL, 9, b"anything"), Ok(Decoded::Skipped));
    assert!(decode(KIND_MARK, 1, b"x").is_err());
}

/// The digest of all bodies: a change of any of them needs a new body version, and the old one must stay readable.
#[test]
fn bodies_are_frozen() {
    let mut all = Vec::new();
    for op in every_operation() {
        all.extend(encode(&entry(op)).unwrap().2);
    }
    // A process record of body version 1.
    let process = (ProcessKey { pid: 1, start: 2 }, serde_bytes::Bytes::new(b"c"), 3u32, 4u32, vec![(5u32, b"p".to_vec())]);
    let process = postcard::to_stdvec(&process).unwrap();
    let read = ProcessRecord {
        key: ProcessKey { pid: 1, start: 2 },
        comm: b"c".to_vec(),
        uid: 3,
        session: 4,
        parents: vec![(5, b"p".to_vec())],
        ..ProcessRecord::default()
    };
    assert_eq!(decode(KIND_PROCESS, 1, &process), Ok(Decoded::Process(read.clone())));
    all.extend(&process);
    assert_eq!(BlobId::of(&all).to_string(), GOLDEN, "{}", all.iter().map(|b| format!("{b:02x}")).collect::<String>());
}

/// Body version 2 of a process record is version 1 and two fields more; every other version is refused.
#[test]
fn a_process_record_of_version_2_names_its_program() {
    let process = ProcessRecord {
        key: ProcessKey { pid: 1, start: 2 },
        comm: b"c".to_vec(),
        uid: 3,
        session: 4,
        parents: vec![(5, b"p".to_vec())],
        executable: b"/e".to_vec(),
        command_line: Some(vec![serde_bytes::ByteBuf::from(b"a".to_vec()), serde_bytes::ByteBuf::new()]),
    };
    let body = postcard::to_stdvec(&process).unwrap();
    assert_eq!(body, [1, 2, 1, b'c', 3, 4, 1, 5, 1, b'p', 2, b'/', b'e', 1, 2, 1, b'a', 0]);
    assert_eq!(decode(KIND_PROCESS, PROCESS_VERSION, &body), Ok(Decoded::Process(process)));
    assert!(matches!(decode(KIND_PROCESS, 1, &body), Err(DecodeError::Malformed(..))));
    assert_eq!(decode(KIND_PROCESS, 3, &body), Err(DecodeError::UnknownVersion(KIND_PROCESS, 3)));
}

const GOLDEN: &str = "189a95bd0f2c678590541a96c4225e1c356341080bfb4bca27a2c94137064cd4";
