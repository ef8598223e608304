//! Compaction keeps the log small and what is in it whole.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    super::{
        index::{Index, Slot},
        log::Log,
        segment::file_name,
        *,
    },
    sim::{Random, SimDisk},
};

fn options() -> Options {
    Options { segment_bytes: 20_000, garbage_bytes: 40_000, step_bytes: 5000, frame_bytes: 1 << 20 }
}

fn open(disk: &SimDisk) -> Log {
    Log::open(Box::new(disk.clone()), "sim".into(), options()).unwrap()
}

#[test]
fn endless_overwriting_takes_bounded_room() {
    const KEYS: usize = 400;
    let disk = SimDisk::new(1);
    let mut log = open(&disk);
    let mut random = Random::new(1);
    let mut expected = BTreeMap::new();
    let live = KEYS * 250;
    let (mut written, mut most) = (0, 0);
    // Half of the keys are written once, so the oldest segments are full of what lives.
    while written < 200 * live {
        let writes: Vec<_> = (0..1 + random.below(20))
            .map(|_| {
                let key = if written < live { random.below(KEYS) } else { random.below(KEYS / 2) };
                (format!("key/{key:04}"), Bytes::from(vec![random.next() as u8; 150 + random.below(50)]))
            })
            .collect::<BTreeMap<_, _>>()
            .into_iter()
            .map(|(key, value)| Write::one(key, Some(value), Expect::Any))
            .collect();
        let bytes = log.bytes();
        log.commit(writes, &mut |changes| {
            for change in changes {
                written += change.value.as_ref().unwrap().len();
                expected.insert(change.key, (change.version, change.value.unwrap()));
            }
        });
        let grown = log.bytes() - bytes;
        log.keep_pace(grown);
        most = most.max(disk.used());
    }
    assert!(most < 3 * live + 100_000, "{most} bytes for {live} live ones");
    for log in [log, open(&disk)] {
        let loaded = log.load().unwrap();
        let found: BTreeMap<_, _> =
            loaded.items.into_iter().map(|item| (item.key, (item.version, item.value))).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn the_last_version_outlives_the_deletion_that_made_it() {
    let disk = SimDisk::new(2);
    let mut log = open(&disk);
    let value = Some(Bytes::from(vec![1; 3000]));
    let mut last = 0;
    for i in 0..40 {
        log.commit(vec![Write::one(format!("key/{i}"), value.clone(), Expect::Absent)], &mut |_| {});
        last = match log.commit(vec![Write::one(format!("key/{i}"), None, Expect::Any)], &mut |_| {})[..] {
            [Outcome::Committed(version)] => version,
            ref other => panic!("{other:?}"),
        };
        while log.wants_compaction() {
            log.compact().unwrap();
        }
    }
    assert!(log.oldest > 3, "segments went");
    let log = open(&disk);
    assert_eq!((log.version, log.index.len()), (last, 0));
}

#[test]
fn a_segment_that_outlived_its_removal_is_removed_at_the_start() {
    let disk = SimDisk::new(4);
    let mut log = open(&disk);
    let value = Bytes::from(vec![1; 3000]);
    for i in 0..40 {
        let deleted = Write::one("kept", None, Expect::Any);
        let first = Write::one("kept", Some(value.clone()), Expect::Any);
        let hot = Write::one("hot", Some(value.clone()), Expect::Any);
        log.commit(vec![[first, deleted, hot.clone()][i.min(2)].clone()], &mut |_| {});
    }
    let (first, before) = (disk.content(&file_name(1)), log.load().unwrap());
    while log.wants_compaction() {
        log.compact().unwrap();
    }
    assert!(log.oldest > 2, "the deletion is gone, too");
    disk.put(&file_name(1), first);
    let log = open(&disk);
    assert_eq!(log.load().unwrap(), before, "what was deleted does not come back");
    assert!(!disk.names().contains(&file_name(1)));
}

#[test]
fn damage_found_by_compaction_stops_it_and_is_told() {
    let disk = SimDisk::new(3);
    let mut log = open(&disk);
    log.commit(vec![Write::one("kept", Some("value".into()), Expect::Any)], &mut |_| {});
    let mut bytes = disk.content(&file_name(1));
    let at = bytes.windows(5).position(|window| window == b"value").unwrap();
    bytes[at] ^= 1;
    let value = Bytes::from(vec![1; 3000]);
    for _ in 0..40 {
        log.commit(vec![Write::one("hot", Some(value.clone()), Expect::Any)], &mut |_| {});
    }
    disk.put(&file_name(1), bytes);
    assert!(log.wants_compaction());
    assert_eq!(log.compact(), None);
    assert!(!log.wants_compaction());
    let cause = log.trouble().unwrap().to_owned();
    assert!(cause.contains(&file_name(1)) && cause.contains("back up"), "{cause}");
    assert!(disk.names().contains(&file_name(1)), "nothing is given up");
    log.commit(vec![Write::one("hot", Some(value), Expect::Any)], &mut |_| {});
    assert!(log.trouble().is_some(), "a write that succeeds does not mend it");
}

#[test]
fn a_million_keys_take_little_memory() {
    const KEYS: u64 = 1_000_000;
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let before = resident();
    let mut index = Index::default();
    for i in 0..KEYS {
        let key = format!("/registry/pods/default/web-{i:012}");
        index.put(&key, Slot::new(i, 1, &key, 1500));
    }
    let bytes = (resident() - before) / KEYS;
    assert_eq!(index.len() as u64, KEYS);
    assert!(bytes < 130, "{bytes} bytes a key");
    println!("{bytes} bytes a key");
}
