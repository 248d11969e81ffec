//! The options of a mount, as mount(8) and the runtime-spec ("Linux mount options") name them.

use std::path::{Path, PathBuf};

use magik_oci::mounts;
use magik_sys::mount::{Attributes, FsOption};
use oci_spec::runtime::Mount;

/// The options of one mount.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// A bind mount; `Some(true)` includes the mounts below it.
    pub(super) bind: Option<bool>,
    /// What is mounted in place of the source: what is at this path below it.
    pub(super) sub_path: Option<PathBuf>,
    /// Changes an existing mount.
    pub(super) remount: bool,
    /// `MOUNT_ATTR_*` to set on the mount, and those to clear.
    pub(super) set: u64,
    clear: u64,
    /// The same for it and every mount below.
    set_all: u64,
    clear_all: u64,
    /// `MS_SHARED` and the like, in order; whether also of every mount below.
    pub(super) propagation: Vec<(u64, bool)>,
    /// Shows owners as the container's user namespace maps them; `Some(true)` also below.
    pub(super) map_ids: Option<bool>,
    /// Starts with what it covers.
    pub(super) copy_up: bool,
    /// The file system's own options.
    pub(super) data: Vec<FsOption>,
}

/// The bits of one field: when access times are written.
const ATIME: u64 = libc::MOUNT_ATTR__ATIME;

impl Options {
    pub(super) fn of(mount: &Mount) -> Self {
        let mut this = Self::default();
        if mount.typ().as_deref() == Some("bind") {
            this.bind = Some(false);
        }
        for option in mount.options().iter().flatten() {
            this.add(option);
        }
        this
    }

    fn add(&mut self, option: &str) {
        match option {
            "bind" => self.bind = Some(self.bind == Some(true)),
            "rbind" => self.bind = Some(true),
            "remount" => self.remount = true,
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.map_ids = Some(false),
            "ridmap" => self.map_ids = Some(true),
            // The kernel's defaults, and options without effect.
            "defaults" | "silent" | "loud" | "mand" | "nomand" | "iversion" | "noiversion" => {}
            _ => {
                if let Some(path) = mounts::sub_path(option) {
                    self.sub_path = Some(Path::to_owned(path));
                } else if let Some(propagation) = propagation(option) {
                    self.propagation.push(propagation);
                } else if let Some((set, clear)) = attribute(option) {
                    self.set = self.set & !clear | set;
                    self.clear = self.clear & !set | clear;
                } else if let Some((set, clear)) = option.strip_prefix('r').and_then(attribute) {
                    self.set_all = self.set_all & !clear | set;
                    self.clear_all = self.clear_all & !set | clear;
                } else {
                    self.data.push(match option.split_once('=') {
                        Some((name, value)) => FsOption::Value(name.to_owned(), value.to_owned()),
                        None => FsOption::Flag(option.to_owned()),
                    });
                }
            }
        }
    }

    /// The same without `rw`: a mount that is read-only on the host stays read-only.
    pub(super) fn keeping_readonly(mut self) -> Self {
        self.clear &= !libc::MOUNT_ATTR_RDONLY;
        self.clear_all &= !libc::MOUNT_ATTR_RDONLY;
        self
    }

    pub(super) fn has_data(&self, name: &str) -> bool {
        let mut data = self.data.iter();
        data.any(|option| matches!(option, FsOption::Value(given, _) if given == name))
    }

    /// The changes to be made to a mount, in order.
    pub(super) fn attributes(&self) -> impl Iterator<Item = Attributes> {
        let change = |set, clear, recursive| {
            (set | clear != 0).then_some(Attributes {
                set,
                clear: clear_with(set, clear),
                propagation: 0,
                recursive,
            })
        };
        let propagation = self
            .propagation
            .iter()
            .map(|(propagation, recursive)| Attributes::propagating(*propagation, *recursive));
        change(self.set_all, self.clear_all, true)
            .into_iter()
            .chain(change(self.set, self.clear, false))
            .chain(propagation)
    }
}

