//! The document is a test: `wal-format.md`, the golden segment and the code say the same bytes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

use ize::ids::{Lsn, SegmentId, StoreId, Time};
use ize::wal::format::{
    FOOTER_LEN, Footer, Framing, HEADER_LEN, Header, KIND_MARK, MAX_BODY, Predecessor, RECORD_HEADER_LEN, RecordHead, footer_at,
    framed_len, header_at, record_at, segment_of_name, segment_path,
};
use ize::wal::reader::{Next, SegmentReader};

const STORE: StoreId = StoreId(*b"ize-golden-store");
const SEGMENT: SegmentId = SegmentId(3);

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn time(secs: i64) -> Time {
    Time { secs, nanos: 500_000_000 }
}

/// A segment with one record and a mark, sealed.
fn golden() -> Vec<u8> {
    let header = Header {
        store: STORE,
        segment: SEGMENT,
        epoch: 1,
        first_lsn: Lsn(0x1a),
        durable_lsn: Lsn(0x19),
        prev: Predecessor { segment: SegmentId(2), end_lsn: Lsn(0x19), length: 0x2000, digest: [0xd1; 32] },
        created: time(1_700_000_000),
        allotted: 4 << 20,
    };
    let mut bytes = header.encode().to_vec();
    let framing = Framing::new(STORE, SEGMENT);
    let mut digest = blake3::Hasher::new();
    digest.update(&bytes);
    let record = RecordHead { crc: 0, body_len: 0, kind: 5, version: 1, payload: 0, lsn: Lsn(0x1a), durable_lsn: Lsn(0x19) };
    let mark = RecordHead { kind: KIND_MARK, version: 0, lsn: Lsn(0x1b), durable_lsn: Lsn(0x1a), ..record };
    for (head, body) in [(record, &b"hello, log"[..]), (mark, b"")] {
        let at = bytes.len() as u64;
        let crc = framing.push(&mut bytes, at, &head, &[body]);
        digest.update(&crc.to_le_bytes());
    }
    let footer = Footer {
        count: 2,
        first_lsn: Lsn(0x1a),
        last_lsn: Lsn(0x1b),
        payload: 0,
        last_time: time(1_700_000_001),
        digest: *digest.finalize().as_bytes(),
        durable_lsn: Lsn(0x1a),
        next_lsn: Lsn(0x1c),
        next_epoch: 1,
    };
    bytes.extend_from_slice(&framing.footer(&footer, bytes.len() as u64));
    bytes
}

