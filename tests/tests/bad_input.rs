//! What is hostile or wrong is refused in one line, and leaves nothing.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    thread,
    time::Duration,
};

use magikrun_test_images::{ImageConfig, LayerBuilder, Layout};
use magikrun_tests::{BUSYBOX, Census, Magikrun, Scene, busybox_layout, container, isolated, pod};
use serde_json::{Value, json};

/// magikrun with an image, its directories made, and the census.
fn prepared(scene: &Scene) -> (Magikrun, Census) {
    let magikrun = Magikrun::new(scene);
    magikrun.ok(&[
        "image",
        "pull",
        &busybox_layout(&scene.dir().join("layout")).reference(BUSYBOX),
    ]);
    magikrun.ok(&["pod", "ls"]);
    let census = Census::take(&magikrun.roots());
    (magikrun, census)
}

/// A pod of one container, changed.
fn changed(change: impl FnOnce(&mut Value)) -> String {
    let mut manifest = pod("bad", &[container("c", BUSYBOX, "sleep 100")]);
    change(&mut manifest);
    manifest.to_string()
}

isolated!(
    // What is said of each mistake is in mistakes.rs.
    fn manifests_that_are_no_pod_are_refused_by_field(scene) {
        let (magikrun, before) = prepared(scene);
        let many: Vec<Value> = (0..17).map(|n| container(&format!("c{n}"), BUSYBOX, "sleep 100")).collect();
        let cases: Vec<(String, &str)> = vec![
            (String::new(), ""),
            ("}{".into(), ""),
            ("\u{0}\u{1}".into(), ""),
            (changed(|m| m["apiVersion"] = json!("v2")), "apiVersion"),
            (changed(|m| m["spec"]["containers"] = json!([])), "spec.containers"),
            (changed(|m| m["spec"]["contianers"] = json!([])), "spec.contianers"),
            (changed(|m| m["spec"]["containers"][0]["imagee"] = json!("x")), "spec.containers[0].imagee"),
            (changed(|m| m["spec"]["containers"] = json!([container("twin", BUSYBOX, ""), container("twin", BUSYBOX, "")])), "twin"),
            (changed(|m| m["spec"]["containers"] = json!(many)), "16"),
            (changed(|m| m["spec"]["containers"][0]["name"] = json!("../escape")), "spec.containers[0].name"),
            (changed(|m| m["metadata"]["name"] = json!("../../etc")), "metadata.name"),
            (changed(|m| m["metadata"]["name"] = json!("..")), "metadata.name"),
            (changed(|m| m["metadata"]["namespace"] = json!("a/b")), "metadata.namespace"),
            (changed(|m| m["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 65536}])), "hostPort"),
        ];
        for (manifest, field) in cases {
            let file = magikrun.manifest(&manifest);
            let said = magikrun.error(&["pod", "run", "-f", &file]);
            assert!(said.contains(field), "{field} is not named for {manifest}: {said}");
            before.assert_same(&format!("after {manifest}"));
        }
        let said = magikrun.error(&["pod", "run", "-f", "/no/such/file.yaml"]);
        assert!(said.contains("/no/such/file.yaml"), "{said}");
    }
);

isolated!(
    fn manifests_that_explode_are_refused(scene) {
        let (magikrun, before) = prepared(scene);
        let large = changed(|m| m["metadata"]["annotations"] = json!({"a": "x".repeat(10 << 20)}));
        let deep = "[".repeat(100_000);
        let laughs = (1..12).fold("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, n| {
            let before = n - 1;
            format!("{text}a{n}: &a{n} [*a{before},*a{before},*a{before},*a{before},*a{before},*a{before},*a{before},*a{before},*a{before}]\n")
        });
        for (what, manifest) in [("10 MB", large), ("deep", deep), ("a billion laughs", laughs)] {
            let file = magikrun.manifest(&manifest);
            let said = magikrun.error(&["pod", "run", "-f", &file]);
            assert!(said.len() < 2000, "{what}: {said}");
            before.assert_same(what);
        }
    }
);

isolated!(
    fn names_that_are_paths_are_refused_everywhere(scene) {
        let (magikrun, before) = prepared(scene);
        for name in ["../x", "a/b/c", ".", "..", "/etc/passwd", "", "a b", "x\ny", &"x".repeat(5000)] {
            for command in [&["pod", "status"][..], &["pod", "stop"], &["pod", "delete"], &["pod", "logs"], &["pod", "events"]] {
                magikrun.error(&[command, &["--", name]].concat());
            }
            let out = magikrun.run(&["pod", "exec", "--", name, "true"]);
            assert_ne!(out.code, 0, "{name:?}");
            for command in ["state", "delete", "start"] {
                magikrun.error(&[command, "--", name]);
            }
            before.assert_same(&format!("after the name {name:?}"));
        }
    }
);

isolated!(
    fn damaged_blobs_are_found_before_anything_runs(scene) {
        let (magikrun, before) = prepared(scene);
        let mut layer = LayerBuilder::new();
        layer.file("/data", 0o644, &[b'x'; 100_000]).unwrap();
        let mut layout = Layout::create(scene.dir().join("damaged")).unwrap();
        layout.add("localhost/damaged:1", &[&layer.finish().unwrap()], &ImageConfig::default()).unwrap();
        let blobs = fs::read_dir(layout.dir().join("blobs/sha256")).unwrap().flatten();
        let layer_blob = blobs.map(|e| e.path()).find(|p| fs::read(p).unwrap().starts_with(&[0x1f, 0x8b])).unwrap();
        let mut bytes = fs::read(&layer_blob).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&layer_blob, bytes).unwrap();
        let said = magikrun.error(&["image", "pull", &layout.reference("localhost/damaged:1")]);
        let digest = layer_blob.file_name().unwrap().to_str().unwrap();
        assert!(said.contains(&digest[..12]), "the blob is not named: {said}");
        before.assert_same("after a damaged blob");
    }
);

/// A registry of one connection per answer, which says what it is told to.
fn lying_registry(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whoever speaks TLS sends no line, and is not kept waiting.
            stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut request = String::new();
            let _ = reader.read_line(&mut request);
            let mut header = String::new();
            while reader.read_line(&mut header).is_ok_and(|n| n > 2) {
                header.clear();
            }
            let mut stream = stream;
            let _ = stream.write_all(&answer(request.split(' ').nth(1).unwrap_or_default()));
        }
    });
    address
}

