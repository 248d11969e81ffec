//! The file that a container writes about its end, and what is read of it.
//!
//! The container owns what the file holds, and in [`MessageFile::InRoot`] also what is found at its
//! path: it is looked up below the root by the kernel, must be a regular file, and is read in part.

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Component, Path},
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, fchmod, mkdirat, open, openat, openat2, unlinkat},
    io::Errno,
    mount::{MountFlags, mount},
};

use crate::plan::{MESSAGE_NAME, MessageFile, MessagePlan};

/// The size of the file system that the file lies on, in bytes, as mount(8) has it. It counts as
/// the container's memory.
const OPTIONS: &std::ffi::CStr = c"mode=0700,size=1m";
/// As the kubelet makes it: every user of the container may write.
const MODE: u32 = 0o666;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// Mounts what the file lies on, if that is a file system of its own.
pub(super) fn mount_for(plan: &MessagePlan) -> io::Result<()> {
    if let MessageFile::Mounted { dir } = &plan.file {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("message", dir, "tmpfs", flags, Some(OPTIONS))?;
    }
    Ok(())
}

/// Undoes [`mount_for`].
pub(super) fn unmount(plan: &MessagePlan) {
    if let MessageFile::Mounted { dir } = &plan.file {
        let _ = rustix::mount::unmount(dir, rustix::mount::UnmountFlags::DETACH);
    }
}

/// A run begins: there is an empty file, which no earlier run has open.
pub(super) fn begin(plan: &MessagePlan) -> io::Result<()> {
    let place = match &plan.file {
        MessageFile::Mounted { dir } => open(dir, DIRECTORY, Mode::empty())?,
        MessageFile::InRoot { root, path } => make_parents(root, path)?,
        MessageFile::Nowhere => return Ok(()),
    };
    let name = name(&plan.file);
    match unlinkat(&place, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&place, name, flags, Mode::from_raw_mode(MODE))?;
    // Whatever the umask is. Those that have it in their root have no users.
    if let MessageFile::Mounted { .. } = plan.file {
        fchmod(&file, Mode::from_raw_mode(MODE))?;
    }
    Ok(())
}

/// The end of what the container has written to its file, at most so many bytes.
pub(super) fn read(file: &MessageFile, most: usize) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = match file {
        MessageFile::Mounted { dir } => {
            let dir = open(dir, DIRECTORY, Mode::empty())?;
            openat(&dir, name(file), flags, Mode::empty())?
        }
        MessageFile::InRoot { root, path } => {
            let root = open(root, DIRECTORY, Mode::empty())?;
            openat2(&root, path, flags, Mode::empty(), IN_ROOT)?
        }
        MessageFile::Nowhere => return Ok(Vec::new()),
    };
    let opened = File::from(opened);
    let metadata = opened.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("is no regular file"));
    }
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    let from = metadata.len().saturating_sub(most);
    let mut bytes = vec![0; usize::try_from(metadata.len() - from).unwrap_or_default()];
    let mut length = 0;
    // It may be shorter by now.
    while length < bytes.len() {
        match opened.read_at(&mut bytes[length..], from + length as u64)? {
            0 => break,
            n => length += n,
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

fn name(file: &MessageFile) -> &Path {
    let name = match file {
        MessageFile::Mounted { .. } | MessageFile::Nowhere => None,
        MessageFile::InRoot { path, .. } => path.file_name(),
    };
    name.map_or(Path::new(MESSAGE_NAME), Path::new)
}

/// Makes the directories above a file in a root, as far as they are missing; returns the last.
fn make_parents(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    let root = openat(CWD, root, DIRECTORY, Mode::empty())?;
    let mut so_far = std::path::PathBuf::from("/");
    let mut dir = openat2(&root, &so_far, DIRECTORY, Mode::empty(), IN_ROOT)?;
    let names = path.parent().unwrap_or(Path::new("/")).components();
    for name in names.filter(|component| matches!(component, Component::Normal(_))) {
        match mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        so_far.push(name);
        // Also through a link, which leads nowhere but into the root.
        dir = openat2(&root, &so_far, DIRECTORY, Mode::empty(), IN_ROOT)?;
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn in_root(root: &Path, path: &str) -> MessagePlan {
        MessagePlan {
            file: MessageFile::InRoot {
                root: root.to_owned(),
                path: path.into(),
            },
            from_log: false,
        }
    }

    #[test]
    fn a_file_is_made_anew_and_its_end_is_read() {
        let root = tempfile::tempdir().unwrap();
        let plan = in_root(root.path(), "/dev/deep/message");
        let file = root.path().join("dev/deep/message");
        for _ in 0..2 {
            begin(&plan).unwrap();
            assert_eq!(read(&plan.file, 10).unwrap(), b"");
            fs::write(&file, "0123456789abc").unwrap();
            assert_eq!(read(&plan.file, 10).unwrap(), b"3456789abc");
        }
    }

    #[test]
    fn what_a_container_puts_in_its_place_leads_nowhere() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(outer.path().join("secret"), "secret").unwrap();
        for target in [
            "../secret",
            outer.path().join("secret").to_str().unwrap(),
            "/proc/1/environ",
        ] {
            let plan = in_root(&root, "/message");
            begin(&plan).unwrap();
            fs::remove_file(root.join("message")).unwrap();
            symlink(target, root.join("message")).unwrap();
            assert!(read(&plan.file, 10).is_err(), "{target}");
            begin(&plan).unwrap();
            assert_eq!(read(&plan.file, 10).unwrap(), b"");
        }
        symlink("..", root.join("up")).unwrap();
        begin(&in_root(&root, "/up/message")).unwrap();
        assert!(!outer.path().join("message").exists());
        let plan = in_root(&root, "/fifo");
        begin(&plan).unwrap();
        fs::remove_file(root.join("fifo")).unwrap();
        rustix::fs::mknodat(CWD, root.join("fifo"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        let error = read(&plan.file, 10).unwrap_err();
        assert_eq!(error.to_string(), "is no regular file");
        fs::remove_file(root.join("fifo")).unwrap();
        fs::create_dir(root.join("fifo")).unwrap();
        assert!(read(&plan.file, 10).is_err());
        assert!(begin(&plan).is_err(), "a directory is not removed");
    }
}
