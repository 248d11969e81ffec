//! libkrun: the hardware runs the guest, in a process of `magikrun-vmm` that becomes the machine.
//!
//! Everything about the machine is in one process: virtiofs, vsock and console are libkrun's own. That process confines
//! itself before it starts (crate `magikrun-vmm`). Nothing here needs libkrun; what starts a machine is a program beside.

mod config;

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use magik_oci::KVM;
use rustix::fs::{Mode, OFlags};

pub use self::config::{MAX_VMM_CONFIG, VmmConfig, VmmPort};
use crate::{
    Console, Error, Result, Vm, VmDriver, VmFiles, VmProcess, VmSpec,
    driver::{Part, VSOCK_PREFIX},
    process::Process,
};

/// The program that becomes a machine.
pub const VMM_PROGRAM: &str = "magikrun-vmm";
/// The library that holds the kernel, as libkrun opens it.
pub const KERNEL_LIBRARY: &str = "libkrunfw.so.5";
/// Where a system's libkrunfw lies.
pub const KERNEL_LIBRARY_DIRECTORIES: [&str; 8] = [
    "/usr/local/lib64",
    "/usr/local/lib",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib",
    "/lib64",
    "/lib",
];
/// In the directory of sockets: where the process puts its own root together.
const JAIL: &str = "jail";

const PROGRAM_REMEDY: &str =
    "`cargo xtask vm --krun` builds it into target/vm; MAGIKRUN_VM_FILES names its directory";
const LIBRARY_REMEDY: &str = "install libkrunfw (Fedora: dnf install libkrunfw; others: https://github.com/containers/libkrunfw), or `cargo xtask fetch-kernel` fetches it into target/vm";

/// Virtual machines under libkrun.
#[derive(Debug, Clone)]
pub struct Krun {
    program: PathBuf,
    kernel: PathBuf,
    vminit: PathBuf,
}

impl Krun {
    /// libkrun with the programs and files of this host, whose KVM this process may use. That a machine of this host can be
    /// made does not mean that a guest boots in it: [`probe`](crate::probe).
    ///
    /// # Errors
    /// Names what is missing, and how to get it.
    pub fn find(files: &VmFiles) -> Result<Self> {
        let krun = Self {
            vminit: files.vminit()?,
            program: files.program(
                VMM_PROGRAM,
                &["/usr/libexec/magikrun", "/usr/lib/magikrun"],
                PROGRAM_REMEDY,
            )?,
            kernel: files.library(KERNEL_LIBRARY, &KERNEL_LIBRARY_DIRECTORIES, LIBRARY_REMEDY)?,
        };
        may_use_kvm(Path::new(KVM))?;
        Ok(krun)
    }
}

