//! From a container to this host.
//!
//! The container chooses every byte of the archive. [`ReceivedTree`] unpacks it beside its place,
//! and moves it there when all has come and `tar` has ended well.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use magik_image::{Limits, ReceivedTree, Wanted};
use magik_pri::ExecSession;

use super::{
    misused, pipe,
    place::{InPod, Split},
    session::{Remote, interruptible},
};
use crate::output;

/// The program that writes the archive.
async fn tar(remote: &Remote<'_>, split: &Split<'_>) -> Result<ExecSession> {
    // Behind "./" no name is an option.
    let name = format!("./{}", split.name.unwrap_or_default());
    let args = ["tar", "-c", "-f", "-", "-C", split.dir, &name];
    remote.start(&args, false).await
}

/// Writes the archive as it comes.
pub(super) async fn to_stdout(remote: &Remote<'_>, from: &InPod) -> Result<u64> {
    if io::IsTerminal::is_terminal(&io::stdout()) {
        return Err(misused(
            "standard output is a terminal: write '> FILE' or '| tar -t'",
        ));
    }
    let copy = async {
        let mut session = tar(remote, &from.split()).await?;
        let write = async |data: Vec<u8>| output::write(&data).map(|()| true);
        let ended = remote.follow(&mut session.output, write).await?;
        ended.map_or(Ok(()), |ended| remote.check("tar", &ended))
    };
    interruptible(copy).await.map(|()| 0)
}

pub(super) async fn to_host(remote: &Remote<'_>, from: &InPod, to: &Path, limits: Limits) -> Result<u64> {
    let split = from.split();
    let target = Target::find(to, split.name)?;
    let (sender, reader) = pipe::to_thread();
    let (beside, name) = (target.beside.clone(), split.name.map(OsString::from));
    let receiving = tokio::task::spawn_blocking(move || {
        let wanted = name.as_deref().map_or(Wanted::Contents, Wanted::Name);
        ReceivedTree::receive(reader, &beside, wanted, &limits)
    });
    let copy = async {
        let mut session = tar(remote, &split).await?;
        // What has enough says why itself.
        let pass = async |data: Vec<u8>| Ok(sender.send(data).await.is_ok());
        remote.follow(&mut session.output, pass).await
    };
    let ended = interruptible(copy).await;
    drop(sender);
    // In any case: what is on its way is removed there.
    let received = receiving.await.context("pod cp")?;
    if let Some(ended) = ended? {
        remote.check("tar", &ended)?;
    }
    let tree = received.with_context(|| remote.shown())?;
    let skipped = tree.skipped();
    target.take(tree).with_context(|| from.to_string())?;
    Ok(skipped)
}

/// Where a copy goes.
#[derive(Debug)]
struct Target {
    /// The directory in which it is unpacked.
    beside: PathBuf,
    /// What it will be called there; absent: its contents go into the directory.
    name: Option<OsString>,
    /// Only a directory can be meant.
    must_be_directory: bool,
    /// A directory that has to be made for the contents.
    new: Option<PathBuf>,
}

impl Target {
    /// docker's rules: into a directory that exists, else as a new name.
    fn find(to: &Path, name: Option<&str>) -> Result<Self> {
        let shown = || to.display().to_string();
        let found = match fs::metadata(to) {
            Ok(found) => Some(found),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e).with_context(shown),
        };
        let target = |beside: &Path, name: Option<&OsStr>| Self {
            beside: beside.to_owned(),
            name: name.map(OsStr::to_owned),
            must_be_directory: to.as_os_str().as_bytes().ends_with(b"/"),
            new: None,
        };
        let Some(found) = found else {
            if fs::symlink_metadata(to).is_ok() {
                bail!("{}: is a link that leads nowhere", to.display());
            }
            let Some(new) = to.file_name() else {
                bail!("{}: No such directory", to.display());
            };
            let beside = to.parent().filter(|parent| !parent.as_os_str().is_empty());
            let beside = beside.unwrap_or(Path::new("."));
            if !beside.is_dir() {
                bail!("{}: No such directory: make it first", beside.display());
            }
            return Ok(match name {
                Some(_) => target(beside, Some(new)),
                None => Self {
                    new: Some(to.to_owned()),
                    ..target(beside, None)
                },
            });
        };
        if found.is_dir() {
            return Ok(Self {
                must_be_directory: false,
                ..target(to, name.map(OsStr::new))
            });
        }
        if !found.is_file() {
            bail!(
                "{}: is neither a file nor a directory: '-' writes an archive to standard output",
                to.display()
            );
        }
        // A link that the caller names is followed: what it leads to is replaced, not the link.
        let real = fs::canonicalize(to).with_context(shown)?;
        match (name, real.parent(), real.file_name()) {
            (Some(_), Some(parent), Some(file)) => Ok(target(parent, Some(file))),
            _ => bail!("{}: is no directory, and what is copied is one", to.display()),
        }
    }

    fn take(self, tree: ReceivedTree) -> Result<()> {
        match tree.is_directory()? {
            None => bail!("tar sent nothing of that name"),
            Some(false) if self.must_be_directory => {
                let name = self.name.unwrap_or_default();
                let path = self.beside.join(name);
                return Err(anyhow!("{}/: No such directory: make it first", path.display()));
            }
            Some(_) => {}
        }
        let Some(new) = self.new else {
            return Ok(tree.place(&self.beside, self.name.as_deref())?);
        };
        fs::create_dir(&new).with_context(|| new.display().to_string())?;
        Ok(tree.place(&new, None)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_target_is_a_directory_that_exists_or_a_new_name() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        fs::create_dir(dir.join("is")).unwrap();
        fs::write(dir.join("file"), "").unwrap();
        symlink("file", dir.join("link")).unwrap();
        symlink("nowhere", dir.join("dangling")).unwrap();
        let find = |to: &str, name| Target::find(&dir.join(to), name);
        let at = |to: &str, name| {
            let target = find(to, name).unwrap();
            (target.beside, target.name)
        };
        assert_eq!(at("is", Some("hosts")), (dir.join("is"), Some("hosts".into())));
        assert_eq!(at("is/.", None), (dir.join("is/."), None));
        assert_eq!(at("new", Some("hosts")), (dir.clone(), Some("new".into())));
        assert_eq!(at("link", Some("hosts")), (dir.clone(), Some("file".into())));
        assert_eq!(find("new", None).unwrap().new, Some(dir.join("new")));
        assert!(find("new/", Some("hosts")).unwrap().must_be_directory);
        for (to, name, says) in [
            ("no/such", Some("x"), "make it first"),
            ("dangling", Some("x"), "leads nowhere"),
            ("file", None, "is no directory"),
            ("/dev/null", Some("x"), "neither a file nor a directory"),
            ("/dev/null", None, "neither a file nor a directory"),
        ] {
            let error = find(to, name).unwrap_err().to_string();
            assert!(error.contains(says), "{to}: {error}");
        }
    }
}
