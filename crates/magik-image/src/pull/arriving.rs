//! A blob that is read while it arrives.
//!
//! The download is written to a file, and the unpacking reads that file as far as it has come. So a
//! slow reader never blocks the network, a layer that waits for lower ones goes on downloading, and
//! memory stays bounded: the data in between lies in the page cache, or on the disk.

use std::{
    fs::File,
    io::{self, Read},
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

/// How far a blob has come.
#[derive(Debug, Default)]
pub(crate) struct Arriving {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    path: Option<PathBuf>,
    written: u64,
    end: Option<End>,
    /// A reader could not go on.
    missed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// All of it is there, and its digest is what it should be.
    Whole,
    /// There will not be more.
    Failed,
}

impl Arriving {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    /// It is written to this file, which holds so many bytes of it.
    pub(crate) fn begin(&self, path: PathBuf, written: u64) {
        self.change(|state| (state.path, state.written) = (Some(path), written));
    }

    /// So many bytes of it have been written.
    pub(crate) fn grew(&self, written: u64) {
        self.change(|state| state.written = written);
    }

    /// All of it has been written and verified.
    pub(crate) fn complete(&self) {
        self.change(|state| state.end = Some(End::Whole));
    }

    /// Tells waiting readers that no more comes. A blob that is complete stays so.
    pub(crate) fn fail(&self) {
        self.change(|state| {
            state.end.get_or_insert(End::Failed);
        });
    }

    /// Whether a reader could not go on: an error of its own is then a consequence.
    pub(crate) fn was_missed(&self) -> bool {
        self.state().missed
    }

    /// Reads it from its beginning.
    pub(crate) fn reader(self: &Arc<Self>) -> Follower {
        Follower {
            arriving: Arc::clone(self),
            file: None,
            read: 0,
        }
    }

    /// Waits until there is more than `read` bytes; 0 at the end.
    fn available(&self, read: u64) -> io::Result<u64> {
        let mut state = self.state();
        loop {
            match (state.written - read, state.end) {
                // An end that is no good is worth more than the bytes before it.
                (_, Some(End::Failed)) => return Err(io::Error::other("the download ended early")),
                (0, Some(End::Whole)) => return Ok(0),
                (0, None) => {}
                (more, _) => return Ok(more),
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn open(&self) -> io::Result<File> {
        match &self.state().path {
            Some(path) => File::open(path),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// Reads a blob while it arrives. Its end is that of a blob that is whole and has the right digest.
#[derive(Debug)]
pub(crate) struct Follower {
    arriving: Arc<Arriving>,
    file: Option<File>,
    read: u64,
}

impl Read for Follower {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.follow(buf)
            .inspect_err(|_| self.arriving.change(|state| state.missed = true))
    }
}

impl Follower {
    fn follow(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let available = self.arriving.available(self.read)?;
        if available == 0 {
            return Ok(0);
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(self.arriving.open()?),
        };
        let most = usize::try_from(available).unwrap_or(usize::MAX).min(buf.len());
        let n = file.read(&mut buf[..most])?;
        if n == 0 && most > 0 {
            return Err(io::Error::other("the download's file was cut short"));
        }
        self.read += n as u64;
        Ok(n)
    }
}

/// When it is dropped, all that wait for its blobs are told.
#[derive(Debug)]
pub(crate) struct FailOnDrop(pub(crate) Vec<Arc<Arriving>>);

impl Drop for FailOnDrop {
    fn drop(&mut self) {
        self.0.iter().for_each(|blob| blob.fail());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_reader_follows_the_writer_to_the_verified_end() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let blob = Arc::new(Arriving::default());
        let mut reader = blob.reader();
        let read = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        file.write_all(b"one ").unwrap();
        blob.begin(file.path().into(), 4);
        file.write_all(b"two").unwrap();
        blob.grew(7);
        blob.complete();
        blob.fail();
        assert_eq!(read.join().unwrap().unwrap(), "one two");
    }

    #[test]
    fn a_download_that_fails_is_no_end_of_file() {
        let blob = Arc::new(Arriving::default());
        let mut reader = blob.reader();
        let read = std::thread::spawn(move || reader.read(&mut [0; 8]));
        assert!(!blob.was_missed());
        drop(FailOnDrop(vec![Arc::clone(&blob)]));
        assert!(
            read.join()
                .unwrap()
                .unwrap_err()
                .to_string()
                .contains("ended early")
        );
        assert!(blob.was_missed());
    }
}
