//! Newer runtimes to compare with: those of Debian's unstable release, on a root of their own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    mount::{UnmountFlags, mount_bind_recursive, mount_move, unmount},
    process::{chdir, pivot_root},
};
use xshell::cmd;

use super::scene;
use xtask::{apt, host};

const SUITE: &str = "sid";
const MIRROR: &str = "http://deb.debian.org/debian";
/// The runtimes, and what they start.
const PACKAGES: &[&str] = &[
    "aardvark-dns",
    "busybox-static",
    "ca-certificates",
    "catatonit",
    "conmon",
    "containerd",
    "containernetworking-plugins",
    "crun",
    "iproute2",
    "netavark",
    "passt",
    "podman",
    "procps",
    "runc",
    "uidmap",
];

/// Which runtimes to compare with.
#[derive(Debug, clap::Args)]
pub(crate) struct Peers {
    /// Compares with the runtimes of Debian's unstable release instead of this system's: on the root DIR, which debootstrap
    /// makes at first use (750 MB) [without DIR: target/peers].
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    #[expect(
        clippy::option_option,
        reason = "how clap says: an option whose value may be left out"
    )]
    peers: Option<Option<PathBuf>>,
}

impl Peers {
    /// Makes the root file system unless it is there; `None` where this system's runtimes are wanted.
    pub(crate) fn prepare(&self, no_install: bool) -> Result<Option<PathBuf>> {
        let sh = host::shell()?;
        let dir = match &self.peers {
            None => return Ok(None),
            Some(Some(dir)) => std::path::absolute(dir)?,
            Some(None) => host::target_dir(&sh)?.join("peers"),
        };
        if dir.join("usr/bin/crun").exists() {
            return Ok(Some(dir));
        }
        ensure!(!no_install, "{}: no runtimes there", dir.display());
        ensure!(host::is_root(), "debootstrap needs root");
        if let Some(missing) = apt::ensure(&sh, &["debootstrap"])? {
            bail!("missing, and {}: {}", missing.why, missing.packages.join(" "));
        }
        println!("debootstrap {SUITE} in {} (minutes, 750 MB)", dir.display());
        let new = dir.with_extension("new");
        let include = format!("--include={}", PACKAGES.join(","));
        // It mounts /proc and /sys in there, and maintainer scripts may start something.
        cmd!(
            sh,
            "unshare --mount --propagation private --pid --fork --kill-child --mount-proc
             debootstrap --variant=minbase {include} {SUITE} {new} {MIRROR}"
        )
        .quiet()
        .ignore_stdout()
        .run()?;
        // containerd copies it.
        fs::write(new.join("etc/hosts"), "127.0.0.1 localhost\n")?;
        fs::rename(&new, &dir)?;
        Ok(Some(dir))
    }

    /// The directory, in an inner run.
    pub(crate) fn directory(&self) -> Option<&Path> {
        self.peers.as_ref()?.as_deref()
    }
}

/// What a bench needs of the file system, wherever its root is.
#[derive(Debug)]
pub(crate) struct Place {
    /// The bench's own directory.
    pub(crate) work: PathBuf,
    /// The binary, which has others beside it.
    pub(crate) magikrun: PathBuf,
    /// Where the results go.
    pub(crate) results: PathBuf,
}

impl Place {
    /// Where a bench that runs in the world `work` finds all that; it is in the root of the peers
    /// then, if there is one.
    pub(crate) fn enter(work: &Path, magikrun: Option<&Path>, peers: &Peers) -> Result<Self> {
        let place = Self {
            work: work.to_owned(),
            magikrun: magikrun.context("--magikrun")?.to_owned(),
            results: scene::results()?,
        };
        match peers.directory() {
            Some(root) => enter(root, &place),
            None => Ok(place),
        }
    }
}

/// Makes `root` the root of this process, in a mount namespace of its own, with the mounts of this system; returns where
/// the place's directories are then.
fn enter(root: &Path, place: &Place) -> Result<Place> {
    // A root must be a mount point; changing it changes nothing for others.
    mount_bind_recursive(root, root).with_context(|| root.display().to_string())?;
    for name in ["proc", "sys", "dev"] {
        // Moved, not bound: mounts of cgroups exist once, as on any system.
        let from = Path::new("/").join(name);
        mount_move(&from, root.join(name)).with_context(|| format!("move {}", from.display()))?;
    }
    for name in ["mnt", "run", "tmp"] {
        magikrun_test_world::mount_tmpfs(&root.join(name), 256 << 20)?;
    }
    magikrun_test_world::mount_tmpfs(&root.join("run/netns"), 1 << 20)?;
    let binaries = place.magikrun.parent().context("a binary in a directory")?;
    let new = Path::new("/mnt");
    for (directory, name) in [
        (place.work.as_path(), "work"),
        (binaries, "magikrun"),
        (&place.results, "results"),
    ] {
        let target = root.join("mnt").join(name);
        fs::create_dir(&target)?;
        mount_bind_recursive(directory, &target).with_context(|| directory.display().to_string())?;
    }
    chdir(root)?;
    pivot_root(".", ".").context("pivot_root")?;
    unmount(".", UnmountFlags::DETACH).context("the old root")?;
    chdir("/")?;
    let name = place.magikrun.file_name().context("a name")?;
    Ok(Place {
        work: new.join("work"),
        magikrun: new.join("magikrun").join(name),
        results: new.join("results"),
    })
}
