//! A copy of the tree that overlayfs would make of layers: for hosts without overlay mounts.
//!
//! Directories are visited by path, not by descending: layers can nest them deeper than a stack
//! allows. Paths are opened below the root and through no link, as in [`extract`](super::extract).

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, SeekFrom, Stat},
    io::Errno,
};

use super::{
    Temporary,
    entry::{Kind, Metadata, is_kept, join, split},
    metadata::{self, Identity, is_opaque},
    remove::names,
    tree::{open_root, resolve},
};
use crate::{Error, ImageStore, Result};

impl ImageStore {
    /// Copies what overlayfs would show of these directories of unpacked layers, the **uppermost
    /// first**, to `dir`, which must not exist. Where the file system can share file contents
    /// (`FICLONE`: btrfs, XFS), the copy takes no space for them.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the files have more bytes than
    /// [`max_rootfs_size`](crate::Limits::max_rootfs_size), or [`Error::Io`]. Nothing is left then.
    pub fn copy_layers(&self, layers: &[PathBuf], dir: &Path) -> Result<()> {
        let context = || format!("copy layers to {}", dir.display());
        std::fs::create_dir(dir).map_err(Error::io(context()))?;
        let copy = Temporary(dir.to_owned());
        let mut copier =
            Copier::new(layers, dir, self.limits().max_rootfs_size).map_err(Error::io(context()))?;
        copier.copy().map_err(|(path, fault)| match fault {
            Fault::TooLarge => Error::too_large(
                format!("root filesystem {}", dir.display()),
                self.limits().max_rootfs_size,
            ),
            Fault::Io(source) => Error::io(format!("{}: {:?}", context(), super::shown(&path)))(source),
        })?;
        copy.keep();
        Ok(())
    }
}

/// Why something could not be copied.
enum Fault {
    TooLarge,
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// A directory of the merged tree.
struct Directory {
    path: Vec<u8>,
    /// The layers that have a part of it, the uppermost first.
    layers: Vec<usize>,
}

/// A name in a merged directory.
enum Name {
    /// A directory in these layers; lower ones may have more of it.
    Open(Vec<usize>),
    /// A directory in these layers, below which something hides it.
    Closed(Vec<usize>),
    /// Decided by the uppermost layer that has it: copied, or hidden.
    Done,
}

struct Copier {
    layers: Vec<OwnedFd>,
    root: OwnedFd,
    identity: Identity,
    /// Where the first of several names of a file was copied to, by the file.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// The bytes that may still be copied.
    left: u64,
    /// Whether the file system may be able to share content.
    shares: bool,
}

impl Copier {
    fn new(layers: &[PathBuf], dir: &Path, limit: u64) -> io::Result<Self> {
        Ok(Self {
            layers: layers.iter().map(|l| open_root(l)).collect::<io::Result<_>>()?,
            root: open_root(dir)?,
            identity: Identity::current(),
            links: HashMap::new(),
            left: limit,
            shares: true,
        })
    }

    fn copy(&mut self) -> Result<(), (Vec<u8>, Fault)> {
        let mut todo = VecDeque::from([Directory {
            path: Vec::new(),
            layers: (0..self.layers.len()).collect(),
        }]);
        // The directories made, each with the layer that says what it looks like.
        let mut made = Vec::new();
        while let Some(directory) = todo.pop_front() {
            let children = self
                .fill(&directory)
                .map_err(|(name, fault)| (join(&directory.path, &name), fault))?;
            made.extend(directory.layers.first().map(|layer| (directory.path, *layer)));
            todo.extend(children);
        }
        // Deepest first: new entries change a directory's times, and its mode may forbid them.
        for (path, layer) in made.into_iter().rev() {
            self.finish(&path, layer).map_err(|fault| (path, fault))?;
        }
        Ok(())
    }

    /// Copies what is in a directory, but for its directories: those are made, and returned.
    fn fill(&mut self, directory: &Directory) -> Result<Vec<Directory>, (Vec<u8>, Fault)> {
        let here = |e: Errno| (Vec::new(), e.into());
        let target = resolve(&self.root, &directory.path, OFlags::PATH).map_err(here)?;
        let mut found: BTreeMap<Vec<u8>, Name> = BTreeMap::new();
        for layer in &directory.layers {
            let source = resolve(&self.layers[*layer], &directory.path, OFlags::RDONLY).map_err(here)?;
            let listed = names(source.as_fd()).map_err(|e| (Vec::new(), e.into()))?;
            for name in listed.iter().map(|name| name.to_bytes()) {
                if matches!(found.get(name), Some(Name::Done | Name::Closed(_))) {
                    continue;
                }
                let stat = fs::statat(&source, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|e| (name.to_vec(), e.into()))?;
                let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                match found.get_mut(name) {
                    Some(Name::Open(layers)) if is_directory => layers.push(*layer),
                    Some(known) => {
                        if let Name::Open(layers) = known {
                            *known = Name::Closed(std::mem::take(layers));
                        }
                    }
                    None if is_directory => {
                        found.insert(name.to_vec(), Name::Open(vec![*layer]));
                    }
                    None => {
                        if !is_whiteout(&stat) {
                            let path = join(&directory.path, name);
                            self.leaf(source.as_fd(), target.as_fd(), &path, &stat)
                                .map_err(|fault| (name.to_vec(), fault))?;
                        }
                        found.insert(name.to_vec(), Name::Done);
                    }
                }
            }
            if is_opaque(source.as_fd()) {
                break;
            }
        }
        let mut children = Vec::new();
        for (name, what) in found {
            if let Name::Open(layers) | Name::Closed(layers) = what {
                fs::mkdirat(&target, name.as_slice(), Mode::RWXU).map_err(|e| (name.clone(), e.into()))?;
                let path = join(&directory.path, &name);
                children.push(Directory { path, layers });
            }
        }
        Ok(children)
    }

