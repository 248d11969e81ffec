//! What virtual machines are made of: the guest kernel, the guest's init, the vsock device. All of it lies in `target/vm`.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use magik_vm::{
    KERNEL_LIBRARY, KERNEL_LIBRARY_DIRECTORIES, VMM_PROGRAM, VmFiles, VmProcess, kernel::GuestKernel,
};
use sha2::{Digest, Sha256};
use xshell::{Shell, cmd};

use xtask::{apt, host};

use crate::vminit;

/// A wheel that carries libkrunfw (<https://pypi.org/project/microsandbox/>), where the system has none.
const WHEEL_URL: &str = "https://files.pythonhosted.org/packages/a7/b8/a6df21a2c8636b1cc8fb963fb15bbf1f3824ee0f4c7808850089000683b8/microsandbox-0.7.11-cp310-abi3-manylinux_2_28_x86_64.whl";
const WHEEL_SHA256: &str = "65f1e4bbf8d721c9f7f557329fb6c8cf41f554c1c6942eac8b941198fa283fe0";
const WHEEL_SIZE: u64 = 48_148_484;
const WHEEL_LIBRARY: &str = "microsandbox/_bundled/lib/libkrunfw.so.5.6.1";

/// The vsock device for QEMU, from crates.io.
const VSOCK_DEVICE: &str = VmProcess::VsockDevice.as_str();
const VSOCK_DEVICE_VERSION: &str = "0.3.0";

/// Options of `cargo xtask vm`.
#[derive(Debug, clap::Args)]
pub(crate) struct VmArgs {
    /// The monitor for libkrun (KVM), too.
    #[arg(long)]
    krun: bool,
}

/// `cargo xtask vm`.
pub(crate) fn run(args: &VmArgs) -> Result<()> {
    prepare()?;
    if args.krun {
        build_monitor(&host::shell()?)?;
    }
    Ok(())
}

/// Builds the program that becomes a machine under libkrun. The library comes from crates.io and is part of it.
pub(crate) fn build_monitor(sh: &Shell) -> Result<()> {
    println!("{VMM_PROGRAM}: libkrun 1.19, from crates.io");
    cmd!(
        sh,
        "cargo build --quiet --locked --package {VMM_PROGRAM} --features libkrun --profile vminit"
    )
    .run()?;
    let built = host::target_dir(sh)?.join("vminit").join(VMM_PROGRAM);
    let installed = host::machine_files(sh)?.join(VMM_PROGRAM);
    replace(&built, &installed)?;
    println!("{}", installed.display());
    Ok(())
}

/// Puts a program in its place; somebody may be executing the one that is there.
pub(crate) fn replace(built: &Path, installed: &Path) -> Result<()> {
    let new = installed.with_extension("new");
    fs::copy(built, &new).with_context(|| built.display().to_string())?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    Ok(fs::rename(&new, installed)?)
}

/// Everything a virtual machine needs here.
pub(crate) fn prepare() -> Result<()> {
    let sh = host::shell()?;
    fetch_kernel(&sh)?;
    install_vsock_device(&sh)?;
    vminit::cheaply(&sh)
}

/// Finds or fetches libkrunfw and takes the kernel out of it.
pub(crate) fn fetch_kernel(sh: &Shell) -> Result<()> {
    let directory = host::machine_files(sh)?;
    let library = directory.join(KERNEL_LIBRARY);
    let kernel = directory.join(VmFiles::KERNEL);
    if let Some(missing) = apt::ensure(sh, apt::MACHINES)? {
        println!("missing, and {}: {}", missing.why, missing.packages.join(" "));
    }
    if kernel.is_file() && library.exists() {
        println!("{} is there", kernel.display());
        return Ok(());
    }
    match system_library() {
        Some(found) => {
            println!("the guest kernel is that of {}", found.display());
            let _ = fs::remove_file(&library);
            std::os::unix::fs::symlink(found, &library)?;
        }
        None => fetch_library(sh, &directory, &library)?,
    }
    fs::write(&kernel, GuestKernel::from_libkrunfw(&library)?.to_pvh_elf())
        .with_context(|| kernel.display().to_string())?;
    println!("{}", kernel.display());
    Ok(())
}

fn system_library() -> Option<PathBuf> {
    KERNEL_LIBRARY_DIRECTORIES
        .iter()
        .map(|directory| Path::new(directory).join(KERNEL_LIBRARY))
        .find(|path| path.is_file())
}

fn fetch_library(sh: &Shell, directory: &Path, library: &Path) -> Result<()> {
    if let Some(missing) = apt::ensure(sh, &["ca-certificates", "curl", "unzip"])? {
        bail!("missing, and {}: {}", missing.why, missing.packages.join(" "));
    }
    let wheel = directory.join("microsandbox.whl");
    println!("fetching libkrunfw from {WHEEL_URL}");
    let limit = WHEEL_SIZE.to_string();
    cmd!(
        sh,
        "curl --proto =https --fail --silent --show-error --location --retry 3 --max-filesize {limit} --output {wheel} {WHEEL_URL}"
    )
    .quiet()
    .run()?;
    let found = hex::encode(Sha256::digest(fs::read(&wheel)?));
    if found != WHEEL_SHA256 {
        fs::remove_file(&wheel)?;
        bail!("{WHEEL_URL} has the SHA-256 {found}, and not {WHEEL_SHA256}");
    }
    let bytes = cmd!(sh, "unzip -p {wheel} {WHEEL_LIBRARY}").quiet().output()?;
    fs::write(library, bytes.stdout)?;
    Ok(fs::remove_file(&wheel)?)
}

/// Builds the vsock device, once.
fn install_vsock_device(sh: &Shell) -> Result<()> {
    let installed = host::machine_files(sh)?.join(VSOCK_DEVICE);
    if installed.is_file() {
        return Ok(());
    }
    println!("installing {VSOCK_DEVICE} {VSOCK_DEVICE_VERSION} (cargo install)");
    let target = host::target_dir(sh)?;
    let (root, build) = (target.join("tools"), target.join("tools-build"));
    // Without optimisation: a fraction of the build time, and it carries kilobytes.
    let install = cmd!(
        sh,
        "cargo install --quiet --locked --debug {VSOCK_DEVICE} --version {VSOCK_DEVICE_VERSION} --root {root} --target-dir {build}"
    );
    install.env("CARGO_PROFILE_DEV_DEBUG", "0").quiet().run()?;
    fs::copy(root.join("bin").join(VSOCK_DEVICE), &installed)?;
    let _ = fs::remove_dir_all(build);
    Ok(())
}
