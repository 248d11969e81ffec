//! User and group names of a container, read from its own files.
//!
//! The files are the container's and so hostile: they are opened below its root by the kernel
//! (`RESOLVE_IN_ROOT`), must be regular files, and are read up to a bound.

use std::{fs::File, io::Read as _, os::fd::OwnedFd, path::Path};

use anyhow::{Context as _, Result, bail};
use oci_spec::runtime::User;
use rustix::fs::{Mode, OFlags, ResolveFlags};

/// The longest passwd or group file that is read.
const MAX_FILE_SIZE: u64 = 4 << 20;

/// Applies `USER[:GROUP]` to `user`, with names looked up below the container's root.
///
/// Text that looks like a number is never a name. An image could call a user `4294967296` or `-1`,
/// and must not choose its id (as in CVE-2024-40635 and CVE-2026-30892: root).
pub(super) fn apply(user: &mut User, text: &str, root: Option<&Path>) -> Result<()> {
    let (name, group) = match text.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (text, None),
    };
    let asked = |part| Asked::of(part).with_context(|| format!("--user {text:?}: use USER or USER:GROUP"));
    let (asked_user, asked_group) = (asked(name)?, group.map(asked).transpose()?);
    let names = matches!(asked_user, Asked::Name(_)) || matches!(asked_group, Some(Asked::Name(_)));
    let files = match root {
        Some(root) if names => Some(open(root)?),
        _ => None,
    };
    let read = |path: &str| {
        files
            .as_ref()
            .map_or_else(|| Ok(String::new()), |root| read_below(root, path))
    };

    let (uid, primary) = match asked_user {
        Asked::Id(uid) => (uid, None),
        Asked::Name(name) => {
            let (uid, gid) = passwd_entry(&read("etc/passwd")?, name).with_context(|| {
                format!("--user {text}: the container's /etc/passwd has no user {name:?}")
            })?;
            (uid, Some((gid, group_memberships(&read("etc/group")?, name))))
        }
    };
    let gid =
        match asked_group {
            None => None,
            Some(Asked::Id(gid)) => Some(gid),
            Some(Asked::Name(group)) => Some(group_entry(&read("etc/group")?, group).with_context(|| {
                format!("--user {text}: the container's /etc/group has no group {group:?}")
            })?),
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

/// Refuses invalid ids.
pub(super) fn check(user: &User) -> Result<()> {
    let groups = user.additional_gids().iter().flatten();
    match [user.uid(), user.gid()]
        .iter()
        .chain(groups)
        .find(|id| **id == NO_ID)
    {
        None => Ok(()),
        Some(id) => bail!("process.user: {id} is no id: the kernel takes it for \"leave it as it is\""),
    }
}

/// `(uid_t)-1`: setresuid(2) leaves the caller's id unchanged, and that is root.
const NO_ID: u32 = u32::MAX;

/// A user or group as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked<'a> {
    Id(u32),
    Name(&'a str),
}

impl<'a> Asked<'a> {
    fn of(text: &'a str) -> Result<Self> {
        if text.is_empty() {
            bail!("a name is missing");
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return id(text)
                .map(Self::Id)
                .with_context(|| format!("{text} is no id: they are 0 to {}", NO_ID - 1));
        }
        if text.starts_with(['+', '-'])
            || text.contains(|c: char| c == ':' || c.is_whitespace() || c.is_control())
        {
            bail!("{text:?} is neither an id nor a name");
        }
        Ok(Self::Name(text))
    }
}

/// A number of digits alone that the kernel takes for an id.
fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id != NO_ID)
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
        Some((id(fields.nth(1)?)?, id(fields.next()?)?))
    })
}

/// `name:x:gid:…` of group(5).
fn group_entry(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        id(fields.nth(1)?)
    })
}

/// The groups that list `user` as a member.
fn group_memberships(groups: &str, user: &str) -> Vec<u32> {
    let member = |line: &str| {
        let mut fields = line.split(':').skip(2);
        let gid = id(fields.next()?)?;
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

    /// As CVE-2024-40635 and CVE-2026-30892: an invalid id must not become root.
    #[test]
    fn what_is_no_id_is_an_error_and_nobody_changes() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        // An image that has a user for each.
        let hostile = [
            "",
            "-1",
            "-0",
            "+0",
            "+1",
            " 1",
            "1 ",
            "\t1",
            "4294967295",
            "4294967296",
            "18446744073709551616",
            "0x10",
            "1e3",
        ];
        let lines: String = hostile.iter().map(|n| format!("{n}:x:0:0:::\n")).collect();
        std::fs::write(dir.path().join("etc/passwd"), &lines).unwrap();
        std::fs::write(dir.path().join("etc/group"), &lines).unwrap();
        let mut user = User::default();
        apply(&mut user, "1000:1000", None).unwrap();
        let names = ["0x10", "1e3"];
        for text in hostile.iter().filter(|n| !names.contains(n)) {
            for asked in [
                (*text).to_owned(),
                format!("{text}:1"),
                format!("1:{text}"),
                format!("web:{text}"),
            ] {
                let error = apply(&mut user, &asked, Some(dir.path()));
                assert!(error.is_err(), "--user {asked:?}");
                assert_eq!((user.uid(), user.gid()), (1000, 1000), "--user {asked:?}");
            }
        }
        for asked in ["1:2:3", ":", "::", "1:1 ", "root\n", "a b"] {
            assert!(
                apply(&mut user, asked, Some(dir.path())).is_err(),
                "--user {asked:?}"
            );
        }
        assert_eq!((user.uid(), user.gid()), (1000, 1000));
        // A name that is no decimal number is a name, though a C library may differ.
        apply(&mut user, "0x10", Some(dir.path())).unwrap();
        assert_eq!(user.uid(), 0);
    }

    #[test]
    fn the_largest_and_the_smallest_ids_are_ids() {
        let mut user = User::default();
        for (text, uid, gid) in [
            ("0:0", 0, 0),
            ("2147483648:2147483648", 1 << 31, 1 << 31),
            ("4294967294:4294967294", NO_ID - 1, NO_ID - 1),
            ("007", 7, NO_ID - 1),
        ] {
            apply(&mut user, text, None).unwrap();
            assert_eq!((user.uid(), user.gid()), (uid, gid), "--user {text}");
        }
    }

    #[test]
    fn entries_of_a_hostile_file_that_are_no_ids_are_none() {
        for line in [
            "e:x:4294967295:0::/:",
            "e:x:-1:0::/:",
            "e:x:+0:0::/:",
            "e:x:0:4294967295::/:",
            "e:x: 0:0::/:",
            "e:x::0::/:",
        ] {
            assert_eq!(passwd_entry(line, "e"), None, "{line}");
        }
        for line in ["e:x:4294967295:", "e:x:-1:", "e:x:+0:", "e:x::"] {
            assert_eq!(group_entry(line, "e"), None, "{line}");
        }
        assert_eq!(group_memberships("a:x:4294967295:e\nb:x:5:e\n", "e"), [5]);
    }

    #[test]
    fn no_id_is_refused_wherever_it_stands() {
        for (uid, gid, more) in [(NO_ID, 0, None), (0, NO_ID, None), (0, 0, Some(vec![1, NO_ID]))] {
            let mut user = User::default();
            user.set_uid(uid).set_gid(gid).set_additional_gids(more);
            assert!(check(&user).unwrap_err().to_string().contains("process.user"));
        }
        assert!(check(&User::default()).is_ok());
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
