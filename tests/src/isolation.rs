//! A test of its own world: new pid, mount, net, ipc, uts and cgroup namespaces.
//!
//! Containers are made of what a machine has only once: processes, mounts, cgroups. Tests that count them would see
//! each other's. So a test function runs twice: the outer run starts the same test again below `unshare(1)`, the inner
//! run is the test. When it ends, however it ends, the kernel removes its processes and mounts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::cgroups::{self, TestCgroups};

const INNER: &str = "MAGIKRUN_TEST_INNER";

/// Enters the cgroups named by the first argument, then new namespaces, then runs the rest below a PID 1 that reaps
/// orphans (bash does) and passes the exit code on.
const ENTER: &str = r#"
IFS=:; for dir in $1; do echo 0 > "$dir/cgroup.procs" || exit 97; done; unset IFS; shift
exec unshare --cgroup --pid --fork --kill-child --mount --propagation private --net --ipc --uts --mount-proc \
    bash -c '"$@"; exit $?' init "$@"
"#;

/// The world of a running test.
#[derive(Debug)]
pub struct Scene {
    dir: PathBuf,
}

impl Scene {
    /// A directory of the test's own, on a tmpfs that ends with the test.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new file system of `size` bytes at `name` in [`dir`](Self::dir).
    #[must_use]
    pub fn tmpfs(&self, name: &str, size: usize) -> PathBuf {
        let target = self.dir.join(name);
        mount_tmpfs(&target, size);
        target
    }
}

/// Runs `body` as the test `name` in a world of its own, or says `SKIPPED` without root. See [`isolated`](crate::isolated).
pub fn run_isolated(name: &str, body: impl FnOnce(&Scene)) {
    if let Some(dir) = std::env::var_os(INNER).map(PathBuf::from) {
        cgroups::enter_namespace();
        loopback_up();
        mount_tmpfs(&dir, 4 << 30);
        return body(&Scene { dir });
    }
    if !rustix::process::geteuid().is_root() {
        #[expect(
            clippy::print_stderr,
            reason = "a skipped test says so where the runner shows it"
        )]
        {
            eprintln!("SKIPPED {name}: needs root");
        }
        return;
    }
    let dir = tempfile::Builder::new()
        .prefix("mkt-")
        .tempdir_in("/tmp")
        .expect("a directory in /tmp");
    let cgroups = TestCgroups::create(&dir.path().file_name().expect("a name").display().to_string());
    let status = Command::new("bash")
        .args(["-c", ENTER, "enter", &cgroups.argument()])
        .arg(std::env::current_exe().expect("own executable"))
        .args(["--exact", name, "--nocapture", "--include-ignored"])
        .env(INNER, dir.path())
        .stdin(std::process::Stdio::null())
        .status()
        .expect("bash");
    assert!(status.success(), "{name}: {status} (see above)");
}

fn mount_tmpfs(target: &Path, size: usize) {
    fs::create_dir_all(target).expect("mount point");
    let options = std::ffi::CString::new(format!("size={size},mode=0755")).expect("no NUL");
    rustix::mount::mount(
        "tmpfs",
        target,
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        options.as_c_str(),
    )
    .expect("mount tmpfs");
}

fn loopback_up() {
    let up = Command::new("busybox")
        .args(["ip", "link", "set", "lo", "up"])
        .status()
        .expect("busybox (Debian: busybox-static)");
    assert!(up.success(), "busybox ip link set lo up: {up}");
}

/// A test that needs root and a world of its own:
///
/// ```no_run
/// # use magikrun_tests::isolated;
/// isolated!(fn leaves_nothing(scene) { assert!(scene.dir().exists()); });
/// ```
#[macro_export]
macro_rules! isolated {
    ($(#[$attr:meta])* fn $name:ident($scene:ident) $body:block) => {
        #[test]
        $(#[$attr])*
        fn $name() {
            let module = module_path!();
            let path = module.split_once("::").map_or(String::new(), |(_, inner)| format!("{inner}::"));
            $crate::run_isolated(&format!("{path}{}", stringify!($name)), |$scene: &$crate::Scene| $body);
        }
    };
}
