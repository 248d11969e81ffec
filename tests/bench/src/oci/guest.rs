//! The same in a guest: this program and the runtimes are started there, in a world of their own.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use magikrun_test_guest::Guest;

use super::{Args, bundle};
use xtask::{host, tools};

use crate::scene;

/// Emulated, on a busy machine.
const LIMIT: Duration = Duration::from_secs(1800);
const MEMORY_MIB: u32 = 1024;

/// Boots a guest, measures in it and prints what it has printed.
pub(super) fn run(args: &Args, peers: Option<&Path>) -> Result<()> {
    let mut packages = vec!["busybox-static", "util-linux"];
    if peers.is_none() {
        packages.push("crun");
    }
    if !args.no_install {
        tools::run(tools::MACHINES, ["vm"])?;
    }
    let magikrun = scene::build("oci", &packages, args.no_install, args.magikrun.as_deref())?;
    let sh = host::shell()?;
    let mut guest = Guest::create(peers.unwrap_or(Path::new("/")))?;
    guest.program(&std::env::current_exe()?, "/suite/bench")?;
    guest.program(&magikrun, "/suite/magikrun")?;
    for (name, at) in [("bash", "/bin/bash"), ("unshare", "/usr/bin/unshare")] {
        guest.program(&Path::new("/usr/bin").join(name), at)?;
    }
    // Not runc: every row of it would take a minute.
    let crun = peers.unwrap_or(Path::new("/")).join("usr/bin/crun");
    guest.program(&crun, "/usr/bin/crun")?;
    // Where this program looks for them.
    let profile = bundle::profile();
    guest.file(&profile, &profile.display().to_string())?;
    let script = format!(
        "export {}=/out\n\
         /suite/bench oci --no-install --magikrun /suite/magikrun --iterations {} --only '{}' \
         >/out/stdout 2>/out/stderr </dev/null\n\
         echo $? >/out/status",
        scene::RESULTS,
        args.iterations,
        args.only.replace('\'', "")
    );
    println!("in a guest, emulated: minutes");
    let ran = guest.run(&script, &host::machine_files(&sh)?, MEMORY_MIB, LIMIT);
    let read = |name: &str| fs::read_to_string(guest.out().join(name)).unwrap_or_default();
    print!("{}", read("stdout"));
    ran.with_context(|| read("stderr"))?;
    ensure!(read("status").trim() == "0", "in the guest: {}", read("stderr"));
    let results: PathBuf = scene::results()?.join("oci-guest.json");
    fs::copy(guest.out().join("oci.json"), &results)?;
    println!("kept as {}", results.display());
    Ok(())
}
