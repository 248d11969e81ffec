//! The files of an archive, each hashed and waiting to be published.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, Read},
    path::{Path, PathBuf},
};

use magik_cas::{Algorithm, Digest, Lease, Staged, Writer};

use crate::{
    Error, ImageStore, Result,
    limits::{MAX_ARCHIVE_ENTRIES, MAX_TAR_HEADER_SIZE},
    unpack::{Archive, ArchiveStream, MemberKind, Piece, Refusal, clean},
};

/// How many links may lead from a name to a file: podman writes one.
const MAX_LINKS: usize = 8;

/// What an archive holds. Its regular files lie in the store's `tmp`, each under its digest.
/// Nothing else of the archive is written, and dropping this removes everything.
#[derive(Debug)]
pub(super) struct Contents {
    path: PathBuf,
    files: HashMap<String, Staged>,
    links: HashMap<String, String>,
    _lease: Lease,
}

impl Contents {
    /// Reads an archive, compressed or not, in one pass.
    pub(super) fn read(store: &ImageStore, path: &Path) -> Result<Self> {
        let limits = store.limits();
        let broken = |e: io::Error| {
            Refusal::of(&e, || format!("archive {}", path.display()))
                .unwrap_or_else(|| invalid(path, format!("not a readable tar archive: {e}")))
        };
        let file = open_regular(path)?;
        let lease = store.cas().lease()?;
        let mut contents = Self {
            path: path.to_owned(),
            files: HashMap::new(),
            links: HashMap::new(),
            _lease: lease.clone(),
        };
        // An archive holds little but layers, for which the same limit is.
        let stream = ArchiveStream::new(file, Algorithm::Sha256, limits.max_rootfs_size);
        let mut archive = Archive::new(stream.map_err(broken)?, MAX_TAR_HEADER_SIZE);
        let mut count = 0;
        while let Some(member) = archive.next_member().map_err(broken)? {
            count += 1;
            if count > MAX_ARCHIVE_ENTRIES {
                let what = format!("archive {}: entries", path.display());
                return Err(Error::too_many(what, MAX_ARCHIVE_ENTRIES as u64));
            }
            let name = text_path(&member.path).map_err(|reason| invalid(path, reason))?;
            match member.kind {
                MemberKind::Symlink | MemberKind::Hardlink => {
                    let relative = member.kind == MemberKind::Symlink;
                    if let Some(target) = link_target(&name, &member.link, relative) {
                        contents.links.insert(name, target);
                    }
                }
                MemberKind::File if !name.is_empty() => {
                    let writer =
                        store
                            .cas()
                            .begin_under(&lease, algorithm_of(&name), limits.max_layer_size)?;
                    let staged = stage_member(writer, &mut archive, &name, path);
                    let staged = staged.map_err(|e| match e {
                        Error::Io { source, .. } => broken(source),
                        other => other,
                    })?;
                    contents.files.insert(name, staged);
                }
                // What else there may be means nothing here.
                _ => {}
            }
        }
        Ok(contents)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.resolve(name).is_some()
    }

    /// The file that a name means, through links.
    pub(super) fn file(&self, name: &str) -> Result<&Staged> {
        self.resolve(name)
            .and_then(|name| self.files.get(&name))
            .ok_or_else(|| invalid(&self.path, format!("it holds no file {name:?}")))
    }

    /// The whole of a small file.
    pub(super) fn small(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let file = self.file(name)?;
        if file.info().size > limit {
            return Err(Error::too_large(
                format!("file {name:?} of {}", self.path.display()),
                limit,
            ));
        }
        let mut bytes = Vec::new();
        let read = file.open()?.take(limit).read_to_end(&mut bytes);
        read.map_err(Error::io(format!("read {name:?} of {}", self.path.display())))?;
        Ok(bytes)
    }

    /// Takes the files of these digests out, in this order and each once.
    pub(super) fn take(&mut self, wanted: &[Digest]) -> Vec<Staged> {
        let mut by_digest: HashMap<Digest, Staged> = std::mem::take(&mut self.files)
            .into_values()
            .map(|file| (file.info().digest, file))
            .collect();
        wanted
            .iter()
            .filter_map(|digest| by_digest.remove(digest))
            .collect()
    }

