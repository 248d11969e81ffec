//! What other users could reach is closed to them, or refused.
#![cfg(target_os = "linux")]

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use magik_cas::{
    Algorithm, Error, Store,
    private::{self, NotPrivate},
};

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: magik_cas::Result<T>) -> NotPrivate {
    match result {
        Err(Error::NotPrivate { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_store_that_was_open_to_others_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let store = Store::open(&root).unwrap();
    let digest = store.put_bytes(b"blob").unwrap();
    let blob = store.path(&digest);
    let directories = [
        root.clone(),
        root.join("blobs"),
        root.join("blobs/sha256"),
        root.join("tmp"),
    ];
    for directory in &directories {
        chmod(directory, 0o755);
    }
    Store::open(&root).unwrap();
    for directory in &directories {
        assert_eq!(mode(directory), 0o700, "{}", directory.display());
    }
    assert_eq!(mode(blob.parent().unwrap()), 0o700);
    assert_eq!(mode(&root.join("blobs/lock")), 0o600);
}

#[test]
fn a_lock_that_another_holds_already_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    // As it was before directories were closed: somebody opened it then, and holds its lock since.
    let lock = dir.path().join("blobs/lock");
    File::create(&lock).unwrap();
    chmod(&lock, 0o644);
    let held = File::open(&lock).unwrap();
    held.lock().unwrap();
    let lease = store.lease().unwrap();
    assert_eq!(mode(&lock), 0o600);
    // And all agree on the new one.
    assert!(store.try_exclusive().unwrap().is_none());
    drop(lease);
    assert!(store.try_exclusive().unwrap().is_some());
}

#[test]
fn those_who_replace_a_lock_at_once_agree_on_one() {
    for _ in 0..50 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        File::create(&path).unwrap();
        chmod(&path, 0o666);
        let files: Vec<File> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| private::lock_file(&path).unwrap()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let inode = path.metadata().unwrap().ino();
        assert!(files.iter().all(|file| file.metadata().unwrap().ino() == inode));
    }
}

#[test]
fn what_others_share_is_not_taken_from_them() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("shared");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("file"), "somebody's").unwrap();
    for open in [0o755, 0o711, 0o1777, 0o770] {
        chmod(&root, open);
        assert_eq!(refused(Store::open(&root)), NotPrivate::Shared { mode: open });
        assert_eq!(mode(&root), open);
    }
    // A store that others could write to may hold what they made.
    fs::remove_file(root.join("file")).unwrap();
    fs::create_dir(root.join("blobs")).unwrap();
    chmod(&root, 0o1777);
    assert_eq!(refused(Store::open(&root)), NotPrivate::Shared { mode: 0o1777 });
    chmod(&root, 0o755);
    Store::open(&root).unwrap();
    assert_eq!(mode(&root), 0o700);
    // What is closed may hold anything.
    fs::write(root.join("file"), "ours").unwrap();
    Store::open(&root).unwrap();

    // A new file system is nobody's yet.
    let fresh = dir.path().join("tmpfs");
    fs::create_dir(&fresh).unwrap();
    fs::create_dir(fresh.join("lost+found")).unwrap();
    fs::create_dir(fresh.join("pods")).unwrap();
    chmod(&fresh, 0o1777);
    Store::open(&fresh).unwrap();
    assert_eq!(mode(&fresh) & 0o777, 0o700);
}

#[test]
fn links_and_files_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("real")).unwrap();
    symlink("real", at("link")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    fs::write(at("file"), "").unwrap();
    assert_eq!(refused(Store::open(at("link"))), NotPrivate::Link);
    assert_eq!(refused(Store::open(at("dangling"))), NotPrivate::Link);
    assert_eq!(refused(Store::open(at("file"))), NotPrivate::Kind("a directory"));
    assert_eq!(fs::read_dir(at("real")).unwrap().count(), 0);

    let root = at("root");
    let store = Store::open(&root).unwrap();
    symlink("../../file", root.join("blobs/lock")).unwrap();
    assert_eq!(refused(store.lease()), NotPrivate::Link);
    fs::remove_file(root.join("blobs/lock")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("blobs/lock"),
        fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    assert_eq!(
        refused(store.begin(Algorithm::Sha256, 1)),
        NotPrivate::Kind("a file")
    );

    fs::remove_dir_all(root.join("tmp")).unwrap();
    symlink(at("real"), root.join("tmp")).unwrap();
    assert_eq!(refused(Store::open(&root)), NotPrivate::Link);
}

#[test]
fn what_belongs_to_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return; // only root can give files away
    }
    let dir = tempfile::tempdir().unwrap();
    let other = NotPrivate::Owner {
        owner: 65534,
        user: 0,
    };
    let root = dir.path().join("root");
    let store = Store::open(&root).unwrap();
    drop(store.lease().unwrap());
    for path in ["", "blobs", "blobs/sha512", "tmp"] {
        let path = root.join(path);
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        assert_eq!(refused(Store::open(&root)), other, "{}", path.display());
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
    }
    std::os::unix::fs::chown(root.join("blobs/lock"), Some(65534), None).unwrap();
    assert_eq!(refused(store.lease()), other);
    let message = store.lease().unwrap_err().to_string();
    assert!(message.contains("blobs/lock: belongs to user 65534"), "{message}");
}
