//! Which ids of the host's a pod's users have.
//!
//! Each pod that has a user namespace gets a range of its own, so that no two pods are the same user on the host. A range is
//! a symbolic link in the state root, `users/<number>`, whose target is the pod's id, made under the lock of reservations;
//! the pod's directory says which it is, so that whoever removes the pod gives it back.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use crate::limits::MAX_PODS;

/// How many ids a pod has: as many as Kubernetes gives one.
pub(crate) const SIZE: u32 = 65_536;
/// The first id of the first range, where `/etc/subuid` and `/etc/subgid` give none to [`OWNER`]: above what distributions
/// give to people, and below 2³¹, which some file systems and programs take for a sign.
const FIRST: u32 = 0x7800_0000;
/// Whose ranges of `/etc/subuid` and `/etc/subgid` are used.
const OWNER: &str = "magikrun";
/// In a pod's directory: the number of its range.
const FILE: &str = "users";

/// The ranges of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ranges {
    first: u32,
    count: u32,
}

impl Ranges {
    /// Those that the host gives us; where the two files do not agree, none can be used.
    fn of_host() -> Option<Self> {
        let read = |file: &str| parse(&fs::read_to_string(file).unwrap_or_default());
        match (read("/etc/subuid"), read("/etc/subgid")) {
            (None, None) => Some(Self {
                first: FIRST,
                count: u32::try_from(MAX_PODS).unwrap_or(u32::MAX),
            }),
            (users, groups) if users == groups => users,
            _ => None,
        }
    }
}

/// The first range of subuid(5) that has room for a pod: `name:first:count`.
fn parse(text: &str) -> Option<Ranges> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let (first, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?);
        first.checked_add(count)?;
        let count = count / SIZE;
        (owner == OWNER && count > 0 && first > 0).then_some(Ranges { first, count })
    })
}

/// Takes a range for a pod; `dir` is the pod's directory, `users` that of all ranges. Returns the host's id of its root. The
/// caller holds the lock of reservations.
pub(crate) fn take(
    users: &Path,
    id: &str,
    dir: &Path,
    exists: impl Fn(&str) -> bool,
) -> io::Result<Option<u32>> {
    let Some(ranges) = Ranges::of_host() else {
        return Ok(None);
    };
    for number in 0..ranges.count {
        let link = users.join(number.to_string());
        match fs::read_link(&link) {
            Ok(other) if exists(&other.to_string_lossy()) => continue,
            Ok(_) => fs::remove_file(&link)?,
            Err(_) => {}
        }
        // Noted before it is taken, so that whoever finds the directory knows what to give back.
        symlink(number.to_string(), dir.join(FILE))?;
        symlink(id, &link)?;
        return Ok(Some(ranges.first + number * SIZE));
    }
    Ok(None)
}

/// Gives a pod's range back, if it has one.
pub(crate) fn give_back(users: &Path, id: &str, dir: &Path) {
    let number = fs::read_link(dir.join(FILE)).ok();
    let Some(number) = number.as_deref().and_then(Path::file_name) else {
        return;
    };
    let link: PathBuf = users.join(number);
    if fs::read_link(&link).is_ok_and(|target| target == Path::new(id)) {
        let _ = fs::remove_file(link);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_taken_once_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let users = make("users");
        let (one, two, three) = (make("one"), make("two"), make("three"));
        let alive = |_: &str| true;
        let first = take(&users, "one", &one, alive).unwrap().unwrap();
        let second = take(&users, "two", &two, alive).unwrap().unwrap();
        assert_eq!(second, first + SIZE);
        give_back(&users, "one", &one);
        give_back(&users, "three", &three);
        assert_eq!(take(&users, "three", &three, alive).unwrap(), Some(first));
        // A pod that is no more has none.
        let four = make("four");
        assert_eq!(take(&users, "four", &four, |id| id != "two").unwrap(), Some(second));
    }

    #[test]
    fn ranges_are_those_of_the_files() {
        let text = "root:1:2\nmagikrun:5:100\nmagikrun:100000:196608\n";
        let ranges = Ranges {
            first: 100_000,
            count: 3,
        };
        assert_eq!(parse(text), Some(ranges));
        assert_eq!(parse("magikrun:0:65536\nmagikrun:4294967290:65536"), None);
    }
}
