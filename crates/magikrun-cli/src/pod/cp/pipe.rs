//! What lies between the archives, which threads read and write, and the program in the container.

use std::io::{self, Read, Write};

use tokio::sync::mpsc::{self, Receiver, Sender};

/// How many pieces may wait.
const QUEUE: usize = 4;

/// A pipe that a thread reads.
pub(super) fn to_thread() -> (Sender<Vec<u8>>, Reader) {
    let (sender, pieces) = mpsc::channel(QUEUE);
    let (piece, at) = (Vec::new(), 0);
    (sender, Reader { pieces, piece, at })
}

/// A pipe that a thread writes.
pub(super) fn from_thread() -> (Writer, Receiver<Vec<u8>>) {
    let (sender, pieces) = mpsc::channel(QUEUE);
    (Writer(sender), pieces)
}

#[derive(Debug)]
pub(super) struct Reader {
    pieces: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.pieces.blocking_recv() {
                Some(piece) => (self.piece, self.at) = (piece, 0),
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.piece.len() - self.at);
        buffer[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[derive(Debug)]
pub(super) struct Writer(Sender<Vec<u8>>);

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(bytes.to_vec());
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
