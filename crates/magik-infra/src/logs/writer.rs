//! The log file of one container.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use super::rotated;

/// The size at which a log is rotated, in bytes.
pub const MAX_LOG_SIZE: u64 = 10 << 20;
/// How many files a container's log has at most: the one being written and the one before.
pub const MAX_LOG_FILES: usize = 2;

/// An open log file that rotates itself.
#[derive(Debug)]
pub(crate) struct LogWriter {
    path: PathBuf,
    file: File,
    size: u64,
    max_size: u64,
    /// Bytes that could not be written (full disk), until the next success.
    lost: u64,
}

impl LogWriter {
    /// Opens the log, appending to one that is there; it is rotated before it grows beyond `max_size` bytes.
    pub(crate) fn open(path: &Path, max_size: u64) -> io::Result<Self> {
        let file = open(path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            max_size,
            lost: 0,
        })
    }

    /// Writes whole entries. A log that cannot be written loses them: the container goes on.
    pub(crate) fn write(&mut self, entries: &[u8]) {
        if entries.is_empty() {
            return;
        }
        let length = u64::try_from(entries.len()).unwrap_or(u64::MAX);
        if self.size > 0
            && self.size + length > self.max_size
            && let Err(error) = self.rotate()
        {
            tracing::warn!(log = %self.path.display(), %error, "cannot rotate the log");
        }
        match self.file.write_all(entries) {
            Ok(()) => {
                self.size += length;
                if std::mem::take(&mut self.lost) > 0 {
                    tracing::warn!(log = %self.path.display(), "the log can be written again");
                }
            }
            Err(error) => {
                if self.lost == 0 {
                    tracing::warn!(log = %self.path.display(), %error, "cannot write the log: output is lost");
                }
                self.lost += length;
            }
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        std::fs::rename(&self.path, rotated(&self.path))?;
        self.file = open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::from_raw_mode(0o640))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotates_at_the_bound_and_keeps_two_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.log");
        let mut writer = LogWriter::open(&path, 10).unwrap();
        writer.write(b"12345");
        writer.write(b"67890");
        assert_eq!(std::fs::read(&path).unwrap(), b"1234567890");
        writer.write(b"a");
        writer.write(b"0123456789");
        assert_eq!(std::fs::read(&path).unwrap(), b"0123456789");
        assert_eq!(std::fs::read(rotated(&path)).unwrap(), b"a");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), MAX_LOG_FILES);
    }

    #[test]
    fn does_not_write_through_a_symlink() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.log");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(LogWriter::open(&path, 10).is_err());
    }
}
