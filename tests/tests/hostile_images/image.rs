//! Hostile images: at a path that runtimes touch lies what they do not expect.

use std::{
    fmt, fs,
    os::unix::{
        fs::{FileTypeExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

/// The working directory of every container.
pub(crate) const WORK: &str = "/work";
/// Where a directory and a file of the host are mounted.
pub(crate) const VOLUME: &str = "/vol/deep/er";
pub(crate) const VOLUME_FILE: &str = "/volfile";

/// Where something hostile lies: what a runtime creates, mounts on, opens, reads or executes.
pub(crate) const SITES: &[&str] = &[
    "/dev",
    "/dev/console",
    "/dev/core",
    "/dev/fd",
    "/dev/mqueue",
    "/dev/null",
    "/dev/ptmx",
    "/dev/pts",
    "/dev/shm",
    "/dev/stdin",
    "/dev/tty",
    "/dev/zero",
    "/proc",
    "/sys",
    "/sys/fs",
    "/sys/fs/cgroup",
    "/etc",
    "/etc/group",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/resolv.conf",
    "/lib64",
    "/root",
    "/tmp",
    "/vol",
    "/vol/deep",
    VOLUME,
    VOLUME_FILE,
    WORK,
    "/bin/sh",
];

/// xorshift64*: the same numbers on every machine and version.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(number).expect("31 bits") % n
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// What lies at a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Thing {
    /// A link to `target`, through so many links of the image.
    Link {
        target: String,
        hops: usize,
    },
    Character(u32, u32),
    Block(u32, u32),
    Fifo,
    Socket,
    File,
    Directory,
}

/// One hostile image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hostile {
    /// One site, or two.
    pub(crate) things: Vec<(&'static str, Thing)>,
    /// Whether the image has directories and files where its links lead, so that what follows them inside of it succeeds.
    twins: bool,
}

impl fmt::Display for Hostile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (site, thing)) in self.things.iter().enumerate() {
            let sep = if number > 0 { ", " } else { "" };
            match thing {
                Thing::Link { target, hops } => {
                    write!(f, "{sep}{site} {}> {target}", "-".repeat(hops + 1))?;
                }
                other => write!(f, "{sep}{site} is {other:?}")?,
            }
        }
        f.write_str(if self.twins { ", with twins" } else { "" })
    }
}

impl Hostile {
    /// The `number`th image: every site has its turn, twice with a plain link to what looks like it on the host. Every
    /// third one of the others has a second site.
    pub(crate) fn new(number: usize, numbers: &mut Numbers, canary: &Path) -> Self {
        let site = SITES[number % SITES.len()];
        if number < 2 * SITES.len() {
            let name = Path::new(site).file_name().unwrap_or_default();
            let alike = canary.join("full").join(name);
            let target = if alike.is_file() {
                alike
            } else {
                canary.join("some")
            };
            let target = target.display().to_string();
            return Self {
                things: vec![(site, Thing::Link { target, hops: 0 })],
                twins: true,
            };
        }
        let mut all = vec![(site, Thing::new(numbers, canary, site))];
        if numbers.below(3) == 0 {
            let second = *numbers.pick(SITES);
            let apart = |a: &str, b: &str| a != b && !a.starts_with(&format!("{b}/"));
            if apart(site, second) && apart(second, site) {
                all.push((second, Thing::new(numbers, canary, second)));
            }
        }
        Self {
            things: all,
            twins: numbers.below(2) == 0,
        }
    }