    fn resolve(&self, name: &str) -> Option<String> {
        let mut name = name.strip_prefix("./").unwrap_or(name).to_owned();
        for _ in 0..=MAX_LINKS {
            if self.files.contains_key(&name) {
                return Some(name);
            }
            name = self.links.get(&name)?.clone();
        }
        None
    }
}

/// Writes a member's content to `writer`.
fn stage_member(
    mut writer: Writer,
    archive: &mut Archive<impl BufRead>,
    name: &str,
    path: &Path,
) -> Result<Staged> {
    let what = || format!("file {name:?} of {}", path.display());
    while let Some(piece) = archive.next_piece().map_err(Error::io(what()))? {
        let Piece::Data(bytes) = piece else {
            return Err(invalid(path, format!("its file {name:?} is sparse")));
        };
        match writer.append(bytes) {
            Err(magik_cas::Error::TooLarge { cap }) => {
                return Err(Error::too_large(what(), cap));
            }
            other => other?,
        }
    }
    Ok(writer.finish()?)
}

pub(super) fn invalid(path: &Path, reason: impl Into<String>) -> Error {
    Error::archive(path, reason.into())
}

/// Writes all of `source` to `writer`; `what` is for messages.
pub(super) fn stage(mut writer: Writer, source: impl Read, what: &str) -> Result<Staged> {
    match writer.copy_from(source) {
        Ok(_) => Ok(writer.finish()?),
        Err(magik_cas::Error::TooLarge { cap }) => Err(Error::too_large(what, cap)),
        Err(magik_cas::Error::Source(source)) => Err(Error::io(format!("read {what}"))(source)),
        Err(other) => Err(other.into()),
    }
}

/// Opens a file of a foreign name: no file that blocks, such as a pipe, and none without end.
pub(super) fn open_regular(path: &Path) -> Result<File> {
    let context = || format!("open {}", path.display());
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        rustix::fs::OFlags::NONBLOCK.bits().cast_signed(),
    );
    let file = options.open(path);
    let file = file.map_err(Error::io(context()))?;
    if file.metadata().map_err(Error::io(context()))?.is_file() {
        return Ok(file);
    }
    Err(invalid(path, "not a regular file"))
}

fn algorithm_of(name: &str) -> Algorithm {
    if name.starts_with("blobs/sha512/") {
        Algorithm::Sha512
    } else {
        Algorithm::Sha256
    }
}

fn text_path(raw: &[u8]) -> Result<String, String> {
    let clean = clean(raw)?;
    String::from_utf8(clean).map_err(|_| "a file name is not UTF-8".to_owned())
}

/// A link's target as a path from the archive's root; `None` (ignored) if it leads outside.
fn link_target(name: &str, target: &[u8], relative: bool) -> Option<String> {
    let target = std::str::from_utf8(target).ok()?;
    let mut path: Vec<&str> = Vec::new();
    if relative && !target.starts_with('/') {
        path.extend(name.split('/'));
        path.pop();
    }
    for component in target.split('/') {
        match component {
            "" | "." => {}
            ".." => drop(path.pop()?),
            _ => path.push(component),
        }
    }
    Some(path.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_relative_to_their_directory_and_stay_in_the_archive() {
        let target = |name, target: &str, relative| link_target(name, target.as_bytes(), relative);
        assert_eq!(
            target("id/layer.tar", "../abc.tar", true).as_deref(),
            Some("abc.tar")
        );
        assert_eq!(
            target("id/layer.tar", "abc.tar", true).as_deref(),
            Some("id/abc.tar")
        );
        assert_eq!(
            target("id/layer.tar", "/abc.tar", true).as_deref(),
            Some("abc.tar")
        );
        assert_eq!(
            target("id/layer.tar", "other/abc.tar", false).as_deref(),
            Some("other/abc.tar")
        );
        assert_eq!(target("id/layer.tar", "../../etc/passwd", true), None);
    }
}
