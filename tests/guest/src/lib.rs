//! Programs of this host in a guest of QEMU: its kernel has cgroup v2 and nothing else, whatever the host has.
//!
//! [`Guest`] is a root file system in the making: busybox, programs with the libraries they need, and a script that is
//! the guest's init. What the script leaves in `/out` is on the host when the machine has ended.

mod libraries;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use magik_vm::{Acceleration, Qemu, Share, VmDriver, VmFiles, VmSpec, VmUser};
use tempfile::TempDir;

/// What scripts and tests call by name.
const APPLETS: &[&str] = &[
    "sh", "sleep", "kill", "mount", "umount", "mkdir", "cat", "reboot", "timeout", "true", "ip", "tar", "cp",
    "ls", "rm", "rmdir", "id", "stat",
];

/// A guest has what a host has.
const PRELUDE: &str = "#!/bin/sh
export PATH=/usr/bin:/usr/sbin:/bin:/sbin HOME=/
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm /dev/mqueue
ln -s /proc/self/fd /dev/fd
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t tmpfs tmpfs /run
# Programs of a checkout below one of these are there, too.
for dir in /tmp /var; do
  mkdir -p $dir /run/programs
  mount -o bind $dir /run/programs
  mount -t tmpfs tmpfs $dir
  for name in $(ls /run/programs); do mkdir $dir/$name; mount -o bind /run/programs/$name $dir/$name; done
  umount /run/programs
done
rmdir /run/programs
mkdir -p /var/lib /var/tmp
mount -t virtiofs out /out
ip link set lo up
";

/// A guest that has not been started.
#[derive(Debug)]
pub struct Guest {
    dir: TempDir,
    /// Where the libraries come from: this host's root, or that of another system.
    system: PathBuf,
    libraries: BTreeSet<PathBuf>,
    /// Nobody on the host.
    user: Arc<VmUser>,
}

impl Guest {
    /// A guest with busybox (Debian: busybox-static), whose programs run with the libraries below `system`.
    ///
    /// # Errors
    /// A file cannot be written, or there is no busybox.
    pub fn create(system: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("mkg-").tempdir()?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let guest = Self {
            dir,
            system: system.to_owned(),
            libraries: BTreeSet::new(),
            user: Arc::new(VmUser::lease(Path::new(VmUser::DIRECTORY))?),
        };
        for name in ["out", "sockets"] {
            fs::create_dir(guest.dir.path().join(name))?;
        }
        let user = Some(guest.user.number());
        chown(guest.dir.path().join("sockets"), user, user)?;
        for name in [
            "bin", "sbin", "usr/bin", "usr/sbin", "dev", "proc", "sys", "tmp", "run", "var", "out", "etc",
            "root", "mnt",
        ] {
            fs::create_dir_all(guest.root().join(name))?;
        }
        let busybox = guest.root().join("bin/busybox");
        fs::copy("/bin/busybox", &busybox).context("/bin/busybox (Debian: busybox-static)")?;
        for applet in APPLETS.iter().chain(&["ln"]) {
            symlink("busybox", guest.root().join("bin").join(applet))?;
        }
        fs::write(
            guest.root().join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
        )?;
        fs::write(guest.root().join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
        Ok(guest)
    }

    /// Its root, to put files in.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// The host's end of `/out`.
    #[must_use]
    pub fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// Puts a program of this host, or a file, at `at`, and the libraries it needs where they are on the host.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn program(&mut self, program: &Path, at: &str) -> Result<()> {
        self.file(program, at)?;
        for library in libraries::of(program, &self.system)? {
            let relative = library.strip_prefix(&self.system)?.to_owned();
            if self.libraries.insert(relative.clone()) {
                self.file(&library, &relative.display().to_string())?;
            }
        }
        Ok(())
    }

    /// Puts a file of this host at `at`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn file(&self, file: &Path, at: &str) -> Result<()> {
        let target = self.root().join(at.trim_start_matches('/'));
        fs::create_dir_all(target.parent().context("a file has a name")?)?;
        let _ = fs::remove_file(&target);
        // A test program has a hundred megabytes.
        let file = file.canonicalize().with_context(|| file.display().to_string())?;
        fs::hard_link(&file, &target)
            .or_else(|_| fs::copy(&file, &target).map(drop))
            .with_context(|| file.display().to_string())
    }

    /// Boots it with `script` as the rest of its init, and returns when the machine has ended. `machine_files` is where
    /// `cargo xtask vm` has put the kernel.
    ///
    /// # Errors
    /// Something is missing, the guest dies, or it is not done after `limit`.
    pub fn run(&self, script: &str, machine_files: &Path, memory_mib: u32, limit: Duration) -> Result<()> {
        let init = self.root().join("init");
        fs::write(&init, format!("{PRELUDE}{script}\nreboot -f\n"))?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        let qemu = Qemu::find(&VmFiles::new(machine_files.to_owned()), Acceleration::Tcg)
            .context("`cargo xtask vm`")?;
        let spec = VmSpec {
            memory_mib,
            vcpus: 1,
            root: self.root(),
            shares: vec![Share {
                tag: "out".to_owned(),
                directory: self.out(),
                setuid: false,
            }],
            sockets: self.dir.path().join("sockets"),
            user: Some(Arc::clone(&self.user)),
        };
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        tokio.block_on(async {
            let mut vm = qemu.spawn(&spec).await?;
            if let Ok(ended) = tokio::time::timeout(limit, vm.ended()).await {
                ensure!(ended.is_power_off(), "{ended}");
                return Ok(());
            }
            let console = vm.console().last_lines();
            vm.kill().await;
            bail!("the guest was not done after {limit:?}: {console}")
        })
    }
}