fn dump(bytes: &[u8]) -> String {
    bytes
        .chunks(16)
        .enumerate()
        .map(|(i, row)| format!("{:04x}: {}\n", i * 16, row.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")))
        .collect()
}

/// The rows `0010: 00 01 ...` of the document's dump; what stands behind `|` is annotation.
fn documented() -> Vec<u8> {
    let text = std::fs::read_to_string(root().join("wal-format.md")).unwrap();
    let mut bytes = Vec::new();
    let start = text.find("<!-- dump -->").expect("the document has a dump");
    let block = text[start..].split("```").nth(1).unwrap();
    for line in block.lines().skip(1) {
        let Some((at, rest)) = line.split_once(": ") else { continue };
        assert_eq!(usize::from_str_radix(at.trim(), 16).unwrap(), bytes.len(), "{line}");
        let hex = rest.split('|').next().unwrap();
        bytes.extend(hex.split_whitespace().map(|h| u8::from_str_radix(h, 16).unwrap()));
    }
    bytes
}

#[test]
fn the_golden_segment_is_what_the_code_writes() {
    let path = root().join("tests/golden/segment-v1.seg");
    let now = golden();
    if std::env::var_os("IZE_BLESS").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    assert_eq!(std::fs::read(&path).unwrap(), now);
}

#[test]
fn the_dump_in_the_document_is_the_golden_segment() {
    assert_eq!(dump(&documented()), dump(&golden()));
}

#[test]
fn the_documented_segment_reads_as_documented() {
    let bytes = documented();
    let header = Header::decode(&bytes, Some(STORE), SEGMENT).unwrap();
    assert_eq!((header.epoch, header.first_lsn, header.prev.end_lsn), (1, Lsn(0x1a), Lsn(0x19)));
    let mut reader = SegmentReader::new(&bytes, STORE, SEGMENT, Some(header.first_lsn), Lsn::ZERO);
    let Some(Next::Record(first)) = reader.step() else { panic!() };
    assert_eq!((first.lsn, first.kind, first.version, first.body, first.offset), (Lsn(0x1a), 5, 1, &b"hello, log"[..], 256));
    let Some(Next::Record(mark)) = reader.step() else { panic!() };
    assert!(mark.is_mark() && mark.durable_lsn == Lsn(0x1a));
    let Some(Next::Sealed(footer, end)) = reader.step() else { panic!() };
    assert_eq!((footer.count, footer.last_lsn, end), (2, Lsn(0x1b), bytes.len() as u64));
    assert_eq!(reader.step(), None);
}

/// Every row `| offset | size | field |` of the three tables: gapless, in order, as long as the structure; and the named offsets agree.
#[test]
fn the_tables_of_the_document_are_the_offsets_of_the_code() {
    let text = std::fs::read_to_string(root().join("wal-format.md")).unwrap();
    type Named<'a> = &'a [(&'a str, usize)];
    let tables: [(&str, usize, Named<'_>); 3] = [
        (
            "<!-- header -->",
            HEADER_LEN,
            &[
                ("magic", header_at::MAGIC),
                ("format version", header_at::VERSION),
                ("header length", header_at::LENGTH),
                ("read features", header_at::READ_FEATURES),
                ("write features", header_at::WRITE_FEATURES),
                ("store id", header_at::STORE),
                ("segment id", header_at::SEGMENT),
                ("epoch", header_at::EPOCH),
                ("first LSN", header_at::FIRST_LSN),
                ("durable LSN", header_at::DURABLE_LSN),
                ("predecessor id", header_at::PREV_SEGMENT),
                ("predecessor end LSN", header_at::PREV_END_LSN),
                ("predecessor length", header_at::PREV_LENGTH),
                ("predecessor digest", header_at::PREV_DIGEST),
                ("created, seconds", header_at::CREATED_SECS),
                ("created, nanoseconds", header_at::CREATED_NANOS),
                ("allotted size", header_at::ALLOTTED),
                ("reserved", header_at::RESERVED),
                ("CRC", header_at::CRC),
            ],
        ),
        (
            "<!-- record -->",
            RECORD_HEADER_LEN,
            &[
                ("CRC", record_at::CRC),
                ("body length", record_at::BODY_LEN),
                ("kind", record_at::KIND),
                ("body version", record_at::VERSION),
                ("flags", record_at::FLAGS),
                ("payload", record_at::PAYLOAD),
                ("LSN", record_at::LSN),
                ("durable LSN", record_at::DURABLE_LSN),
            ],
        ),
        (
            "<!-- footer -->",
            FOOTER_LEN,
            &[
                ("magic", footer_at::MAGIC),
                ("segment id", footer_at::SEGMENT),
                ("count", footer_at::COUNT),
                ("first LSN", footer_at::FIRST_LSN),
                ("last LSN", footer_at::LAST_LSN),
                ("payload", footer_at::PAYLOAD),
                ("last time, seconds", footer_at::LAST_SECS),
                ("last time, nanoseconds", footer_at::LAST_NANOS),
                ("reserved", footer_at::RESERVED),
                ("digest", footer_at::DIGEST),
                ("durable LSN", footer_at::DURABLE_LSN),
                ("next LSN", footer_at::NEXT_LSN),
                ("next epoch", footer_at::NEXT_EPOCH),
                ("reserved 2", footer_at::RESERVED_2),
                ("CRC", footer_at::CRC),
            ],
        ),
    ];
    for (marker, length, named) in tables {
        let start = text.find(marker).unwrap_or_else(|| panic!("{marker}"));
        let mut at = 0;
        let mut rows = Vec::new();
        for line in text[start..].lines().skip_while(|l| !l.starts_with("| 0 ")).take_while(|l| l.starts_with('|')) {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            assert_eq!(cells[1].parse::<usize>().unwrap(), at, "{marker}: {line}");
            rows.push((cells[3], at));
            at += cells[2].parse::<usize>().unwrap();
        }
        assert_eq!(at, length, "{marker}");
        assert_eq!(rows, named, "{marker}");
    }
}

#[test]
fn any_flipped_bit_makes_a_record_and_a_footer_invalid() {
    let bytes = golden();
    let framing = Framing::new(STORE, SEGMENT);
    let end = 256 + framed_len(10);
    for bit in 256 * 8..end * 8 {
        let mut hurt = bytes.clone();
        hurt[bit / 8] ^= 1 << (bit % 8);
        assert!(framing.record(&hurt[256..], 256).is_none(), "bit {bit}");
    }
    let at = bytes.len() - FOOTER_LEN;
    for bit in at * 8..bytes.len() * 8 {
        let mut hurt = bytes.clone();
        hurt[bit / 8] ^= 1 << (bit % 8);
        assert!(framing.read_footer(&hurt[at..], at as u64).is_none(), "bit {bit}");
    }
    for bit in 0..256 * 8 {
        let mut hurt = bytes.clone();
        hurt[bit / 8] ^= 1 << (bit % 8);
        assert!(Header::decode(&hurt, Some(STORE), SEGMENT).is_err(), "bit {bit}");
    }
}

#[test]
fn a_record_moved_to_another_place_segment_or_store_is_no_record() {
    let bytes = golden();
    assert!(Framing::new(STORE, SEGMENT).record(&bytes[256..], 256).is_some());
    assert!(Framing::new(STORE, SEGMENT).record(&bytes[256..], 264).is_none());
    assert!(Framing::new(STORE, SEGMENT.next()).record(&bytes[256..], 256).is_none());
    assert!(Framing::new(StoreId([0; 16]), SEGMENT).record(&bytes[256..], 256).is_none());
    assert!(Header::decode(&bytes, Some(StoreId([0; 16])), SEGMENT).is_err());
    assert!(Header::decode(&bytes, None, SEGMENT.next()).is_err());
}

#[test]
fn hostile_bytes_never_panic_and_every_reading_ends() {
    let mut rng = ize::storage::sim::Seeded::new(1);
    let base = golden();
    for _ in 0..20_000 {
        let mut bytes = base.clone();
        for _ in 0..rng.below(6) {
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] = if rng.below(2) == 0 { 0xff } else { rng.draw() as u8 };
        }
        bytes.truncate(rng.below(bytes.len() as u64 + 1) as usize);
        let first = Header::decode(&bytes, Some(STORE), SEGMENT).ok().map(|h| h.first_lsn);
        let bound = if rng.below(2) == 0 { Lsn::ZERO } else { Lsn(u64::MAX) };
        let mut reader = SegmentReader::new(&bytes, STORE, SEGMENT, first, bound);
        let mut steps = 0;
        while reader.step().is_some() {
            steps += 1;
            assert!(steps < 10);
        }
    }
    let mut huge = vec![0xff; RECORD_HEADER_LEN];
    huge[record_at::BODY_LEN..][..4].copy_from_slice(&(MAX_BODY as u32 + 1).to_le_bytes());
    assert!(RecordHead::decode(&huge).is_none());
}

#[test]
fn only_segment_names_name_segments() {
    let path = segment_path(&PathBuf::from("/x"), SegmentId(0x1f));
    assert_eq!(path.to_str(), Some("/x/000000000000001f.seg"));
    assert_eq!(segment_of_name(path.file_name().unwrap()), Some(SegmentId(0x1f)));
    for other in ["torn", "1f.seg", "000000000000001F.seg", "000000000000001f.seg.tmp", "+00000000000001f.seg", "prep-1.tmp"] {
        assert_eq!(segment_of_name(other.as_ref()), None, "{other}");
    }
}

fn document() -> String {
    std::fs::read_to_string(root().join("wal-format.md")).unwrap()
}

/// The rows of the first table behind `<!-- name -->`, without its two head rows, as cells.
fn table(name: &str) -> Vec<Vec<String>> {
    let text = document();
    let start = text.find(&format!("<!-- {name} -->")).unwrap_or_else(|| panic!("the document has no table {name}"));
    let rows = text[start..].lines().skip_while(|l| !l.starts_with('|')).take_while(|l| l.starts_with('|')).skip(2);
    let cells = |row: &str| row.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect();
    let rows: Vec<Vec<String>> = rows.map(cells).collect();
    assert!(rows.len() > 3, "{name}");
    rows
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
}

/// Each row of the vectors is a sentence; what it is made of is put together here, by the sentence, and not with the crate's framing.
#[test]
fn the_vectors_of_the_document_hold() {
    let pack = std::fs::read(root().join("tests/golden/store-v1/blobs/0000000000000001.pack")).unwrap();
    let dump = documented();
    for row in table("vectors") {
        let input: Vec<u8> = match row[1].as_str() {
            "nothing" => Vec::new(),
            "the 9 ASCII characters `123456789`" => b"123456789".to_vec(),
            "the 3 ASCII characters `abc`" => b"abc".to_vec(),
            "`ize-golden-store`, segment 3 as 8 bytes, offset 256 as 8 bytes, bytes 0x104 to 0x130 of the dump" => {
                assert_eq!(dump[0x100..0x104], u32::from_str_radix(&row[2], 16).unwrap().to_le_bytes());
                [b"ize-golden-store", &3u64.to_le_bytes()[..], &256u64.to_le_bytes(), &dump[0x104..0x130]].concat()
            }
            "`ize-golden-store`, pack 1 as 8 bytes, offset 168 as 8 bytes, bytes 8 to 64 of the entry" => {
                assert_eq!(pack[168 + 4..168 + 8], u32::from_str_radix(&row[2], 16).unwrap().to_le_bytes());
                assert_eq!(pack[168 + 16..168 + 32], [0; 16], "the empty entry");
                [b"ize-golden-store", &1u64.to_le_bytes()[..], &168u64.to_le_bytes(), &pack[168 + 8..168 + 64]].concat()
            }
            other => panic!("a vector that this test does not know: {other}"),
        };
        let is = match row[0].as_str() {
            "CRC" => format!("{:08x}", crc32fast::hash(&input)),
            "BLAKE3" => blake3::hash(&input).to_hex().to_string(),
            other => panic!("{other}"),
        };
        assert_eq!(is, row[2], "{row:?}");
    }
}

#[test]
fn the_encodings_of_the_document_are_what_is_written_and_read() {
    fn both<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T, bytes: &[u8]) {
        assert_eq!(postcard::to_stdvec(value).unwrap(), bytes);
        assert_eq!(postcard::from_bytes::<T>(bytes).unwrap(), *value);
    }
    for row in table("encodings") {
        let (value, bytes) = (row[1].as_str(), unhex(&row[2]));
        match row[0].as_str() {
            "u64" => both(&value.parse::<u64>().unwrap(), &bytes),
            "i64" => both(&value.parse::<i64>().unwrap(), &bytes),
            "bytes" => both(&serde_bytes::ByteBuf::from(value.trim_matches('`').as_bytes()), &bytes),
            "option of u64" => both(&value.parse::<u64>().ok(), &bytes),
            "list of u64" => both(&value.split(", ").map(|n| n.parse().unwrap()).collect::<Vec<u64>>(), &bytes),
            other => panic!("a type that this test does not know: {other}"),
        }
    }
}

#[test]
fn the_document_lists_every_kind_under_its_name() {
    let listed: Vec<(u16, String)> =
        table("kinds").iter().map(|row| (u16::from_str_radix(row[0].strip_prefix("0x").unwrap(), 16).unwrap(), row[1].clone())).collect();
    let known: Vec<(u16, String)> = (0..=u16::MAX).filter_map(|kind| Some((kind, ize::op::kind_name(kind)?.to_owned()))).collect();
    assert_eq!(listed, known);
}

#[test]
fn the_limits_of_the_document_are_those_of_the_code() {
    use ize::blobs::pack;
    use ize::wal::format as f;
    let known: &[(&str, u64)] = &[
        ("body", f::MAX_BODY as u64),
        ("records in a batch, all in one segment", f::MAX_BATCH_RECORDS),
        ("smallest allotted size", f::MIN_SEGMENT_SIZE),
        ("largest allotted size", f::MAX_SEGMENT_SIZE),
        ("allotted size after a pause, unless configured smaller", f::DEFAULT_SEGMENT_SIZE),
        ("records unsynced", f::MAX_UNSYNCED_RECORDS),
        ("LSNs that an epoch skips", f::EPOCH_JUMP),
        ("blob", pack::MAX_BLOB_LEN as u64),
        ("length at which a pack is full", pack::PACK_TARGET_LEN),
        ("bytes under one CRC of a pack", pack::BLOCK_LEN as u64),
        ("write that becomes a blob", ize::op::BLOB_THRESHOLD as u64),
        ("pieces in a page, pages in a list", ize::versions::piece_tree::PAGE_MAX as u64),
        ("lists of pages above one another", u64::from(ize::versions::piece_tree::HEIGHT_MAX)),
    ];
    let listed: Vec<(String, u64)> = table("limits").iter().map(|r| (r[0].clone(), r[1].replace(',', "").parse().unwrap())).collect();
    assert_eq!(listed, known.iter().map(|(what, n)| ((*what).to_owned(), *n)).collect::<Vec<_>>());
}

/// The annotated body stands in the golden store, as the record with LSN 3.
#[test]
fn the_body_of_the_document_is_that_of_the_golden_record() {
    let text = document();
    let block = text[text.find("<!-- body -->").unwrap()..].split("```").nth(1).unwrap().to_owned();
    let body: Vec<u8> = block.lines().skip(1).flat_map(|line| unhex(line.split('|').next().unwrap())).collect();
    let bytes = std::fs::read(root().join("tests/golden/store-v1/wal/0000000000000001.seg")).unwrap();
    let mut reader = SegmentReader::new(&bytes, STORE, SegmentId(1), Some(Lsn(1)), Lsn::ZERO);
    let third = std::iter::from_fn(|| reader.step()).nth(2);
    let Some(Next::Record(record)) = third else { panic!("{third:?}") };
    assert_eq!((record.lsn, record.body), (Lsn(3), &body[..]));
}

fn sources(dir: &std::path::Path, out: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_invariant_names_tests_and_each_of_them_exists() {
    let mut all = String::new();
    sources(&root().join("src"), &mut all);
    sources(&root().join("tests"), &mut all);
    for (i, row) in table("invariants").iter().enumerate() {
        assert_eq!(row[0], format!("D{}", i + 1));
        let names: Vec<&str> = row[2].split(", ").map(|n| n.trim_matches('`')).collect();
        for name in names {
            let at = all.find(&format!("fn {name}(")).unwrap_or_else(|| panic!("{}: there is no test {name}", row[0]));
            let before: Vec<&str> = all[..at].lines().rev().take(3).collect();
            assert!(before.iter().any(|l| l.contains("#[test]")), "{}: {name} is no test", row[0]);
        }
    }
}
