//! Parameters of the kernel (sysctl(8)), as files below `/proc/sys`.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::mount::look_at_dir;

/// Sets one, by its path below `/proc/sys`: `net/ipv4/tcp_syncookies`. Those of a namespace are that of
/// the caller. No link leads elsewhere (CVE-2025-52881).
///
/// # Errors
/// There is none of that name, it may not be set, or not to that.
pub fn set(path: &str, value: &str) -> io::Result<()> {
    let root = look_at_dir(Path::new("/proc/sys"))?;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = openat2(&root, path, flags, Mode::empty(), resolve)?;
    fs::File::from(file).write_all(value.as_bytes())
}

/// The path below `/proc/sys` of a name with dots between its parts, which hold slashes for dots, as
/// sysctl(8) reads it.
#[must_use]
pub fn path(name: &str) -> String {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(swap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_and_lead_nowhere_else() {
        assert_eq!(
            path("net.ipv4.conf.eth0/1.forwarding"),
            "net/ipv4/conf/eth0.1/forwarding"
        );
        for bad in ["../version", "/proc/version", "", "no/such"] {
            assert!(set(bad, "1").is_err(), "{bad}");
        }
    }
}
