//! What is mounted in volumes while containers run, and who may write there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use magikrun_tests::{BUSYBOX, Census, Magikrun, container, isolated, pod};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use serde_json::json;

use crate::kit::{FOREVER, delete, fails, inside, run, sleeping, succeeds};

/// A directory of the scene's on a mount of its own, which is shared.
fn shared_dir(dir: &Path) -> PathBuf {
    fs::create_dir_all(dir).expect("a directory");
    mount_bind(dir, dir).expect("mount");
    mount_change(dir, MountPropagationFlags::SHARED).expect("make it shared");
    dir.to_owned()
}

fn mount_tmpfs_on(dir: &Path) {
    mount("tmpfs", dir, "tmpfs", MountFlags::empty(), None).expect("mount");
}

isolated!(
    fn mounts_go_from_container_to_container_as_mount_propagation_says(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let mut all = pod("p", &["from", "to", "none"].map(|name| container(name, BUSYBOX, FOREVER)));
        all["spec"]["volumes"] = json!([{"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}]);
        all["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
        for (place, propagation) in ["Bidirectional", "HostToContainer", "None"].iter().enumerate() {
            all["spec"]["containers"][place]["volumeMounts"] = json!([
                {"name": "disk", "mountPath": "/disk", "mountPropagation": propagation},
                {"name": "memory", "mountPath": "/memory", "mountPropagation": propagation},
            ]);
        }
        let before = Census::take(&magikrun.roots());
        let id = run(&magikrun, &all);
        for dir in ["disk", "memory"] {
            let script = format!("mkdir /{dir}/m && mount -t tmpfs none /{dir}/m && echo hello > /{dir}/m/file");
            inside(&magikrun, "p", "from", &script);
            assert_eq!(inside(&magikrun, "p", "to", &format!("cat /{dir}/m/file")), "hello\n");
            assert!(!succeeds(&magikrun, "p", "none", &format!("cat /{dir}/m/file")), "{dir}");
            let on_host = magikrun.root.join("pods").join(&id).join("volumes").join(dir).join("m/file");
            assert!(!on_host.exists(), "the host has no part in it");
            inside(&magikrun, "p", "from", &format!("umount /{dir}/m"));
            assert!(!succeeds(&magikrun, "p", "to", &format!("cat /{dir}/m/file")), "{dir}");
        }
        // A container that is run again takes part anew.
        magikrun.ok(&["pod", "restart", "-c", "to", "p"]);
        inside(&magikrun, "p", "from", "mount -t tmpfs none /disk/m && echo again > /disk/m/file");
        assert_eq!(inside(&magikrun, "p", "to", "cat /disk/m/file"), "again\n");
        delete(&magikrun, "p");
        before.assert_same("after the pod");
    }
);

isolated!(
    fn mounts_go_to_and_from_the_host_as_mount_propagation_says(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let host = shared_dir(&scene.dir().join("host"));
        for dir in ["early", "late", "theirs", "part/deep"] {
            fs::create_dir_all(host.join(dir)).unwrap();
        }
        let mut all = pod("p", &["both", "slave", "none"].map(|name| container(name, BUSYBOX, FOREVER)));
        all["spec"]["volumes"] = json!([{"name": "h", "hostPath": {"path": host}}]);
        all["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
        for (place, propagation) in ["Bidirectional", "HostToContainer", "None"].iter().enumerate() {
            all["spec"]["containers"][place]["volumeMounts"] = json!([
                {"name": "h", "mountPath": "/h", "mountPropagation": propagation},
                {"name": "h", "mountPath": "/part", "subPath": "part", "mountPropagation": propagation},
            ]);
        }
        let before = Census::take(&magikrun.roots());
        run(&magikrun, &all);
        mount_tmpfs_on(&host.join("late"));
        mount_tmpfs_on(&host.join("part/deep"));
        fs::write(host.join("late/file"), "").unwrap();
        fs::write(host.join("part/deep/file"), "").unwrap();
        for (name, sees) in [("both", true), ("slave", true), ("none", false)] {
            for file in ["/h/late/file", "/part/deep/file"] {
                assert_eq!(succeeds(&magikrun, "p", name, &format!("[ -e {file} ]")), sees, "{name} {file}");
            }
        }
        inside(&magikrun, "p", "both", "mount -t tmpfs none /h/theirs && echo x > /h/theirs/file");
        assert!(host.join("theirs/file").exists(), "it is the host's, too");
        for (name, sees) in [("both", true), ("slave", true), ("none", false)] {
            assert_eq!(succeeds(&magikrun, "p", name, "[ -e /h/theirs/file ]"), sees, "{name}");
        }
        for dir in ["late", "part/deep", "theirs"] {
            rustix::mount::unmount(host.join(dir), rustix::mount::UnmountFlags::empty()).expect("nobody holds it");
        }
        assert!(!succeeds(&magikrun, "p", "both", "[ -e /h/theirs/file ]"));
        delete(&magikrun, "p");
        before.assert_same("after the pod");

        // What cannot propagate is said, as containerd does.
        mount_change(&host, MountPropagationFlags::PRIVATE).unwrap();
        let said = fails(&magikrun, &all);
        assert!(said.contains("volume h: hostPath") && said.contains("which is not shared"), "{said}");
    }
);

isolated!(
    fn what_is_mounted_below_a_volume_is_read_only_if_that_is_asked_for(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let host = scene.dir().join("host");
        fs::create_dir_all(host.join("below")).unwrap();
        mount_tmpfs_on(&host.join("below"));
        let volumes = json!([{"name": "h", "hostPath": {"path": host}}]);
        let mounts = json!([
            {"name": "h", "mountPath": "/plain", "readOnly": true},
            {"name": "h", "mountPath": "/disabled", "readOnly": true, "recursiveReadOnly": "Disabled"},
            {"name": "h", "mountPath": "/enabled", "readOnly": true, "recursiveReadOnly": "Enabled"},
            {"name": "h", "mountPath": "/possible", "readOnly": true, "recursiveReadOnly": "IfPossible", "mountPropagation": "None"},
            {"name": "h", "mountPath": "/part", "subPath": "below", "readOnly": true, "recursiveReadOnly": "Enabled"},
        ]);
        run(&magikrun, &sleeping("p", volumes, mounts));
        for (path, writable) in [
            ("/plain", false), ("/plain/below", true), ("/disabled/below", true),
            ("/enabled", false), ("/enabled/below", false), ("/possible/below", false), ("/part", false),
        ] {
            assert_eq!(succeeds(&magikrun, "p", "c", &format!("touch {path}/x")), writable, "{path}");
        }
        delete(&magikrun, "p");
    }
);
