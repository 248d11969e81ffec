//! Looking a file up in layers that are not mounted, as overlayfs would show it.
//!
//! The path is walked component by component with descriptors. The kernel never follows a link in
//! it (`O_NOFOLLOW`), and `..` goes back along the walked directories: nothing in the layers can
//! lead outside of them.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use crate::unpack::is_opaque;

/// As many symbolic links as the kernel follows in one lookup.
const MAX_SYMLINKS: usize = 40;

/// How many directories deep a lookup goes; each is open in every layer meanwhile.
const MAX_DEPTH: usize = 64;

/// A directory of the merged tree: its parts in the layers, uppermost first.
type Merged = Vec<OwnedFd>;

/// What a name in a merged directory is.
enum Entry {
    Directory(Merged),
    Symlink(PathBuf),
    /// A regular file, open.
    File(File),
}

/// Opens the regular file at `path`, from the root of `layers` (uppermost first).
///
/// # Errors
/// `NotFound` if the merged tree has no such file; `InvalidInput` if it is no regular file, or has
/// a loop or too many symbolic links; else the kernel's error.
pub(super) fn open(layers: &[PathBuf], path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = layers
        .iter()
        .map(|layer| rustix::fs::open(layer, flags, Mode::empty()))
        .collect::<Result<Merged, _>>()?;

    // The directories from the root to where we are; the root itself is never left.
    let mut stack = vec![root];
    let mut todo: VecDeque<OsString> = VecDeque::new();
    prepend(&mut todo, path);
    let mut symlinks = 0;
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            if stack.len() > 1 {
                stack.pop();
            }
            continue;
        }
        let here = stack.last().map(Vec::as_slice).unwrap_or_default();
        match lookup(here, &name)? {
            Entry::Directory(_) if stack.len() > MAX_DEPTH => return Err(Errno::NAMETOOLONG.into()),
            Entry::Directory(directory) => stack.push(directory),
            Entry::File(file) if todo.is_empty() => return Ok(file),
            Entry::File(_) => return Err(Errno::NOTDIR.into()),
            Entry::Symlink(target) => {
                symlinks += 1;
                if symlinks > MAX_SYMLINKS {
                    return Err(Errno::LOOP.into());
                }
                if target.is_absolute() {
                    stack.truncate(1);
                }
                prepend(&mut todo, &target);
            }
        }
    }
    Err(Errno::ISDIR.into())
}