    /// Copies what is no directory.
    fn leaf(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        path: &[u8],
        stat: &Stat,
    ) -> Result<(), Fault> {
        let name = split(path).1;
        if stat.st_nlink > 1 {
            let file = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&file) {
                let (parent, first) = split(first);
                let parent = resolve(&self.root, parent, OFlags::PATH)?;
                return Ok(fs::linkat(parent, first, target, name, AtFlags::empty())?);
            }
            self.links.insert(file, path.to_vec());
        }
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => return self.file(source, target, name),
            FileType::Symlink => {
                let to = fs::readlinkat(source, name, Vec::new())?;
                fs::symlinkat(to.as_c_str(), target, name)?;
                Kind::Symlink(to.into_bytes())
            }
            kind => {
                fs::mknodat(target, name, kind, Mode::RUSR, stat.st_rdev)?;
                // For the metadata, all of them are alike.
                Kind::Fifo
            }
        };
        let metadata = kept(metadata::of_name(source, name, stat)?);
        metadata::set_at(target, name, &kind, &metadata, self.identity)?;
        Ok(())
    }

    fn file(&mut self, source: BorrowedFd<'_>, target: BorrowedFd<'_>, name: &[u8]) -> Result<(), Fault> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = File::from(fs::openat(source, name, flags, Mode::empty())?);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = File::from(fs::openat(target, name, flags, Mode::RUSR | Mode::WUSR)?);
        let stat = fs::fstat(&source)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.left = self.left.checked_sub(size).ok_or(Fault::TooLarge)?;
        if size > 0 {
            self.shares = self.shares && share(&source, &target)?;
            if !self.shares {
                let dense = u64::try_from(stat.st_blocks).unwrap_or(0) >= size.div_ceil(512);
                copy_content(&source, &target, size, dense)?;
            }
        }
        let metadata = kept(metadata::of_open(source.as_fd())?);
        metadata::set(target.as_fd(), &metadata, self.identity)?;
        Ok(())
    }

    /// Makes a directory look like that of a layer.
    fn finish(&self, path: &[u8], layer: usize) -> Result<(), Fault> {
        let source = resolve(&self.layers[layer], path, OFlags::RDONLY)?;
        let target = resolve(&self.root, path, OFlags::RDONLY)?;
        let metadata = kept(metadata::of_open(source.as_fd())?);
        metadata::set(target.as_fd(), &metadata, self.identity)?;
        Ok(())
    }
}

/// A character device 0:0 (Documentation/filesystems/overlayfs.rst, "whiteouts").
fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Without what the host added, a label for example, which it adds to the copy as well.
fn kept(mut metadata: Metadata) -> Metadata {
    metadata.xattrs.retain(|(name, _)| is_kept(name));
    metadata
}

/// Shares a file's content with a new one; `false` if not supported here (ioctl_ficlone(2)).
fn share(source: &File, target: &File) -> Result<bool, Errno> {
    match fs::ioctl_ficlone(target, source) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS | Errno::PERM) => {
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

/// Copies content, with `copy_file_range(2)` where that is possible; holes stay holes.
fn copy_content(source: &File, mut target: &File, size: u64, dense: bool) -> io::Result<()> {
    use io::Read;
    let mut at = 0;
    while at < size {
        let (data, hole) = if dense {
            (0, size)
        } else {
            next_data(source, at, size)?
        };
        fs::seek(source, SeekFrom::Start(data))?;
        fs::seek(target, SeekFrom::Start(data))?;
        io::copy(&mut source.take(hole - data), &mut target)?;
        at = hole;
    }
    Ok(fs::ftruncate(target, size)?)
}

/// The next part with content from `at` on: its begin and end, or the file's end.
fn next_data(source: &File, at: u64, size: u64) -> Result<(u64, u64), Errno> {
    match fs::seek(source, SeekFrom::Data(at)) {
        Ok(data) => Ok((data, fs::seek(source, SeekFrom::Hole(data))?.min(size))),
        Err(Errno::NXIO) => Ok((size, size)),
        // A file system that does not know where its holes are.
        Err(Errno::INVAL) => Ok((at, size)),
        Err(e) => Err(e),
    }
}
