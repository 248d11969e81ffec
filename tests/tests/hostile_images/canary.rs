//! A directory of the host that nothing may touch: hostile links lead there.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
};

/// In every file of it: what a container has read if it prints this.
pub(crate) const SECRET: &str = "canary-secret";
/// The id of the user "canary" in the canary's `passwd`, and in no other file.
pub(crate) const SECRET_ID: &str = "52817";

/// What runtimes create, open or delete by name.
const NAMES: &[&str] = &[
    "console",
    "core",
    "fd",
    "full",
    "group",
    "hostname",
    "hosts",
    "ld.so.cache",
    "ld.so.preload",
    "null",
    "nsswitch.conf",
    "passwd",
    "ptmx",
    "random",
    "resolv.conf",
    "stderr",
    "stdin",
    "stdout",
    "tty",
    "urandom",
    "zero",
    "secret",
];
const DIRECTORIES: &[&str] = &[
    "cgroup",
    "deep",
    "fs",
    "fs/cgroup",
    "mqueue",
    "pts",
    "self",
    "shm",
];

/// The canary's directory: `full` has everything that runtimes touch, `some` what they may replace, `empty` nothing, `file`
/// is a file.
pub(crate) struct Canary {
    dir: PathBuf,
    before: BTreeSet<String>,
}

impl Canary {
    pub(crate) fn new(dir: PathBuf) -> Self {
        let mut canary = Self {
            dir,
            before: BTreeSet::new(),
        };
        canary.renew();
        canary
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What has changed since the last look; the canary is new afterwards.
    pub(crate) fn changes(&mut self) -> Option<String> {
        let now = self.look();
        if now == self.before {
            return None;
        }
        let gone: Vec<_> = self.before.difference(&now).cloned().collect();
        let new: Vec<_> = now.difference(&self.before).cloned().collect();
        self.renew();
        Some(format!("files of the host changed: were {gone:?}, are {new:?}"))
    }

    fn renew(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
        let full = self.dir.join("full");
        fs::create_dir_all(&full).expect("a canary");
        fs::create_dir(self.dir.join("empty")).expect("a canary");
        for name in DIRECTORIES {
            fs::create_dir(full.join(name)).expect("a canary");
            fs::write(full.join(name).join("secret"), SECRET).expect("a canary");
        }
        for name in NAMES {
            let text = match *name {
                "passwd" => {
                    format!("root:x:0:0:{SECRET}:/:/bin/sh\ncanary:x:{SECRET_ID}:{SECRET_ID}::/:/bin/sh\n")
                }
                "group" => format!("root:x:0:\ncanary:x:{SECRET_ID}:\n"),
                _ => format!("{SECRET} {name}\n"),
            };
            fs::write(full.join(name), text).expect("a canary");
        }
        let some = self.dir.join("some");
        for name in ["pts", "deep"] {
            fs::create_dir_all(some.join(name)).expect("a canary");
        }
        for name in ["ptmx", "secret", "hosts"] {
            fs::write(some.join(name), SECRET).expect("a canary");
        }
        symlink("secret", full.join("link")).expect("a canary");
        fs::write(self.dir.join("file"), SECRET).expect("a canary");
        self.before = self.look();
    }

    /// Every file with all that can be changed of it, the times of reading left out.
    fn look(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        look(&self.dir, &mut found);
        found
    }
}

fn look(path: &Path, found: &mut BTreeSet<String>) {
    let Ok(meta) = path.symlink_metadata() else {
        found.insert(format!("{}: unreadable", path.display()));
        return;
    };
    let content = match meta.file_type() {
        kind if kind.is_symlink() => fs::read_link(path).unwrap_or_default().display().to_string(),
        kind if kind.is_file() => String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned(),
        _ => String::new(),
    };
    found.insert(format!(
        "{} {:o} {}:{} inode {} links {} device {} modified {}.{} changed {}.{} {content:?}",
        path.display(),
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.ino(),
        meta.nlink(),
        meta.rdev(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
    ));
    if meta.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            look(&entry.path(), found);
        }
    }
}
