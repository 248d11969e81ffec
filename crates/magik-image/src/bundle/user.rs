//! Users and groups of an image, resolved as docker does.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{BundleError, merged};
use crate::bounded;

/// The largest `/etc/passwd` or `/etc/group` that is read, in bytes.
pub const MAX_USER_FILE_SIZE: u64 = 1024 * 1024;

/// The largest id: some programs read ids as signed (moby's `user` package has the same bound).
const MAX_ID: u32 = i32::MAX as u32;

/// The most groups a process can have (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;
/// How much of a name of the image's goes into a message, in characters.
const SHOWN: usize = 64;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// A user as the kernel knows it, and its home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The supplementary groups: the primary one (without it a process could shed group permissions
    /// that deny it something, CVE-2022-2995) and those that `/etc/group` lists the user in.
    pub additional_gids: Vec<u32>,
    /// The home directory; `/` where the image does not say.
    pub home: String,
}

/// Resolves `USER[:GROUP]`, each a number or a name, by the image's files.
///
/// `layers` are unpacked layers, uppermost first, or one flat root. Numbers need no entry in the
/// files; an empty user is root. As in docker a number is never a name. The default group is the
/// user's own, and 0 for an unknown number.
///
/// # Errors
/// [`BundleError::UnknownUser`], or [`BundleError::ImageFile`] if a file cannot be read.
pub fn resolve_user(layers: &[PathBuf], user: &str) -> Result<User, BundleError> {
    let (user, group) = user.split_once(':').unwrap_or((user, ""));
    let user = if user.is_empty() { "0" } else { user };
    let uid = number("user", user)?;
    let passwd = read(layers, PASSWD)?;
    let entry = passwd
        .lines()
        .filter_map(PasswdEntry::parse)
        .find(|entry| match uid {
            Some(uid) => entry.uid == uid,
            None => entry.name == user,
        });
    let unknown = |kind, name: &str, file| BundleError::UnknownUser {
        kind,
        name: shown(name),
        file,
    };
    let uid = match (uid, &entry) {
        (Some(uid), _) => uid,
        (None, Some(entry)) => entry.uid,
        (None, None) => return Err(unknown("user", user, PASSWD)),
    };

    let groups = read(layers, GROUP)?;
    let groups = || groups.lines().filter_map(GroupEntry::parse);
    let gid = match (group, number("group", group)?) {
        ("", _) => entry.as_ref().map_or(0, |entry| entry.gid),
        (_, Some(gid)) => gid,
        (name, None) => {
            groups()
                .find(|g| g.name == name)
                .ok_or_else(|| unknown("group", name, GROUP))?
                .gid
        }
    };
    let mut additional_gids = vec![gid];
    if let Some(entry) = &entry {
        additional_gids.extend(
            groups()
                .filter(|g| g.members.split(',').any(|m| m == entry.name))
                .map(|g| g.gid),
        );
    }
    let mut seen = std::collections::HashSet::new();
    additional_gids.retain(|gid| seen.insert(*gid));
    if additional_gids.len() > MAX_GROUPS {
        return Err(BundleError::ImageFile {
            file: GROUP,
            reason: format!("the user is in more than {MAX_GROUPS} groups"),
        });
    }
    let home = entry
        .map(|entry| entry.home)
        .filter(|home| home.starts_with('/') && !home.contains('\0'))
        .unwrap_or("/")
        .to_owned();
    Ok(User {
        uid,
        gid,
        additional_gids,
        home,
    })
}

/// `Some` if the text is all digits: then it is an id and has to be in range.
fn number(kind: &str, text: &str) -> Result<Option<u32>, BundleError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= MAX_ID => Ok(Some(id)),
        _ => Err(BundleError::field(
            kind,
            format!("{} is more than the largest id, {MAX_ID}", shown(text)),
        )),
    }
}

/// The beginning of a text of the image's.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// A line `name:password:uid:gid:gecos:home:shell` of passwd(5).
struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> PasswdEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (id(fields.next()?)?, id(fields.next()?)?);
        let home = fields.nth(1).unwrap_or_default();
        (!name.is_empty()).then_some(Self { name, uid, gid, home })
    }
}

/// A line `name:password:gid:member,member` of group(5).
struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> GroupEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _password, gid) = (fields.next()?, fields.next()?, id(fields.next()?)?);
        (!name.is_empty()).then_some(Self {
            name,
            gid,
            members: fields.next().unwrap_or_default(),
        })
    }
}

fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id <= MAX_ID)
}

