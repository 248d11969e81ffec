//! What a guest's console says, of which only the end is kept: a guest may write as much as it likes.

use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::pipe::PipeFlags;
use tokio::{io::Interest, net::unix::pipe, task::JoinHandle};

/// How much is kept, in bytes.
const KEPT: usize = 8 << 10;
/// How many lines an error quotes.
const QUOTED: usize = 5;
/// How much of a line an error quotes, in characters.
const LINE: usize = 200;

/// The end of what a machine's console, and its processes, have written.
#[derive(Debug, Clone, Default)]
pub struct Console {
    kept: Arc<Mutex<VecDeque<u8>>>,
}

impl Console {
    /// A console that is followed in the background; the descriptor is where it is written to. Needs a tokio runtime.
    ///
    /// # Errors
    /// There is no pipe to be had.
    pub(crate) fn open() -> io::Result<(Self, OwnedFd, JoinHandle<()>)> {
        let (reading, writing) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let reading = pipe::Receiver::from_owned_fd(reading)?;
        let console = Self::default();
        let follower = console.clone();
        let followed = tokio::spawn(async move { follower.follow(&reading).await });
        Ok((console, writing, followed))
    }

    async fn follow(&self, pipe: &pipe::Receiver) {
        let mut buffer = [0; 4096];
        loop {
            if pipe.ready(Interest::READABLE).await.is_err() {
                return;
            }
            match pipe.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(n) => self.keep(&buffer[..n]),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => return,
            }
        }
    }

    fn keep(&self, bytes: &[u8]) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(bytes);
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
    }

    /// The last lines, fit for an error message: bounded, without control characters, in one line.
    #[must_use]
    pub fn last_lines(&self) -> String {
        let kept: Vec<u8> = self
            .kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .copied()
            .collect();
        let text = String::from_utf8_lossy(&kept);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        let last = lines[lines.len().saturating_sub(QUOTED)..].iter().map(|line| {
            line.chars()
                .filter(|c| !c.is_control())
                .take(LINE)
                .collect::<String>()
        });
        last.collect::<Vec<_>>().join(" | ")
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write};

    use super::*;

    #[tokio::test]
    async fn only_the_end_is_kept_and_it_cannot_drive_a_terminal() {
        let (console, writing, following) = Console::open().unwrap();
        let write = tokio::task::spawn_blocking(move || {
            let mut writing = File::from(writing);
            for n in 0..10_000 {
                writeln!(writing, "line {n}").unwrap();
            }
            writeln!(writing, "\x1b[31mpanic\x07\r\n\n{}", "x".repeat(1000)).unwrap();
        });
        write.await.unwrap();
        following.await.unwrap();
        let lines = console.last_lines();
        assert!(lines.contains("line 9999 | [31mpanic | xxx"), "{lines}");
        assert!(!lines.contains(char::is_control), "{lines:?}");
        assert!(lines.len() < QUOTED * (LINE + 3), "{lines}");
        assert!(console.kept.lock().unwrap().len() <= KEPT);
    }
}
