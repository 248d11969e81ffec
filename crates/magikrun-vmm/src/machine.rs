//! libkrun, by its explicit interface: nothing is in the machine that is not named here.
#![allow(unsafe_code, reason = "libkrun's interface is C's")]

use std::{
    ffi::{CString, NulError},
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use magik_vm::VmmConfig;
use magikrun_vmm::Confined;

/// The tag of the share that a guest boots from (libkrun names it to the kernel).
const ROOT: &std::ffi::CStr = c"/dev/root";
/// Where libkrun's kernels look for their first program.
const INIT: &std::ffi::CStr = c"/init.krun";
const INIT_MODE: u32 = 0o755;
/// `krun_init_log`'s target, level (error), style (never) and options (not from the environment).
const LOG: (i32, u32, u32, u32) = (2, 1, 2, 1);

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    /// libkrunfw cannot be loaded.
    #[error("load the kernel {path}: {source}: install libkrunfw 5")]
    Kernel {
        /// The library.
        path: PathBuf,
        /// The linker's answer.
        source: libloading::Error,
    },
    /// A file cannot be read.
    #[error("read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A name that libkrun cannot take.
    #[error("a name with a zero byte: {0}")]
    Name(#[from] NulError),
    /// libkrun refuses.
    #[error("libkrun: {what}: {source}")]
    Refused {
        /// What was asked of it.
        what: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

/// libkrun's answer: not negative, or a negated `errno`.
fn done(what: &'static str, answer: i32) -> Result<u32, MachineError> {
    u32::try_from(answer).map_err(|_| MachineError::Refused {
        what,
        source: io::Error::from_raw_os_error(answer.wrapping_neg()),
    })
}

fn name(path: &Path) -> Result<CString, NulError> {
    CString::new(path.as_os_str().as_bytes())
}

/// A machine without devices.
pub(crate) struct Machine {
    context: u32,
    /// The guest's first program; the guest reads it as long as it runs.
    init: &'static [u8],
}

impl Machine {
    /// Loads what will be out of reach: the kernel and the guest's init.
    pub(crate) fn load(config: &VmmConfig) -> Result<Self, MachineError> {
        // SAFETY: libkrunfw is data and two functions that return it; it has no constructors. It is loaded by its path, and
        // libkrun, which asks for its name, gets the one that is there.
        let kernel = unsafe { libloading::Library::new(&config.kernel) };
        std::mem::forget(kernel.map_err(|source| MachineError::Kernel {
            path: config.kernel.clone(),
            source,
        })?);
        let init = fs::read(&config.init).map_err(|source| MachineError::Read {
            path: config.init.clone(),
            source,
        })?;
        let (target, level, style, options) = LOG;
        // SAFETY: standard error is open, and the call is the first of its kind.
        done("open the log", unsafe {
            krun::krun_init_log(target, level, style, options)
        })?;
        let context = done("make a machine", krun::krun_create_ctx())?;
        Ok(Self {
            context,
            init: init.leak(),
        })
    }

    /// Adds memory, processors and devices.
    pub(crate) fn configure(self, config: &VmmConfig, confined: &Confined) -> Result<Self, MachineError> {
        let context = self.context;
        done(
            "set the size",
            krun::krun_set_vm_config(context, config.vcpus, config.memory_mib),
        )?;
        let root = name(&confined.root)?;
        // SAFETY (here and below): the strings end with a zero byte and outlive the call, which copies them.
        done("share the root", unsafe {
            krun::krun_add_virtiofs3(context, ROOT.as_ptr(), root.as_ptr(), 0, true)
        })?;
        // SAFETY: as above; the init's bytes are never freed.
        done("add the init", unsafe {
            let (bytes, length) = (self.init.as_ptr(), self.init.len());
            krun::krun_fs_add_overlay_file(
                context,
                ROOT.as_ptr(),
                INIT.as_ptr(),
                bytes,
                length,
                INIT_MODE,
                false,
            )
        })?;
        for (share, read_only) in &confined.shares {
            let (tag, directory) = (CString::new(share.tag.as_str())?, name(&share.directory)?);
            // SAFETY: as above.
            done("share a directory", unsafe {
                krun::krun_add_virtiofs3(context, tag.as_ptr(), directory.as_ptr(), 0, *read_only)
            })?;
        }
        // Without the implicit one there is no TSI: the guest opens no sockets on the host.
        done("leave out vsock", krun::krun_disable_implicit_vsock(context))?;
        done("add vsock", krun::krun_add_vsock(context, 0))?;
        for port in &confined.ports {
            let socket = name(&port.socket)?;
            // SAFETY: as above.
            done("add a port", unsafe {
                krun::krun_add_vsock_port2(context, port.port, socket.as_ptr(), false)
            })?;
        }
        done(
            "leave out the console",
            krun::krun_disable_implicit_console(context),
        )?;
        // SAFETY: no descriptor is given: what the guest writes goes to the log, which is standard error.
        done("add the console", unsafe {
            krun::krun_add_virtio_console_default(context, -1, -1, -1)
        })?;
        Ok(self)
    }

    /// Becomes the machine; comes back only when that fails.
    pub(crate) fn start(self) -> MachineError {
        let answer = krun::krun_start_enter(self.context);
        match done("start the machine", answer) {
            Err(error) => error,
            Ok(_) => MachineError::Refused {
                what: "start the machine",
                source: io::Error::other("it came back"),
            },
        }
    }
}