/// Whether this process may make machines.
fn may_use_kvm(device: &Path) -> Result<()> {
    let opened = rustix::fs::open(device, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let device = device.display();
    let (what, remedy) = match opened.map_err(io::Error::from) {
        Ok(_) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => (
            format!("the right to use KVM ({device})"),
            "be root, or join the device's group (usermod -aG kvm USER)".to_owned(),
        ),
        Err(e) if e.kind() == io::ErrorKind::NotFound => (
            format!("KVM ({device})"),
            "enable virtualization in the firmware (in a virtual machine: nested virtualization) and load the module (modprobe kvm_intel or kvm_amd)".to_owned(),
        ),
        Err(e) => (format!("a KVM that works ({device})"), e.to_string()),
    };
    Err(Error::Missing {
        what,
        remedy: format!("{remedy}; without it, the driver qemu emulates"),
    })
}

/// The sockets that listen for the guest.
fn ports(sockets: &Path) -> io::Result<Vec<VmmPort>> {
    let mut ports = Vec::new();
    for entry in fs::read_dir(sockets)? {
        let socket = entry?.path();
        let number = socket
            .file_name()
            .and_then(|n| n.to_str()?.strip_prefix(VSOCK_PREFIX)?.parse().ok());
        ports.extend(number.map(|port| VmmPort { port, socket }));
    }
    Ok(ports)
}

impl Krun {
    fn config(&self, spec: &VmSpec) -> Result<OwnedFd> {
        let vcpus = u8::try_from(spec.vcpus).unwrap_or(u8::MAX);
        let jail = spec.sockets.join(JAIL);
        let made = match fs::create_dir(&jail) {
            // Of a first attempt.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        };
        made.map_err(Error::io(jail.display().to_string()))?;
        let config = VmmConfig {
            memory_mib: spec.memory_mib,
            vcpus,
            root: spec.root.clone(),
            init: self.vminit.clone(),
            shares: spec.shares.clone(),
            ports: ports(&spec.sockets).map_err(Error::io(spec.sockets.display().to_string()))?,
            kernel: self.kernel.clone(),
            jail,
            user: spec.user.as_ref().map(|user| user.number()),
        };
        config
            .seal()
            .map_err(Error::io("write the machine's configuration"))
    }
}

#[async_trait]
impl VmDriver for Krun {
    fn name(&self) -> &'static str {
        "krun"
    }

    fn manner(&self) -> String {
        "libkrun with KVM".to_owned()
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.program.clone(), self.kernel.clone(), self.vminit.clone()]
    }

    fn devices(&self) -> &'static [&'static str] {
        &[KVM]
    }

    async fn spawn(&self, spec: &VmSpec) -> Result<Vm> {
        spec.check()?;
        let (output, writing, followed) = Console::open().map_err(Error::io("open the console"))?;
        let mut process =
            Process::new(&self.program, &writing).map_err(Error::io(format!("prepare {VMM_PROGRAM}")))?;
        let number = process.give(self.config(spec)?);
        process.arguments([number.to_string()]);
        // It becomes that user by itself.
        process
            .hold(spec.user.as_deref())
            .map_err(Error::io("hold the machine's user"))?;
        let child = process.spawn();
        let monitor = Part {
            process: VmProcess::Vmm,
            child: child.map_err(Error::io(format!("execute {}", self.program.display())))?,
            output,
            followed,
        };
        Ok(Vm {
            monitor,
            devices: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, VmFiles) {
        let dir = tempfile::tempdir().unwrap();
        let files = VmFiles::new(dir.path().to_owned());
        (dir, files)
    }

    #[test]
    fn without_its_program_there_is_no_libkrun() {
        let (dir, files) = place();
        fs::write(dir.path().join("vminit"), "").unwrap();
        let error = Krun::find(&files).unwrap_err().to_string();
        assert!(
            error.starts_with("magikrun-vmm is missing: `cargo xtask vm --krun`"),
            "{error}"
        );
    }

    #[test]
    fn without_libkrunfw_it_is_said_what_to_install() {
        let (_dir, files) = place();
        let error = files
            .library("libno-such.so.5", &[], LIBRARY_REMEDY)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("libno-such.so.5 is missing: install libkrunfw (Fedora: "),
            "{error}"
        );
    }

    #[test]
    fn a_kvm_that_is_missing_is_told_from_one_for_others() {
        let (dir, _) = place();
        let missing = may_use_kvm(&dir.path().join("kvm")).unwrap_err().to_string();
        assert!(
            missing.contains("kvm) is missing: enable virtualization"),
            "{missing}"
        );
        assert!(missing.contains("qemu"), "{missing}");
        // A directory is nothing that root may open for writing, either.
        let other = may_use_kvm(dir.path()).unwrap_err().to_string();
        assert!(other.contains("directory"), "{other}");
        if !rustix::process::geteuid().is_root() {
            let path = dir.path().join("kvm");
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o0)).unwrap();
            let denied = may_use_kvm(&path).unwrap_err().to_string();
            assert!(denied.contains("usermod"), "{denied}");
        }
    }

    #[test]
    fn only_the_sockets_that_listen_are_ports() {
        let (dir, _) = place();
        for name in ["vsock_1024", "vsock_x", "device"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let found = ports(dir.path()).unwrap();
        assert_eq!(
            found,
            [VmmPort {
                port: 1024,
                socket: dir.path().join("vsock_1024")
            }]
        );
    }
}
