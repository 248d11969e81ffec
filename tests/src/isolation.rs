//! A test in a world of its own: new pid, mount, net, ipc, uts and cgroup namespaces.
//!
//! Containers are made of what a machine has only once: processes, mounts, cgroups. Tests that count them would see
//! each other's. So a test function runs twice: the outer run starts the same test again in a new [`World`], the inner
//! run is the test.

use std::path::{Path, PathBuf};

use magikrun_test_world::{World, enter, mount_tmpfs};

const INNER: &str = "MAGIKRUN_TEST_INNER";

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
        mount_tmpfs(&target, size).expect("mount");
        target
    }
}

/// Runs `body` as the test `name` in a world of its own, or says `SKIPPED` without root. See [`isolated`](crate::isolated).
pub fn run_isolated(name: &str, body: impl FnOnce(&Scene)) {
    if let Some(dir) = std::env::var_os(INNER).map(PathBuf::from) {
        enter().expect("a world of its own");
        mount_tmpfs(&dir, 4 << 30).expect("the test's directory");
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
    let name_of_world = dir.path().file_name().expect("a name").display().to_string();
    let world = World::create(&name_of_world).expect("cgroups");
    let status = world
        .command(std::env::current_exe().expect("own executable"))
        .args(["--exact", name, "--nocapture", "--include-ignored"])
        .env(INNER, dir.path())
        .status()
        .expect("bash");
    assert!(status.success(), "{name}: {status} (see above)");
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
