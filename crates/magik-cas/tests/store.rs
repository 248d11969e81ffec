//! What one process sees of a store.
#![allow(missing_docs)]

use std::{
    fs,
    io::{Read, Seek, SeekFrom, Write},
};

use magik_cas::{Algorithm, Damage, Digest, Durability, Error, Store};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap().with_durability(Durability::None);
    (dir, store)
}

fn temporary_files(store: &Store) -> usize {
    fs::read_dir(store.tmp_dir()).unwrap().count()
}

#[test]
fn a_blob_is_found_by_its_digest_and_nowhere_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let bytes = vec![7_u8; 300_000];
    for algorithm in Algorithm::ALL {
        let digest = Digest::of(algorithm, &bytes);
        let mut writer = store.begin(algorithm, 300_000).unwrap();
        writer.write_all(&bytes).unwrap();
        assert_eq!(store.stat(&digest).unwrap(), None);
        let info = writer.commit(&digest, Some(300_000)).unwrap();
        assert_eq!((info.digest, info.size), (digest, 300_000));
        assert_eq!(store.stat(&digest).unwrap(), Some(300_000));
        assert_eq!(store.read(&digest, 300_000).unwrap(), bytes);
        let hex = digest.hex();
        assert!(
            dir.path()
                .join(format!("blobs/{algorithm}/{}/{hex}", &hex[..2]))
                .is_file()
        );
    }
    assert_eq!(store.list().unwrap().len(), 2);
    assert_eq!(temporary_files(&store), 0);
}

#[test]
fn content_that_is_not_what_was_expected_leaves_nothing() {
    let (_dir, store) = store();
    let write = |bytes: &[u8]| {
        let mut writer = store.begin(Algorithm::Sha256, 100).unwrap();
        writer.write_all(bytes).unwrap();
        writer
    };
    let expected = Digest::sha256(b"expected");
    assert!(matches!(
        write(b"something").commit(&expected, None),
        Err(Error::DigestMismatch { .. })
    ));
    assert!(matches!(
        write(b"expected").commit(&expected, Some(9)),
        Err(Error::SizeMismatch { found: 8, .. })
    ));
    let other = Digest::of(Algorithm::Sha512, b"expected");
    assert!(matches!(
        write(b"expected").commit(&other, None),
        Err(Error::DigestMismatch { .. })
    ));
    drop(write(b"dropped"));
    drop(write(b"dropped later").finish().unwrap());
    assert!(store.list().unwrap().is_empty());
    assert_eq!(temporary_files(&store), 0);
}

#[test]
fn the_cap_holds_at_the_byte() {
    let (_dir, store) = store();
    let mut writer = store.begin(Algorithm::Sha256, 10).unwrap();
    writer.write_all(b"0123456789").unwrap();
    writer.commit(&Digest::sha256(b"0123456789"), None).unwrap();

    let mut writer = store.begin(Algorithm::Sha256, 10).unwrap();
    writer.append(b"0123456789").unwrap();
    assert!(matches!(writer.append(b"a"), Err(Error::TooLarge { cap: 10 })));
    let mut writer = store.begin(Algorithm::Sha256, 10).unwrap();
    assert!(matches!(
        writer.copy_from(std::io::repeat(0)),
        Err(Error::TooLarge { cap: 10 })
    ));
    let blob = Digest::sha256(b"0123456789");
    assert!(store.read(&blob, 10).is_ok());
    assert!(matches!(store.read(&blob, 9), Err(Error::TooLarge { cap: 9 })));
}

#[test]
fn staged_blobs_can_be_read_before_anybody_else_sees_them() {
    let (_dir, store) = store();
    let mut writer = store.begin(Algorithm::Sha256, 100).unwrap();
    writer.copy_from(&b"content"[..]).unwrap();
    let staged = writer.finish().unwrap();
    let mut text = String::new();
    staged.open().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "content");
    assert!(store.list().unwrap().is_empty());
    staged.publish().unwrap();
    assert!(store.stat(&Digest::sha256(b"content")).unwrap().is_some());
}

fn damage(store: &Store, digest: &Digest) {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(store.path(digest))
        .unwrap();
    file.seek(SeekFrom::Start(2)).unwrap();
    file.write_all(b"X").unwrap();
}

#[test]
fn damage_is_found_by_verify_and_by_verifying_reads_and_healed_by_ingest() {
    let (_dir, store) = store();
    let good = store.put_bytes(b"good").unwrap();
    let bad = store.put_bytes(b"soon bad").unwrap();
    assert!(store.verify().unwrap().is_empty());
    damage(&store, &bad);

    let found = store.verify().unwrap();
    assert_eq!(found.len(), 1);
    assert!(
        matches!(&found[0], Damage::Content { digest, size: 8, .. } if *digest == bad),
        "{found:?}"
    );
    assert!(matches!(store.read(&bad, 100), Err(Error::Damaged { .. })));
    assert!(matches!(store.check(&bad), Err(Error::Damaged { .. })));
    store.check(&good).unwrap();

    let mut reader = store.open_verified(&bad).unwrap();
    let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert!(!reader.is_verified());
    let mut reader = store.open_verified(&good).unwrap();
    reader.read_to_end(&mut Vec::new()).unwrap();
    assert!(reader.is_verified());

    let mut writer = store.begin(Algorithm::Sha256, 100).unwrap();
    writer.write_all(b"soon bad").unwrap();
    writer.commit(&bad, None).unwrap();
    assert!(store.verify().unwrap().is_empty());
}

