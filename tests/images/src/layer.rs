//! A layer: a tar archive, gzipped.

use std::{
    collections::BTreeSet,
    fmt,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use flate2::{Compression, write::GzEncoder};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

/// A finished layer.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The gzipped archive.
    pub blob: Vec<u8>,
    /// The sha256 of the archive before compression, as `sha256:<hex>`.
    pub diff_id: String,
}

/// Collects the entries of a layer. Parent directories are added as they are needed; the first entry of a path wins.
pub struct LayerBuilder {
    tar: tar::Builder<Vec<u8>>,
    seen: BTreeSet<PathBuf>,
}

impl fmt::Debug for LayerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerBuilder")
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

impl Default for LayerBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl LayerBuilder {
    /// An empty layer.
    #[must_use]
    pub fn new() -> Self {
        Self {
            tar: tar::Builder::new(Vec::new()),
            seen: BTreeSet::new(),
        }
    }

    /// A file with `data` as contents; `path` is absolute, as the container sees it.
    ///
    /// # Errors
    /// If the entry cannot be written (a path too long for tar).
    pub fn file(&mut self, path: impl AsRef<Path>, mode: u32, data: &[u8]) -> Result<&mut Self> {
        let mut header = Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(mode);
        self.append(path.as_ref(), header, data)
    }

    /// A directory.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn dir(&mut self, path: impl AsRef<Path>, mode: u32) -> Result<&mut Self> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Directory);
        header.set_mode(mode);
        self.append(path.as_ref(), header, &[])
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn symlink(&mut self, path: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<&mut Self> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_mode(0o777);
        header.set_link_name(target)?;
        self.append(path.as_ref(), header, &[])
    }

    /// A file, directory or link of this machine, at the same place in the container.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn host(&mut self, path: impl AsRef<Path>) -> Result<&mut Self> {
        let path = path.as_ref();
        let meta = path
            .symlink_metadata()
            .with_context(|| path.display().to_string())?;
        let mode = meta.permissions().mode() & 0o7777;
        if meta.is_dir() {
            self.dir(path, mode)
        } else if meta.is_symlink() {
            self.symlink(path, std::fs::read_link(path)?)
        } else if meta.is_file() {
            let data = std::fs::read(path).with_context(|| path.display().to_string())?;
            self.file(path, mode, &data)
        } else {
            bail!("{}: neither file, directory nor link", path.display())
        }
    }

    /// Busybox as `/bin/busybox` with a link for every applet, plus `/etc/passwd`, `/etc/group` and an open `/tmp`.
    /// Needs Debian's `busybox-static`.
    ///
    /// # Errors
    /// If busybox is not installed, or is not the static one.
    pub fn busybox(&mut self) -> Result<&mut Self> {
        let missing =
            "no static busybox: apt-get install busybox-static, or run `cargo xtask test`, which does";
        let path = ["/bin/busybox", "/usr/bin/busybox"]
            .iter()
            .find(|p| Path::new(p).exists())
            .context(missing)?;
        let binary = std::fs::read(path).with_context(|| (*path).to_owned())?;
        let applets = Command::new(path)
            .arg("--list")
            .output()
            .with_context(|| format!("{path} --list"))?;
        self.file("/bin/busybox", 0o755, &binary)?;
        for applet in String::from_utf8(applets.stdout)?
            .lines()
            .filter(|a| !a.is_empty() && *a != "busybox")
        {
            self.symlink(Path::new("/bin").join(applet), "busybox")?;
        }
        self.accounts()
    }

    /// `/etc/passwd` and `/etc/group` with root, www-data, redis and nobody; an open `/tmp`; a `/root`.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn accounts(&mut self) -> Result<&mut Self> {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n\
                      redis:x:101:101:redis:/var/lib/redis:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n";
        let group = "root:x:0:\nwww-data:x:33:\nredis:x:101:\nnogroup:x:65534:\n";
        self.file("/etc/passwd", 0o644, passwd.as_bytes())?
            .file("/etc/group", 0o644, group.as_bytes())?;
        self.dir("/tmp", 0o1777)?.dir("/root", 0o700)
    }

    /// Compresses what was collected.
    ///
    /// # Errors
    /// If the archive cannot be finished.
    pub fn finish(self) -> Result<Layer> {
        let archive = self.tar.into_inner()?;
        let diff_id = format!("sha256:{}", hex::encode(Sha256::digest(&archive)));
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&archive)?;
        Ok(Layer {
            blob: gzip.finish()?,
            diff_id,
        })
    }

    fn append(&mut self, path: &Path, mut header: Header, data: &[u8]) -> Result<&mut Self> {
        let relative = path
            .strip_prefix("/")
            .with_context(|| format!("{}: not absolute", path.display()))?
            .to_owned();
        if relative.as_os_str().is_empty() || self.seen.contains(&relative) {
            return Ok(self);
        }
        if let Some(parent) = path.parent().filter(|p| *p != Path::new("/")) {
            self.dir(parent, 0o755)?;
        }
        // Directories and links have one, too: a blank field is no number.
        header.set_size(data.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        // A link's target is in the header already; append_data sets the name and the checksum.
        self.tar
            .append_data(&mut header, &relative, data.take(data.len() as u64))?;
        self.seen.insert(relative);
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn adds_parents_once_and_keeps_the_first_entry_of_a_path() {
        let mut layer = LayerBuilder::new();
        layer
            .file("/a/b/c", 0o600, b"one")
            .unwrap()
            .file("/a/b/c", 0o644, b"two")
            .unwrap()
            .symlink("/a/l", "b/c")
            .unwrap();
        let layer = layer.finish().unwrap();
        let mut archive = tar::Archive::new(GzDecoder::new(layer.blob.as_slice()));
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|e| {
                let e = e.unwrap();
                format!("{} {:o}", e.path().unwrap().display(), e.header().mode().unwrap())
            })
            .collect();
        assert_eq!(names, ["a 755", "a/b 755", "a/b/c 600", "a/l 777"]);
    }
}
