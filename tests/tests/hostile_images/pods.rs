//! Hostile images through pods.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::Command,
};

use magikrun_test_images::{ImageConfig, Layer, LayerBuilder, Layout};
use magikrun_tests::{Census, Magikrun, Output, Scene, container, isolated, pod};
use serde_json::json;

use crate::{
    Plan, Report,
    canary::Canary,
    evil::{Evil, MARK},
    image::{Hostile, Numbers, VOLUME, VOLUME_FILE, WORK},
    probe,
};

const COUNT: usize = 40;

/// A layer of a directory's files as they are: tar has links and devices, which the builder of layers has not.
fn layer(tree: &Path, dir: &Path) -> Layer {
    let archive = dir.join("layer.tar");
    let run = |command: &mut Command| {
        let output = command.output().expect("a program of Debian's");
        assert!(output.status.success(), "{command:?}: {output:?}");
        output.stdout
    };
    run(Command::new("tar")
        .arg("-C")
        .arg(tree)
        .arg("-cf")
        .arg(&archive)
        .arg("."));
    let sum = run(Command::new("sha256sum").arg(&archive));
    let sum = String::from_utf8_lossy(&sum);
    Layer {
        blob: run(Command::new("gzip").args(["-1", "--stdout"]).arg(&archive)),
        diff_id: format!("sha256:{}", sum.split_whitespace().next().expect("a digest")),
    }
}

struct Bench<'a> {
    scene: &'a Scene,
    magikrun: Magikrun,
    base: Layer,
    evil: Evil,
    report: Report,
    canary: Canary,
}

impl Bench<'_> {
    /// The image `name`: what is hostile lies above busybox, or below it.
    fn make(&self, name: &str, hostile: &Hostile, numbers: &mut Numbers) -> String {
        let dir = self.scene.dir().join(format!("image-{name}"));
        let tree = dir.join("tree");
        fs::create_dir_all(&tree).expect("a directory");
        self.evil.plant(&tree);
        hostile.plant(&tree);
        let hostile_layer = layer(&tree, &dir);
        let config = ImageConfig {
            working_dir: WORK.to_owned(),
            // Whoever looks the user up in the host's file finds one.
            user: if hostile.things[0].0.starts_with("/etc") && numbers.below(2) == 0 {
                "canary".to_owned()
            } else {
                String::new()
            },
            ..ImageConfig::default()
        };
        let above = numbers.below(4) > 0;
        let layers = if above {
            [&self.base, &hostile_layer]
        } else {
            [&hostile_layer, &self.base]
        };
        let mut layout = Layout::create(dir.join("layout")).expect("a layout");
        layout.add(name, &layers, &config).expect("an image");
        fs::remove_dir_all(&tree).expect("it is packed");
        format!("oci:{}:{name}", dir.join("layout").display())
    }

    fn one(&mut self, number: usize, hostile: &Hostile, numbers: &mut Numbers) {
        let name = format!("i{number}");
        let what = format!("image {number}: {hostile}");
        let reference = self.make(&name, hostile, numbers);
        self.report.runs += 1;
        let pulled = self.call(&what, &["image", "pull", &reference]);
        match pulled {
            Some(output) if output.code == 0 => self.run(&what, &name, &reference, hostile),
            Some(output) => Report::refused(&what, &output.stderr),
            None => (),
        }
        if let Some(changes) = self.canary.changes() {
            self.report.fail(&what, changes);
        }
        let _ = fs::remove_dir_all(self.scene.dir().join(format!("image-{name}")));
    }

    /// A command; one that does not end has been killed, and its answer says so.
    fn call(&mut self, what: &str, args: &[&str]) -> Option<Output> {
        let magikrun = &self.magikrun;
        let Ok(output) = catch_unwind(AssertUnwindSafe(|| magikrun.run(args))) else {
            self.report.fail(what, format!("{args:?} did not end"));
            return None;
        };
        if output.stderr.contains("panicked") || output.code < 0 {
            self.report.fail(what, format!("{args:?}: {output:?}"));
        }
        Some(output)
    }

    fn run(&mut self, what: &str, name: &str, reference: &str, hostile: &Hostile) {
        let probe = probe(hostile, self.canary.dir());
        let mut one = container("c", reference, "");
        one["command"] = json!([
            "/bin/busybox",
            "sh",
            "-c",
            format!("{{ {probe}; }}; exec /bin/busybox sleep 1000")
        ]);
        one["volumeMounts"] = json!([
            {"name": "volume", "mountPath": VOLUME},
            {"name": "file", "mountPath": VOLUME_FILE, "readOnly": true},
        ]);
        let mut manifest = pod(name, &[one]);
        manifest["spec"]["terminationGracePeriodSeconds"] = json!(0);
        manifest["spec"]["volumes"] = json!([
            {"name": "volume", "emptyDir": {}},
            {"name": "file", "hostPath": {"path": self.scene.dir().join("of-the-caller"), "type": "File"}},
        ]);
        let file = self.magikrun.manifest(manifest.to_string());
        let up = self.call(what, &["pod", "run", "-f", &file]);
        if let Some(output) = up.as_ref().filter(|output| output.code != 0) {
            Report::refused(what, &output.stderr);
        }
        let runs = up.is_some_and(|output| output.code == 0);
        if runs {
            self.report.ran += 1;
            let shell = ["/bin/busybox", "sh", "-c", &probe];
            let exec = [&["pod", "exec", name, "--"], &shell[..]].concat();
            for args in [&exec[..], &["pod", "logs", name]] {
                if let Some(output) = self.call(what, args) {
                    self.report.printed(what, output.stdout.as_bytes());
                }
            }
        }
        if loaded(&self.magikrun.root) || loaded(&self.magikrun.state) {
            self.report.fail(what, "code of the image was loaded");
        }
        if runs
            && let Some(output) = self.call(what, &["pod", "delete", "--force", name])
            && output.code != 0
        {
            self.report.fail(what, format!("pod delete: {output:?}"));
        }
    }
}

