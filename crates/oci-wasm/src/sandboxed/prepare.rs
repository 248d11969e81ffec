//! On the host: from a bundle to what its container is started with.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process::ExitCode,
};

use magik_oci::Error;
use magik_sys::socket;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use serde_json::{Value, json};

use super::{Orders, RUN};
use crate::{
    LoadError, Loader, Metering,
    annotations::{ALLOW_OUTBOUND, LISTEN},
    network::{Loopback, Network},
    spec::{Bundle, PRELOAD, Refusal},
};

/// The key of the auxiliary vector for the dynamic loader's address (`AT_BASE`).
const AT_BASE: usize = 7;

/// The answer and its descriptors: of the machine code, of this binary, of its loader if it has
/// one, of its libraries.
struct Answer {
    json: Value,
    descriptors: Vec<OwnedFd>,
}

impl Answer {
    fn plain(json: Value) -> Self {
        Self {
            json,
            descriptors: Vec::new(),
        }
    }
}

/// `BUNDLE CACHE all|modules`; the answer goes to the standard input, a socket. With `modules`, a
/// program that is not WebAssembly is left to the caller.
pub(super) fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let answer = match arguments.as_slice() {
        [bundle, cache, which] => prepare(bundle.as_ref(), cache.into(), which == "modules"),
        _ => Err("a WebAssembly container is prepared by magikrun itself, not by hand".to_owned()),
    };
    let answer = answer.unwrap_or_else(|reason| Answer::plain(json!({ "refused": reason })));
    // If it cannot be sent, the caller sees an end without an answer.
    ExitCode::from(u8::from(send(&answer).is_err()))
}

fn send(answer: &Answer) -> io::Result<()> {
    let text = answer.json.to_string();
    let descriptors: Vec<BorrowedFd<'_>> = answer.descriptors.iter().map(AsFd::as_fd).collect();
    socket::send(rustix::stdio::stdin(), text.as_bytes(), &descriptors)?;
    Ok(())
}

fn prepare(bundle: &Path, cache: PathBuf, only_modules: bool) -> Result<Answer, String> {
    let native = || Ok(Answer::plain(json!({ "native": true })));
    let directory = bundle;
    let bundle = match Bundle::of_native(directory) {
        Ok(bundle) => bundle,
        // It may be there once the container's mounts are.
        Err(Refusal::Program { .. }) if only_modules => return native(),
        Err(Refusal::Program { program, reason, .. }) => {
            return Err(format!(
                "{program}: {reason}: the image has no such WebAssembly program"
            ));
        }
        Err(Refusal::Field(reason)) => return Err(format!("{}: {reason}", directory.display())),
    };
    let program = bundle.args.first().cloned().unwrap_or_default();
    let mut module = bundle.module;
    let say = |error: LoadError| format!("{program}: it {error}");
    if only_modules && !crate::loader::begins_as_wasm(&mut module).map_err(say)? {
        return native();
    }
    if Bundle::preloads(directory)? {
        return Err(format!(
            "{program}: the image has {PRELOAD}, which no WebAssembly program needs"
        ));
    }
    let annotation = |name: &str| bundle.annotations.get(name).cloned();
    let (listen, allow_outbound) = (annotation(LISTEN), annotation(ALLOW_OUTBOUND));
    let metering = Metering::of(bundle.fuel);
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("tokio: {e}"))?;
    let (kind, code) = executor.block_on(async {
        let network = Network::new(listen.as_deref(), allow_outbound.as_deref(), Loopback::default()).await?;
        let loader = Loader::builder(cache).build();
        let (kind, program, code) = loader.machine_code(module, metering).await.map_err(say)?;
        program.link(!network.listen.is_empty()).map_err(say)?;
        let needs = program.initial_memory();
        match bundle.memory {
            Some(limit) if needs > limit => Err(say(LoadError::NeedsMemory { needs, limit })),
            _ => Ok((kind, code)),
        }
    })?;
    let orders = Orders {
        kind,
        fuel: bundle.fuel,
        deadline: bundle.deadline.map(|d| d.as_secs()),
        http_concurrency: bundle.http_concurrency,
        listen,
        allow_outbound,
    };
    let orders = serde_json::to_string(&orders).map_err(|e| e.to_string())?;
    let own = |e: io::Error| format!("finding what {RUN} is made of: {e}");
    let files = OwnFiles::find().map_err(own)?;
    let answer = json!({
        "loader": files.loader.is_some(), "libraries": files.libraries.len(), "arguments": [RUN, orders],
    });
    let code = sealed_copy(code).map_err(|e| Error::io("copying machine code")(e).to_string())?;
    let descriptors = [code, files.binary]
        .into_iter()
        .chain(files.loader)
        .chain(files.libraries)
        .collect();
    Ok(Answer {
        json: answer,
        descriptors,
    })
}