fn prepend(todo: &mut VecDeque<OsString>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => todo.push_front(name.to_owned()),
            Component::ParentDir => todo.push_front("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

/// Finds `name` as overlayfs does: the uppermost layer that has it decides, and directories merge
/// down to an opaque or covering one (Documentation/filesystems/overlayfs.rst).
fn lookup(directory: &[OwnedFd], name: &OsStr) -> io::Result<Entry> {
    let mut merged = Merged::new();
    for layer in directory {
        let stat = match rustix::fs::statat(layer, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        let open = |extra| {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | extra;
            rustix::fs::openat(layer, name, flags, Mode::empty())
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let found = open(OFlags::DIRECTORY)?;
                let opaque = is_opaque(found.as_fd());
                merged.push(found);
                if opaque {
                    break;
                }
            }
            // Anything else ends a merge: what lies beneath it is covered.
            _ if !merged.is_empty() => break,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(layer, name, Vec::new())?;
                return Ok(Entry::Symlink(PathBuf::from(OsStr::from_bytes(
                    target.as_bytes(),
                ))));
            }
            FileType::RegularFile => return Ok(Entry::File(File::from(open(OFlags::empty())?))),
            FileType::CharacterDevice if stat.st_rdev == 0 => break, // a whiteout
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "is neither a file nor a directory",
                ));
            }
        }
    }
    if merged.is_empty() {
        Err(Errno::NOENT.into())
    } else {
        Ok(Entry::Directory(merged))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        os::unix::fs::{FileTypeExt as _, symlink},
    };

    use super::*;

    struct Layers(tempfile::TempDir, Vec<PathBuf>);

    impl Layers {
        /// Uppermost first; a text beginning with `->` is a symbolic link, `!` a whiteout.
        fn new(layers: &[&[(&str, &str)]]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let mut paths = Vec::new();
            for (n, files) in layers.iter().enumerate() {
                let root = dir.path().join(n.to_string());
                std::fs::create_dir(&root).unwrap();
                for (path, content) in *files {
                    let path = root.join(path);
                    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                    match content.strip_prefix("->") {
                        Some(target) => symlink(target, &path).unwrap(),
                        None if *content == "!" => whiteout(&path),
                        None => std::fs::write(&path, content).unwrap(),
                    }
                }
                paths.push(root);
            }
            Self(dir, paths)
        }

        fn read(&self, path: &str) -> io::Result<String> {
            let mut text = String::new();
            open(&self.1, Path::new(path))?.read_to_string(&mut text)?;
            Ok(text)
        }

        #[track_caller]
        fn assert_refused(&self, path: &str, kind: io::ErrorKind) {
            assert_eq!(self.read(path).unwrap_err().kind(), kind, "{path}");
        }
    }

    /// A character device 0:0 needs no privilege since Linux 5.8.
    fn whiteout(path: &Path) {
        rustix::fs::mknodat(rustix::fs::CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        assert!(
            std::fs::symlink_metadata(path)
                .unwrap()
                .file_type()
                .is_char_device()
        );
    }

    #[test]
    fn the_uppermost_layer_that_has_the_file_decides() {
        let layers = Layers::new(&[
            &[("bin/x", "")],
            &[("etc/passwd", "upper")],
            &[("etc/passwd", "lower"), ("etc/group", "g")],
        ]);
        assert_eq!(layers.read("/etc/passwd").unwrap(), "upper");
        assert_eq!(layers.read("etc/group").unwrap(), "g");
    }

    #[test]
    fn whiteouts_and_covered_directories_hide_what_is_below() {
        let layers = Layers::new(&[
            &[("etc/passwd", "!"), ("lib", "!")],
            &[("etc/passwd", "x"), ("lib/a", "x"), ("usr", "file")],
            &[("usr/b", "x")],
        ]);
        layers.assert_refused("etc/passwd", io::ErrorKind::NotFound);
        layers.assert_refused("lib/a", io::ErrorKind::NotFound);
        layers.assert_refused("usr/b", io::ErrorKind::NotADirectory);
    }

    #[test]
    fn an_opaque_directory_hides_those_below() {
        let layers = Layers::new(&[&[("etc/hosts", "x")], &[("etc/passwd", "x")]]);
        // Some file systems have no user xattrs (tmpfs before 6.6): nothing to test.
        let (etc, flags) = (layers.1[0].join("etc"), rustix::fs::XattrFlags::empty());
        if rustix::fs::setxattr(etc, "user.overlay.opaque", b"y", flags).is_ok() {
            layers.assert_refused("etc/passwd", io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn symlinks_are_followed_across_layers_and_never_outside() {
        let layers = Layers::new(&[
            &[
                ("etc", "->usr/etc"),
                ("up", "->../../../../../../etc/shadow"),
                ("abs", "->/etc/passwd"),
                ("loop", "->loop"),
            ],
            &[
                ("usr/etc/passwd", "->../lib/passwd"),
                ("usr/lib/passwd", "inside"),
            ],
        ]);
        assert_eq!(layers.read("/etc/passwd").unwrap(), "inside");
        assert_eq!(layers.read("abs").unwrap(), "inside");
        // The host has /etc/shadow.
        layers.assert_refused("up", io::ErrorKind::NotFound);
        assert!(layers.read("loop").is_err());
        assert!(layers.0.path().exists());
    }

    #[test]
    fn a_device_or_pipe_is_refused_without_opening_it() {
        let layers = Layers::new(&[&[("x", "")]]);
        let fifo = layers.1[0].join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        layers.assert_refused("fifo", io::ErrorKind::InvalidInput);
    }
}
