//! QEMU's `microvm` machine, for hosts where libkrun cannot run: by the hardware, or emulated.
//!
//! One QEMU, one virtiofsd per share, one vhost-device-vsock. QEMU and virtiofsd get connected sockets as descriptors, so
//! that nothing is waited for but the vsock device.

use std::{
    ffi::{OsStr, OsString},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use magik_oci::KVM;
use rustix::process::{Resource, getrlimit};

use crate::{
    Console, Error, Result, Share, Vm, VmDriver, VmFiles, VmProcess, VmSpec, driver::Part, modes,
    process::Process, tsc,
};

/// How long the vsock device may take to listen.
const DEVICE_TIME: Duration = Duration::from_secs(5);
/// How often it is looked whether it does.
const DEVICE_PAUSE: Duration = Duration::from_millis(1);
/// The guest's address; each machine has a device of its own, so all may have the same.
const GUEST_CID: u32 = 3;
/// The translated code that an emulated machine may keep, in MiB.
const TRANSLATED: u32 = 64;

const REMEDY: &str = "install QEMU (Debian: qemu-system-x86)";

/// How guests are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Acceleration {
    /// By the hardware, through /dev/kvm.
    Kvm,
    /// Emulated: at a twentieth of the speed.
    Tcg,
}

/// Virtual machines under QEMU.
#[derive(Debug, Clone)]
pub struct Qemu {
    acceleration: Acceleration,
    kernel: PathBuf,
    qemu: PathBuf,
    virtiofsd: PathBuf,
    vsock: PathBuf,
}

impl Qemu {
    /// QEMU with the programs and files of this host.
    ///
    /// # Errors
    /// Names what is missing, and how to get it.
    pub fn find(files: &VmFiles, acceleration: Acceleration) -> Result<Self> {
        if !cfg!(target_arch = "x86_64") {
            return Err(Error::Unavailable(format!(
                "QEMU's microvm machine is for x86-64, this is {}",
                std::env::consts::ARCH
            )));
        }
        Ok(Self {
            acceleration,
            kernel: files.kernel()?,
            qemu: files.program("qemu-system-x86_64", &["/usr/bin"], REMEDY)?,
            virtiofsd: files.program(
                VmProcess::Virtiofsd.as_str(),
                &["/usr/libexec", "/usr/lib/qemu", "/usr/libexec/qemu-kvm"],
                "install it (Debian: virtiofsd, or part of qemu-system-common)",
            )?,
            vsock: files.program(
                VmProcess::VsockDevice.as_str(),
                &["/usr/local/bin", "/usr/bin", "/usr/libexec"],
                "cargo install vhost-device-vsock --version 0.3.0",
            )?,
        })
    }

    /// Starts the file system device for a share; QEMU gets the other end of its connection.
    fn share(&self, share: &Share, cache: &str) -> Result<(Part, OwnedFd)> {
        let Share {
            directory: share,
            setuid,
            ..
        } = share;
        let failed = |what: &str| Error::io(format!("virtiofsd for {}: {what}", share.display()));
        if share.as_os_str().as_encoded_bytes().contains(&b',') {
            return Err(Error::Path {
                path: share.clone(),
                reason: "virtiofsd takes a comma for the end of a path",
            });
        }
        let (listening, connected) = connected().map_err(failed("connect"))?;
        let (output, writing, followed) = Console::open().map_err(failed("open its output"))?;
        let mut process = Process::new(&self.virtiofsd, &writing).map_err(failed("prepare"))?;
        let number = process.give(listening);
        // A guest holds one descriptor per file it knows. Raising the limit needs a right that not every root has.
        let files = getrlimit(Resource::Nofile)
            .maximum
            .unwrap_or(1 << 20)
            .min(1 << 20);
        let mut source = OsString::from("source=");
        source.push(share);
        process.arguments([format!("--fd={number}"), format!("--rlimit-nofile={files}")]);
        process.arguments([OsStr::new("-o"), &source]);
        process.arguments([
            "-o",
            &format!("cache={cache}"),
            "-o",
            "xattr",
            "-o",
            "sandbox=namespace",
            // The guest's root is not the host's: it makes no device files there, and no programs that have rights.
            "-o",
            if *setuid {
                "modcaps=-mknod"
            } else {
                "modcaps=-mknod:-setfcap"
            },
        ]);
        if !setuid {
            process.filter(modes::filters().map_err(failed("filter its calls"))?);
        }
        let part = Part {
            process: VmProcess::Virtiofsd,
            child: process.spawn().map_err(failed("execute it"))?,
            output,
            followed,
        };
        Ok((part, connected))
    }

