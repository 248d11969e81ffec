//! Root file systems without overlayfs.

use magik_pri::{
    PodRuntime, Pods, Roots,
    native::{Native, Rootfs},
};
use magikrun_test_images::{ImageConfig, LayerBuilder, Layout};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use serde_json::json;

use crate::support::{OWN_DISK, Test, World, test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    test!(a_pod_runs_from_copies_of_its_layers),
    test!(a_pod_runs_where_the_kernel_makes_no_overlay),
];

/// An image whose upper layer has, of one file, two names and the setuid bit, and replaces a file of the lower one.
fn two_layers(w: &World) -> String {
    let (mut lower, mut upper) = (LayerBuilder::new(), LayerBuilder::new());
    lower
        .busybox()
        .unwrap()
        .file("/data/file", 0o644, b"lower")
        .unwrap();
    upper
        .file("/data/file", 0o644, b"upper")
        .unwrap()
        .file("/data/tool", 0o4755, b"tool")
        .unwrap();
    let mut layout = Layout::create(w.path("two-layers")).unwrap();
    let layers = [lower.finish().unwrap(), upper.finish().unwrap()];
    layout
        .add("image", &[&layers[0], &layers[1]], &ImageConfig::default())
        .unwrap();
    layout.reference("image")
}

/// Runs a pod of two containers of that image, and looks at what they have.
async fn check(w: &World, runtime: &Pods) {
    let image = two_layers(w);
    let container = |name: &str, read_only: bool| {
        json!({"name": name, "image": image, "command": ["sh", "-c", "exec sleep 1000"],
            "securityContext": {"readOnlyRootFilesystem": read_only}})
    };
    let spec = json!({"containers": [container("a", false), container("b", true)], "terminationGracePeriodSeconds": 0});
    let pod = w.pod("copied", &spec);
    let status = w.run_by(runtime, &pod).await.unwrap();
    let look = "cat /data/file; stat -c ' %a %u' /data/tool";
    assert_eq!(w.exec_by(runtime, "copied", "a", look).await.0, "upper 4755 0\n");
    let write = "echo changed > /data/file && cat /data/file";
    assert_eq!(
        w.exec_by(runtime, "copied", "a", write).await,
        ("changed\n".to_owned(), 0)
    );
    let copy = w.path("data/pods").join(&status.id).join("rw/a/rootfs");
    assert_eq!(
        std::fs::read_to_string(copy.join("data/file")).unwrap(),
        "changed\n"
    );
    // Neither the other container nor the layer sees it; and a read-only root file system is one.
    let (text, code) = w
        .exec_by(runtime, "copied", "b", "cat /data/file; echo > /data/file")
        .await;
    assert!(
        text.contains("upper") && text.contains("Read-only") && code == 1,
        "{text:?} {code}"
    );
    runtime.delete_pod("copied", true).await.unwrap();
    assert!(!w.path("data/pods").join(&status.id).exists());

    let again = w.run_by(runtime, &pod).await.unwrap();
    assert_eq!(
        w.exec_by(runtime, "copied", "a", "cat /data/file").await.0,
        "upper"
    );
    runtime.delete_pod(&again.id, true).await.unwrap();
}

async fn a_pod_runs_from_copies_of_its_layers(w: &World) {
    check(w, &w.another_runtime().with(Native::new().rootfs(Rootfs::Copy))).await;
}

/// Data on an overlay, as in a container: overlayfs refuses to write there.
async fn a_pod_runs_where_the_kernel_makes_no_overlay(w: &World) {
    let disk = w.path("disk");
    std::fs::create_dir(&disk).unwrap();
    mount(OWN_DISK, &disk, "tmpfs", MountFlags::empty(), c"mode=0755").unwrap();
    mount_change(&disk, MountPropagationFlags::PRIVATE).unwrap();
    for dir in ["lower", "upper", "work"] {
        std::fs::create_dir(disk.join(dir)).unwrap();
    }
    let data = w.path("data");
    std::fs::create_dir(&data).unwrap();
    let at = |dir: &str| disk.join(dir).display().to_string();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        at("lower"),
        at("upper"),
        at("work")
    );
    let options = std::ffi::CString::new(options).unwrap();
    mount(
        OWN_DISK,
        &data,
        "overlay",
        MountFlags::empty(),
        options.as_c_str(),
    )
    .unwrap();
    let roots = Roots {
        data: data.clone(),
        state: w.path("state"),
    };
    check(w, &Pods::new(roots).with(Native::new())).await;
    assert_eq!(w.leftovers(), Vec::<String>::new());
    unmount(&data, UnmountFlags::DETACH).unwrap();
    unmount(&disk, UnmountFlags::DETACH).unwrap();
}
