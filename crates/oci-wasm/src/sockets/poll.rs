//! `poll_oneoff` where sockets are among what is polled, or nothing but time.

use std::{future::Future, pin::Pin, time::Duration};

use futures_util::{FutureExt, future::select_all};
use tokio::net::TcpStream;
use wasmtime_wasi::p1::wasi_snapshot_preview1 as preview1;
use wiggle::GuestMemory;

use super::{End, Errno, Sockets, memory::Memory};
use crate::host::Host;

/// The most subscriptions of one call.
const MAX_SUBSCRIPTIONS: i32 = 4096;

/// Sizes in bytes (witx, `subscription` and `event`).
const SUBSCRIPTION: u32 = 48;
const EVENT: u32 = 32;

/// `subclockflags::subscription_clock_abstime`.
const ABSOLUTE: u8 = 1;

/// The highest number of a standard stream.
const STDERR: i32 = 2;

#[derive(Debug, Clone, Copy)]
pub(super) struct Subscription {
    userdata: [u8; 8],
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Clock {
        id: i32,
        nanoseconds: u64,
        absolute: bool,
    },
    Read(i32),
    Write(i32),
}

/// What happened; a connection that came in is handed on with it.
type Happened = (usize, Result<Option<TcpStream>, Errno>);

pub(super) fn subscriptions(
    memory: &mut Memory<'_>,
    input: i32,
    count: i32,
) -> Result<Vec<Subscription>, Errno> {
    if !(0..=MAX_SUBSCRIPTIONS).contains(&count) {
        return Err(Errno::Inval);
    }
    (0..count.cast_unsigned())
        .map(|i| {
            let at = input
                .cast_unsigned()
                .checked_add(i * SUBSCRIPTION)
                .ok_or(Errno::Fault)?;
            let bytes: [u8; SUBSCRIPTION as usize] = memory.read(at)?;
            let eight = |at: usize| -> [u8; 8] { std::array::from_fn(|i| bytes[at + i]) };
            let id = i32::from_le_bytes(std::array::from_fn(|i| bytes[16 + i]));
            let what = match bytes[8] {
                0 => What::Clock {
                    id,
                    nanoseconds: u64::from_le_bytes(eight(24)),
                    absolute: bytes[40] & ABSOLUTE != 0,
                },
                1 => What::Read(id),
                2 => What::Write(id),
                _ => return Err(Errno::Inval),
            };
            Ok(Subscription {
                userdata: eight(0),
                what,
            })
        })
        .collect()
}

/// Whether we handle them: they contain a socket, which wasmtime-wasi does not know, or are a
/// sleep, which it would do on the calling thread, where nothing can end it.
pub(super) fn is_ours(subscriptions: &[Subscription], sockets: &Sockets) -> bool {
    let any_socket = subscriptions.iter().any(|s| match s.what {
        What::Read(fd) | What::Write(fd) => sockets.open.contains_key(&fd.cast_unsigned()),
        What::Clock { .. } => false,
    });
    let is_clock = |s: &Subscription| matches!(s.what, What::Clock { .. });
    any_socket || (!subscriptions.is_empty() && subscriptions.iter().all(is_clock))
}

/// Waits for the first of the subscriptions; returns all that have happened.
pub(super) async fn poll(
    memory: &mut Memory<'_>,
    host: &mut Host,
    subscriptions: &[Subscription],
    output: i32,
    events: i32,
) -> Result<(), Errno> {
    let mut waits = Vec::with_capacity(subscriptions.len());
    for subscription in subscriptions {
        waits.push(match subscription.what {
            What::Clock {
                id,
                nanoseconds,
                absolute,
            } => Some(if absolute {
                nanoseconds.saturating_sub(now(host, id)?)
            } else {
                nanoseconds
            }),
            _ => None,
        });
    }
    let sockets = &host.sockets;
    let futures = subscriptions
        .iter()
        .zip(waits)
        .enumerate()
        .map(|(i, (subscription, wait))| {
            let future: Pin<Box<dyn Future<Output = Happened> + Send + '_>> = Box::pin(async move {
                let result = match (subscription.what, wait) {
                    (What::Read(fd), _) => readable(sockets, fd).await,
                    (What::Write(fd), _) => writable(sockets, fd).await,
                    (What::Clock { .. }, wait) => {
                        tokio::time::sleep(Duration::from_nanos(wait.unwrap_or_default())).await;
                        Ok(None)
                    }
                };
                (i, result)
            });
            future
        });
    let (first, _, others) = select_all(futures).await;
    let mut happened = vec![first];
    happened.extend(others.into_iter().filter_map(FutureExt::now_or_never));

    for (n, (i, result)) in (0u32..).zip(&mut happened) {
        let subscription = subscriptions[*i];
        let mut event = [0; EVENT as usize];
        event[..8].copy_from_slice(&subscription.userdata);
        let error = result.as_ref().err().copied().unwrap_or(Errno::Success);
        event[8..10].copy_from_slice(&(error as u16).to_le_bytes());
        event[10] = match subscription.what {
            What::Clock { .. } => 0,
            What::Read(_) => 1,
            What::Write(_) => 2,
        };
        // How much there is to read is not known; at least one byte.
        event[16] = 1;
        memory.write(
            output
                .cast_unsigned()
                .checked_add(n * EVENT)
                .ok_or(Errno::Fault)?,
            &event,
        )?;
        if let (What::Read(fd), Ok(Some(stream))) = (subscription.what, std::mem::replace(result, Ok(None)))
            && let Some(socket) = host.sockets.get(fd)
            && let End::Listener(_, waiting) = &mut socket.end
        {
            *waiting = Some(stream);
        }
    }
    let count = u32::try_from(happened.len()).map_err(|_| Errno::Inval)?;
    memory.write(events.cast_unsigned(), &count.to_le_bytes())
}

/// A clock of the program's, in nanoseconds.
fn now(host: &mut Host, clock: i32) -> Result<u64, Errno> {
    let mut scratch = [0; 8];
    match preview1::clock_time_get(
        &mut host.wasi,
        &mut GuestMemory::Unshared(&mut scratch),
        clock,
        1,
        0,
    ) {
        Ok(0) => Ok(u64::from_le_bytes(scratch)),
        _ => Err(Errno::Inval),
    }
}

async fn readable(sockets: &Sockets, fd: i32) -> Result<Option<TcpStream>, Errno> {
    match sockets.open.get(&fd.cast_unsigned()).map(|s| &s.end) {
        Some(End::Stream(stream)) => Ok(stream.readable().await.map(|()| None)?),
        Some(End::Listener(_, Some(_))) => Ok(None),
        Some(End::Listener(listener, None)) => Ok(Some(listener.accept().await?.0)),
        // Files are always ready; streams cannot be polled together with sockets.
        None if fd > STDERR => Ok(None),
        None => Err(Errno::NotSup),
    }
}

async fn writable(sockets: &Sockets, fd: i32) -> Result<Option<TcpStream>, Errno> {
    match sockets.open.get(&fd.cast_unsigned()).map(|s| &s.end) {
        Some(End::Stream(stream)) => Ok(stream.writable().await.map(|()| None)?),
        Some(End::Listener(..)) => Err(Errno::Inval),
        None => Ok(None),
    }
}
