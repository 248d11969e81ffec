//! A test in a world of its own: new pid, mount, net, ipc, uts and cgroup namespaces.
//!
//! Containers are made of what a machine has only once: processes, mounts, cgroups. Tests that count them would see
//! each other's. So a test function runs twice: the outer run starts the same test again in a new [`World`], the inner
//! run is the test.

use std::path::{Path, PathBuf};

use magikrun_test_world::{World, enter, mount_tmpfs};
use rustix::{
    fs::{Gid, Uid},
    mount::mount_bind,
    process::{DumpableBehavior, set_dumpable_behavior},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

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
        let user = rustix::process::geteuid();
        as_root(|| {
            mount_tmpfs(&target, size).expect("mount");
            std::os::unix::fs::chown(&target, Some(user.as_raw()), Some(user.as_raw())).expect("chown");
        });
        target
    }

    /// Makes the calling thread, and the threads and programs that it starts, `user` and no longer root. The scene's directory
    /// becomes the user's, who finds the binaries under test there.
    ///
    /// # Panics
    /// If the caller is not root.
    pub fn become_user(&self, user: u32) {
        let built = crate::binary();
        let binaries = self.dir.join("bin");
        std::fs::create_dir(&binaries).expect("a mount point");
        mount_bind(built.parent().expect("a directory"), &binaries).expect("the binaries");
        crate::magikrun::find_binaries_in(binaries);
        std::os::unix::fs::chown(&self.dir, Some(user), Some(user)).expect("chown");
        set_thread_groups(&[]).expect("setgroups");
        let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
        set_thread_res_gid(gid, gid, Gid::ROOT).expect("setresgid");
        set_thread_res_uid(uid, uid, Uid::ROOT).expect("setresuid");
        set_dumpable_behavior(DumpableBehavior::Dumpable).expect("prctl");
    }
}

/// Does what only root can do in a thread that [`Scene::become_user`] has taken root from.
///
/// # Panics
/// If the thread has never been root's.
pub fn as_root<T>(work: impl FnOnce() -> T) -> T {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if uid.is_root() {
        return work();
    }
    set_thread_res_uid(None::<Uid>, Uid::ROOT, None::<Uid>).expect("setresuid");
    set_thread_res_gid(None::<Gid>, Gid::ROOT, None::<Gid>).expect("setresgid");
    let result = work();
    set_thread_res_gid(None::<Gid>, gid, None::<Gid>).expect("setresgid");
    set_thread_res_uid(None::<Uid>, uid, None::<Uid>).expect("setresuid");
    // Changing users makes a process's files below /proc root's.
    set_dumpable_behavior(DumpableBehavior::Dumpable).expect("prctl");
    result
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
        // No configuration of whoever runs the tests.
        .env("HOME", dir.path())
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
