//! A file or directory of this host as a tar archive.
//!
//! Nothing is reached through a link that lies in the tree, however it changes meanwhile: paths
//! are opened beneath the tree's root by the kernel. A volume that a container writes to may be
//! copied (compare CVE-2018-15664).

use std::{
    ffi::{CString, OsStr},
    fs::File,
    io::{self, Read as _, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};
use tar::{Builder, EntryType, Header};

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The longest target of a link that a header holds itself, in bytes.
const MAX_SHORT_LINK: usize = 100;

/// What is copied.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    what: What,
}

#[derive(Debug)]
enum What {
    /// All that is in a directory.
    Contents(OwnedFd),
    /// A name in a directory.
    Name(OwnedFd, CString, Stat),
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = || path.display().to_string();
        let opened = |dir: &Path| fs::open(dir, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty());
        let is_contents = matches!(path.as_os_str().as_bytes(), [.., b'/', b'.'] | b".");
        let what = match path.file_name() {
            Some(name) if !is_contents => {
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                let parent = opened(parent.unwrap_or(Path::new("."))).with_context(failed)?;
                let name = CString::new(name.as_bytes()).with_context(failed)?;
                let stat = fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW).with_context(failed)?;
                What::Name(parent, name, stat)
            }
            _ => What::Contents(opened(path).with_context(failed)?),
        };
        let path = path.to_owned();
        Ok(Self { path, what })
    }

    /// Its name in the directory that it is copied into; `None`: its contents are copied.
    pub(super) fn name(&self) -> Option<&OsStr> {
        match &self.what {
            What::Contents(_) => None,
            What::Name(_, name, _) => Some(OsStr::from_bytes(name.to_bytes())),
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        match &self.what {
            What::Contents(_) => true,
            What::Name(_, _, stat) => kind(stat) == FileType::Directory,
        }
    }

    /// Writes the archive, in which the source is called `name`; without one, what is in it lies at
    /// the top. Returns how many sockets, pipes and devices were left out.
    pub(super) fn pack(&self, name: Option<&OsStr>, output: impl Write) -> Result<u64> {
        let name = name.map_or(&b""[..], OsStr::as_bytes);
        let mut packer = Packer {
            archive: Builder::new(output),
            skipped: 0,
        };
        match &self.what {
            What::Name(parent, own, stat) if kind(stat) == FileType::Directory => {
                let dir = fs::openat(parent, own, DIRECTORY, Mode::empty());
                let dir = dir.with_context(|| self.path.display().to_string())?;
                packer.directory(name, stat)?;
                packer.tree(&dir, name, &self.path)?;
            }
            What::Name(parent, own, stat) => {
                if !matches!(kind(stat), FileType::RegularFile | FileType::Symlink) {
                    bail!("{}: is neither a file nor a directory", self.path.display());
                }
                let packed = packer.leaf(parent, own, stat, name);
                packed.with_context(|| self.path.display().to_string())?;
            }
            What::Contents(dir) => {
                if !name.is_empty() {
                    packer.directory(name, &fs::fstat(dir)?)?;
                }
                packer.tree(dir, name, &self.path)?;
            }
        }
        packer.archive.into_inner()?.flush()?;
        Ok(packer.skipped)
    }
}

struct Packer<W: Write> {
    archive: Builder<W>,
    skipped: u64,
}

impl<W: Write> Packer<W> {
    /// All that is below `root`, which is called `name`. By paths and not by descending: a tree may
    /// be deeper than there are descriptors.
    fn tree(&mut self, root: &OwnedFd, name: &[u8], shown: &Path) -> Result<()> {
        let mut todo = vec![Vec::new()];
        while let Some(path) = todo.pop() {
            let failed = |path: &[u8]| shown.join(OsStr::from_bytes(path)).display().to_string();
            let dir = beneath(root, &path).with_context(|| failed(&path))?;
            let names = names(&dir).with_context(|| failed(&path))?;
            let mut below = Vec::new();
            for child in names {
                let own = join(&path, child.to_bytes());
                let stat = match fs::statat(&dir, &child, AtFlags::SYMLINK_NOFOLLOW) {
                    // Removed since it was listed.
                    Err(Errno::NOENT) => continue,
                    stat => stat.with_context(|| failed(&own))?,
                };
                let whole = join(name, &own);
                match kind(&stat) {
                    FileType::Directory => {
                        self.directory(&whole, &stat).with_context(|| failed(&own))?;
                        below.push(own);
                    }
                    FileType::RegularFile | FileType::Symlink => {
                        let packed = self.leaf(&dir, &child, &stat, &whole);
                        packed.with_context(|| failed(&own))?;
                    }
                    _ => self.skipped += 1,
                }
            }
            todo.extend(below.into_iter().rev());
        }
        Ok(())
    }

