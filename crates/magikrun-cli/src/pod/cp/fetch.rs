//! From a container to this host.
//!
//! The container chooses every byte of the archive. [`ReceivedTree`] unpacks it beside its place,
//! and moves it there when all has come and `tar` has ended well.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use magik_image::{Limits, ReceivedTree, Wanted};
use magik_pri::ExecSession;
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fstat, open, openat},
    io::Errno,
};

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
    let beside = target.beside.try_clone().context("pod cp")?;
    let (shown, name) = (target.shown.clone(), split.name.map(OsString::from));
    let receiving = tokio::task::spawn_blocking(move || {
        let wanted = name.as_deref().map_or(Wanted::Contents, Wanted::Name);
        ReceivedTree::receive(reader, beside, &shown, wanted, &limits)
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

/// Where a copy goes. It is opened here, once: names may mean something else later.
#[derive(Debug)]
struct Target {
    /// The directory in which it is unpacked.
    beside: OwnedFd,
    /// What messages call it.
    shown: PathBuf,
    /// What it will be called there; absent: its contents go into the directory.
    name: Option<OsString>,
    /// Only a directory can be meant.
    must_be_directory: bool,
    /// The contents become a directory of that name.
    new: bool,
}

impl Target {
    /// docker's rules: into a directory that exists, else as a new name. A link that is named is not
    /// followed: it may be one that an earlier copy has brought.
    fn find(to: &Path, name: Option<&str>) -> Result<Self> {
        let bytes = to.as_os_str().as_bytes();
        let must_be_directory = bytes.ends_with(b"/");
        let plain = match bytes.iter().rposition(|b| *b != b'/') {
            Some(last) => Path::new(OsStr::from_bytes(&bytes[..=last])),
            None => to,
        };
        let look = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match open(plain, look, Mode::empty()) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Self::of_new(plain, name, must_be_directory),
            Err(e) => return Err(io::Error::from(e)).with_context(|| to.display().to_string()),
        };
        let kind = FileType::from_raw_mode(fstat(&found).map_err(io::Error::from)?.st_mode);
        match (kind, name, plain.file_name()) {
            (FileType::Directory, ..) => Ok(Self {
                beside: directory(&found, Path::new("."), to)?,
                shown: to.to_owned(),
                name: name.map(OsString::from),
                must_be_directory: false,
                new: false,
            }),
            (FileType::Symlink, ..) => bail!("{}: is a link: name what it leads to", plain.display()),
            (FileType::RegularFile, Some(_), Some(file)) => {
                Self::in_parent(plain, file, must_be_directory, false)
            }
            (FileType::RegularFile, ..) => {
                bail!("{}: is no directory, and what is copied is one", to.display())
            }
            _ => bail!(
                "{}: is neither a file nor a directory: '-' writes an archive to standard output",
                to.display()
            ),
        }
    }

    fn of_new(to: &Path, name: Option<&str>, must_be_directory: bool) -> Result<Self> {
        let Some(new) = to.file_name() else {
            bail!("{}: No such directory", to.display());
        };
        Self::in_parent(to, new, must_be_directory, name.is_none())
    }

    fn in_parent(to: &Path, name: &OsStr, must_be_directory: bool, new: bool) -> Result<Self> {
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        Ok(Self {
            beside: directory(CWD, parent, parent)?,
            shown: parent.to_owned(),
            name: Some(name.to_owned()),
            must_be_directory,
            new,
        })
    }

    fn take(self, tree: ReceivedTree) -> Result<()> {
        match tree.is_directory()? {
            None => bail!("tar sent nothing of that name, or a link that leads out of what is copied"),
            Some(false) if self.must_be_directory => {
                let name = self.name.unwrap_or_default();
                let path = self.shown.join(name);
                return Err(anyhow!("{}/: No such directory: make it first", path.display()));
            }
            Some(_) => {}
        }
        match (self.name, self.new) {
            (Some(name), true) => tree.place_as_new(&name)?,
            (name, _) => tree.place(name.as_deref())?,
        }
        Ok(())
    }
}

/// Opens a directory.
fn directory(at: impl AsFd, path: &Path, shown: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty()).map_err(|e| match e {
        Errno::NOENT | Errno::NOTDIR => anyhow!("{}: No such directory: make it first", shown.display()),
        other => anyhow!("{}: {}", shown.display(), io::Error::from(other)),
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_target_is_a_directory_that_exists_or_a_new_name() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        fs::create_dir(dir.join("is")).unwrap();
        fs::write(dir.join("file"), "").unwrap();
        symlink("file", dir.join("link")).unwrap();
        symlink("nowhere", dir.join("dangling")).unwrap();
        symlink("is", dir.join("to-directory")).unwrap();
        let find = |to: &str, name| Target::find(&dir.join(to), name);
        let at = |to: &str, name| {
            let target = find(to, name).unwrap();
            (target.shown, target.name, target.new)
        };
        assert_eq!(
            at("is", Some("hosts")),
            (dir.join("is"), Some("hosts".into()), false)
        );
        assert_eq!(at("is/.", None), (dir.join("is/."), None, false));
        assert_eq!(at("new", Some("hosts")), (dir.clone(), Some("new".into()), false));
        assert_eq!(
            at("file", Some("hosts")),
            (dir.clone(), Some("file".into()), false)
        );
        assert_eq!(at("new", None), (dir.clone(), Some("new".into()), true));
        assert!(find("new/", Some("hosts")).unwrap().must_be_directory);
        for (to, name, says) in [
            ("no/such", Some("x"), "make it first"),
            ("dangling", Some("x"), "is a link: name what it leads to"),
            ("link", Some("x"), "is a link: name what it leads to"),
            ("to-directory", Some("x"), "is a link: name what it leads to"),
            ("to-directory/", None, "is a link: name what it leads to"),
            ("file", None, "is no directory"),
            ("/dev/null", Some("x"), "neither a file nor a directory"),
            ("/dev/null", None, "neither a file nor a directory"),
        ] {
            let error = find(to, name).unwrap_err().to_string();
            assert!(error.contains(says), "{to}: {error}");
        }
    }
}
