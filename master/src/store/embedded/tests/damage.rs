//! Content that is not what was written: nothing of it is served, and nothing is missed silently.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    super::{
        frame::{Draft, FRAME_HEADER, Kind, MARK, Spot},
        log::Log,
        segment::{SEGMENT_HEADER, SegmentHeader, file_name},
        *,
    },
    sim::{Random, SimDisk},
};

fn options() -> Options {
    Options { segment_bytes: 500, garbage_bytes: 700, step_bytes: 300, frame_bytes: 1 << 20 }
}

fn open(disk: &SimDisk) -> Result<Log, StoreError> {
    Log::open(Box::new(disk.clone()), "sim".into(), options())
}

fn put(log: &mut Log, key: &str, value: &[u8]) -> Vec<Outcome> {
    log.commit(vec![Write::one(key, Some(Bytes::copy_from_slice(value)), Expect::Any)], &mut |_| {})
}

fn content(log: &Log) -> (u64, BTreeMap<String, (u64, Bytes)>) {
    let loaded = log.load().unwrap();
    (loaded.version, loaded.items.into_iter().map(|item| (item.key, (item.version, item.value))).collect())
}

/// A disk with some segments, of which some were compacted away, and what is in it.
fn some_segments(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    let mut log = open(&disk).unwrap();
    let mut random = Random::new(seed);
    for i in 0..60 {
        let len = random.below(60);
        let value = random.bytes(len);
        put(&mut log, &format!("key/{}", random.below(20)), &value);
        if i % 7 == 0 {
            let key = format!("key/{}", random.below(20));
            log.commit(vec![Write::one(key, None, Expect::Any)], &mut |_| {});
        }
        if log.wants_compaction() {
            log.compact();
        }
    }
    assert!(log.oldest > 2 && log.segments.len() > 3, "there is something to damage");
    disk
}

#[test]
fn every_flipped_bit_is_found_or_does_not_matter() {
    let disk = some_segments(1);
    let right = content(&open(&disk).unwrap());
    let (mut found, mut harmless) = (0, 0);
    for name in disk.names() {
        let whole = disk.content(&name);
        for at in 0..whole.len() {
            let damaged = disk.copy();
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            damaged.put(&name, bytes);
            match open(&damaged) {
                Ok(mut log) => {
                    assert_eq!(content(&log), right, "{name} byte {at}");
                    assert!(matches!(put(&mut log, "more", b"1")[..], [Outcome::Committed(_)]));
                    harmless += 1;
                }
                Err(StoreError::Damaged { place, .. }) => {
                    assert!(place.starts_with(&name), "{name} byte {at} is reported as {place}");
                    found += 1;
                }
                // The number of the format is not believed either, but it is protected.
                Err(e) => panic!("{name} byte {at}: {e}"),
            }
        }
    }
    // Harmless are the marks, but for the one that tells that a segment was there.
    assert!(found > 6 * harmless, "{found} found, {harmless} harmless");
}

#[test]
fn a_damaged_frame_is_named_with_its_keys() {
    let disk = SimDisk::new(1);
    let mut log = open(&disk).unwrap();
    put(&mut log, "pods/a", b"first");
    put(&mut log, "pods/b", b"second");
    let mut bytes = disk.content(&file_name(1));
    let at = bytes.windows(6).position(|window| window == b"second").unwrap();
    bytes[at] ^= 1;
    disk.put(&file_name(1), bytes);
    let frame = at - 6 - frame::RECORD_HEADER - FRAME_HEADER;
    let Err(StoreError::Damaged { place, cause, .. }) = open(&disk) else { panic!("it is the last frame") };
    assert_eq!(place, format!("{} at byte {frame}", file_name(1)));
    assert!(cause.contains("pods/b") && !cause.contains("pods/a"), "{cause}");
}

#[test]
fn no_segment_can_go_missing_or_take_anothers_place() {
    let disk = some_segments(2);
    let names: Vec<_> = disk.names();
    for name in &names {
        let damaged = disk.copy();
        damaged.delete(name);
        let Err(StoreError::Damaged { place, .. }) = open(&damaged) else { panic!("{name} is missing") };
        assert_eq!(&place, name);
    }
    for pair in names.windows(2) {
        let damaged = disk.copy();
        damaged.put(&pair[0], disk.content(&pair[1]));
        assert!(matches!(open(&damaged), Err(StoreError::Damaged { .. })), "{pair:?}");
    }
    for name in &names[..names.len() - 1] {
        let whole = disk.content(name);
        // The last bytes are the marks behind the last frame.
        for len in 0..whole.len() - 2 * MARK {
            let damaged = disk.copy();
            damaged.put(name, whole[..len].to_vec());
            assert!(matches!(open(&damaged), Err(StoreError::Damaged { .. })), "{name} cut at {len}");
        }
    }
}

