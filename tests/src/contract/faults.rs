//! `run_pod` fails: the error names the container and the step, and nothing is left.

use std::{fs, io::Write, path::Path};

use magik_pri::{Error, Step};
use rustix::mount::{UnmountFlags, unmount};
use serde_json::{Value, json};

use super::Contract;
use crate::{Magikrun, as_root};

/// Runs a manifest that must fail at `step` because of `container`, and leave nothing; returns what was said.
async fn fails(t: &Contract<'_>, manifest: &Value, step: Step, container: &str) -> String {
    let before = t.census().await;
    let error = t.run_manifest(manifest).await.expect_err("run_pod succeeded");
    let text = error.to_string();
    match error {
        Error::Run {
            step: at,
            container: Some(named),
            ..
        } => assert_eq!((at, named.as_str()), (step, container), "{text}"),
        other => panic!("not an error of a step and a container: {other:?}"),
    }
    assert!(text.contains(container) && !text.contains('\n'), "{text}");
    before.assert_same(&format!("after: {text}"));
    text
}

/// One that is no image, and one that is nowhere.
pub async fn a_bad_image_is_named_and_leaves_nothing(t: &Contract<'_>) {
    let mut manifest = t.pod("bad", &[("a", "sleep 100"), ("b", "sleep 100")]);
    manifest["spec"]["containers"][1]["image"] = json!("oci:/no/such/directory:x");
    let text = fails(t, &manifest, Step::Images, "b").await;
    assert!(text.contains("/no/such/directory"), "{text}");

    // Nothing listens there.
    manifest["spec"]["containers"][1]["image"] = json!("127.0.0.1:1/none:1");
    let text = fails(t, &manifest, Step::Images, "b").await;
    assert!(text.contains("127.0.0.1:1"), "{text}");

    manifest["spec"]["containers"][1]["image"] = json!("127.0.0.1:1/none:1");
    manifest["spec"]["containers"][1]["imagePullPolicy"] = json!("Never");
    fails(t, &manifest, Step::Images, "b").await;
}

/// Two containers run already when the third cannot.
pub async fn a_missing_command_in_the_third_container_is_named_and_leaves_nothing(t: &Contract<'_>) {
    let mut manifest = t.pod(
        "missing",
        &[
            ("a", "sleep 100"),
            ("b", "sleep 100"),
            ("c", ""),
            ("d", "sleep 100"),
        ],
    );
    for command in ["/no/such/command", "no-such-command", "/etc/passwd", "/etc"] {
        manifest["spec"]["containers"][2]["command"] = json!([command]);
        let text = fails(t, &manifest, Step::Start, "c").await;
        assert!(text.contains(command), "{text}");
    }
}

/// The error has its exit code.
pub async fn a_failing_init_container_is_named_and_leaves_nothing(t: &Contract<'_>) {
    for (script, said) in [("exit 3", "3"), ("no-such-program", "127")] {
        let mut manifest = t.pod("init", &[("main", "sleep 100")]);
        manifest["spec"]["initContainers"] =
            json!([t.container("fine", "exit 0"), t.container("broken", script)]);
        let text = fails(t, &manifest, Step::Start, "broken").await;
        assert!(text.contains(said), "{text}");
    }
}

/// Before anything is touched.
pub async fn an_undefined_volume_is_named_and_leaves_nothing(t: &Contract<'_>) {
    let mut manifest = t.pod("volume", &[("a", "sleep 100"), ("b", "sleep 100")]);
    manifest["spec"]["containers"][1]["volumeMounts"] = json!([{"name": "nowhere", "mountPath": "/data"}]);
    let before = t.census().await;
    let text = t
        .run_manifest(&manifest)
        .await
        .expect_err("run_pod succeeded")
        .to_string();
    assert!(
        text.contains("spec.containers[1].volumeMounts[0]") && text.contains("nowhere"),
        "{text}"
    );
    before.assert_same("after an undefined volume");

    manifest["spec"]["containers"][1]["volumeMounts"] = json!([{"name": "host", "mountPath": "/data"}]);
    manifest["spec"]["volumes"] =
        json!([{"name": "host", "hostPath": {"path": "/no/such/path", "type": "Directory"}}]);
    let text = t
        .run_manifest(&manifest)
        .await
        .expect_err("run_pod succeeded")
        .to_string();
    assert!(text.contains("/no/such/path"), "{text}");
    before.assert_same("after a missing hostPath");
}