/// A field of several bits must be cleared before it is set (mount_setattr(2)).
fn clear_with(set: u64, clear: u64) -> u64 {
    if (set | clear) & ATIME == 0 {
        clear
    } else {
        clear | ATIME
    }
}

/// The attributes that an option sets and clears.
fn attribute(option: &str) -> Option<(u64, u64)> {
    let on = |bit: u64| Some((bit, 0));
    let off = |bit: u64| Some((0, bit));
    match option {
        "ro" => on(libc::MOUNT_ATTR_RDONLY),
        "rw" => off(libc::MOUNT_ATTR_RDONLY),
        "nosuid" => on(libc::MOUNT_ATTR_NOSUID),
        "suid" => off(libc::MOUNT_ATTR_NOSUID),
        "nodev" => on(libc::MOUNT_ATTR_NODEV),
        "dev" => off(libc::MOUNT_ATTR_NODEV),
        "noexec" => on(libc::MOUNT_ATTR_NOEXEC),
        "exec" => off(libc::MOUNT_ATTR_NOEXEC),
        "nodiratime" => on(libc::MOUNT_ATTR_NODIRATIME),
        "diratime" => off(libc::MOUNT_ATTR_NODIRATIME),
        "nosymfollow" => on(libc::MOUNT_ATTR_NOSYMFOLLOW),
        "symfollow" => off(libc::MOUNT_ATTR_NOSYMFOLLOW),
        "noatime" => Some((libc::MOUNT_ATTR_NOATIME, libc::MOUNT_ATTR_STRICTATIME)),
        "strictatime" => Some((libc::MOUNT_ATTR_STRICTATIME, libc::MOUNT_ATTR_NOATIME)),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => off(ATIME),
        _ => None,
    }
}

/// mount(8)'s propagation options.
pub(crate) fn propagation(option: &str) -> Option<(u64, bool)> {
    let flag = |name: &str| match name {
        "private" => Some(libc::MS_PRIVATE),
        "slave" => Some(libc::MS_SLAVE),
        "shared" => Some(libc::MS_SHARED),
        "unbindable" => Some(libc::MS_UNBINDABLE),
        _ => None,
    };
    let all = || option.strip_prefix('r').and_then(flag).map(|flag| (flag, true));
    flag(option).map(|flag| (flag, false)).or_else(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(kind: &str, list: &[&str]) -> Options {
        let mount = serde_json::json!({"destination": "/d", "type": kind, "source": "/s", "options": list});
        Options::of(&serde_json::from_value(mount).unwrap())
    }

    #[test]
    fn options_are_those_of_the_mount_or_of_the_file_system() {
        let read = options(
            "tmpfs",
            &["nosuid", "ro", "size=1m", "rslave", "huge=never", "quiet"],
        );
        assert_eq!(read.set, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_RDONLY);
        assert_eq!(read.propagation, [(libc::MS_SLAVE, true)]);
        assert_eq!(read.data.len(), 3);
        assert!(read.has_data("size") && !read.has_data("mode") && read.bind.is_none());
        assert_eq!(options("none", &["rbind", "bind"]).bind, Some(true));
        assert_eq!(options("bind", &[]).bind, Some(false));
    }

    #[test]
    fn the_last_of_two_that_contradict_each_other_holds() {
        let read = options("bind", &["ro", "rw", "dev", "nodev"]);
        assert_eq!(
            (read.set, read.clear),
            (libc::MOUNT_ATTR_NODEV, libc::MOUNT_ATTR_RDONLY)
        );
        let below = options("bind", &["rro", "rnosuid"]);
        assert_eq!(below.set_all, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID);
        assert_eq!(below.set, 0);
    }

    #[test]
    fn access_times_are_one_choice_of_several() {
        for (list, set) in [
            (&["noatime"][..], libc::MOUNT_ATTR_NOATIME),
            (&["strictatime"], libc::MOUNT_ATTR_STRICTATIME),
            (&["noatime", "relatime"], 0),
        ] {
            let options = options("bind", list);
            let change = options.attributes().next().unwrap();
            assert_eq!((change.set, change.clear), (set, ATIME), "{list:?}");
        }
    }
}
