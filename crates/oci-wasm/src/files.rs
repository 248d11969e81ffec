//! What a program may open: files and directories, directly or through links.
//!
//! A device or a pipe of an image or a volume is the host's: opening it may have effects, and
//! reading it may block the program's thread for ever. wasmtime-wasi opens every kind of file. So
//! the open functions here run before its own; they check before and after opening.

use wasmtime::{Caller, Linker, component};
use wasmtime_wasi::{
    filesystem::{WasiFilesystemCtxView, WasiFilesystemView as _},
    p1::wasi_snapshot_preview1 as preview1,
    p2::bindings::filesystem::types::{
        Descriptor, DescriptorFlags, DescriptorType, ErrorCode, Host as _, HostDescriptor, OpenFlags,
        PathFlags,
    },
};
use wiggle::GuestMemory;

use crate::{
    host::Host,
    sockets::{Errno, errno, parts},
};

const MODULE: &str = "wasi_snapshot_preview1";
/// As wasmtime-wasi has it in its linker; programs import the version of 0.2 they were made for.
const TYPES: &str = "wasi:filesystem/types@0.2.12";
const OPEN_AT: &str = "[method]descriptor.open-at";

/// Types of preview 1 (witx, `filetype`).
const DIRECTORY: u8 = 3;
const REGULAR_FILE: u8 = 4;
const SYMBOLIC_LINK: u8 = 7;
/// Of a `filestat`: its size and where its type is, in bytes.
const FILESTAT: usize = 64;
const FILESTAT_TYPE: usize = 16;

/// The longest path, in bytes (Linux's `PATH_MAX`).
const MAX_PATH: usize = 4096;

/// Puts `path_open` in front of preview 1's.
pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    type Nine = (i32, i32, i32, i32, i32, i64, i64, i32, i32);
    linker.allow_shadowing(true);
    linker.func_wrap_async(MODULE, "path_open", |mut caller: Caller<'_, Host>, args: Nine| {
        Box::new(async move {
            let (fd, follow, path, length, flags, rights, inheriting, fdflags, out) = args;
            let (mut memory, host) = parts(&mut caller)?;
            if length.cast_unsigned() as usize > MAX_PATH {
                return Ok(errno(Err(Errno::NameTooLong)));
            }
            let Ok(name) = memory.slice(path.cast_unsigned(), length.cast_unsigned()) else {
                return Ok(errno(Err(Errno::Fault)));
            };
            let name = name.to_vec();
            if !may_be_opened(kind_at(host, fd, follow, &name).await?) {
                return Ok(errno(Err(Errno::Acces)));
            }
            let mut guest = GuestMemory::Unshared(&mut *memory.0);
            let result = preview1::path_open(
                &mut host.wasi,
                &mut guest,
                fd,
                follow,
                path,
                length,
                flags,
                rights,
                inheriting,
                fdflags,
                out,
            )
            .await?;
            if result != 0 {
                return Ok(result);
            }
            let Ok(new) = memory.u32(out.cast_unsigned()) else {
                return Ok(errno(Err(Errno::Fault)));
            };
            let new = new.cast_signed();
            if may_be_opened(kind(host, new).await?) {
                return Ok(0);
            }
            preview1::fd_close(&mut host.wasi, &mut GuestMemory::Unshared(&mut []), new).await?;
            Ok(errno(Err(Errno::Acces)))
        })
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

/// A missing file fails at opening; a link that is not followed cannot be opened.
fn may_be_opened(kind: Option<u8>) -> bool {
    matches!(kind, None | Some(DIRECTORY | REGULAR_FILE | SYMBOLIC_LINK))
}

/// The type of a file by its name in a directory.
async fn kind_at(host: &mut Host, fd: i32, follow: i32, name: &[u8]) -> wasmtime::Result<Option<u8>> {
    let mut scratch = vec![0; FILESTAT];
    scratch.extend(name);
    let (at, length) = (i32::try_from(FILESTAT)?, i32::try_from(name.len())?);
    let mut memory = GuestMemory::Unshared(&mut scratch);
    let result = preview1::path_filestat_get(&mut host.wasi, &mut memory, fd, follow, at, length, 0).await?;
    Ok((result == 0).then(|| scratch[FILESTAT_TYPE]))
}

/// The type of an open file.
async fn kind(host: &mut Host, fd: i32) -> wasmtime::Result<Option<u8>> {
    let mut scratch = [0; FILESTAT];
    let mut memory = GuestMemory::Unshared(&mut scratch);
    let result = preview1::fd_filestat_get(&mut host.wasi, &mut memory, fd, 0).await?;
    Ok((result == 0).then(|| scratch[FILESTAT_TYPE]))
}

/// Puts `open-at` in front of that of WASI 0.2.
pub(crate) fn add_to_component_linker(linker: &mut component::Linker<Host>) -> wasmtime::Result<()> {
    type Five = (
        component::Resource<Descriptor>,
        PathFlags,
        String,
        OpenFlags,
        DescriptorFlags,
    );
    linker.allow_shadowing(true);
    linker.instance(TYPES)?.func_wrap_async(
        OPEN_AT,
        |mut store: wasmtime::StoreContextMut<'_, Host>, (directory, follow, path, flags, how): Five| {
            Box::new(async move {
                let mut view = store.data_mut().filesystem();
                let opened = open_at(&mut view, &directory, follow, path, flags, how).await;
                let opened = match opened {
                    Ok(opened) => Ok(opened),
                    Err(error) => Err(view.convert_error_code(error)?),
                };
                Ok((opened,))
            })
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

async fn open_at(
    view: &mut WasiFilesystemCtxView<'_>,
    directory: &component::Resource<Descriptor>,
    follow: PathFlags,
    path: String,
    flags: OpenFlags,
    how: DescriptorFlags,
) -> Result<component::Resource<Descriptor>, wasmtime_wasi::p2::FsError> {
    let borrowed = || component::Resource::new_borrow(directory.rep());
    if let Ok(found) = view.stat_at(borrowed(), follow, path.clone()).await
        && !may_be_described(found.type_)
    {
        return Err(ErrorCode::Access.into());
    }
    let opened = view.open_at(borrowed(), follow, path, flags, how).await?;
    let again = component::Resource::new_borrow(opened.rep());
    if may_be_described(view.get_type(again).await?) {
        return Ok(opened);
    }
    HostDescriptor::drop(view, opened).map_err(wasmtime_wasi::p2::FsError::trap)?;
    Err(ErrorCode::Access.into())
}

const fn may_be_described(kind: DescriptorType) -> bool {
    matches!(
        kind,
        DescriptorType::Directory | DescriptorType::RegularFile | DescriptorType::SymbolicLink
    )
}
