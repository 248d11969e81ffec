//! Small files of others, read up to a limit.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// All of it.
///
/// # Errors
/// If it is larger than `limit` bytes or cannot be read.
pub(crate) fn read(file: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Opens a file that another one may have put there: a pipe in its place is not waited for.
///
/// # Errors
/// It cannot be opened, or is no regular file.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("is no regular file"))
    }
}

/// The text of a file that need not be there.
///
/// # Errors
/// Those of [`read`], or if it is not UTF-8.
pub(crate) fn text_if_any(path: &Path, limit: u64) -> io::Result<Option<String>> {
    let file = match open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    String::from_utf8(read(file, limit)?)
        .map(Some)
        .map_err(|_| io::Error::other("is not UTF-8"))
}

/// The paths in a directory, in the order of their names.
#[cfg(feature = "registry")]
pub(crate) fn sorted_paths(dir: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let entries = std::fs::read_dir(dir)?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_larger_than_the_limit_or_no_text_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert_eq!(text_if_any(&path, 4).unwrap(), None);
        std::fs::write(&path, "four").unwrap();
        assert_eq!(text_if_any(&path, 4).unwrap().as_deref(), Some("four"));
        let error = text_if_any(&path, 3).unwrap_err();
        assert_eq!(error.to_string(), "is larger than 3 bytes");
        std::fs::write(&path, b"\xff").unwrap();
        assert_eq!(text_if_any(&path, 3).unwrap_err().to_string(), "is not UTF-8");
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        for path in [&path, dir.path()] {
            let error = text_if_any(path, 4).unwrap_err();
            assert_eq!(error.to_string(), "is no regular file");
        }
    }
}
