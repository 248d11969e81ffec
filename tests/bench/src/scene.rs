//! Where a bench happens: namespaces and cgroups of its own, with everything it needs installed and built.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use magikrun_test_world::World;
use xshell::cmd;

use xtask::{apt, host};

/// Set in the inner run: the directory everything is kept in.
const WORLD: &str = "MAGIKRUN_BENCH_WORLD";
/// Set in the inner run, and in a guest: the directory for results.
pub(crate) const RESULTS: &str = "MAGIKRUN_BENCH_RESULTS";
/// The program of `tests/cri`.
pub(crate) const CRI_CLIENT: &str = "magikrun-test-cri";

/// In the inner run, the directory everything is kept in.
pub(crate) fn dir() -> Option<PathBuf> {
    std::env::var_os(WORLD).map(PathBuf::from)
}

/// Where the results go: `target/bench` where nobody says otherwise.
pub(crate) fn results() -> Result<PathBuf> {
    let dir = match std::env::var_os(RESULTS) {
        Some(dir) => PathBuf::from(dir),
        None => host::target_dir(&host::shell()?)?.join("bench"),
    };
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(dir)
}

/// Installs `packages` and builds magikrun; the binary, or the one given.
pub(crate) fn build(
    name: &str,
    packages: &[&str],
    no_install: bool,
    given: Option<&Path>,
) -> Result<PathBuf> {
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
    if let Some(path) = given {
        return path.canonicalize().with_context(|| path.display().to_string());
    }
    println!("building magikrun (profile bench)");
    cmd!(
        sh,
        "cargo build --locked --quiet --profile bench -p magikrun -p magikrun-cli"
    )
    .run()?;
    Ok(host::target_dir(&sh)?.join("release/magikrun"))
}

/// Builds the client of the container runtime interface. One that is beside a binary that was given is taken as it is.
pub(crate) fn build_client(magikrun: Option<&Path>) -> Result<()> {
    let beside = magikrun.map(|m| m.with_file_name(CRI_CLIENT));
    if beside.as_ref().is_some_and(|client| client.is_file()) {
        return Ok(());
    }
    let sh = host::shell()?;
    cmd!(
        sh,
        "cargo build --locked --quiet --profile bench -p magikrun-test-cri"
    )
    .run()?;
    if let Some(beside) = beside {
        let built = host::target_dir(&sh)?.join("release").join(CRI_CLIENT);
        fs::copy(built, &beside).with_context(|| beside.display().to_string())?;
    }
    Ok(())
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
    let binary = build(name, packages, no_install, given)?;
    // podman takes a layout's path for a name, and names are in lower case: no random part.
    let prefix = format!("magikrun-bench-{}", std::process::id());
    let dir = tempfile::Builder::new().prefix(&prefix).rand_bytes(0).tempdir()?;
    let world = World::create(&dir.path().file_name().unwrap_or_default().to_string_lossy())?;
    let options: [OsString; 3] = [name.into(), "--magikrun".into(), binary.into()];
    let mut inner = world.command(std::env::current_exe()?);
    inner
        .args(options)
        .args(rest)
        .env(WORLD, dir.path())
        .env(RESULTS, results()?)
        .current_dir(host::workspace());
    let status = inner.status().context("bash")?;
    ensure!(status.success(), "bench: {status}");
    println!("\nas JSON: {}", results()?.join(format!("{name}.json")).display());
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