    /// Starts the vsock device and connects to it.
    async fn vsock(&self, spec: &VmSpec) -> Result<(Part, OwnedFd)> {
        let failed = |what: &str| Error::io(format!("{}: {what}", VmProcess::VsockDevice));
        let device = spec.sockets.join("device");
        let (output, writing, followed) = Console::open().map_err(failed("open its output"))?;
        let mut process = Process::new(&self.vsock, &writing).map_err(failed("prepare"))?;
        process
            .user(spec.user.as_deref())
            .map_err(failed("hold its user"))?;
        let mut machine = OsString::from(format!("guest-cid={GUEST_CID},uds-path="));
        machine.push(spec.sockets.join("vsock"));
        machine.push(",socket=");
        machine.push(&device);
        process.arguments([OsStr::new("--vm"), &machine]);
        let mut part = Part {
            process: VmProcess::VsockDevice,
            child: process.spawn().map_err(failed("execute it"))?,
            output,
            followed,
        };
        drop(writing);
        let began = Instant::now();
        loop {
            match UnixStream::connect(&device) {
                Ok(stream) => return Ok((part, stream.into())),
                Err(_) if began.elapsed() < DEVICE_TIME => {}
                Err(e) => return Err(failed("it does not listen")(e)),
            }
            if let Ok(Some(status)) = part.child.try_wait() {
                return Err(part.post_mortem(Ok(status)).await.into());
            }
            tokio::time::sleep(DEVICE_PAUSE).await;
        }
    }

    fn machine(&self, spec: &VmSpec) -> Vec<String> {
        let accel = match self.acceleration {
            Acceleration::Kvm => "kvm".to_owned(),
            Acceleration::Tcg => format!("tcg,tb-size={TRANSLATED}"),
        };
        let memory = spec.memory_mib;
        // `acpi=off` makes QEMU name its virtio devices to the kernel, which knows no ACPI. `rtc=on`: a kernel that reads the time
        // from no clock spins for a second first.
        let machine =
            "microvm,acpi=off,pit=on,pic=on,rtc=on,isa-serial=off,auto-kernel-cmdline=on,memory-backend=mem";
        [
            ("-machine", machine.to_owned()),
            ("-accel", accel),
            ("-cpu", "max".to_owned()),
            ("-smp", spec.vcpus.to_string()),
            ("-m", format!("{memory}M")),
            (
                "-object",
                format!("memory-backend-memfd,id=mem,size={memory}M,share=on"),
            ),
            ("-global", "virtio-mmio.force-legacy=false".to_owned()),
            ("-display", "none".to_owned()),
            (
                "-sandbox",
                "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".to_owned(),
            ),
            ("-kernel", self.kernel.display().to_string()),
            ("-append", self.kernel_arguments()),
            ("-chardev", "stdio,id=console,signal=off".to_owned()),
            ("-device", "virtio-serial-device".to_owned()),
            ("-device", "virtconsole,chardev=console".to_owned()),
            ("-device", "virtio-rng-device".to_owned()),
        ]
        .into_iter()
        .flat_map(|(option, value)| [option.to_owned(), value])
        .chain(["-nodefaults", "-no-user-config", "-no-reboot"].map(str::to_owned))
        .collect()
    }