fn http(content_type: &str, body: &[u8], length: usize) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

isolated!(
    fn registries_that_lie_are_refused(scene) {
        let (magikrun, _) = prepared(scene);
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let digest = format!("sha256:{}", "0".repeat(64));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": manifest_type,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 2},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": format!("sha256:{}", "1".repeat(64)), "size": 10}],
        })
        .to_string();
        let of_manifest = manifest.clone();
        let serve = move |path: &str, blob: Vec<u8>| {
            if path.contains("/manifests/") { http(manifest_type, of_manifest.as_bytes(), of_manifest.len()) } else { blob }
        };
        let (a, b, c) = (serve.clone(), serve.clone(), serve);
        let registries = [
            ("another digest than asked for", lying_registry(move |path| a(path, http("application/octet-stream", b"{}", 2)))),
            ("more bytes than it said", lying_registry(move |path| b(path, http("application/octet-stream", &vec![b'x'; 1 << 20], 1 << 20)))),
            ("fewer bytes than it said", lying_registry(move |path| c(path, http("application/octet-stream", b"{", 2)))),
            ("an endless manifest", lying_registry(|_| http(manifest_type, &vec![b' '; 8 << 20], 1 << 40))),
            ("no JSON", lying_registry(|_| http(manifest_type, b"<html>", 6))),
            ("no HTTP", lying_registry(|_| b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())),
        ];
        // Threads of this process serve: take the census with them running.
        let before = Census::take(&magikrun.roots());
        for (lie, address) in registries {
            let said = magikrun.error(&["image", "pull", &format!("{address}/lie:1")]);
            let named = said.contains(&address) || said.contains("manifest sha256:");
            assert!(named, "{lie}: neither registry nor document is named: {said}");
            before.assert_same(lie);
        }
        let said = magikrun.error(&["image", "pull", "127.0.0.1:1/nobody:1"]);
        assert!(said.contains("127.0.0.1:1"), "{said}");
        before.assert_same("after a registry that does not listen");
    }
);
