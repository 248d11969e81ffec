//! The functions of preview 1 that may meet a socket.

use std::io;

use futures_util::FutureExt;
use tokio::net::TcpStream;
use wasmtime::{Caller, Extern, Linker};
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as preview1, WasiSnapshotPreview1};
use wiggle::GuestMemory;

use super::{End, Errno, Socket, memory::Memory, poll};
use crate::host::Host;

const MODULE: &str = "wasi_snapshot_preview1";

/// What one call may copy, in bytes; wasmtime's own default.
const HOSTCALL_FUEL: usize = 128 << 20;

/// `fdflags::nonblock` and `filetype::socket_stream` (witx).
const NONBLOCK: i32 = 4;
const SOCKET_STREAM: u8 = 6;

/// The rights of a socket, as witx numbers them: fd_read 1, fdstat_set_flags 3, fd_write 6,
/// filestat_get 21, poll_fd_readwrite 27, sock_shutdown 28, sock_accept 29.
const RIGHTS: u64 = 1 << 1 | 1 << 3 | 1 << 6 | 1 << 21 | 1 << 27 | 1 << 28 | 1 << 29;

/// The memory and the state behind a call.
pub(crate) fn parts<'a>(caller: &'a mut Caller<'_, Host>) -> wasmtime::Result<(Memory<'a>, &'a mut Host)> {
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        wasmtime::bail!("the module exports no memory");
    };
    let (memory, host) = memory.data_and_store_mut(caller);
    host.wasi.set_hostcall_fuel(HOSTCALL_FUEL);
    Ok((Memory(memory), host))
}

pub(crate) fn errno(result: Result<(), Errno>) -> i32 {
    i32::from(result.err().unwrap_or(Errno::Success) as u16)
}

/// Waits for `ready` unless the socket must not block, then tries; again when it was not so.
macro_rules! io_loop {
    ($socket:expr, $stream:ident, $ready:ident, $attempt:expr) => {
        loop {
            if $socket.nonblocking {
                // Asks the driver once; readiness that it has not seen yet is polled for.
                if $stream.$ready().now_or_never().is_none() {
                    break Err(io::ErrorKind::WouldBlock.into());
                }
            } else {
                $stream.$ready().await.map_err(Errno::from)?;
            }
            match $attempt {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && !$socket.nonblocking => {}
                result => break result,
            }
        }
    };
}

async fn receive(socket: &Socket, buffer: &mut [u8]) -> Result<usize, Errno> {
    let End::Stream(stream) = &socket.end else {
        return Err(Errno::NotConn);
    };
    let result: io::Result<usize> = io_loop!(socket, stream, readable, stream.try_read(buffer));
    Ok(result?)
}

async fn send(socket: &Socket, buffer: &[u8]) -> Result<usize, Errno> {
    let End::Stream(stream) = &socket.end else {
        return Err(Errno::NotConn);
    };
    let result: io::Result<usize> = io_loop!(socket, stream, writable, stream.try_write(buffer));
    Ok(result?)
}

async fn accept(socket: &mut Socket) -> Result<TcpStream, Errno> {
    let End::Listener(listener, waiting) = &mut socket.end else {
        return Err(Errno::Inval);
    };
    if let Some(stream) = waiting.take() {
        return Ok(stream);
    }
    let accepted = if socket.nonblocking {
        listener.accept().now_or_never().ok_or(Errno::Again)?
    } else {
        listener.accept().await
    };
    Ok(accepted?.0)
}

/// Reads into, or writes from, the program's buffers, and tells it how much.
async fn transfer(
    memory: &mut Memory<'_>,
    socket: &Socket,
    (buffers, count, moved): (i32, i32, i32),
    reading: bool,
) -> Result<(), Errno> {
    let buffer = memory.buffer(buffers, count)?;
    let n = match reading {
        _ if buffer.is_empty() => 0,
        true => receive(socket, buffer).await?,
        false => send(socket, buffer).await?,
    };
    let n = u32::try_from(n).map_err(|_| Errno::Inval)?;
    memory.write(moved.cast_unsigned(), &n.to_le_bytes())
}