    /// `reboot=t` with `-no-reboot` is how the guest ends its machine; a panic ends it, too.
    fn kernel_arguments(&self) -> String {
        // Without the clock's driver its interrupt is free: one of the eight virtio devices has the same.
        let common = "console=hvc0 root=rootfs rootfstype=virtiofs ro init=/init reboot=t panic=-1 quiet initcall_blacklist=cmos_init";
        match self.acceleration {
            Acceleration::Kvm => common.to_owned(),
            // An emulated processor does not speculate. Its clock is the host's, and cannot be measured reliably: what
            // it waits for is emulated on a busy machine.
            Acceleration::Tcg => format!(
                "{common} mitigations=off no_timer_check tsc_early_khz={} rcupdate.rcu_expedited=1",
                tsc::kilohertz()
            ),
        }
    }
}

/// A listening socket that nobody else can reach, and a connection to it.
fn connected() -> std::io::Result<(OwnedFd, OwnedFd)> {
    use std::os::linux::net::SocketAddrExt;
    // An abstract name, given up once connected: the kernel chooses one that is free (unix(7), autobind).
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new_unnamed())?;
    rustix::net::listen(&socket, 1)?;
    let listener = UnixListener::from(socket);
    let address = listener.local_addr()?;
    debug_assert!(
        address.as_abstract_name().is_some(),
        "autobind gives an abstract name"
    );
    let stream = UnixStream::connect_addr(&address)?;
    Ok((listener.into(), stream.into()))
}

#[async_trait]
impl VmDriver for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn manner(&self) -> String {
        match self.acceleration {
            Acceleration::Kvm => "QEMU with KVM".to_owned(),
            Acceleration::Tcg => "QEMU, emulated: slow, for trying and testing".to_owned(),
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![
            self.kernel.clone(),
            self.qemu.clone(),
            self.virtiofsd.clone(),
            self.vsock.clone(),
        ]
    }

    fn devices(&self) -> &'static [&'static str] {
        match self.acceleration {
            Acceleration::Kvm => &[KVM],
            Acceleration::Tcg => &[],
        }
    }

    async fn spawn(&self, spec: &VmSpec) -> Result<Vm> {
        spec.check()?;
        let (output, writing, followed) = Console::open().map_err(Error::io("open the console"))?;
        let mut devices = Vec::new();
        let root = Share {
            tag: "rootfs".to_owned(),
            directory: spec.root.clone(),
            setuid: false,
        };
        let mut qemu = Process::new(&self.qemu, &writing).map_err(Error::io("prepare QEMU"))?;
        qemu.user(spec.user.as_deref())
            .map_err(Error::io("hold QEMU's user"))?;
        qemu.arguments(self.machine(spec));
        for (number, share) in std::iter::once(&root).chain(&spec.shares).enumerate() {
            // Nobody changes what a guest boots from while it runs.
            let cache = if number == 0 { "always" } else { "auto" };
            let (device, connected) = self.share(share, cache)?;
            devices.push(device);
            let descriptor = qemu.give(connected);
            qemu.arguments([
                "-chardev".to_owned(),
                format!("socket,id=share{number},fd={descriptor}"),
                "-device".to_owned(),
                format!(
                    "vhost-user-fs-device,chardev=share{number},tag={},queue-size=1024",
                    share.tag
                ),
            ]);
        }
        let (device, connected) = self.vsock(spec).await?;
        devices.push(device);
        let descriptor = qemu.give(connected);
        qemu.arguments([
            "-chardev".to_owned(),
            format!("socket,id=vsock,fd={descriptor}"),
            "-device".to_owned(),
            "vhost-user-vsock-device,chardev=vsock".to_owned(),
        ]);
        let child = qemu.spawn();
        let monitor = Part {
            process: VmProcess::Qemu,
            child: child.map_err(Error::io(format!("execute {}", self.qemu.display())))?,
            output,
            followed,
        };
        Ok(Vm { monitor, devices })
    }
}