/// Whether loaded code has left its mark in a container's root file system.
fn loaded(dir: &Path) -> bool {
    fs::read_dir(dir).into_iter().flatten().flatten().any(|entry| {
        let is_directory = entry.file_type().is_ok_and(|t| t.is_dir());
        entry.file_name() == MARK || is_directory && loaded(&entry.path())
    })
}

isolated!(
    fn hostile_images_of_pods_touch_nothing_of_the_host(scene) {
        let canary = Canary::new(scene.dir().join("canary"));
        fs::write(scene.dir().join("of-the-caller"), "of the caller\n").expect("a file");
        let mut base = LayerBuilder::new();
        base.busybox().expect("busybox");
        let mut bench = Bench {
            magikrun: Magikrun::new(scene),
            base: base.finish().expect("a layer"),
            evil: Evil::compile(&scene.dir().join("evil"), canary.dir()),
            report: Report::new(),
            canary,
            scene,
        };
        // What the first pod of a host makes stays.
        let mut layout = Layout::create(scene.dir().join("plain")).expect("a layout");
        layout.add("plain", &[&bench.base], &ImageConfig::default()).expect("an image");
        let plain = layout.reference("plain");
        bench.magikrun.ok(&["image", "pull", &plain]);
        let first = bench.magikrun.pod_run(&pod("plain", &[container("c", &plain, "true")]));
        assert_eq!(first.code, 0, "a plain pod works: {first:?}");
        bench.magikrun.ok(&["pod", "delete", "--force", "plain"]);
        let before = Census::take(&[&bench.magikrun.state]);
        let dir = bench.canary.dir().to_owned();
        for (number, hostile, mut numbers) in Plan::new(COUNT).images(&dir) {
            bench.one(number, &hostile, &mut numbers);
        }
        let Bench { report, .. } = bench;
        report.finish("images of pods");
        before.assert_same("after all pods were deleted");
    }
);
