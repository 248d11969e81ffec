//! `cargo xtask test --krun`: the tests of the monitor with libkrun in it, and pods under libkrun, for real.
//!
//! Where KVM runs ordinary kernels, libkrunfw's is used. On the machines of this project it does not: there a kernel is made
//! that it runs, whose own code is emulated. That is for function only.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use magik_vm::{FILES_VARIABLE, KERNEL_LIBRARY, KVM, VMM_PROGRAM, VmFiles};
use xshell::{Shell, cmd};

use xtask::host;

use crate::vm;

/// Builds the kernel; the argument is where.
const BUILD_KERNEL: &str = "tests/machines/kvm-guest/build.sh";

pub(crate) fn test(sh: &Shell) -> Result<()> {
    ensure!(
        Path::new(KVM).exists() && host::is_root(),
        "libkrun needs root and {KVM}"
    );
    let directory = host::machine_files(sh)?;
    vm::prepare()?;
    vm::build_monitor(sh)?;
    let kernel = kernel(sh, &directory)?;
    let files = directory.join("krun");
    let _ = fs::remove_dir_all(&files);
    fs::create_dir(&files).with_context(|| files.display().to_string())?;
    for name in [VmFiles::INIT, VMM_PROGRAM] {
        symlink(directory.join(name), files.join(name))?;
    }
    symlink(kernel, files.join(KERNEL_LIBRARY))?;
    let monitor = cmd!(
        sh,
        "cargo test --locked -p magikrun-vmm --features libkrun -- --nocapture"
    );
    monitor
        .env("MAGIKRUN_KRUN_KERNEL", &files)
        .env(FILES_VARIABLE, &directory)
        .run()?;
    let features = "magikrun-cli/test-hooks";
    cmd!(
        sh,
        "cargo build --quiet --locked -p magikrun -p magikrun-cli --features {features}"
    )
    .run()?;
    let test = cmd!(
        sh,
        "cargo test --locked -p magikrun-tests --test krun_pod -- --nocapture"
    );
    let test = test.env("MAGIKRUN_KRUN_FILES", &files);
    Ok(test.env("MAGIKRUN_KRUN_STOCK_FILES", &directory).run()?)
}

/// A libkrunfw that libkrun boots here: the one in `target/vm/kvm-guest`, made there when it is
/// absent.
fn kernel(sh: &Shell, directory: &Path) -> Result<PathBuf> {
    let own = directory.join("kvm-guest");
    let library = own.join(KERNEL_LIBRARY);
    if !library.is_file() {
        println!("making a guest kernel in {} (5 minutes)", own.display());
        let script = host::workspace().join(BUILD_KERNEL);
        cmd!(sh, "nice -n 10 bash {script} {own}").run()?;
    }
    Ok(library)
}
