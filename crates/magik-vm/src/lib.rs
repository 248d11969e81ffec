//! Small virtual machines: what boots, on which monitor, and whether it really does.
//!
//! - [`VmDriver`]: what starts a machine from a [`VmSpec`]: [`Krun`] or [`Qemu`], by their [`DriverKind`].
//! - [`VmFiles`]: what machines are made of on this host; [`kernel`] takes the guest kernel out of libkrunfw.
//! - [`boot`]: starts a machine and waits for its guest's hello.
//! - [`probe`]: whether machines really boot here.
//! - [`VmUser`]: the user of the host that a machine is, and no other.
//! - [`Vm`]: a machine that was started, its [`Console`], and how it [`Ended`].
//! - [`Drivers`]: which of the drivers is used.
//! - [`Machine`]: all that is decided about a machine, for its supervisor, whose [`MachineGuest`] builds, confines and boots it.
//! - [`HostLimits`]: what the machine's processes may use of the host.
#![cfg(target_os = "linux")]
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod choice;
mod console;
mod driver;
mod ended;
mod error;
mod files;
mod guest;
mod jail;
pub mod kernel;
mod kind;
mod krun;
pub mod layers;
mod limits;
mod machine;
mod modes;
mod probe;
mod process;
mod qemu;
mod supervised;
mod tsc;
mod user;

pub use choice::{DRIVER_VARIABLE, Drivers};
pub use console::Console;
pub use driver::{
    MAX_SHARES, MAX_VCPUS, MAX_VM_MEMORY_MIB, MIN_VM_MEMORY_MIB, Share, Vm, VmDriver, VmSpec, vsock_path,
};
pub use ended::{Ended, VmProcess};
pub use error::{Error, Result};
pub use files::{FILES_VARIABLE, VmFiles};
pub use guest::{Booted, ROOT_DIRECTORIES, boot, lay_out, nonce, write_config};
pub use jail::Jail;
pub use kind::{DriverKind, HELLO_VARIABLE, UnknownDriver, first_that_boots};
pub use krun::{
    KERNEL_LIBRARY, KERNEL_LIBRARY_DIRECTORIES, Krun, MAX_VMM_CONFIG, VMM_PROGRAM, VmmConfig, VmmPort,
};
pub use limits::HostLimits;
pub use machine::{HostShare, Machine, OVERHEAD_MIB, vcpus};
/// The device that makes machines by the hardware.
pub use magik_oci::KVM;
pub use probe::probe;
pub use qemu::{Acceleration, Qemu};
pub use supervised::MachineGuest;
pub use user::VmUser;