#[test]
fn gc_keeps_what_is_live_and_reports_the_rest() {
    let (_dir, store) = store();
    let live = store.put_bytes(b"live").unwrap();
    let dead = store.put_bytes(b"dead blob").unwrap();
    let open = store.open_blob(&dead).unwrap();
    fs::write(store.tmp_dir().join("ingest-of-a-dead-process"), b"123").unwrap();
    fs::write(store.tmp_dir().join("not-ours"), b"").unwrap();

    let report = store.gc(|digest| *digest == live).unwrap();
    assert_eq!((report.blobs, report.temporary, report.bytes), (1, 1, 12));
    assert_eq!(
        store.list().unwrap().iter().map(|b| b.digest).collect::<Vec<_>>(),
        [live]
    );
    assert!(store.tmp_dir().join("not-ours").exists());
    let mut text = String::new();
    { open }.read_to_string(&mut text).unwrap();
    assert_eq!(text, "dead blob", "an open blob outlives its name");
    assert!(matches!(store.open_blob(&dead), Err(Error::NotFound(d)) if d == dead));
}

#[test]
fn a_lease_a_writer_and_a_staged_blob_each_keep_gc_out() {
    let (_dir, store) = store();
    let free = |store: &Store| store.try_exclusive().unwrap().is_some();
    let first = store.lease().unwrap();
    let second = first.clone();
    drop(first);
    assert!(!free(&store));
    drop(second);
    assert!(free(&store));
    let writer = store.begin(Algorithm::Sha256, 10).unwrap();
    assert!(!free(&store));
    let staged = writer.finish().unwrap();
    assert!(!free(&store));
    staged.publish().unwrap();
    assert!(free(&store));
    let exclusive = store.exclusive().unwrap();
    assert!(!free(&store));
    drop(exclusive);
}

#[test]
fn removing_is_idempotent() {
    let (_dir, store) = store();
    let digest = store.put_bytes(b"x").unwrap();
    assert!(store.remove(&digest).unwrap());
    assert!(!store.remove(&digest).unwrap());
}

#[test]
fn files_that_are_no_blobs_are_left_alone() {
    let (dir, store) = store();
    let digest = store.put_bytes(b"x").unwrap();
    let foreign = dir.path().join("blobs/sha256/ab");
    fs::create_dir_all(&foreign).unwrap();
    fs::write(foreign.join("README"), b"").unwrap();
    fs::write(dir.path().join("blobs/sha256/file"), b"").unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
    store.gc(|_| false).unwrap();
    assert!(foreign.join("README").exists());
    assert_eq!(store.stat(&digest).unwrap(), None);
}

#[test]
fn threads_that_write_the_same_blob_all_succeed() {
    let (_dir, store) = store();
    let bytes = vec![3_u8; 100_000];
    let digest = Digest::sha256(&bytes);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut writer = store.begin(Algorithm::Sha256, 100_000).unwrap();
                writer.write_all(&bytes).unwrap();
                writer.commit(&digest, Some(100_000)).unwrap();
                assert_eq!(store.read(&digest, 100_000).unwrap(), bytes);
            });
        }
    });
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(temporary_files(&store), 0);
}

#[test]
fn an_ingest_that_ended_early_is_gone_on_with_and_hashed_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap().with_durability(Durability::None);
    let digest = Digest::sha256(b"hello world");
    let mut first = store.resume(&digest, 11).unwrap();
    first.append(b"hello ").unwrap();
    // The blob is taken: another ingest of it is one of its own.
    assert_eq!(store.resume(&digest, 11).unwrap().size(), 0);
    drop(first);
    assert_eq!(store.stat(&digest).unwrap(), None);

    let mut second = store.resume(&digest, 11).unwrap();
    assert_eq!(second.size(), 6);
    second.append(b"world").unwrap();
    second.commit(&digest, Some(11)).unwrap();
    assert_eq!(store.read(&digest, 11).unwrap(), b"hello world");
    assert_eq!(std::fs::read_dir(store.tmp_dir()).unwrap().count(), 0);
}

#[test]
fn a_damaged_partial_blob_is_found_at_the_end_and_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap().with_durability(Durability::None);
    let digest = Digest::sha256(b"hello world");
    drop(
        store
            .resume(&digest, 11)
            .map(|mut w| w.append(b"hellO "))
            .unwrap(),
    );
    let mut writer = store.resume(&digest, 11).unwrap();
    writer.append(b"world").unwrap();
    let error = writer.commit(&digest, Some(11)).unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    assert_eq!(store.resume(&digest, 11).unwrap().size(), 0, "it starts anew");
    // One that is longer than the blob may be is no beginning of it.
    drop(
        store
            .resume(&digest, 100)
            .map(|mut w| w.append(&[b'x'; 12]))
            .unwrap(),
    );
    assert_eq!(store.resume(&digest, 11).unwrap().size(), 0);
}

#[test]
fn partial_blobs_are_swept_with_the_garbage_and_when_they_are_old() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap().with_durability(Durability::None);
    let digest = Digest::sha256(b"x");
    drop(store.resume(&digest, 10).map(|mut w| w.append(b"half")).unwrap());
    assert_eq!(
        store
            .expire_partial(std::time::Duration::from_secs(3600))
            .unwrap(),
        0
    );
    let report = store.gc(|_| true).unwrap();
    assert_eq!((report.temporary, report.bytes), (1, 4));
    let writer = store.resume(&digest, 10).unwrap();
    assert_eq!(
        store.expire_partial(std::time::Duration::ZERO).unwrap(),
        0,
        "it is being written"
    );
    drop(writer);
    assert_eq!(store.expire_partial(std::time::Duration::ZERO).unwrap(), 1);
}