/// Puts the functions in front of those that the linker has already.
pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    accepting(linker)?;
    transferring(linker)?;
    describing(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Puts `poll_oneoff` in front of the linker's, for every module, so that a sleep can be ended.
pub(crate) fn add_polling(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.func_wrap_async(
        MODULE,
        "poll_oneoff",
        |mut caller: Caller<'_, Host>, args: (i32, i32, i32, i32)| {
            Box::new(async move {
                let (mut memory, host) = parts(&mut caller)?;
                let (input, output, count, events) = args;
                match poll::subscriptions(&mut memory, input, count) {
                    Ok(subscriptions) if poll::is_ours(&subscriptions, &host.sockets) => Ok(errno(
                        poll::poll(&mut memory, host, &subscriptions, output, events).await,
                    )),
                    Ok(_) => {
                        let mut memory = GuestMemory::Unshared(memory.0);
                        preview1::poll_oneoff(&mut host.wasi, &mut memory, input, output, count, events).await
                    }
                    Err(error) => Ok(errno(Err(error))),
                }
            })
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

fn accepting(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        MODULE,
        "sock_accept",
        |mut caller: Caller<'_, Host>, (fd, flags, out): (i32, i32, i32)| {
            Box::new(async move {
                let (mut memory, host) = parts(&mut caller)?;
                let Some(socket) = host.sockets.get(fd) else {
                    return Ok(errno(Err(Errno::Badf)));
                };
                let accepted = accept(socket).await.and_then(|stream| host.sockets.add(stream));
                Ok(errno(accepted.and_then(|new| {
                    if let Some(socket) = host.sockets.get(new.cast_signed()) {
                        socket.nonblocking = flags & NONBLOCK != 0;
                    }
                    memory.write(out.cast_unsigned(), &new.to_le_bytes())
                })))
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "sock_shutdown",
        |mut caller: Caller<'_, Host>, fd: i32, how: i32| {
            let Some(socket) = caller.data_mut().sockets.get(fd) else {
                return errno(Err(Errno::Badf));
            };
            let how = match how {
                1 => std::net::Shutdown::Read,
                2 => std::net::Shutdown::Write,
                3 => std::net::Shutdown::Both,
                _ => return errno(Err(Errno::Inval)),
            };
            let End::Stream(stream) = &socket.end else {
                return errno(Err(Errno::NotConn));
            };
            errno(shut_down(stream, how).map_err(Errno::from))
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_close",
        |mut caller: Caller<'_, Host>, (fd,): (i32,)| {
            Box::new(async move {
                let (memory, host) = parts(&mut caller)?;
                if host.sockets.open.remove(&fd.cast_unsigned()).is_some() {
                    return Ok(0);
                }
                preview1::fd_close(&mut host.wasi, &mut GuestMemory::Unshared(memory.0), fd).await
            })
        },
    )?;
    Ok(())
}

#[cfg(unix)]
fn shut_down(stream: &TcpStream, how: std::net::Shutdown) -> io::Result<()> {
    use rustix::net::Shutdown;
    let how = match how {
        std::net::Shutdown::Read => Shutdown::Read,
        std::net::Shutdown::Write => Shutdown::Write,
        std::net::Shutdown::Both => Shutdown::Both,
    };
    Ok(rustix::net::shutdown(stream, how)?)
}

/// tokio has no call for it, and others need unsafe code; a program closes its socket instead.
#[cfg(not(unix))]
fn shut_down(_: &TcpStream, _: std::net::Shutdown) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn transferring(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    type Six = (i32, i32, i32, i32, i32, i32);
    linker.func_wrap_async(MODULE, "sock_recv", |mut caller: Caller<'_, Host>, args: Six| {
        Box::new(async move {
            let (mut memory, host) = parts(&mut caller)?;
            let (fd, buffers, count, flags, moved, out_flags) = args;
            let Some(socket) = host.sockets.get(fd) else {
                return Ok(errno(Err(Errno::Badf)));
            };
            if flags != 0 {
                return Ok(errno(Err(Errno::NotSup)));
            }
            let result = transfer(&mut memory, socket, (buffers, count, moved), true).await;
            Ok(errno(
                result.and_then(|()| memory.write(out_flags.cast_unsigned(), &[0, 0])),
            ))
        })
    })?;
    linker.func_wrap_async(
        MODULE,
        "sock_send",
        |mut caller: Caller<'_, Host>, args: (i32, i32, i32, i32, i32)| {
            Box::new(async move {
                let (mut memory, host) = parts(&mut caller)?;
                let (fd, buffers, count, _flags, moved) = args;
                let Some(socket) = host.sockets.get(fd) else {
                    return Ok(errno(Err(Errno::Badf)));
                };
                Ok(errno(
                    transfer(&mut memory, socket, (buffers, count, moved), false).await,
                ))
            })
        },
    )?;
    for (name, reading) in [("fd_read", true), ("fd_write", false)] {
        linker.func_wrap_async(
            MODULE,
            name,
            move |mut caller: Caller<'_, Host>, args: (i32, i32, i32, i32)| {
                Box::new(async move {
                    let (mut memory, host) = parts(&mut caller)?;
                    let (fd, buffers, count, moved) = args;
                    if let Some(socket) = host.sockets.get(fd) {
                        return Ok(errno(
                            transfer(&mut memory, socket, (buffers, count, moved), reading).await,
                        ));
                    }
                    let (wasi, mut memory) = (&mut host.wasi, GuestMemory::Unshared(memory.0));
                    if reading {
                        preview1::fd_read(wasi, &mut memory, fd, buffers, count, moved).await
                    } else {
                        preview1::fd_write(wasi, &mut memory, fd, buffers, count, moved).await
                    }
                })
            },
        )?;
    }
    Ok(())
}

