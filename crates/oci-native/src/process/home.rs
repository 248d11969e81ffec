//! `HOME`, if the environment lacks it: from the container's own `/etc/passwd`, which is hostile.

use std::{fs::File, io::Read as _, path::Path};

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// The longest passwd that is read, in bytes.
const MAX_PASSWD_SIZE: u64 = 4 << 20;

/// Adds `HOME` as runc and crun do: the user's directory, or the root. `root` is the container's.
pub(crate) fn add(environment: &mut Vec<String>, uid: u32, root: &Path) {
    if environment
        .iter()
        .any(|v| v.strip_prefix("HOME=").is_some_and(|home| !home.is_empty()))
    {
        return;
    }
    let passwd = read_passwd(root).unwrap_or_default();
    let home = home_in(&passwd, uid).filter(|h| !h.is_empty()).unwrap_or("/");
    environment.push(format!("HOME={home}"));
}

/// A regular file below the container's root, up to a bound.
fn read_passwd(root: &Path) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let file: File = rustix::fs::openat2(root, "etc/passwd", flags, Mode::empty(), resolve)
        .ok()?
        .into();
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(MAX_PASSWD_SIZE).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// `name:x:uid:gid:gecos:home:…` of passwd(5).
fn home_in(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        (fields.next()?.parse() == Ok(uid)).then_some(())?;
        fields.nth(2)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_users_home() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34::/var/www:/bin/false\nbad:x:a:b::/:\n";
        assert_eq!(home_in(passwd, 33), Some("/var/www"));
        assert_eq!(home_in(passwd, 0), Some("/root"));
        assert_eq!(home_in(passwd, 7), None);
    }

    #[test]
    fn a_home_that_is_given_stays() {
        let mut environment = vec!["A=1".to_owned(), "HOME=/h".to_owned()];
        add(&mut environment, 0, Path::new("/"));
        assert_eq!(environment, ["A=1", "HOME=/h"]);
    }
}
