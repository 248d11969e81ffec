//! The images that manifests name.

use magik_pri::RuntimeClass;
use magikrun_test_images::{ImageConfig, LayerBuilder, Layout, hello_wasm, shell_wasm, tool_wasm};

use crate::{BUSYBOX, Magikrun, Scene};

/// Busybox with a configuration that says all that one can, and files that belong to a user.
const APP: &str = "localhost/app:1";

/// `/etc/passwd` and `/etc/group` of [`APP`].
const PASSWD: &str = "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n";
const GROUP: &str = "root:x:0:\napp:x:1000:\nextra:x:3000:app\n";

/// Loads them, unpacked: a census sees what a pod leaves and nothing else.
pub(super) fn load(magikrun: &Magikrun, scene: &Scene, class: RuntimeClass) {
    if class == RuntimeClass::Wasm {
        for (name, program) in [
            ("sh", shell_wasm()),
            ("tool", tool_wasm()),
            ("hello", hello_wasm()),
        ] {
            let program = program.expect("a compiler for WebAssembly");
            let (path, image) = (program.display().to_string(), format!("localhost/{name}:1"));
            magikrun.ok(&["image", "load", "-q", "-i", &path, "-t", &image]);
            let warm = [
                "pod",
                "run",
                "-q",
                "--rm",
                "--runtime",
                "wasm",
                &image,
                "--",
                "-c",
                ":",
            ];
            magikrun.run(&warm);
        }
        return;
    }
    let mut layer = LayerBuilder::new();
    layer.busybox().expect("busybox");
    let layer = layer.finish().expect("layer");
    let mut accounts = LayerBuilder::new();
    accounts
        .file("/etc/passwd", 0o644, PASSWD.as_bytes())
        .and_then(|layer| layer.file("/etc/group", 0o644, GROUP.as_bytes()))
        .and_then(|layer| layer.file("/home/app/file", 0o644, b"of the image\n"))
        .expect("files");
    let accounts = accounts.finish().expect("layer");
    let config = ImageConfig {
        entrypoint: vec!["busybox".into(), "sh".into(), "-c".into()],
        cmd: vec!["echo of the image; exec sleep 1000".into()],
        env: [&ImageConfig::default().env[..], &["FROM=image".to_owned()]].concat(),
        user: "app".into(),
        working_dir: "/home/app".into(),
    };
    let mut layout = Layout::create(scene.dir().join("layout")).expect("layout");
    layout
        .add(BUSYBOX, &[&layer], &ImageConfig::default())
        .expect("image");
    layout.add(APP, &[&layer, &accounts], &config).expect("image");
    for image in [BUSYBOX, APP] {
        magikrun.ok(&["image", "pull", "-q", &layout.reference(image)]);
        let warm = [
            "pod",
            "run",
            "-q",
            "--rm",
            "--name",
            "warm",
            image,
            "busybox true",
        ];
        magikrun.run(&warm);
    }
}
