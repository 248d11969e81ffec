//! Where a bench happens: namespaces and cgroups of its own, with everything it needs installed and built.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use magikrun_test_world::World;
use xshell::cmd;

use crate::{apt, host};

/// Set in the inner run: the directory everything is kept in.
const WORLD: &str = "MAGIKRUN_BENCH_WORLD";

/// In the inner run, the directory everything is kept in.
pub(crate) fn dir() -> Option<PathBuf> {
    std::env::var_os(WORLD).map(PathBuf::from)
}

/// Installs `packages`, builds magikrun (or takes the binary given) and starts `cargo xtask bench NAME` again in a world of
/// its own, with `--magikrun BINARY` and `rest` as its options.
pub(crate) fn start(
    name: &str,
    packages: &[&str],
    no_install: bool,
    given: Option<&Path>,
    rest: &[String],
) -> Result<()> {
    ensure!(
        host::is_root(),
        "running containers needs root: sudo -E cargo xtask bench {name}"
    );
    let sh = host::shell()?;
    if !no_install {
        let packages: Vec<&str> = [apt::BUILD, packages].concat();
        if let Some(missing) = apt::ensure(&sh, &packages)? {
            bail!("missing, and {}: {}", missing.why, missing.packages.join(" "));
        }
    }
    let binary = if let Some(path) = given {
        path.canonicalize().with_context(|| path.display().to_string())?
    } else {
        println!("building magikrun (profile bench)");
        cmd!(
            sh,
            "cargo build --locked --quiet --profile bench -p magikrun -p magikrun-cli"
        )
        .run()?;
        host::target_dir(&sh)?.join("release/magikrun")
    };
    // podman takes a layout's path for a name, and names are in lower case: no random part.
    let prefix = format!("magikrun-bench-{}", std::process::id());
    let dir = tempfile::Builder::new().prefix(&prefix).rand_bytes(0).tempdir()?;
    let world = World::create(&dir.path().file_name().unwrap_or_default().to_string_lossy())?;
    let options: [OsString; 4] = ["bench".into(), name.into(), "--magikrun".into(), binary.into()];
    let mut inner = world.command(std::env::current_exe()?);
    inner
        .args(options)
        .args(rest)
        .env(WORLD, dir.path())
        .current_dir(host::workspace());
    let status = inner.status().context("bash")?;
    ensure!(status.success(), "bench: {status}");
    Ok(())
}

/// Finishes the world from inside.
pub(crate) fn enter() -> Result<()> {
    magikrun_test_world::enter()?;
    // crun 1.8 refuses hybrid cgroups while it sees the v2 one.
    if Path::new("/sys/fs/cgroup/unified").exists() {
        rustix::mount::unmount("/sys/fs/cgroup/unified", rustix::mount::UnmountFlags::DETACH)?;
    }
    magikrun_test_world::mount_tmpfs(Path::new("/run/netns"), 1 << 20)?;
    Ok(())
}

/// Where this was measured.
pub(crate) fn machine() -> String {
    let read = |program: &str, args: &[&str]| {
        let out = Command::new(program)
            .args(args)
            .output()
            .map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
        out.unwrap_or_default()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let version = read("crun", &["--version"]);
    format!(
        "{} processors, Linux {}, {}, {version}",
        cpus,
        read("uname", &["-r"]),
        read("podman", &["--version"])
    )
}
