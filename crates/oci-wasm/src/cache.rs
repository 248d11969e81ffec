//! Compiled programs on disk.
//!
//! ```text
//! <cache>/<key>                 text: the SHA-256 of the machine code, in hex
//! <cache>/<SHA-256>.cwasm       the machine code (wasmtime's ELF)
//! <cache>/tmp…                  being written
//! ```
//! The key is the SHA-256 of the module and a hash of everything that compiled code depends on.
//! Both files are renamed into place, the code first: a crash leaves at most a file that is not
//! found. Machine code is run as it is. So the directory and the files must belong to this user (or
//! root), no one else may write to them, and the hash is checked before wasmtime sees the code.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::{LoadError, limits::MAX_CACHE_SIZE};

/// The extension of machine code.
const CODE: &str = "cwasm";

/// A directory of compiled programs.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    directory: PathBuf,
}

impl Cache {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The machine code of `key`, complete and verified; `None` without one that can be trusted.
    pub(crate) fn get(&self, key: &str) -> Result<Option<File>, LoadError> {
        match check_directory(&self.directory) {
            Err(LoadError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        }
        Ok(self.find(key).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(key, %error, "a compiled program is not usable and is made again");
            }
            None
        }))
    }

    fn find(&self, key: &str) -> io::Result<Option<File>> {
        let mut hash = String::new();
        open_ours(&self.directory.join(key))?
            .take(64)
            .read_to_string(&mut hash)?;
        if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(io::Error::other("its record is malformed"));
        }
        let file = open_ours(&self.directory.join(&hash).with_extension(CODE))?;
        if hash_of(&file)? != hash {
            return Err(io::Error::other("its hash is not the recorded one"));
        }
        Ok(Some(file))
    }

    /// A file to compile into; it is gone when dropped.
    pub(crate) fn temporary(&self) -> Result<NamedTempFile, LoadError> {
        create_directory(&self.directory)?;
        check_directory(&self.directory)?;
        tempfile::Builder::new()
            .prefix("tmp")
            .tempfile_in(&self.directory)
            .map_err(LoadError::io(format!(
                "creating a file in {}",
                self.directory.display()
            )))
    }

    /// Keeps what was compiled as the machine code of `key`, and makes room for it.
    pub(crate) fn put(&self, key: &str, code: NamedTempFile) -> Result<(), LoadError> {
        let io = |e| LoadError::Io {
            context: format!("keeping a compiled program in {}", self.directory.display()),
            source: e,
        };
        let hash = hash_of(code.as_file()).map_err(io)?;
        let path = self.directory.join(&hash).with_extension(CODE);
        code.persist(&path).map_err(|e| io(e.error))?;
        let mut record = self.temporary()?;
        record.write_all(hash.as_bytes()).map_err(io)?;
        record
            .persist(self.directory.join(key))
            .map_err(|e| io(e.error))?;
        self.prune(MAX_CACHE_SIZE, &path).map_err(io)
    }

    /// Removes the least recently used code down to `size` bytes; never `newest`.
    fn prune(&self, size: u64, newest: &Path) -> io::Result<()> {
        let mut codes: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let path = entry.path();
            if path.extension() != Some(OsStr::new(CODE)) || path == newest {
                continue;
            }
            // Another process may have removed it.
            if let Ok(metadata) = entry.metadata() {
                let used = metadata.accessed().or_else(|_| metadata.modified())?;
                codes.push((used, metadata.len(), path));
            }
        }
        let mut total = codes.iter().map(|(_, len, _)| len).sum::<u64>() + fs::metadata(newest)?.len();
        codes.sort();
        for (_, len, path) in codes {
            if total <= size {
                break;
            }
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => total -= len,
            }
        }
        Ok(())
    }
}

/// The hash of a file, which is left at its start.
fn hash_of(mut file: &File) -> io::Result<String> {
    file.rewind()?;
    let hash = sha256(file)?;
    file.rewind()?;
    Ok(hash)
}

/// The SHA-256 of what is read, in hex.
pub(crate) fn sha256(mut from: impl Read) -> io::Result<String> {
    let mut sha = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(hex::encode(sha.finalize())),
            n => sha.update(&buffer[..n]),
        }
    }
}

/// Whether it is a directory that no other may write to.
fn check_directory(directory: &Path) -> Result<(), LoadError> {
    let metadata = fs::symlink_metadata(directory)
        .map_err(LoadError::io(format!("looking at {}", directory.display())))?;
    let verdict = if metadata.is_dir() {
        is_ours(&metadata)
    } else {
        Err("it is not a directory".to_owned())
    };
    verdict.map_err(|reason| LoadError::UnsafeCache {
        path: directory.to_owned(),
        reason,
    })
}

/// Opens a file that no other may write to.
fn open_ours(path: &Path) -> io::Result<File> {
    let file = open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    is_ours(&metadata).map_err(io::Error::other)?;
    Ok(file)
}