/// The file's text; empty if the image has none, as many minimal images do not.
fn read(layers: &[PathBuf], file: &'static str) -> Result<String, BundleError> {
    let bad = |reason: String| BundleError::ImageFile { file, reason };
    let opened = match merged::open(layers, Path::new(file)) {
        Ok(opened) => opened,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(bad(e.to_string())),
    };
    let bytes = bounded::read(opened, MAX_USER_FILE_SIZE).map_err(|e| bad(e.to_string()))?;
    // Comments may be in any encoding; names that matter are ASCII.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rootfs(passwd: &str, group: &str) -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(dir.path().join("etc/group"), group).unwrap();
        let layers = vec![dir.path().to_owned()];
        (dir, layers)
    }

    fn user(uid: u32, additional_gids: &[u32], home: &str) -> User {
        User {
            uid,
            gid: additional_gids[0],
            additional_gids: additional_gids.to_vec(),
            home: home.into(),
        }
    }

    #[track_caller]
    fn assert_refused(layers: &[PathBuf], user: &str, part: &str) {
        let message = resolve_user(layers, user).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# broken\nredis:x:101:102::/var/lib/redis:/bin/false\n123:x:7:7::/seven:\n";
    const GROUP: &str = "root:x:0:\nredis:x:102:\nssl:x:110:www,redis\ntty:x:5:redis\nredis2:x:102:redis\n";

    #[test]
    fn names_are_looked_up_with_their_groups_and_home() {
        let (_dir, layers) = rootfs(PASSWD, GROUP);
        let redis = user(101, &[102, 110, 5], "/var/lib/redis");
        assert_eq!(resolve_user(&layers, "redis").unwrap(), redis);
        assert_eq!(resolve_user(&layers, "redis:ssl").unwrap().gid, 110);
        assert_eq!(resolve_user(&layers, "redis:77").unwrap().gid, 77);
    }

    #[test]
    fn numbers_are_ids_and_need_no_entry() {
        let (_dir, layers) = rootfs(PASSWD, GROUP);
        assert_eq!(resolve_user(&layers, "101").unwrap().gid, 102);
        assert_eq!(resolve_user(&layers, "123").unwrap(), user(123, &[0], "/"));
        assert_eq!(resolve_user(&[], "5:6").unwrap(), user(5, &[6], "/"));
        assert_eq!(resolve_user(&layers, "").unwrap().home, "/root");
    }

    #[test]
    fn unknown_names_and_ids_out_of_range_are_errors_that_name_them() {
        let (_dir, layers) = rootfs(PASSWD, GROUP);
        for (user, part) in [
            ("nobody", "\"nobody\" is not in the image's /etc/passwd"),
            ("root:wheel", "\"wheel\" is not in the image's /etc/group"),
            ("4294967295", "largest id"),
            ("-1", "\"-1\" is not in"),
        ] {
            assert_refused(&layers, user, part);
        }
        assert!(resolve_user(&[], "redis").is_err());
        assert_eq!(resolve_user(&[], "2147483647").unwrap().uid, MAX_ID);
    }

    #[test]
    fn ids_that_would_wrap_to_root_are_refused() {
        let wrapping = "a:x:4294967296:0::/:\nb:x:-1:0::/:\nc:x:4294967295:0::/:\nd:x:18446744073709551616:0::/:\n\
                        e:x:1000:4294967296::/:\n";
        let (_dir, layers) = rootfs(wrapping, "g:x:4294967296:\n");
        let enormous = "9".repeat(1 << 20);
        for user in [
            "4294967296",
            "4294967295",
            "2147483648",
            "18446744073709551616",
            "1000:4294967296",
            &enormous,
            // Entries with such numbers are ignored.
            "a",
            "b",
            "c",
            "d",
            "e",
            "1000:g",
            // Neither are these numbers.
            "+0",
            "-0",
            " 0",
            "0x0",
            "\u{660}",
        ] {
            let message = resolve_user(&layers, user).unwrap_err().to_string();
            assert!(message.len() < 300, "{} bytes: {user:.20}", message.len());
        }
    }

    #[test]
    fn files_made_to_exhaust_are_read_to_their_bound() {
        // One line that does not end, and as many groups as fit.
        let (_dir, layers) = rootfs(&"x".repeat(1 << 20), "");
        assert!(resolve_user(&layers, "x").is_err());
        let line = |n: u32| format!("g:x:{n}:r\n");
        let groups: String = (0..80_000).map(line).collect();
        assert!(groups.len() as u64 <= MAX_USER_FILE_SIZE);
        let (_dir, layers) = rootfs("r:x:1:1::/\0:\n", &groups);
        assert_refused(&layers, "r", "more than 65536 groups");
        let (_dir, layers) = rootfs("r:x:1:1::/\0:\n", "");
        assert_eq!(resolve_user(&layers, "r").unwrap().home, "/");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_no_file_is_neither_waited_for_nor_read() {
        let (dir, layers) = rootfs("", "");
        let etc = dir.path().join("etc");
        std::fs::remove_file(etc.join("passwd")).unwrap();
        let make = |path: &str, kind, device| {
            rustix::fs::mknodat(rustix::fs::CWD, dir.path().join(path), kind, 0o600.into(), device)
        };
        make("etc/passwd", rustix::fs::FileType::Fifo, 0).unwrap();
        assert_refused(&layers, "0", "neither a file nor a directory");
        std::fs::remove_file(etc.join("passwd")).unwrap();
        // Links to what has no end, inside of the image, do not leave it; without root there is no
        // device to try.
        std::os::unix::fs::symlink("/dev/zero", etc.join("passwd")).unwrap();
        assert!(resolve_user(&layers, "0").is_ok(), "the image has no /dev/zero");
        std::fs::create_dir(dir.path().join("dev")).unwrap();
        let (kind, zero) = (rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 5));
        if make("dev/zero", kind, zero).is_ok() {
            assert_refused(&layers, "0", "neither a file nor a directory");
        }
    }

    #[test]
    fn a_file_at_the_bound_is_read_and_one_past_it_refused() {
        let bound = usize::try_from(MAX_USER_FILE_SIZE).unwrap();
        let (_dir, layers) = rootfs(&"#".repeat(bound), "");
        assert!(resolve_user(&layers, "0").is_ok());
        let (_dir, layers) = rootfs(&"#".repeat(bound + 1), "");
        assert_refused(&layers, "0", "larger than");
    }
}