/// Nothing of the pod listens, not even at those of its ports that were free.
pub async fn a_host_port_in_use_is_named_and_leaves_nothing(t: &Contract<'_>) {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port();
    let mut manifest = t.pod("ports", &[("a", "sleep 100"), ("b", "sleep 100")]);
    manifest["spec"]["containers"][1]["ports"] =
        json!([{"containerPort": 80, "hostIP": "127.0.0.1", "hostPort": port}]);
    let text = fails(t, &manifest, Step::Launch, "b").await;
    assert!(
        text.contains(&format!("ports[0].hostPort: listen on 127.0.0.1:{port}")),
        "{text}"
    );
}

/// The pod that has the name goes on as if nothing had happened.
pub async fn a_name_in_use_is_named_and_leaves_nothing(t: &Contract<'_>) {
    let first = t.run("taken", &[("c", "sleep 100")]).await.expect("run");
    let before = t.census().await;
    let error = t
        .run("taken", &[("other", "sleep 100")])
        .await
        .expect_err("the name is taken");
    assert!(
        matches!(&error, Error::NameInUse { id, .. } if *id == first.id),
        "{error:?}"
    );
    assert!(error.to_string().contains("default/taken"), "{error}");
    before.assert_same("after a name in use");
    assert_eq!(t.runtime.pod_status("taken").await.expect("status"), first);
    t.delete("taken").await;
}

/// Both roots on a small file system: full when the image arrives, and with room for ever more of a pod's files.
pub async fn a_full_disk_leaves_nothing_wherever_it_hits(t: &Contract<'_>) {
    let on = |dir: &Path| {
        let magikrun = Magikrun::with_roots(t.scene, dir.join("root"), dir.join("state"));
        let runtime = (t.open)(&magikrun);
        Contract {
            scene: t.scene,
            runtime,
            magikrun,
            source: t.source.clone(),
            open: t.open,
            kit: t.kit,
        }
    };
    let tight = t.scene.tmpfs("tight", 1 << 20);
    let t2 = on(&tight);
    let mut manifest = t2.pod("full", &[("a", "sleep 100"), ("b", "sleep 100")]);
    manifest["spec"]["containers"][1]["image"] = json!(t.source);
    let text = t2
        .run_manifest(&manifest)
        .await
        .expect_err("an image larger than the disk")
        .to_string();
    assert!(
        text.contains("step images") && text.contains("No space left"),
        "{text}"
    );
    drop(t2);
    as_root(|| unmount(&tight, UnmountFlags::empty())).expect("nothing uses the file system any more");

    let roomy = t.scene.tmpfs("roomy", 64 << 20);
    let t2 = on(&roomy);
    t2.magikrun.ok(&["image", "pull", &t.source]);
    let pod = t2.run("first", &[("a", "true")]).await.expect("there is room").id;
    t2.delete(&pod).await;
    let manifest = t2.pod("full", &[("a", "sleep 100"), ("b", "sleep 100")]);
    let (mut failures, mut successes) = (0, 0);
    let mut free_pages = 0_i64;
    loop {
        fill(&roomy.join("filler"), free_pages * 4096);
        let before = t2.census().await;
        match t2.run_manifest(&manifest).await {
            Ok(pod) => {
                t2.delete(&pod.id).await;
                successes += 1;
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("No space left") && !text.contains('\n'), "{text}");
                failures += 1;
            }
        }
        before.assert_same(&format!("with {free_pages} pages free"));
        if successes == 3 {
            break;
        }
        // Page by page at first, where a pod's own files are written; a copied root file system takes hundreds.
        free_pages += 1.max(free_pages / 16);
    }
    assert!(failures > 0, "a full disk was never noticed");
    drop(t2);
    as_root(|| unmount(&roomy, UnmountFlags::empty())).expect("nothing uses the file system any more");
    for name in ["tight", "roomy"] {
        fs::remove_dir(t.scene.dir().join(name)).expect("mount point");
    }
}

/// Fills a file system with one file, but for `free` bytes.
fn fill(path: &Path, free: i64) {
    let mut file = fs::File::create(path).expect("filler");
    while file.write_all(&[0; 4096]).is_ok() {}
    let size = i64::try_from(file.metadata().expect("filler").len()).expect("a small file");
    file.set_len(u64::try_from((size - free).max(0)).expect("not negative"))
        .expect("filler");
}
