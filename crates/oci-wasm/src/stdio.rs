//! A container's standard streams.
//!
//! Pipes and sockets are non-blocking, so that a program that waits for one can be ended. Others
//! (files, terminals; on Windows all) block the container's own thread.

use std::{
    fs::File,
    io::{self, Write},
    sync::Arc,
};

use magik_oci::{OwnedStream, Stdio};
use wasmtime_wasi::{
    WasiCtxBuilder,
    cli::{InputFile, OutputFile, StdinStream, StdoutStream},
};

/// The streams of one container; a clone is the same streams.
#[derive(Debug, Clone, Default)]
pub(crate) struct Streams {
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
}

#[derive(Debug, Clone)]
enum Stream {
    Blocking(Arc<File>),
    #[cfg(unix)]
    Pipe(pipe::Pipe),
}

impl Stream {
    fn new(stream: OwnedStream) -> io::Result<Self> {
        #[cfg(unix)]
        if pipe::is_one(&stream) {
            return pipe::Pipe::new(stream).map(Self::Pipe);
        }
        Ok(Self::Blocking(Arc::new(File::from(stream))))
    }

    fn input(&self) -> io::Result<Box<dyn StdinStream + Sync>> {
        Ok(match self {
            Self::Blocking(file) => Box::new(InputFile::new(file.try_clone()?)),
            #[cfg(unix)]
            Self::Pipe(pipe) => Box::new(pipe.clone()),
        })
    }

    fn output(&self) -> io::Result<Box<dyn StdoutStream + Sync>> {
        Ok(match self {
            Self::Blocking(file) => Box::new(OutputFile::new(file.try_clone()?)),
            #[cfg(unix)]
            Self::Pipe(pipe) => Box::new(pipe.clone()),
        })
    }
}

impl Streams {
    pub(crate) fn new(stdio: Stdio) -> io::Result<Self> {
        Ok(Self {
            stdin: stdio.stdin.map(Stream::new).transpose()?,
            stdout: stdio.stdout.map(Stream::new).transpose()?,
            stderr: stdio.stderr.map(Stream::new).transpose()?,
        })
    }

    /// Shared streams: their descriptions are left as they are, so every one of them blocks.
    #[cfg(target_os = "linux")]
    pub(crate) fn blocking(stdio: Stdio) -> Self {
        let stream = |stream: OwnedStream| Stream::Blocking(Arc::new(File::from(stream)));
        Self {
            stdin: stdio.stdin.map(stream),
            stdout: stdio.stdout.map(stream),
            stderr: stdio.stderr.map(stream),
        }
    }

    /// Gives the streams to a program; what is absent is `/dev/null`.
    pub(crate) fn connect(&self, wasi: &mut WasiCtxBuilder) -> io::Result<()> {
        if let Some(stdin) = &self.stdin {
            wasi.stdin(stdin.input()?);
        }
        if let Some(stdout) = &self.stdout {
            wasi.stdout(stdout.output()?);
        }
        if let Some(stderr) = &self.stderr {
            wasi.stderr(stderr.output()?);
        }
        Ok(())
    }

    /// Writes a line of the runtime's own to the standard error, if it takes it at once.
    pub(crate) fn say(&self, line: &str) {
        let line = format!("magikrun: {line}\n");
        let written = match &self.stderr {
            None => Ok(()),
            Some(Stream::Blocking(file)) => (&**file).write_all(line.as_bytes()),
            #[cfg(unix)]
            Some(Stream::Pipe(pipe)) => pipe.write_now(line.as_bytes()).map(|_| ()),
        };
        if let Err(error) = written {
            tracing::debug!(%error, line, "the container's standard error does not take a line");
        }
    }
}

#[cfg(unix)]
mod pipe {
    use std::{
        io,
        os::fd::{AsFd, OwnedFd},
        pin::Pin,
        sync::Arc,
        task::{Context, Poll, ready},
    };

