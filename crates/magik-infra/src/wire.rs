//! The transport under ttrpc: counts what is under way, so that a peer can make neither side hold
//! more than a bound.
//!
//! ttrpc queues every stream frame it reads without limit. [`Wire`] sits between it and the socket,
//! follows the frames (a ten byte header each), and stops reading while more than [`MAX_BACKLOG`]
//! bytes have not been consumed. It also knows when the connection has ended and when every call
//! has been answered.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
};

/// The longest frame that is accepted, in bytes.
pub(crate) const MAX_FRAME: usize = 1 << 20;
/// How many bytes of stream frames may wait for their consumer.
const MAX_BACKLOG: usize = 256 << 10;
/// How many calls may be under way on one connection.
const MAX_OPEN_CALLS: usize = 64;
/// What a queued frame costs beside its payload.
const FRAME_COST: usize = 64;

const HEADER: usize = 10;
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;
const DATA: u8 = 3;
const REMOTE_CLOSED: u8 = 1;

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// What is known of a connection, shared by the transport and the calls on it.
#[derive(Debug)]
pub(crate) struct Meter {
    state: Mutex<State>,
    /// Number of calls under way; `usize::MAX` once the connection has ended.
    open: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    /// Stream id and bytes not consumed, of each call under way.
    calls: Vec<(u32, usize)>,
    reader: Option<Waker>,
}

impl State {
    fn is_full(&self) -> bool {
        self.calls.len() > MAX_OPEN_CALLS || self.calls.iter().map(|(_, n)| n).sum::<usize>() > MAX_BACKLOG
    }
}

const ENDED: usize = usize::MAX;

impl Meter {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            open: watch::Sender::new(0),
        })
    }

    /// Waits for the connection's end.
    pub(crate) async fn closed(&self) {
        // The sender lives in self: the wait cannot fail.
        let _ = self.open.subscribe().wait_for(|open| *open == ENDED).await;
    }

    /// Waits until every call has been answered, or the connection has ended.
    pub(crate) async fn idle(&self) {
        let _ = self
            .open
            .subscribe()
            .wait_for(|open| matches!(*open, 0 | ENDED))
            .await;
    }

    /// A message of `bytes` of call `stream` was consumed; `None`: of the only call there is.
    pub(crate) fn release(&self, stream: Option<u32>, bytes: usize) {
        let mut state = self.lock();
        for (id, waiting) in &mut state.calls {
            if stream.is_none_or(|stream| stream == *id) {
                *waiting = waiting.saturating_sub(bytes + FRAME_COST);
            }
        }
        Self::read_on(state);
    }

    /// Wakes the reader if there is room again.
    fn read_on(mut state: MutexGuard<'_, State>) {
        let reader = if state.is_full() {
            None
        } else {
            state.reader.take()
        };
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn begin(&self, stream: u32) {
        let mut state = self.lock();
        if !state.calls.iter().any(|(id, _)| *id == stream) {
            state.calls.push((stream, 0));
        }
        self.publish(&state);
    }

    fn end(&self, stream: u32) {
        let mut state = self.lock();
        state.calls.retain(|(id, _)| *id != stream);
        self.publish(&state);
        Self::read_on(state);
    }

    fn arrived(&self, stream: u32, bytes: usize) {
        if let Some((_, waiting)) = self.lock().calls.iter_mut().find(|(id, _)| *id == stream) {
            *waiting += bytes + FRAME_COST;
        }
    }

    fn close(&self) {
        self.open.send_replace(ENDED);
    }

    fn publish(&self, state: &State) {
        self.open.send_if_modified(|open| {
            let change = *open != ENDED && *open != state.calls.len();
            if change {
                *open = state.calls.len();
            }
            change
        });
    }

    fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.is_full() {
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One frame's header.
struct Frame {
    length: usize,
    stream: u32,
    kind: u8,
    flags: u8,
}

/// Finds the frames in one direction of the connection.
#[derive(Debug, Default)]
struct Framer {
    header: [u8; HEADER],
    have: usize,
    payload: usize,
}

impl Framer {
    fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(&Frame)) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let n = self.payload.min(bytes.len());
                self.payload -= n;
                bytes = &bytes[n..];
                continue;
            }
            let n = (HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + n].copy_from_slice(&bytes[..n]);
            self.have += n;
            bytes = &bytes[n..];
            if self.have == HEADER {
                self.have = 0;
                let [a, b, c, d, e, f, g, h, kind, flags] = self.header;
                let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                if length > MAX_FRAME {
                    let message = format!("frame of {length} bytes, at most {MAX_FRAME} are allowed");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, message));
                }
                self.payload = length;
                each(&Frame {
                    length,
                    stream: u32::from_be_bytes([e, f, g, h]),
                    kind,
                    flags,
                });
            }
        }
        Ok(())
    }
}

/// A metered connection. `G` is kept as long as the connection: a place among the allowed number of
/// them.
#[derive(Debug)]
pub(crate) struct Wire<S, G = ()> {
    inner: S,
    role: Role,
    meter: Arc<Meter>,
    reading: Framer,
    writing: Framer,
    _guard: G,
}

