//! Files of volumes that the launcher hands over: ConfigMaps, Secrets and the like.
//!
//! They are written as kubelet writes them, so that a program sees either all of a version or
//! nothing of it: each version is a directory with a name of its own, `..data` is a link to the one
//! that counts, and what a program opens are links that go through `..data`:
//!
//! ```text
//! ..2026_11_30_20_15_31.0/      the files of this version
//! ..data -> ..2026_11_30_20_15_31.0
//! settings.yaml -> ..data/settings.yaml
//! ```
//!
//! A container with rights over its mounts can change what is in the volume. So nothing in it is
//! looked up by a path of more than one name, and no link is followed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Component, Path},
};

use jiff::Timestamp;
use rustix::{
    fs::{
        AtFlags, CWD, Dir, Gid, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat, renameat,
        symlinkat, unlinkat,
    },
    io::Errno,
    mount::{MountFlags, mount},
};
use ttrpc::Code;

use crate::{plan::DataPlan, rpc::control as proto};

/// The most bytes in all volumes of data of a pod.
pub const MAX_DATA_SIZE: usize = 16 << 20;
/// The most files in all volumes of data of a pod.
pub const MAX_DATA_FILES: usize = 16_384;
/// The most volumes of data.
const MAX_VOLUMES: usize = 64;
/// The longest path of a file.
const MAX_PATH: usize = 4095;
/// The most names in one.
const MAX_DEPTH: usize = 64;
/// The most of a volume: two versions, of which each file is a page larger than its content.
const TMPFS_SIZE: &str = "size=192m";
/// The link to the version that counts.
const CURRENT: &str = "..data";
/// How often the removal of a directory is begun, and how much is removed each time: a container
/// with rights over its mounts can write to the volume meanwhile, and the init serves others, too.
const REMOVAL_ROUNDS: usize = 16;
const REMOVED_AT_ONCE: usize = 2 * MAX_DATA_FILES;
/// In the place of which it is made before it is moved there.
const NEXT: &str = "..data_tmp";

/// A file of a volume of data.
#[derive(Clone, PartialEq, Eq)]
pub struct DataFile {
    /// In the volume: relative, normal, not beginning with `..`.
    pub path: String,
    /// Its permissions, at most 0777.
    pub mode: u32,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// Content is not shown: it may be secret.
impl std::fmt::Debug for DataFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:o}, {} bytes)", self.path, self.mode, self.bytes.len())
    }
}

/// Files that were handed over, by volume and path.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    volumes: BTreeMap<String, BTreeMap<String, DataFile>>,
    size: usize,
    count: usize,
}

/// Why files are not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    #[error("the pod has no volume of data {0:?}")]
    UnknownVolume(String),
    #[error("a volume of data has no file {0:?}: its path is relative, and does not begin with \"..\"")]
    Path(String),
    #[error("more than a pod's volumes of data can hold")]
    TooMuch,
}

impl StageError {
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::UnknownVolume(_) => Code::NOT_FOUND,
            Self::Path(_) => Code::INVALID_ARGUMENT,
            Self::TooMuch => Code::RESOURCE_EXHAUSTED,
        }
    }
}

impl Staged {
    /// Takes what a client hands over.
    pub(crate) fn add(&mut self, request: proto::StageFilesRequest) -> Result<(), StageError> {
        let known = self.volumes.contains_key(&request.volume);
        if !known && (self.volumes.len() >= MAX_VOLUMES || request.volume.len() > MAX_PATH) {
            return Err(StageError::TooMuch);
        }
        let files = self.volumes.entry(request.volume).or_default();
        for file in request.files {
            if !is_inside(&file.path) || file.mode > 0o777 {
                return Err(StageError::Path(file.path.chars().take(300).collect()));
            }
            self.size += file.data.len();
            if self.size > MAX_DATA_SIZE {
                return Err(StageError::TooMuch);
            }
            if let (Some(begun), true) = (files.get_mut(&file.path), file.more) {
                begun.bytes.extend_from_slice(&file.data);
                continue;
            }
            self.count += 1;
            if self.count > MAX_DATA_FILES {
                return Err(StageError::TooMuch);
            }
            let taken = DataFile {
                path: file.path.clone(),
                mode: file.mode,
                bytes: file.data,
            };
            files.insert(file.path, taken);
        }
        Ok(())
    }

    /// The volumes and their files.
    pub(crate) fn volumes(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = &DataFile>)> {
        let volumes = self.volumes.iter();
        volumes.map(|(name, files)| (name.as_str(), files.values()))
    }

