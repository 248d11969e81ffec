//! Hosts as they are: file systems that execute nothing, small ones, a chroot, a strict umask, no
//! locale. What can be run is run; what cannot is one line that says what to do.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use magikrun_tests::{BUSYBOX, Census, Magikrun, Scene, binary, busybox_layout, isolated};

/// A file system in memory, with options of mount(8).
fn mounted(scene: &Scene, name: &str, options: &str) -> PathBuf {
    let dir = scene.dir().join(name);
    fs::create_dir(&dir).unwrap();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "tmpfs"])
        .arg(&dir)
        .status();
    assert!(mount.unwrap().success(), "mount(8)");
    dir
}

fn pull(magikrun: &Magikrun, scene: &Scene) {
    let layout = scene.dir().join("layout");
    let reference = if layout.exists() {
        format!("oci:{}:{BUSYBOX}", layout.display())
    } else {
        busybox_layout(&layout).reference(BUSYBOX)
    };
    magikrun.ok(&["image", "pull", &reference]);
}

/// A pod, from run to delete.
fn runs_a_pod(magikrun: &Magikrun, scene: &Scene) {
    pull(magikrun, scene);
    let run = [
        "pod", "run", "--name", "web", BUSYBOX, "--", "busybox", "sleep", "1000",
    ];
    magikrun.ok(&run);
    let exec = ["pod", "exec", "web", "--", "busybox", "echo", "inside"];
    assert_eq!(magikrun.ok(&exec), "inside\n");
    magikrun.ok(&["pod", "delete", "--force", "web"]);
}

isolated!(
    fn pods_run_where_nothing_may_be_executed(scene) {
        let root = mounted(scene, "data", "noexec,nosuid,nodev,size=64m");
        let state = mounted(scene, "run", "noexec,nosuid,nodev,size=16m");
        runs_a_pod(&Magikrun::with_roots(scene, root, state), scene);
    }
);

isolated!(
    fn a_full_state_directory_is_one_line_and_leaves_nothing(scene) {
        let state = mounted(scene, "run", "size=16k");
        let magikrun = Magikrun::with_roots(scene, scene.dir().join("root"), state);
        pull(&magikrun, scene);
        let run = || magikrun.run(&["pod", "run", BUSYBOX, "busybox", "true"]);
        // What the first one makes stays: layers that are unpacked, and directories.
        run();
        let before = Census::take(&magikrun.roots());
        let ran = run();
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        assert!(ran.stderr.contains("No space left on device"), "{}", ran.stderr);
        before.assert_same("after a pod for which there was no room");
    }
);

isolated!(
    fn a_read_only_data_root_is_one_line(scene) {
        let root = mounted(scene, "data", "ro");
        let magikrun = Magikrun::with_roots(scene, root, scene.dir().join("state"));
        let said = magikrun.error(&["pod", "run", BUSYBOX, "busybox", "true"]);
        assert!(said.contains("Read-only file system") && said.contains("data"), "{said}");
    }
);

isolated!(
    fn pods_run_with_a_strict_umask_and_without_locale_home_and_temporary_directory(scene) {
        let magikrun = Magikrun::new(scene);
        pull(&magikrun, scene);
        let run = |args: &[&str]| {
            let mut shell = Command::new("sh");
            shell
                .args(["-c", "umask 077; exec \"$@\"", "sh"])
                .arg(binary())
                .args(args)
                .env_clear()
                .env("PATH", "/usr/bin:/bin")
                .env("LANG", "C")
                .env("NO_COLOR", "1")
                .env("TMPDIR", "/no/such/directory")
                .env("MAGIKRUN_DATA_DIR", magikrun.roots()[0])
                .env("MAGIKRUN_STATE_DIR", magikrun.roots()[1]);
            let out = shell.output().unwrap();
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "{args:?}: {said}");
            String::from_utf8(out.stdout).unwrap()
        };
        // Not as root: what is made for the container is to be read by others, whatever the umask.
        run(&["pod", "run", "--name", "web", "-u", "1000", BUSYBOX, "--", "busybox", "sleep", "1000"]);
        assert_eq!(run(&["pod", "exec", "web", "--", "busybox", "cat", "/etc/hostname"]), "web\n");
        assert!(run(&["pod", "status", "web"]).is_ascii());
        run(&["pod", "delete", "--force", "web"]);
    }
);

isolated!(
    fn pods_run_in_a_chroot(scene) {
        let magikrun = Magikrun::new(scene);
        pull(&magikrun, scene);
        let root = scene.dir().join("chroot");
        let bind = |from: &Path, to: &Path| {
            fs::create_dir_all(to).unwrap();
            let mount = Command::new("mount").arg("--rbind").args([from, to]).status();
            assert!(mount.unwrap().success(), "mount(8)");
        };
        let chroot = |args: &[&str]| {
            let programs = binary().parent().unwrap().to_owned();
            let mut chroot = Command::new("chroot");
            chroot.arg(&root).arg(programs.join("magikrun")).args(args);
            chroot
                .env("MAGIKRUN_DATA_DIR", magikrun.roots()[0])
                .env("MAGIKRUN_STATE_DIR", magikrun.roots()[1])
                .output()
                .unwrap()
        };
        // A directory is no mount, so its mounts cannot be made a pod's own.
        fs::create_dir(&root).unwrap();
        let fill = || {
            for entry in fs::read_dir("/").unwrap().flatten() {
                let (from, to) = (entry.path(), root.join(entry.file_name()));
                match fs::read_link(&from) {
                    Ok(target) => std::os::unix::fs::symlink(target, to).unwrap(),
                    Err(_) if from.is_dir() && from != Path::new("/tmp") => bind(&from, &to),
                    Err(_) => {}
                }
            }
            bind(scene.dir().parent().unwrap(), &root.join("tmp"));
        };
        fill();
        let run = ["pod", "run", "--name", "web", BUSYBOX, "--", "busybox", "sleep", "1000"];
        let refused = chroot(&run);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains("the root directory is no mount, as in a chroot"), "{said}");

        bind(&root.clone(), &root);
        for (args, expected) in [
            (&run[..], None),
            (&["pod", "exec", "web", "--", "busybox", "echo", "inside"], Some("inside\n")),
            (&["pod", "delete", "--force", "web"], None),
        ] {
            let out = chroot(args);
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "{args:?}: {said}");
            if let Some(expected) = expected {
                assert_eq!(String::from_utf8_lossy(&out.stdout), expected);
            }
        }
    }
);