/// A copy that no process can change, not even root in a container: all containers use the cache.
fn sealed_copy(mut code: File) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create("machine-code", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    io::copy(&mut code, &mut File::from(memory.try_clone()?))?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memory, seals)?;
    Ok(memory)
}

/// The files this process was loaded from; another process of the same program starts from them.
struct OwnFiles {
    binary: OwnedFd,
    loader: Option<OwnedFd>,
    libraries: Vec<OwnedFd>,
}

impl OwnFiles {
    fn find() -> io::Result<Self> {
        let open = |path: &Path| {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty())
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
        };
        let binary = fs::read_link("/proc/self/exe")?;
        let base = auxiliary(&fs::read("/proc/self/auxv")?, AT_BASE).filter(|base| *base != 0);
        let (loader, libraries) = mapped(&fs::read_to_string("/proc/self/maps")?, &binary, base);
        Ok(Self {
            binary: open(Path::new("/proc/self/exe"))?,
            loader: loader.map(|path| open(&path)).transpose()?,
            libraries: libraries
                .iter()
                .map(|path| open(path))
                .collect::<io::Result<_>>()?,
        })
    }
}

/// A value of an auxiliary vector (getauxval(3)).
fn auxiliary(vector: &[u8], key: usize) -> Option<usize> {
    const WORD: usize = size_of::<usize>();
    let (pairs, _) = vector.as_chunks::<{ 2 * WORD }>();
    pairs.iter().find_map(|pair| {
        let (name, value) = pair.split_first_chunk::<WORD>()?;
        (usize::from_ne_bytes(*name) == key)
            .then(|| value.first_chunk().map(|v| usize::from_ne_bytes(*v)))
            .flatten()
    })
}

/// The dynamic loader at `base`, and the libraries (files with code) of a memory map (proc(5)).
fn mapped(maps: &str, binary: &Path, base: Option<usize>) -> (Option<PathBuf>, Vec<PathBuf>) {
    let (mut loader, mut libraries) = (None, Vec::new());
    for line in maps.lines() {
        let mut fields = line.splitn(6, ' ').map(str::trim_start);
        let (Some(range), Some(permissions), Some(path)) = (fields.next(), fields.next(), fields.nth(3))
        else {
            continue;
        };
        let path = Path::new(path);
        if !path.is_absolute() || path == binary {
            continue;
        }
        let start = range.split('-').next();
        let start = start.and_then(|s| usize::from_str_radix(s, 16).ok());
        if base.is_some() && start == base {
            loader = Some(path.to_owned());
        } else if permissions.contains('x') && !libraries.iter().any(|l| l == path) {
            libraries.push(path.to_owned());
        }
    }
    libraries.retain(|l| Some(l) != loader.as_ref());
    (loader, libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_loader_and_libraries_in_a_memory_map() {
        let maps = "\
55a0-55b0 r--p 00000000 fe:00 1                          /usr/bin/magikrun-wasm
55b0-55c0 r-xp 00000000 fe:00 1                          /usr/bin/magikrun-wasm
55d0-55e0 rw-p 00000000 00:00 0                          [heap]
7f00-7f10 r--p 00000000 fe:00 2                          /lib/a b/libc.so.6
7f10-7f20 r-xp 00010000 fe:00 2                          /lib/a b/libc.so.6
7f20-7f30 r--p 00000000 fe:00 4                          /usr/share/locale
7fa0-7fb0 r--p 00000000 fe:00 3                          /lib64/ld-linux-x86-64.so.2
7fb0-7fc0 r-xp 00010000 fe:00 3                          /lib64/ld-linux-x86-64.so.2
7fd0-7fe0 r-xp 00000000 00:00 0                          [vdso]
";
        let binary = Path::new("/usr/bin/magikrun-wasm");
        let (loader, libraries) = mapped(maps, binary, Some(0x7fa0));
        assert_eq!(loader, Some("/lib64/ld-linux-x86-64.so.2".into()));
        assert_eq!(libraries, [PathBuf::from("/lib/a b/libc.so.6")]);
        assert_eq!(
            mapped("55b0-55c0 r-xp 0 fe:00 1 /usr/bin/magikrun-wasm", binary, None),
            (None, vec![])
        );
    }

    #[test]
    fn reads_this_process_own() {
        let files = OwnFiles::find().unwrap();
        assert_eq!(files.loader.is_some(), !files.libraries.is_empty());
    }

    #[test]
    fn a_copy_cannot_be_changed() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"code").unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let copy = File::from(sealed_copy(file).unwrap());
        assert_eq!(copy.metadata().unwrap().len(), 4);
        let error = std::os::unix::fs::FileExt::write_at(&copy, b"evil", 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::PERM.raw_os_error()));
    }
}