    fn files(&self, volume: &str) -> Vec<&DataFile> {
        let files = self.volumes.get(volume);
        files.into_iter().flat_map(BTreeMap::values).collect()
    }
}

/// Whether it is the path of a file in a volume, in its only form.
fn is_inside(path: &str) -> bool {
    let parts: Vec<_> = Path::new(path).components().collect();
    let normal = |part: &Component<'_>| matches!(part, Component::Normal(name) if name.len() <= 255);
    let again: Vec<_> = parts
        .iter()
        .filter_map(|part| part.as_os_str().to_str())
        .collect();
    !parts.is_empty()
        && parts.len() <= MAX_DEPTH
        && path.len() <= MAX_PATH
        && !path.contains('\0')
        && !path.starts_with("..")
        && parts.iter().all(normal)
        && again.join("/") == path
}

/// A volume that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("volume {volume}: {source}")]
pub(crate) struct DataError {
    volume: String,
    source: io::Error,
}

/// Mounts the volumes and writes their first version.
pub(crate) fn mount_all(plans: &[DataPlan], staged: &Staged) -> Result<(), DataError> {
    plans.iter().try_for_each(|plan| {
        let made = mount_tmpfs(&plan.target).and_then(|()| write(plan, &staged.files(&plan.name)));
        made.map_err(|source| DataError {
            volume: plan.name.clone(),
            source,
        })
    })
}

/// Writes another version of the volumes of which files are staged, each at once.
pub(crate) fn update(plans: &[DataPlan], staged: &Staged) -> Result<(), UpdateError> {
    let mut written = Vec::new();
    for name in staged.volumes.keys() {
        let plan = plans.iter().find(|plan| plan.name == *name);
        written.push(plan.ok_or_else(|| StageError::UnknownVolume(name.clone()))?);
    }
    for plan in written {
        let files = staged.files(&plan.name);
        // Who watches a file hears of changes only.
        if holds(plan, &files).unwrap_or(false) {
            continue;
        }
        write(plan, &files).map_err(|source| DataError {
            volume: plan.name.clone(),
            source,
        })?;
    }
    Ok(())
}

/// Why no other version was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpdateError {
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Write(#[from] DataError),
}

impl UpdateError {
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::Stage(error) => error.code(),
            Self::Write(_) => Code::INTERNAL,
        }
    }
}

