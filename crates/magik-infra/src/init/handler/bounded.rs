//! A connection to a container, of which only so much is read: who answers a probe without end costs
//! the pod's init no processor.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is read from a connection, in bytes: certificates of some kilobytes each, and a head.
const MAX_READ: usize = 256 << 10;

/// A stream that fails once more than that was read.
#[derive(Debug)]
pub(super) struct Bounded<S> {
    stream: S,
    room: usize,
}

impl<S> Bounded<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            room: MAX_READ,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.room == 0 {
            let reason = format!("it answers with more than {MAX_READ} bytes");
            return Poll::Ready(Err(io::Error::other(reason)));
        }
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, into);
        self.room = self.room.saturating_sub(into.filled().len() - before);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn an_answer_without_end_has_an_end() {
        let mut endless = Bounded::new(tokio::io::join(tokio::io::repeat(b'x'), tokio::io::sink()));
        let mut read = Vec::new();
        let error = endless.read_to_end(&mut read).await.unwrap_err();
        assert!(error.to_string().contains("more than 262144 bytes"), "{error}");
        assert!(read.len() < 2 * MAX_READ, "{}", read.len());
    }
}