#[cfg(unix)]
mod ours {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};

    use super::{File, LoadError, Path, fs, io};

    pub(super) fn create_directory(directory: &Path) -> Result<(), LoadError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(LoadError::io(format!("creating {}", directory.display())))
    }

    /// Owned by this user or root, and writable by no other.
    pub(super) fn is_ours(metadata: &fs::Metadata) -> Result<(), String> {
        let me = rustix::process::geteuid().as_raw();
        if metadata.uid() != me && metadata.uid() != 0 {
            return Err(format!("it belongs to user {}, not to {me}", metadata.uid()));
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(format!(
                "others may write to it (mode {:o})",
                metadata.mode() & 0o7777
            ));
        }
        Ok(())
    }

    pub(super) fn open(path: &Path) -> io::Result<File> {
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        fs::OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)
    }
}

/// Elsewhere a user's own directories are closed to others by what they inherit.
#[cfg(not(unix))]
mod ours {
    use super::{File, LoadError, Path, fs, io};

    pub(super) fn create_directory(directory: &Path) -> Result<(), LoadError> {
        fs::create_dir_all(directory).map_err(LoadError::io(format!("creating {}", directory.display())))
    }

    pub(super) fn is_ours(_: &fs::Metadata) -> Result<(), String> {
        Ok(())
    }

    pub(super) fn open(path: &Path) -> io::Result<File> {
        File::open(path)
    }
}

use ours::{create_directory, is_ours, open};

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "key";

    fn filled() -> (tempfile::TempDir, Cache) {
        let parent = tempfile::tempdir().unwrap();
        let cache = Cache::new(parent.path().join("cache"));
        let mut code = cache.temporary().unwrap();
        code.write_all(b"machine code").unwrap();
        cache.put(KEY, code).unwrap();
        (parent, cache)
    }

    fn code_path(cache: &Cache) -> PathBuf {
        let hash = fs::read_to_string(cache.directory.join(KEY)).unwrap();
        cache.directory.join(hash).with_extension(CODE)
    }

    #[test]
    fn gives_back_what_was_put() {
        let (_parent, cache) = filled();
        let mut text = String::new();
        cache
            .get(KEY)
            .unwrap()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "machine code");
        assert!(cache.get("another").unwrap().is_none());
        assert_eq!(fs::read_dir(&cache.directory).unwrap().count(), 2);
    }

    #[test]
    fn an_empty_place_is_an_empty_cache() {
        let parent = tempfile::tempdir().unwrap();
        assert!(Cache::new(parent.path().join("none")).get(KEY).unwrap().is_none());
    }

    #[test]
    fn does_not_give_changed_code() {
        let (_parent, cache) = filled();
        fs::write(code_path(&cache), b"machine c0de").unwrap();
        assert!(cache.get(KEY).unwrap().is_none());
        fs::write(cache.directory.join(KEY), b"../../etc/passwd").unwrap();
        assert!(cache.get(KEY).unwrap().is_none());
    }

    #[cfg(unix)]
    #[test]
    fn does_not_give_code_others_may_write() {
        use std::os::unix::fs::PermissionsExt;
        let (_parent, cache) = filled();
        fs::set_permissions(code_path(&cache), fs::Permissions::from_mode(0o622)).unwrap();
        assert!(cache.get(KEY).unwrap().is_none());
    }

    #[cfg(unix)]
    #[test]
    fn does_not_follow_links() {
        let (parent, cache) = filled();
        let code = code_path(&cache);
        let elsewhere = parent.path().join("elsewhere");
        fs::rename(&code, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &code).unwrap();
        assert!(cache.get(KEY).unwrap().is_none());
    }

    #[cfg(unix)]
    #[test]
    fn refuses_a_directory_others_may_write_to() {
        use std::os::unix::fs::PermissionsExt;
        let (parent, cache) = filled();
        fs::set_permissions(&cache.directory, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(cache.get(KEY), Err(LoadError::UnsafeCache { .. })));
        fs::set_permissions(&cache.directory, fs::Permissions::from_mode(0o700)).unwrap();
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(&cache.directory, &link).unwrap();
        assert!(matches!(
            Cache::new(link).get(KEY),
            Err(LoadError::UnsafeCache { .. })
        ));
    }

    #[test]
    fn makes_room_for_the_newest() {
        let (_parent, cache) = filled();
        let old = code_path(&cache);
        let mut code = cache.temporary().unwrap();
        code.write_all(&[0; 100]).unwrap();
        cache.put("second", code).unwrap();
        let newest = cache.get("second").unwrap().unwrap();
        drop(newest);
        let hash = fs::read_to_string(cache.directory.join("second")).unwrap();
        let path = cache.directory.join(hash).with_extension(CODE);
        cache.prune(105, &path).unwrap();
        assert!(!old.exists());
        assert!(path.exists());
        assert!(cache.get(KEY).unwrap().is_none());
    }
}