    /// Puts it into a root file system, in place of what is there.
    pub(crate) fn plant(&self, rootfs: &Path) {
        for (number, (site, thing)) in self.things.iter().enumerate() {
            let path = inside(rootfs, site);
            clear(&path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            match thing {
                Thing::Link { target, hops } => {
                    let mut at = path;
                    for hop in 0..*hops {
                        // Absolute and relative ones in turn.
                        let next = format!("step-{number}-{hop}");
                        let to_root = if hop % 2 == 0 { "/" } else { "../../../../" };
                        symlink(format!("{to_root}{next}"), &at).expect("a link");
                        at = rootfs.join(next);
                    }
                    symlink(target, &at).expect("a link");
                    if self.twins && target.starts_with('/') && !target.starts_with("/proc") {
                        twin(rootfs, target);
                    }
                }
                Thing::Character(major, minor) => node(&path, FileType::CharacterDevice, *major, *minor),
                Thing::Block(major, minor) => node(&path, FileType::BlockDevice, *major, *minor),
                Thing::Fifo => node(&path, FileType::Fifo, 0, 0),
                // A path longer than an address may be.
                Thing::Socket => {
                    let made = rootfs.join("s");
                    drop(UnixListener::bind(&made).expect("a socket"));
                    assert!(made.symlink_metadata().expect("a socket").file_type().is_socket());
                    fs::rename(made, path).expect("a socket");
                }
                Thing::File => fs::write(path, "not a directory\n").expect("a file"),
                Thing::Directory => fs::create_dir(path).expect("a directory"),
            }
        }
    }

    /// Whether a site holds something that blocks whoever reads it.
    pub(crate) fn may_be_read(&self, site: &str) -> bool {
        self.things
            .iter()
            .all(|(s, thing)| *s != site || matches!(thing, Thing::Link { .. }))
    }
}

impl Thing {
    fn new(numbers: &mut Numbers, canary: &Path, site: &str) -> Self {
        match numbers.below(16) {
            0 => Self::Fifo,
            1 => Self::Socket,
            2 => Self::Character(1, *numbers.pick(&[3, 5, 7, 11])),
            3 => Self::Block(7, 200),
            4 => Self::File,
            5 => Self::Directory,
            _ => Self::link(numbers, canary, site),
        }
    }

    fn link(numbers: &mut Numbers, canary: &Path, site: &str) -> Self {
        let place = *numbers.pick(&[
            "full",
            "full",
            "empty",
            "file",
            "missing",
            "full/secret",
            "full/ptmx",
        ]);
        let target = canary.join(place).display().to_string();
        let up = "../".repeat(16);
        let relative = format!("{up}{}", target.trim_start_matches('/'));
        let descriptor = numbers.below(24);
        let target = match numbers.below(10) {
            0..=2 => target,
            3 => relative,
            4 => format!("/proc/1/root{target}"),
            5 => format!("/proc/self/root{target}"),
            6 => format!("/proc/self/fd/{descriptor}"),
            7 => format!("/proc/self/fd/{descriptor}/{relative}"),
            8 => format!("/proc/self/cwd/{relative}"),
            _ => (*numbers.pick(&["/", ".", "..", site, "/proc/self", "/../.."])).to_owned(),
        };
        let hops = numbers.below(6).saturating_sub(3);
        Self::Link { target, hops }
    }
}

/// The path of a container in its root file system; links of the image on the way are replaced by directories.
fn inside(rootfs: &Path, path: &str) -> PathBuf {
    let mut at = rootfs.to_owned();
    let mut names: Vec<_> = path.trim_start_matches('/').split('/').collect();
    let last = names.pop().unwrap_or_default();
    for name in names {
        at.push(name);
        if at.symlink_metadata().is_ok_and(|m| !m.is_dir()) {
            fs::remove_file(&at).expect("a link of the image");
        }
    }
    at.join(last)
}

/// Makes what a path of the host is, in the image, and empty.
fn twin(rootfs: &Path, path: &str) {
    let target = inside(rootfs, path);
    if target.symlink_metadata().is_ok() {
        return;
    }
    fs::create_dir_all(target.parent().expect("a parent")).expect("a directory");
    if Path::new(path).is_file() {
        fs::write(target, "").expect("a file");
    } else {
        fs::create_dir(target).expect("a directory");
    }
}

fn clear(path: &Path) {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).expect("a directory"),
        Ok(_) => fs::remove_file(path).expect("a file"),
        Err(_) => (),
    }
}

fn node(path: &Path, kind: FileType, major: u32, minor: u32) {
    let mode = Mode::from_raw_mode(0o666);
    mknodat(CWD, path, kind, mode, makedev(major, minor)).expect("mknod");
}
