//! Whiteouts: what a layer hides.
//!
//! They hide lower layers' entries only, wherever they stand (image-spec, layer.md, "Whiteouts").

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use super::{
    budget::Budget,
    entry::{Metadata, split},
    extract::{Extractor, Planned, Whiteouts},
    lower::Found,
    remove::remove_at,
    tree::{Fault, Result, below, join, resolve},
};
use crate::Error;

/// What hides a name of lower layers. A whiteout means those only: what this layer has there stays.
enum Hidden {
    /// A whiteout that was made.
    Now,
    /// What was there already.
    Already,
    /// What was there already, but it would be merged with theirs unless it is made opaque.
    ByDirectory,
}

impl Extractor<'_> {
    /// overlayfs treats roots differently: the merged root takes its attributes from the topmost
    /// layer, and the opaque attribute has no effect there.
    pub(super) fn finish_root(&mut self) -> Result<()> {
        if !self.directories.contains_key(&b""[..]) {
            let metadata = match self.lower()?.look_up(b"")? {
                Found::Directory(metadata) => metadata,
                _ => Metadata::of_implied(),
            };
            let root = Planned {
                metadata,
                existed: false,
            };
            self.directories.insert(Vec::new(), root);
        }
        if self.opaque.remove(&b""[..]) {
            for name in self.lower()?.root_names()? {
                if let Hidden::ByDirectory = self.hide_name(&self.root, name.to_bytes())? {
                    self.opaque.insert(name.into_bytes());
                }
            }
        }
        Ok(())
    }

    /// Hides what lower layers have in the directory at `path`.
    pub(super) fn hide_all_in(&mut self, path: &[u8]) -> Result<()> {
        // All in an opaque directory is this layer's: a second time nothing is left to do.
        let already = self.hides_lower(path);
        match self.whiteouts {
            _ if already => {}
            Whiteouts::Overlay => self.drop_idle_directories(path)?,
            Whiteouts::Apply => self.clear_lower(path)?,
        }
        self.opaque.insert(path.to_vec());
        Ok(())
    }

    /// Overlay form: removes the directories below one that are there only for whiteouts in them.
    fn drop_idle_directories(&mut self, path: &[u8]) -> Result<()> {
        let planned: Box<dyn Iterator<Item = &Vec<u8>>> = if path.is_empty() {
            Box::new(self.directories.keys().filter(|path| !path.is_empty()))
        } else {
            Box::new(self.directories.range(below(path)).map(|(path, _)| path))
        };
        for path in planned
            .filter(|path| !self.is_made(path))
            .cloned()
            .collect::<Vec<_>>()
        {
            // With one above it, it has gone already.
            if self.directories.contains_key(&path) {
                let (parent, name) = split(&path);
                let parent = resolve(&self.root, parent, OFlags::PATH)?;
                remove_at(parent.as_fd(), name)?;
                self.forget(&path);
            }
        }
        Ok(())
    }

    /// Removes whiteouts without effect: overlayfs shows them if no lower layer has the directory.
    pub(super) fn drop_idle_whiteouts(&mut self) -> Result<(), (Vec<u8>, Fault)> {
        for path in std::mem::take(&mut self.hidden) {
            let (parent, name) = split(&path);
            let mut remove_idle = || -> Result<()> {
                let hides =
                    !self.hides_lower(parent) && !matches!(self.lower()?.look_up(&path)?, Found::Nothing);
                if !hides {
                    let parent = resolve(&self.root, parent, OFlags::PATH)?;
                    fs::unlinkat(parent, name, AtFlags::empty())?;
                }
                Ok(())
            };
            remove_idle().map_err(|e| (path.clone(), e))?;
        }
        Ok(())
    }

    /// Overlay form: hides what lower layers have at `path`.
    pub(super) fn hide(&mut self, path: &[u8], budget: &mut Budget<'_>) -> Result<()> {
        let (parent, name) = split(path);
        let dir = self.open_dir(parent, budget)?;
        let path = join(&dir.path, name)?;
        let mut hidden = self.hide_name(&dir.fd, name)?;
        if matches!(hidden, Hidden::ByDirectory) && !self.is_made(&path) {
            // It is there only for other whiteouts.
            self.clear(&dir, &path)?;
            hidden = self.hide_name(&dir.fd, name)?;
        }
        match hidden {
            Hidden::Now => drop(self.hidden.insert(path)),
            Hidden::ByDirectory => self.hide_all_in(&path)?,
            Hidden::Already => {}
        }
        Ok(())
    }

    /// Makes a whiteout.
    fn hide_name(&self, parent: &OwnedFd, name: &[u8]) -> Result<Hidden> {
        match fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => Ok(Hidden::Now),
            Err(Errno::EXIST) => {
                let there = fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                match FileType::from_raw_mode(there.st_mode) {
                    FileType::Directory => Ok(Hidden::ByDirectory),
                    _ => Ok(Hidden::Already),
                }
            }
            // mknod(2) needs no privilege for these; only overlayfs itself takes none.
            Err(Errno::PERM) => Err(Fault::from(Error::io(
                "whiteouts cannot be made on an overlay: choose a data root on another file system",
            )(Errno::PERM))),
            Err(e) => Err(e.into()),
        }
    }

    /// Flat form: removes what lower layers have at `path`.
    pub(super) fn remove_lower(&mut self, path: &[u8], budget: &mut Budget<'_>) -> Result<()> {
        let (parent, name) = split(path);
        let dir = self.open_dir(parent, budget)?;
        let path = join(&dir.path, name)?;
        if self.is_made(&path) {
            return self.hide_all_in(&path);
        }
        match self.clear(&dir, &path) {
            Err(Fault::Io(e)) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Flat form: removes what lower layers have in the directory at `path`.
    fn clear_lower(&mut self, path: &[u8]) -> Result<()> {
        let mut pending = vec![path.to_vec()];
        while let Some(path) = pending.pop() {
            let fd = match resolve(&self.root, &path, OFlags::RDONLY) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                fd => fd?,
            };
            self.touch(&path, fd.as_fd())?;
            for name in super::remove::names(fd.as_fd())? {
                let child = join(&path, name.to_bytes())?;
                if self.is_made(&child) {
                    pending.push(child);
                } else {
                    remove_at(fd.as_fd(), name.to_bytes())?;
                    self.forget(&child);
                }
            }
        }
        Ok(())
    }

    /// Whether this layer has made `path`, or something below it.
    fn is_made(&self, path: &[u8]) -> bool {
        self.made.contains(path) || self.made.range(below(path)).next().is_some()
    }
}