    fn directory(&mut self, name: &[u8], stat: &Stat) -> io::Result<()> {
        let mut header = header(EntryType::Directory, stat);
        let name = OsStr::from_bytes(name);
        self.archive.append_data(&mut header, name, io::empty())
    }

    /// A file or a link.
    fn leaf(&mut self, dir: &OwnedFd, own: &CString, stat: &Stat, name: &[u8]) -> io::Result<()> {
        let name = OsStr::from_bytes(name);
        if kind(stat) == FileType::Symlink {
            let target = fs::readlinkat(dir, own, Vec::new())?;
            let target = target.to_bytes();
            let mut header = header(EntryType::Symlink, stat);
            if target.len() > MAX_SHORT_LINK {
                return self
                    .archive
                    .append_link(&mut header, name, OsStr::from_bytes(target));
            }
            // `append_link` changes short ones: "/" becomes "//".
            header.set_link_name_literal(target)?;
            return self.archive.append_data(&mut header, name, io::empty());
        }
        // It may have become a pipe, at which a reader waits.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = fs::openat(dir, own, flags, Mode::empty())?;
        let stat = fs::fstat(&file)?;
        if kind(&stat) != FileType::RegularFile {
            return Err(io::Error::other("was exchanged while it was read"));
        }
        let mut header = header(EntryType::Regular, &stat);
        let size = u64::try_from(stat.st_size).map_err(io::Error::other)?;
        header.set_size(size);
        let mut content = Content(File::from(file).take(size));
        self.archive.append_data(&mut header, name, &mut content)
    }
}

/// A file's content, as long as its header says.
struct Content(io::Take<File>);

impl io::Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 if self.0.limit() > 0 && !buffer.is_empty() => {
                Err(io::Error::other("became shorter while it was read"))
            }
            n => Ok(n),
        }
    }
}

/// Owners are not kept, nor are the bits that make a program run as its owner.
fn header(kind: EntryType, stat: &Stat) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let parts = [dir, name];
    let parts: Vec<&[u8]> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(&b'/')
}

/// Opens a directory beneath `root`, through no link.
fn beneath(root: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    loop {
        match fs::openat2(root, path, DIRECTORY, Mode::empty(), resolve) {
            // openat2(2): a rename elsewhere made the kernel unsure about the path.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// The names in a directory, sorted.
fn names(dir: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir.as_fd())? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use super::*;

    fn packed(path: &Path, name: Option<&str>) -> (Vec<String>, u64) {
        let mut archive = Vec::new();
        let source = Source::open(path).unwrap();
        let skipped = source.pack(name.map(OsStr::new), &mut archive).unwrap();
        let mut archive = tar::Archive::new(archive.as_slice());
        let mut listed = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            let name = entry.path().unwrap().display().to_string();
            let link = entry.link_name().unwrap().map(|link| link.display().to_string());
            listed.push(format!("{name} {}{content}", link.unwrap_or_default()));
        }
        (listed, skipped)
    }

    #[test]
    fn links_are_packed_as_links_and_sockets_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::fs::write(tree.join("a/b/file"), "content").unwrap();
        std::fs::write(dir.path().join("outside"), "secret").unwrap();
        symlink("../outside", tree.join("link")).unwrap();
        symlink("/", tree.join("root")).unwrap();
        let far = "../".repeat(50);
        symlink(&far, tree.join("far")).unwrap();
        let _socket = UnixListener::bind(tree.join("socket")).unwrap();
        let long = "n".repeat(200);
        std::fs::write(tree.join(&long), "long").unwrap();
        let (mut listed, skipped) = packed(&tree, Some("new"));
        assert_eq!(listed.remove(0), "new ");
        listed.sort();
        let mut expected = vec![
            "new/a ".to_owned(),
            "new/a/b ".to_owned(),
            "new/a/b/file content".to_owned(),
            format!("new/far {far}"),
            "new/link ../outside".to_owned(),
            format!("new/{long} long"),
            "new/root /".to_owned(),
        ];
        expected.sort();
        assert_eq!((listed, skipped), (expected, 1));
        // A link that is named is copied as one, too.
        assert_eq!(packed(&tree.join("link"), Some("l")).0, ["l ../outside"]);
        assert_eq!(packed(&tree.join("a/."), None).0, ["b ", "b/file content"]);
    }

    #[test]
    fn what_is_no_file_and_what_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let _socket = UnixListener::bind(&path).unwrap();
        let error = Source::open(&path)
            .unwrap()
            .pack(Some(OsStr::new("s")), Vec::new());
        assert!(error.unwrap_err().to_string().contains("neither a file"));
        let error = format!("{:#}", Source::open(&dir.path().join("none")).unwrap_err());
        assert!(error.contains("none: No such file"), "{error}");
    }
}
