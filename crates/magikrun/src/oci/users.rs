//! User and group names of a container, read from its own files.
//!
//! The files are the container's and so hostile: they are opened below its root by the kernel (`RESOLVE_IN_ROOT`),
//! must be regular files, and are read up to a bound.

use std::{fs::File, io::Read as _, os::fd::OwnedFd, path::Path};

use anyhow::{Context as _, Result, bail};
use oci_spec::runtime::User;
use rustix::fs::{Mode, OFlags, ResolveFlags};

/// The longest passwd or group file that is read.
const MAX_FILE_SIZE: u64 = 4 << 20;

/// Applies `USER[:GROUP]` to `user`, with names looked up below the container's root.
pub(super) fn apply(user: &mut User, text: &str, root: Option<&Path>) -> Result<()> {
    let (name, group) = match text.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (text, None),
    };
    let numeric = name.parse::<u32>().is_ok() && group.is_none_or(|g| g.parse::<u32>().is_ok());
    let files = match (numeric, root) {
        (true, _) | (_, None) => None,
        (false, Some(root)) => Some(open(root)?),
    };
    let read = |path: &str| {
        files
            .as_ref()
            .map_or_else(|| Ok(String::new()), |root| read_below(root, path))
    };

    let (uid, primary) = match name.parse() {
        Ok(uid) => (uid, None),
        Err(_) => {
            let (uid, gid) = passwd_entry(&read("etc/passwd")?, name).with_context(|| {
                format!("--user {text}: the container's /etc/passwd has no user {name:?}")
            })?;
            (uid, Some((gid, group_memberships(&read("etc/group")?, name))))
        }
    };
    let gid = match group {
        None => None,
        Some(group) => Some(match group.parse() {
            Ok(gid) => gid,
            Err(_) => group_entry(&read("etc/group")?, group).with_context(|| {
                format!("--user {text}: the container's /etc/group has no group {group:?}")
            })?,
        }),
    };
    user.set_uid(uid);
    if let Some((primary, memberships)) = primary {
        user.set_gid(primary).set_additional_gids(Some(memberships));
    }
    if let Some(gid) = gid {
        user.set_gid(gid);
    }
    Ok(())
}

fn open(root: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(root, flags, Mode::empty()).with_context(|| root.display().to_string())
}

fn read_below(root: &OwnedFd, path: &str) -> Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let fd = match rustix::fs::openat2(
        root,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    ) {
        Ok(fd) => fd,
        // A container without the file has no names.
        Err(rustix::io::Errno::NOENT) => return Ok(String::new()),
        Err(e) => return Err(e).with_context(|| format!("the container's /{path}")),
    };
    let file = File::from(fd);
    if !file.metadata()?.is_file() {
        bail!("the container's /{path} is no regular file");
    }
    let mut text = Vec::new();
    file.take(MAX_FILE_SIZE)
        .read_to_end(&mut text)
        .with_context(|| format!("the container's /{path}"))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// `name:x:uid:gid:…` of passwd(5).
fn passwd_entry(passwd: &str, name: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

/// `name:x:gid:…` of group(5).
fn group_entry(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        fields.nth(1)?.parse().ok()
    })
}

/// The groups that list `user` as a member.
fn group_memberships(groups: &str, user: &str) -> Vec<u32> {
    let member = |line: &str| {
        let mut fields = line.split(':').skip(2);
        let gid = fields.next()?.parse().ok()?;
        fields.next()?.split(',').any(|m| m == user).then_some(gid)
    };
    groups.lines().filter_map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34::/var/www:/bin/false\nbad:x:a:b::/:\n";
    const GROUP: &str = "root:x:0:\nadm:x:4:web,other\nwww:x:34:\naudio:x:29:other,web\nbroken:x\n";

    #[test]
    fn finds_users_groups_and_memberships() {
        assert_eq!(passwd_entry(PASSWD, "web"), Some((33, 34)));
        assert_eq!(passwd_entry(PASSWD, "bad"), None);
        assert_eq!(passwd_entry(PASSWD, "we"), None);
        assert_eq!(group_entry(GROUP, "audio"), Some(29));
        assert_eq!(group_memberships(GROUP, "web"), [4, 29]);
    }

    #[test]
    fn numbers_need_no_files() {
        let mut user = User::default();
        apply(&mut user, "1000:50", None).unwrap();
        assert_eq!((user.uid(), user.gid()), (1000, 50));
        apply(&mut user, "7", None).unwrap();
        assert_eq!((user.uid(), user.gid()), (7, 50));
        let error = apply(&mut user, "nobody", None).unwrap_err();
        assert!(
            error.to_string().contains("/etc/passwd has no user \"nobody\""),
            "{error}"
        );
    }

    #[test]
    fn names_are_read_below_the_containers_root_whatever_it_links_to() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        // An absolute link ends inside the container's root, where there is no such file.
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("etc/passwd")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("etc/group"), Mode::from(0o600)).unwrap();
        let root = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        assert_eq!(read_below(&root, "etc/passwd").unwrap(), "");
        assert!(
            read_below(&root, "etc/group")
                .unwrap_err()
                .to_string()
                .contains("no regular file")
        );
    }
}