impl<S, G> Wire<S, G> {
    pub(crate) fn new(inner: S, role: Role, meter: Arc<Meter>, guard: G) -> Self {
        Self {
            inner,
            role,
            meter,
            reading: Framer::default(),
            writing: Framer::default(),
            _guard: guard,
        }
    }
}

/// What a frame means for the calls under way; `from_server` says who sent it.
fn account(meter: &Meter, frame: &Frame, from_server: bool, reading: bool) {
    match (frame.kind, from_server) {
        (REQUEST, false) => meter.begin(frame.stream),
        (RESPONSE, true) => meter.end(frame.stream),
        (DATA, true) if frame.flags & REMOTE_CLOSED != 0 => meter.end(frame.stream),
        (DATA, _) if reading => meter.arrived(frame.stream, frame.length),
        _ => {}
    }
}

impl<S: AsyncRead + Unpin, G: Unpin> AsyncRead for Wire<S, G> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.meter.poll_room(cx));
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut this.inner).poll_read(cx, buf));
        let fresh = &buf.filled()[before..];
        if result.is_err() || fresh.is_empty() {
            this.meter.close();
            return Poll::Ready(result);
        }
        let (meter, from_server) = (&this.meter, this.role == Role::Client);
        let fed = this
            .reading
            .feed(fresh, |frame| account(meter, frame, from_server, true));
        if fed.is_err() {
            this.meter.close();
        }
        Poll::Ready(fed)
    }
}

impl<S: AsyncWrite + Unpin, G: Unpin> AsyncWrite for Wire<S, G> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let n = match ready!(Pin::new(&mut this.inner).poll_write(cx, buf)) {
            Ok(n) => n,
            Err(e) => {
                this.meter.close();
                return Poll::Ready(Err(e));
            }
        };
        let (meter, from_server) = (&this.meter, this.role == Role::Server);
        this.writing
            .feed(&buf[..n], |frame| account(meter, frame, from_server, false))?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

impl<S, G> Drop for Wire<S, G> {
    fn drop(&mut self) {
        self.meter.close();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn frame(stream: u32, kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
        out.extend(stream.to_be_bytes());
        out.extend([kind, flags]);
        out.extend(payload);
        out
    }

    #[test]
    fn finds_frames_however_they_are_cut() {
        let bytes = [
            frame(1, REQUEST, 0, b"abc"),
            frame(1, DATA, 0, b""),
            frame(3, RESPONSE, 1, &[0; 300]),
        ]
        .concat();
        for cut in 1..bytes.len() {
            let mut framer = Framer::default();
            let mut seen = Vec::new();
            for piece in bytes.chunks(cut) {
                framer
                    .feed(piece, |f| seen.push((f.stream, f.kind, f.length)))
                    .unwrap();
            }
            assert_eq!(seen, [(1, REQUEST, 3), (1, DATA, 0), (3, RESPONSE, 300)]);
        }
    }

    #[test]
    fn refuses_a_frame_one_byte_past_the_bound() {
        let header = |n: usize| {
            [
                &u32::try_from(n).unwrap().to_be_bytes()[..],
                &[0, 0, 0, 1, DATA, 0],
            ]
            .concat()
        };
        assert!(Framer::default().feed(&header(MAX_FRAME), |_| {}).is_ok());
        assert!(Framer::default().feed(&header(MAX_FRAME + 1), |_| {}).is_err());
    }

    #[tokio::test]
    async fn stops_reading_until_the_backlog_is_consumed() {
        let (mut peer, inner) = tokio::io::duplex(1 << 20);
        let meter = Meter::new();
        let mut wire = Wire::new(inner, Role::Server, meter.clone(), ());
        peer.write_all(&frame(1, REQUEST, 0, b"")).await.unwrap();
        let payload = vec![0; MAX_BACKLOG];
        peer.write_all(&frame(1, DATA, 0, &payload)).await.unwrap();
        peer.write_all(b"more").await.unwrap();
        let mut all = vec![0; 2 * HEADER + payload.len()];
        wire.read_exact(&mut all).await.unwrap();
        let mut four = [0; 4];
        let blocked =
            tokio::time::timeout(std::time::Duration::from_millis(20), wire.read_exact(&mut four)).await;
        assert!(blocked.is_err());
        meter.release(Some(1), payload.len());
        wire.read_exact(&mut four).await.unwrap();
        assert_eq!(&four, b"more");
    }

    #[tokio::test]
    async fn knows_when_every_call_is_answered_and_when_the_peer_is_gone() {
        let (mut peer, inner) = tokio::io::duplex(1024);
        let meter = Meter::new();
        let mut wire = Wire::new(inner, Role::Server, meter.clone(), ());
        let request = frame(5, REQUEST, 0, b"x");
        peer.write_all(&request).await.unwrap();
        wire.read_exact(&mut vec![0; request.len()]).await.unwrap();
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(20), meter.idle()).await;
        assert!(waiting.is_err());
        wire.write_all(&frame(5, RESPONSE, 0, b"y")).await.unwrap();
        meter.idle().await;
        drop(peer);
        let _ = wire.read(&mut [0; 1]).await;
        meter.closed().await;
    }
}
