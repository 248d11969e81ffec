//! The attacker is another user of the host.

use std::{
    ffi::OsStr,
    fs::{self, File, Permissions},
    io::{BufRead, BufReader},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use magikrun_tests::{BUSYBOX, Magikrun, busybox_layout, container, isolated, pod};

const NOBODY: u32 = 65534;

/// A process of `nobody` that tries to take the lock on a file and to keep it.
struct Holder {
    child: Child,
    holds: bool,
}

impl Holder {
    fn of(file: &Path) -> Self {
        let mut child = Command::new("flock")
            .args(["--exclusive", "--nonblock"])
            .arg(file)
            .args(["-c", "echo held; exec sleep 1000"])
            .uid(NOBODY)
            .gid(NOBODY)
            .current_dir("/")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("flock(1)");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("its answer");
        Self {
            child,
            holds: line == "held\n",
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // flock(1) has executed the shell and that the sleep, or it is over.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
}

/// Every lock file of a data root.
const LOCKS: [&str; 2] = ["blobs/lock", "leases/.lock"];

isolated!(
    fn nobody_holds_a_lock_of_a_data_root_that_was_open(scene) {
        let magikrun = Magikrun::new(scene);
        // As an administrator makes it before magikrun comes.
        fs::create_dir(&magikrun.root).expect("root");
        chmod(&magikrun.root, 0o755);
        let layout = busybox_layout(&scene.dir().join("layout"));
        magikrun.ok(&["image", "pull", &layout.reference(BUSYBOX)]);
        let holders = LOCKS.map(|lock| Holder::of(&magikrun.root.join(lock)));
        magikrun.ok(&["image", "tag", BUSYBOX, "localhost/other:1"]);
        magikrun.ok(&["image", "prune"]);
        assert!(holders.iter().all(|holder| !holder.holds), "nobody has a lock");
        for dir in ["", "blobs", "blobs/sha256", "images", "layers", "leases", "tmp"] {
            let mode = magikrun.root.join(dir).metadata().expect("a directory").mode();
            assert_eq!(mode & 0o077, 0, "{dir}: {mode:o}");
        }
    }
);

isolated!(
    fn a_lock_that_nobody_has_held_for_long_stops_nothing(scene) {
        let magikrun = Magikrun::new(scene);
        let layout = busybox_layout(&scene.dir().join("layout"));
        magikrun.ok(&["image", "pull", &layout.reference(BUSYBOX)]);
        // As it was left by a version that closed nothing.
        for dir in ["", "blobs", "leases"] {
            chmod(&magikrun.root.join(dir), 0o755);
        }
        for lock in LOCKS {
            let lock = magikrun.root.join(lock);
            File::create(&lock).expect("a lock file");
            chmod(&lock, 0o644);
        }
        let holders = LOCKS.map(|lock| Holder::of(&magikrun.root.join(lock)));
        assert!(holders.iter().all(|holder| holder.holds), "the attack is one");
        magikrun.ok(&["image", "tag", BUSYBOX, "localhost/other:1"]);
        magikrun.ok(&["image", "prune"]);
    }
);

isolated!(
    fn a_data_root_that_another_user_prepared_is_refused(scene) {
        let layout = busybox_layout(&scene.dir().join("layout"));
        let trap = |name: &str, prepare: &dyn Fn(&Path)| {
            let root = scene.dir().join(name);
            prepare(&root);
            let magikrun = Magikrun::with_roots(scene, root, scene.dir().join("state"));
            magikrun.error(&["image", "pull", &layout.reference(BUSYBOX)])
        };
        let give = |path: &Path| {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("chown");
        };
        let error = trap("theirs", &|root| {
            fs::create_dir(root).expect("root");
            give(root);
        });
        assert!(error.contains("theirs: belongs to user 65534"), "{error}");
        let error = trap("inner", &|root| {
            fs::create_dir_all(root.join("blobs")).expect("root");
            chmod(root, 0o700);
            give(&root.join("blobs"));
        });
        assert!(error.contains("inner/blobs: belongs to user 65534"), "{error}");
        let error = trap("link", &|root| {
            fs::create_dir(scene.dir().join("elsewhere")).expect("a directory");
            std::os::unix::fs::symlink("elsewhere", root).expect("a link");
        });
        assert!(error.contains("link: is a symbolic link"), "{error}");
        assert_eq!(fs::read_dir(scene.dir().join("elsewhere")).expect("it").count(), 0);
        // What others use is not taken from them.
        let error = trap("shared", &|root| {
            fs::create_dir(root).expect("root");
            fs::write(root.join("file"), "somebody's").expect("a file");
            chmod(root, 0o1777);
        });
        assert!(error.contains("shared: is open to other users (mode 1777)"), "{error}");
    }
);

isolated!(
    fn a_mount_on_a_directory_whose_name_is_no_text_hinders_nobody(scene) {
        // As anybody may mount with FUSE, in a directory of theirs.
        let odd = scene.dir().join(OsStr::from_bytes(b"\xff\xfe"));
        fs::create_dir(&odd).expect("a directory");
        let status = Command::new("mount").args(["-t", "tmpfs", "odd"]).arg(&odd).status();
        assert!(status.expect("mount(8)").success());
        let magikrun = Magikrun::new(scene);
        let layout = busybox_layout(&scene.dir().join("layout"));
        magikrun.ok(&["image", "pull", &layout.reference(BUSYBOX)]);
        let out = magikrun.pod_run(&pod("web", &[container("c", BUSYBOX, "exec sleep 1000")]));
        assert_eq!(out.code, 0, "{}", out.stderr);
        magikrun.ok(&["pod", "exec", "web", "--", "true"]);
        magikrun.ok(&["system", "info"]);
        magikrun.ok(&["pod", "delete", "--force", "web"]);
    }
);
