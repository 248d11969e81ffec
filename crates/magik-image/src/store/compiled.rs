//! The compiled programs of WebAssembly pods: `<root>/wasm-cache`, which `oci-wasm` writes.
//!
//! ```text
//! <root>/wasm-cache/<module>-<settings>   64 hexadecimal digits, which name the machine code;
//!                                         <module> is the SHA-256 of the source
//! <root>/wasm-cache/<digits>.cwasm        the machine code
//! <root>/wasm-cache/tmp…                  being written
//! ```
//! A program is needed as long as its module is: a blob (of an artifact), or a file in a layer.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    time::{Duration, SystemTime},
};

use magik_cas::Digest;
use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use super::{ImageStore, remove::Live, usage::Usage};
use crate::{Error, Result, unpack};

const DIRECTORY: &str = "wasm-cache";
const CODE_SUFFIX: &str = ".cwasm";
/// Younger files, unless their module is known to be gone, may be of a running compiler.
const YOUNG: Duration = Duration::from_secs(3600);

/// What was removed.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Compiled {
    pub(super) programs: u64,
    pub(super) leftovers: u64,
    pub(super) bytes: u64,
}

impl ImageStore {
    /// Removes programs whose modules no image or lease has. Hold [`magik_cas::Exclusive`].
    pub(super) fn prune_compiled(&self, live: &Live) -> Result<Compiled> {
        let dir = self.root().join(DIRECTORY);
        let context = || format!("remove compiled programs from {}", dir.display());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let cache = match fs::open(&dir, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(Compiled::default()),
            opened => opened.map_err(Error::io(context()))?,
        };
        let names: Vec<String> = unpack::names(cache.as_fd())
            .map_err(Error::io(context()))?
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .collect();
        let gone = self.gone(names.iter().filter_map(|name| module_of(name)), live)?;
        remove(&cache, &names, &gone).map_err(Error::io(context()))
    }

    /// What compiled programs take; those whose modules are not `live` are reclaimable.
    pub(super) fn compiled_usage(&self, live: &Live) -> Result<Usage> {
        let dir = self.root().join(DIRECTORY);
        let mut usage = Usage::default();
        let mut sizes: HashMap<String, u64> = HashMap::new();
        let entries = match std::fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(usage),
            entries => entries.map_err(Error::io(format!("list {}", dir.display())))?,
        };
        for entry in entries.flatten() {
            if let (Ok(meta), Ok(name)) = (entry.metadata(), entry.file_name().into_string()) {
                usage.size += meta.len();
                sizes.insert(name, meta.len());
            }
        }
        let gone = self.gone(sizes.keys().filter_map(|name| module_of(name)), live)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let context = || Error::io(format!("open {}", dir.display()));
        let cache = fs::open(&dir, flags, Mode::empty()).map_err(io::Error::from);
        let cache = cache.map_err(context())?;
        // What stays of programs that do.
        let mut kept: HashMap<String, u64> = HashMap::new();
        for (name, size) in &sizes {
            let Some(module) = module_of(name) else { continue };
            usage.count += 1;
            if gone.contains(module) {
                continue;
            }
            usage.active += 1;
            kept.insert(name.clone(), *size);
            if let Some(code) = code_of(&cache, name).map_err(context())? {
                let code = format!("{code}{CODE_SUFFIX}");
                let size = sizes.get(&code).copied().unwrap_or(0);
                kept.insert(code, size);
            }
        }
        usage.reclaimable = usage.size.saturating_sub(kept.values().sum());
        Ok(usage)
    }

    /// Which of these modules no image or lease has.
    fn gone<'a>(&self, modules: impl Iterator<Item = &'a str>, live: &Live) -> Result<HashSet<String>> {
        let mut gone: HashSet<String> = modules.map(str::to_owned).collect();
        // An artifact's module is its blob, and the chain of its layers begins and ends with it.
        for digest in live.blobs.iter().chain(&live.layers) {
            gone.remove(&digest.hex());
        }
        for chain_id in &live.layers {
            if gone.is_empty() {
                break;
            }
            let tree = self.layer_dir(chain_id).join(unpack::TREE);
            let found = unpack::each_file(&tree, |file| {
                if let Some(module) = module_in(file)? {
                    gone.remove(&module.hex());
                }
                Ok(())
            });
            match found {
                // Not unpacked.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                found => found.map_err(Error::io(format!("look for modules in {}", tree.display())))?,
            }
        }
        Ok(gone)
    }
}

fn remove(cache: &OwnedFd, names: &[String], gone: &HashSet<String>) -> io::Result<Compiled> {
    let mut removed = Compiled::default();
    // Machine code, by whether a program that stays has it.
    let mut codes: HashMap<String, bool> = HashMap::new();
    for name in names {
        if let Some(module) = module_of(name) {
            let stays = !gone.contains(module);
            if let Some(code) = code_of(cache, name)? {
                *codes.entry(code).or_default() |= stays;
            }
            if !stays {
                unlink(cache, name)?;
                removed.programs += 1;
            }
        }
    }
    for name in names {
        let needless = match name.strip_suffix(CODE_SUFFIX) {
            _ if module_of(name).is_some() => false,
            Some(code) => match codes.get(code) {
                Some(stays) => !stays,
                None => is_old(cache, name)?,
            },
            None => is_old(cache, name)?,
        };
        if needless {
            removed.bytes += unlink(cache, name)?;
            removed.leftovers += u64::from(!name.ends_with(CODE_SUFFIX));
        }
    }
    Ok(removed)
}

/// The module that a program was made from, by the program's name.
fn module_of(name: &str) -> Option<&str> {
    let (module, _) = name.split_once('-')?;
    is_sha256(module).then_some(module)
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The machine code that a program's record names.
fn code_of(cache: &OwnedFd, name: &str) -> io::Result<Option<String>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut code = String::new();
    match fs::openat(cache, name, flags, Mode::empty()) {
        Ok(file) => File::from(file).take(64).read_to_string(&mut code)?,
        Err(Errno::NOENT | Errno::LOOP) => 0,
        Err(e) => return Err(e.into()),
    };
    Ok(is_sha256(&code).then_some(code))
}

fn is_old(cache: &OwnedFd, name: &str) -> io::Result<bool> {
    let stat = match fs::statat(cache, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(false),
        stat => stat?,
    };
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
    let age = SystemTime::now().duration_since(modified).unwrap_or_default();
    Ok(FileType::from_raw_mode(stat.st_mode) != FileType::Directory && age > YOUNG)
}

/// Removes a file, and says how large it was.
fn unlink(cache: &OwnedFd, name: &str) -> io::Result<u64> {
    let stat = fs::statat(cache, name, AtFlags::SYMLINK_NOFOLLOW);
    match stat.and_then(|stat| fs::unlinkat(cache, name, AtFlags::empty()).map(|()| stat)) {
        Ok(stat) => Ok(u64::try_from(stat.st_size).unwrap_or(0)),
        Err(Errno::NOENT) => Ok(0),
        Err(e) => Err(e.into()),
    }
}

/// The hash of a file if it is a module or component.
fn module_in(file: &mut File) -> io::Result<Option<Digest>> {
    const MAGIC: [u8; 4] = *b"\0asm";
    let mut head = Vec::with_capacity(MAGIC.len());
    file.take(MAGIC.len() as u64).read_to_end(&mut head)?;
    if head != MAGIC {
        return Ok(None);
    }
    let mut hasher = magik_cas::Algorithm::Sha256.hasher();
    hasher.update(&head);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Some(hasher.finish())),
            n => hasher.update(&buffer[..n]),
        }
    }
}
