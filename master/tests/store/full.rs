//! A disk that is really full: a small file system in memory. Needs root, to mount it.

use std::{path::Path, process::Command, time::Duration};

use bytes::Bytes;
use coracle_master::store::{EmbeddedStore, Expect, Health, Options, Outcome, Store, StoreError, Write};

use super::open;

/// A file system of one megabyte, gone when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(directory.path()).output();
        let mount = mount.unwrap();
        assert!(mount.status.success(), "run the tests as root: {}", String::from_utf8_lossy(&mount.stderr));
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the store's thread may still have files open.
        drop(Command::new("umount").arg("--lazy").arg(self.path()).status());
    }
}

fn options() -> Options {
    Options { segment_bytes: 100_000, garbage_bytes: 200_000, ..Options::default() }
}

async fn put(store: &EmbeddedStore, key: String, bytes: usize) -> Outcome {
    let write = Write::one(key, Some(Bytes::from(vec![7; bytes])), Expect::Absent);
    store.commit(vec![write]).await.remove(0)
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_room() {
    let disk = SmallDisk::mount();
    let directory = disk.path().join("store");
    let store = open(&directory, options()).await;
    let others = disk.path().join("others");
    std::fs::write(&others, vec![0; 300_000]).unwrap();

    let (_, mut updates) = store.load().await.unwrap();
    let mut versions = Vec::new();
    let refused = loop {
        match put(&store, format!("key/{}", versions.len()), 7000).await {
            Outcome::Committed(version) => versions.push(version),
            refused => break refused,
        }
        updates.recv().await.unwrap();
    };
    let Outcome::Failed(StoreError::Unwritable { cause, .. }) = refused else { panic!("{refused:?}") };
    assert!(cause.contains("No space left on device") && cause.contains("make room"), "{cause}");
    let mut health = store.health();
    assert!(matches!(&*health.borrow_and_update(), Health::Degraded { .. }));
    assert!(versions.len() > 50, "{} writes went in", versions.len());
    let (loaded, _) = store.load().await.unwrap();
    assert_eq!(loaded.items.len(), versions.len(), "reading goes on");

    std::fs::remove_file(&others).unwrap();
    let good = health.wait_for(|health| *health == Health::Good);
    tokio::time::timeout(Duration::from_secs(20), good).await.expect("it mends by itself").unwrap();
    let Outcome::Committed(next) = put(&store, "more".into(), 7000).await else { panic!("there is room") };
    assert_eq!(Some(next), versions.last().map(|last| last + 1));

    drop(updates);
    // Full again, and closed: it opens, and nothing is lost.
    while matches!(put(&store, format!("again/{}", versions.len()), 7000).await, Outcome::Committed(_)) {
        versions.push(0);
    }
    drop(store);
    let (loaded, _) = open(&directory, options()).await.load().await.unwrap();
    assert_eq!(loaded.items.len(), versions.len() + 1);
    assert!(loaded.items.iter().all(|item| item.value[..] == [7; 7000]));
}