    use bytes::Bytes;
    use rustix::fs::{FileType, OFlags};
    use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd};
    use wasmtime_wasi::{
        async_trait,
        cli::{IsTerminal, StdinStream, StdoutStream},
        p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult},
    };

    /// The most that is read or buffered at a time, in bytes.
    const CHUNK: usize = 64 * 1024;

    pub(super) fn is_one(stream: &OwnedFd) -> bool {
        rustix::fs::fstat(stream).is_ok_and(|s| {
            matches!(
                FileType::from_raw_mode(s.st_mode),
                FileType::Fifo | FileType::Socket
            )
        })
    }

    /// A pipe or socket that does not block.
    #[derive(Debug, Clone)]
    pub(super) struct Pipe(Arc<AsyncFd<OwnedFd>>);

    impl Pipe {
        #[allow(
            unsafe_code,
            reason = "tokio leaves it to us that the descriptor stays the one it was"
        )]
        pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
            let flags = rustix::fs::fcntl_getfl(&fd)?;
            rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
            // SAFETY: an `OwnedFd` is one descriptor until the `AsyncFd` itself drops it.
            let fd = unsafe { AsyncFd::register(fd) }?;
            Ok(Self(Arc::new(fd)))
        }

        fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.try_io(Interest::READABLE, |fd| {
                Ok(rustix::io::read(fd.as_fd(), &mut *buffer)?)
            })
        }

        /// Writes without having heard from tokio whether the pipe takes anything.
        pub(super) fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
            Ok(rustix::io::write(self.0.as_fd(), bytes)?)
        }

        fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
            self.0
                .try_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd.as_fd(), bytes)?))
        }
    }

    impl IsTerminal for Pipe {
        fn is_terminal(&self) -> bool {
            false
        }
    }

    impl StdinStream for Pipe {
        fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
            Box::new(self.clone())
        }

        fn p2_stream(&self) -> Box<dyn InputStream> {
            Box::new(self.clone())
        }
    }

    impl StdoutStream for Pipe {
        fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
            Box::new(self.clone())
        }

        fn p2_stream(&self) -> Box<dyn OutputStream> {
            Box::new(Writer {
                pipe: self.clone(),
                rest: Bytes::new(),
                failed: None,
            })
        }
    }

    impl AsyncRead for Pipe {
        fn poll_read(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            loop {
                let _ready = ready!(self.0.poll_read_ready(cx))?;
                match self.try_read(buffer.initialize_unfilled()) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    result => return Poll::Ready(result.map(|n| buffer.advance(n))),
                }
            }
        }
    }

    impl AsyncWrite for Pipe {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            loop {
                let _ready = ready!(self.0.poll_write_ready(cx))?;
                match self.try_write(bytes) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    result => return Poll::Ready(result),
                }
            }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[async_trait]
    impl Pollable for Pipe {
        async fn ready(&mut self) {
            // An error is met again, and reported, by the read that follows.
            let _ = self.0.readable().await;
        }
    }

    impl InputStream for Pipe {
        fn read(&mut self, size: usize) -> StreamResult<Bytes> {
            let mut buffer = vec![0; size.min(CHUNK)];
            match self.try_read(&mut buffer) {
                Ok(0) if !buffer.is_empty() => Err(StreamError::Closed),
                Ok(n) => {
                    buffer.truncate(n);
                    Ok(buffer.into())
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Bytes::new()),
                Err(e) => Err(StreamError::LastOperationFailed(e.into())),
            }
        }
    }

    /// What a program writes through one handle; what the pipe does not take at once waits here.
    struct Writer {
        pipe: Pipe,
        rest: Bytes,
        failed: Option<io::Error>,
    }

    impl Writer {
        /// Writes what waits, as far as the pipe takes it.
        fn drain(&mut self) {
            while !self.rest.is_empty() && self.failed.is_none() {
                match self.pipe.try_write(&self.rest) {
                    Ok(n) => _ = self.rest.split_to(n),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                    Err(e) => self.failed = Some(e),
                }
            }
        }

        fn status(&mut self) -> StreamResult<()> {
            match self.failed.take() {
                None => Ok(()),
                Some(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                    self.failed = Some(io::ErrorKind::BrokenPipe.into());
                    Err(StreamError::Closed)
                }
                Some(e) => Err(StreamError::LastOperationFailed(e.into())),
            }
        }
    }

    #[async_trait]
    impl Pollable for Writer {
        async fn ready(&mut self) {
            self.drain();
            while !self.rest.is_empty() && self.failed.is_none() {
                if let Err(e) = self.pipe.0.writable().await {
                    self.failed = Some(e);
                }
                self.drain();
            }
        }
    }

    impl OutputStream for Writer {
        fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
            if !self.rest.is_empty() {
                return Err(StreamError::trap("write without a permit"));
            }
            self.rest = bytes;
            self.drain();
            self.status()
        }

        fn flush(&mut self) -> StreamResult<()> {
            self.drain();
            self.status()
        }

        fn check_write(&mut self) -> StreamResult<usize> {
            self.drain();
            self.status()?;
            Ok(if self.rest.is_empty() { CHUNK } else { 0 })
        }
    }
}