fn describing(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        MODULE,
        "fd_fdstat_get",
        |mut caller: Caller<'_, Host>, (fd, out): (i32, i32)| {
            Box::new(async move {
                let (mut memory, host) = parts(&mut caller)?;
                if let Some(socket) = host.sockets.get(fd) {
                    let mut stat = [0; 24];
                    stat[0] = SOCKET_STREAM;
                    stat[2] = u8::from(socket.nonblocking) << 2;
                    stat[8..16].copy_from_slice(&RIGHTS.to_le_bytes());
                    return Ok(errno(memory.write(out.cast_unsigned(), &stat)));
                }
                preview1::fd_fdstat_get(&mut host.wasi, &mut GuestMemory::Unshared(memory.0), fd, out).await
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_filestat_get",
        |mut caller: Caller<'_, Host>, (fd, out): (i32, i32)| {
            Box::new(async move {
                let (mut memory, host) = parts(&mut caller)?;
                if host.sockets.get(fd).is_some() {
                    let mut stat = [0; 64];
                    stat[16] = SOCKET_STREAM;
                    return Ok(errno(memory.write(out.cast_unsigned(), &stat)));
                }
                preview1::fd_filestat_get(&mut host.wasi, &mut GuestMemory::Unshared(memory.0), fd, out).await
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "fd_fdstat_set_flags",
        |mut caller: Caller<'_, Host>, fd: i32, flags: i32| {
            let (memory, host) = parts(&mut caller)?;
            if let Some(socket) = host.sockets.get(fd) {
                socket.nonblocking = flags & NONBLOCK != 0;
                return Ok(0);
            }
            preview1::fd_fdstat_set_flags(&mut host.wasi, &mut GuestMemory::Unshared(memory.0), fd, flags)
        },
    )?;
    Ok(())
}