/// Nothing of it is ever swapped to a disk, where the kernel can promise that (Linux 6.4, and not in
/// a user namespace).
fn mount_tmpfs(target: &Path) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let with = |options: String| {
        let options = std::ffi::CString::new(options)?;
        Ok(mount("tmpfs", target, "tmpfs", flags, Some(options.as_c_str()))?)
    };
    let options = format!("mode=0755,{TMPFS_SIZE}");
    with(format!("{options},noswap")).or_else(|_: io::Error| with(options))
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Writes the files and lets them take the place of what was there.
fn write(plan: &DataPlan, files: &[&DataFile]) -> io::Result<()> {
    let volume = openat(CWD, &plan.target, DIRECTORY, Mode::empty())?;
    // Permissions are exactly those that are asked for. An init that has given its rights up may not
    // set them afterwards.
    let umask = rustix::process::umask(Mode::empty());
    let written = write_version(&volume, files, plan.group);
    rustix::process::umask(umask);
    let version = written?;
    match unlinkat(&volume, NEXT, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    symlinkat(&version, &volume, NEXT)?;
    renameat(&volume, NEXT, &volume, CURRENT)?;
    let tops: BTreeSet<&str> = files
        .iter()
        .filter_map(|file| file.path.split('/').next())
        .collect();
    show(&volume, &tops, &version)
}

/// Writes a version, and returns the name of its directory. If that fails nothing of it stays.
fn write_version(volume: &OwnedFd, files: &[&DataFile], group: Option<u32>) -> io::Result<String> {
    let now = Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S");
    let mut number = 0_u32;
    let version = loop {
        let name = format!("..{now}.{number}");
        match mkdirat(volume, &name, Mode::from_raw_mode(0o755)) {
            Ok(()) => break name,
            Err(Errno::EXIST) if number < 1000 => number += 1,
            Err(e) => return Err(e.into()),
        }
    };
    let written = openat(volume, &version, DIRECTORY, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|dir| files.iter().try_for_each(|file| write_file(&dir, file, group)));
    if let Err(e) = written {
        let _ = remove(volume, &version);
        return Err(e);
    }
    Ok(version)
}

/// Its permissions: as kubelet has it, who is in the pod's group may read.
fn mode_of(file: &DataFile, group: Option<u32>) -> u32 {
    file.mode | group.map_or(0, |_| 0o440)
}

fn write_file(version: &OwnedFd, file: &DataFile, group: Option<u32>) -> io::Result<()> {
    let (dirs, name) = match file.path.rsplit_once('/') {
        Some((dirs, name)) => (dirs, name),
        None => ("", file.path.as_str()),
    };
    let mut dir = version.try_clone()?;
    for part in dirs.split('/').filter(|part| !part.is_empty()) {
        match mkdirat(&dir, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        dir = openat(&dir, part, DIRECTORY, Mode::empty())?;
    }
    let mode = Mode::from_raw_mode(mode_of(file, group));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = openat(&dir, name, flags, mode)?;
    if let Some(group) = group {
        rustix::fs::fchown(&made, None, Some(Gid::from_raw(group)))?;
    }
    std::fs::File::from(made).write_all(&file.bytes)
}

/// Makes the links that programs open, and removes what is of other versions.
fn show(volume: &OwnedFd, tops: &BTreeSet<&str>, version: &str) -> io::Result<()> {
    for top in tops {
        let target = format!("{CURRENT}/{top}");
        let old = readlinkat(volume, *top, Vec::new());
        if old.as_ref().is_ok_and(|old| old.as_bytes() == target.as_bytes()) {
            continue;
        }
        if old.is_ok() || rustix::fs::statat(volume, *top, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            remove(volume, top)?;
        }
        symlinkat(&target, volume, *top)?;
    }
    let kept = |name: &str| name == CURRENT || name == version || tops.contains(name);
    for entry in Dir::read_from(volume)? {
        let entry = entry?;
        match entry.file_name().to_str() {
            Ok("." | "..") => {}
            Ok(name) if kept(name) => {}
            // What a container keeps busy stays, within the size of the volume.
            Ok(name) => {
                if let Err(error) = remove(volume, name) {
                    tracing::warn!(name, %error, "an old version cannot be removed");
                }
            }
            // Not one of ours.
            Err(_) => {}
        }
    }
    Ok(())
}

/// Whether a volume's version that counts is just these files.
fn holds(plan: &DataPlan, files: &[&DataFile]) -> io::Result<bool> {
    let volume = openat(CWD, &plan.target, DIRECTORY, Mode::empty())?;
    let version = readlinkat(&volume, CURRENT, Vec::new())?;
    // A container with rights over its mounts may have made another link of it: to anywhere.
    let is_ours = version.as_bytes().starts_with(b"..20") && !version.as_bytes().contains(&b'/');
    if !is_ours {
        return Ok(false);
    }
    let dir = openat(&volume, &version, DIRECTORY, Mode::empty())?;
    for file in files {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let found = std::fs::File::from(openat2(&dir, &file.path, flags, Mode::empty(), beneath)?);
        let metadata = found.metadata()?;
        let same = metadata.is_file()
            && metadata.mode() & 0o777 == mode_of(file, plan.group)
            && metadata.len() == file.bytes.len() as u64;
        let mut bytes = Vec::new();
        // What is no file, like a pipe, is not even read.
        if !same {
            return Ok(false);
        }
        found.take(metadata.len()).read_to_end(&mut bytes)?;
        if bytes != file.bytes {
            return Ok(false);
        }
    }
    Ok(count(&dir, 0, files.len())? == files.len())
}

/// How many files there are in a directory and below it; where there are more than so many, some
/// number above that.
fn count(dir: &OwnedFd, depth: usize, most: usize) -> io::Result<usize> {
    let mut found = 0;
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        found += match openat(dir, entry.file_name(), DIRECTORY, Mode::empty()) {
            Ok(inner) if depth < MAX_DEPTH => count(&inner, depth + 1, most)?,
            _ => 1,
        };
        if found > most {
            break;
        }
    }
    Ok(found)
}

/// Removes a file, or a directory with all that is in it.
fn remove(volume: &OwnedFd, name: &str) -> io::Result<()> {
    match unlinkat(volume, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {
            let path = format!("/proc/self/fd/{}", volume.as_raw_fd());
            let path = Path::new(&path).join(name);
            for _ in 0..REMOVAL_ROUNDS {
                if magik_sys::tree::remove_some(&path, REMOVED_AT_ONCE)? {
                    return Ok(());
                }
            }
            Err(io::Error::other(
                "something writes there faster than it is removed",
            ))
        }
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests;