#[test]
fn a_hole_in_the_versions_is_damage() {
    let header = SegmentHeader { number: 1, salt: 7, after: 0, previous_end: 0, oldest: 1 };
    let mut bytes = header.encode().to_vec();
    for version in [1, 3] {
        let mut draft = Draft::default();
        draft.push(Kind::Put, version, "a", b"1");
        let offset = bytes.len() as u64;
        bytes.extend_from_slice(draft.finish(version - 1, version, 1, Spot { salt: 7, offset }));
        bytes.extend_from_slice(&[0; MARK]);
    }
    let disk = SimDisk::new(1);
    disk.put(&file_name(1), bytes);
    let Err(StoreError::Damaged { cause, .. }) = open(&disk) else { panic!("version 2 is missing") };
    assert!(cause.contains("after version 2") && cause.contains("to 1 only"), "{cause}");
}

#[test]
fn another_format_is_refused_as_such() {
    let header = SegmentHeader { number: 1, salt: 7, after: 0, previous_end: 0, oldest: 1 };
    let mut bytes = header.encode();
    bytes[8] = 9;
    let crc = crc32fast::hash(&bytes[..44]);
    bytes[44..].copy_from_slice(&crc.to_le_bytes());
    let disk = SimDisk::new(1);
    disk.put(&file_name(1), bytes.to_vec());
    let Err(StoreError::Unopenable { cause, .. }) = open(&disk) else { panic!("format 9 is not known") };
    assert!(cause.contains("format 9"), "{cause}");
}

#[test]
fn a_torn_end_is_cut_off_wherever_it_tore() {
    let disk = SimDisk::new(3);
    let mut log = open(&disk).unwrap();
    put(&mut log, "a", b"acknowledged");
    let before = content(&log);
    let name = file_name(1);
    let acknowledged = disk.content(&name);
    put(&mut log, "b", &[7; 90]);
    let after = content(&log);
    let whole = disk.content(&name);
    let frame_end = whole.len() - MARK;
    let mut random = Random::new(3);
    for len in acknowledged.len()..=frame_end {
        for fill in 0..3 {
            let mut bytes = whole[..len].to_vec();
            match fill {
                0 => {}
                1 => bytes.resize(frame_end + 100, 0),
                _ => bytes.extend(random.bytes(100)),
            }
            let torn = disk.copy();
            torn.put(&name, bytes);
            // The frame ends with sevens, so nothing but a whole one can look whole.
            let right = if len == frame_end { &after } else { &before };
            let mut log = open(&torn).unwrap();
            assert_eq!(&content(&log), right, "cut at {len}");
            put(&mut log, "c", b"next");
            let right = content(&log);
            assert_eq!(content(&open(&torn).unwrap()), right, "cut at {len}");
        }
    }
}

#[test]
fn what_looks_like_a_frame_is_a_value() {
    let disk = SimDisk::new(4);
    let mut log = open(&disk).unwrap();
    put(&mut log, "a", b"1");
    let name = file_name(1);
    let stolen = disk.content(&name)[SEGMENT_HEADER..].to_vec();
    let acknowledged = disk.content(&name).len();
    put(&mut log, "b", &stolen);
    // The write of "b" tears behind the value's stolen frame: that is no proof of anything.
    let mut bytes = disk.content(&name);
    bytes.truncate(bytes.len() - MARK - 1);
    bytes[acknowledged] ^= 1;
    disk.put(&name, bytes);
    let log = open(&disk).unwrap();
    assert_eq!(log.version, 1);
}

/// A segment that matches its checksums and is nonsense otherwise.
fn nonsense(random: &mut Random) -> Vec<u8> {
    let any = |random: &mut Random| match random.below(4) {
        0 => random.next(),
        1 => u64::MAX,
        _ => random.below(4) as u64,
    };
    let header = SegmentHeader {
        number: 1 + random.below(3) as u32,
        salt: random.next(),
        after: any(random),
        previous_end: any(random),
        oldest: any(random) as u32,
    };
    let mut bytes = header.encode().to_vec();
    for _ in 0..random.below(5) {
        let mut draft = Draft::default();
        for _ in 0..random.below(4) {
            let kind = [Kind::Put, Kind::Delete, Kind::Moved][random.below(3)];
            draft.push(kind, any(random), ["", "a", "b"][random.below(3)], &[1, 2]);
        }
        let spot = Spot { salt: header.salt, offset: bytes.len() as u64 };
        bytes.extend_from_slice(draft.finish(any(random), any(random), any(random) as u32, spot));
        bytes.extend_from_slice(&frame::Mark::Sealed.encode(Spot { offset: bytes.len() as u64, ..spot }));
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_content_makes_it_panic(seed in any::<u64>()) {
        let mut random = Random::new(seed);
        let disk = if random.below(2) == 0 { SimDisk::new(seed) } else { some_segments(5) };
        for _ in 0..1 + random.below(4) {
            let name = file_name(random.below(6) as u32);
            let mut bytes = match random.below(3) {
                0 => nonsense(&mut random),
                1 => random.bytes(200),
                _ if disk.names().contains(&name) => disk.content(&name),
                _ => Vec::new(),
            };
            for _ in 0..random.below(4) {
                if !bytes.is_empty() {
                    let at = random.below(bytes.len());
                    bytes[at] = random.next() as u8;
                }
            }
            disk.put(&name, bytes);
        }
        if let Ok(mut log) = open(&disk) {
            let before = log.load().unwrap();
            put(&mut log, "a", b"1");
            log.compact();
            drop(before);
        }
    }
}
