//! Hostile root file systems through `create`, `start`, `exec` and `delete`.

use std::{
    fs,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::Output,
};

use magikrun_tests::{Census, isolated};
use serde_json::{Value, json};

use crate::{
    Plan, Report,
    canary::Canary,
    evil::{Evil, MARK},
    harness::{Bundle, Runtime},
    image::{Hostile, Numbers, SITES, VOLUME, VOLUME_FILE, WORK},
    probe,
};

/// Twice every site, and as many others.
const COUNT: usize = 120;

/// What a configuration has that a creation goes another way for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Hook,
    SharedMount,
    UserNamespace,
    HostSys,
    Terminal,
}

const WAYS: &[Way] = &[
    Way::Plain,
    Way::Hook,
    Way::SharedMount,
    Way::UserNamespace,
    Way::HostSys,
    Way::Terminal,
];

/// What lies beside the bundles and belongs to the caller.
struct Host {
    volume: PathBuf,
    file: PathBuf,
    console: PathBuf,
    /// Terminals are received by nobody.
    listener: UnixListener,
}

impl Host {
    fn new(dir: &Path) -> Self {
        let (volume, file, console) = (dir.join("volume"), dir.join("file"), dir.join("console"));
        fs::create_dir_all(&volume).expect("a volume");
        fs::write(&file, "of the caller\n").expect("a file");
        let listener = UnixListener::bind(&console).expect("a socket");
        listener.set_nonblocking(true).expect("a socket");
        Self {
            volume,
            file,
            console,
            listener,
        }
    }

    /// Changes a configuration; what else `create` is told, and what it is called in a report.
    fn configure(&self, config: &mut Value, number: usize, numbers: &mut Numbers) -> (Vec<String>, String) {
        let way = WAYS[(number + number / WAYS.len()) % WAYS.len()];
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        // Without them the image's own files are there.
        let bare = match number / SITES.len() {
            pass @ 0..=1 => pass,
            _ => numbers.below(3),
        };
        let kept = |m: &Value| {
            let at = m["destination"].as_str().unwrap_or_default();
            match bare {
                0 => true,
                1 => !at.starts_with("/dev"),
                _ => at == "/proc",
            }
        };
        mounts.retain(kept);
        let bind = |source: &Path, at: &str, option: &str| json!({"destination": at, "type": "bind", "source": source, "options": ["bind", option]});
        mounts.push(bind(&self.volume, VOLUME, "rprivate"));
        mounts.push(bind(&self.file, VOLUME_FILE, "ro"));
        if numbers.below(2) == 0 {
            for at in ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"] {
                mounts.push(bind(&self.file, at, "rprivate"));
            }
        }
        if numbers.below(4) == 0 {
            mounts.push(bind(&self.file, "/etc/passwd", "ro"));
        }
        if numbers.below(3) == 0 {
            mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}));
        }
        let mut options = vec![];
        match way {
            Way::Plain => (),
            Way::Hook => {
                config["hooks"] =
                    json!({"prestart": [{"path": "/bin/true"}], "createContainer": [{"path": "/bin/true"}]});
            }
            Way::SharedMount => mounts.push(bind(&self.volume, "/shared", "rshared")),
            Way::UserNamespace => {
                let ids = json!([{"containerID": 0, "hostID": 0, "size": 65_536}]);
                let linux = &mut config["linux"];
                linux["namespaces"]
                    .as_array_mut()
                    .expect("namespaces")
                    .push(json!({"type": "user"}));
                linux["uidMappings"] = ids.clone();
                linux["gidMappings"] = ids;
            }
            Way::HostSys => {
                mounts.retain(|m| !m["destination"].as_str().is_some_and(|d| d.starts_with("/sys")));
                mounts.push(json!({"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "ro"]}));
            }
            Way::Terminal => {
                config["process"]["terminal"] = json!(true);
                options.extend(["--console-socket".to_owned(), self.console.display().to_string()]);
            }
        }
        config["linux"]["maskedPaths"] = json!(["/proc/kcore", "/proc/keys", "/etc/group", "/sys/firmware"]);
        config["linux"]["readonlyPaths"] = json!(["/proc/sys", "/proc/bus", "/tmp"]);
        if numbers.below(4) == 0 {
            config["linux"]["devices"] = json!([{"path": "/dev/tty", "type": "c", "major": 5, "minor": 0}, {"path": "/dev/shm/d", "type": "c", "major": 1, "minor": 3}]);
        }
        config["process"]["cwd"] = json!(WORK);
        (options, format!("{way:?}, mounts {bare}"))
    }
}

/// What it needs to make, run and judge one.
struct Bench<'a> {
    runtime: &'a Runtime,
    host: Host,
    evil: Evil,
    report: Report,
    canary: Canary,
}

impl Bench<'_> {
    fn one(&mut self, number: usize, hostile: &Hostile, numbers: &mut Numbers) {
        let mut bundle = self.runtime.bundle("").expect("a bundle");
        let rootfs = bundle.rootfs();
        let (options, told) = self.host.configure(&mut bundle.config, number, numbers);
        let what = format!("image {number}: {hostile} ({told})");
        self.evil.plant(&rootfs);
        fs::create_dir_all(rootfs.join(WORK.trim_start_matches('/'))).expect("a directory");
        hostile.plant(&rootfs);
        let probe = probe(hostile, self.canary.dir());
        let shell = if hostile.things.iter().any(|(site, _)| *site == "/bin/sh") {
            json!(["/bin/sh", "-c"])
        } else {
            json!(["/bin/busybox", "sh", "-c"])
        };
        let mut args = shell.as_array().expect("arguments").clone();
        args.push(json!(format!(
            "{{ {probe}; }} >/said; exec /bin/busybox sleep 1000"
        )));
        bundle.config["process"]["args"] = json!(args);

        let options: Vec<_> = options.iter().map(String::as_str).collect();
        self.report.runs += 1;
        let created = bundle
            .create_with(&options)
            .map(|output| self.judge(&what, "create", &output));
        match created {
            Ok(true) => self.run(&what, &bundle, &probe),
            Ok(false) => (),
            Err(error) => self.report.fail(&what, format!("create: {error:#}")),
        }
        match bundle.op("delete", &["--force"]) {
            Ok(output) if output.status.success() => (),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                self.report.fail(&what, format!("delete: {said}"));
            }
            Err(error) => self.report.fail(&what, format!("delete: {error:#}")),
        }
        // A mounted directory may have been where the container wrote.
        if let Ok(said) = fs::read(rootfs.join("said")) {
            self.report.printed(&what, &said);
        }
        if rootfs.join(MARK).exists() {
            self.report.fail(&what, "code of the image was loaded");
        }
        while self.host.listener.accept().is_ok() {}
        if let Some(changes) = self.canary.changes() {
            self.report.fail(&what, changes);
        }
    }

    fn judge(&mut self, what: &str, operation: &str, output: &Output) -> bool {
        self.report.judge(&format!("{what}: {operation}"), output);
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            Report::refused(&format!("{what}: {operation}"), &said);
        }
        output.status.success()
    }

    /// The container exists: starts it and executes something in it.
    fn run(&mut self, what: &str, bundle: &Bundle<'_>, probe: &str) {
        let started = match bundle.op("start", &[]) {
            Ok(output) => self.judge(what, "start", &output),
            Err(error) => return self.report.fail(what, format!("start: {error:#}")),
        };
        if !started {
            return;
        }
        self.report.ran += 1;
        match bundle.op("exec", &["/bin/busybox", "sh", "-c", probe]) {
            Ok(output) => {
                self.report.printed(&format!("{what}: exec"), &output.stdout);
                self.judge(what, "exec", &output);
            }
            Err(error) => self.report.fail(what, format!("exec: {error:#}")),
        }
    }
}

isolated!(
    fn hostile_root_file_systems_touch_nothing_of_the_host(scene) {
        // On a tmpfs of the test's.
        tempfile::env::override_temp_dir(scene.dir()).expect("the first to set it");
        let canary = Canary::new(scene.dir().join("canary"));
        let runtime = Runtime::new("magikrun", magikrun_tests::dropin::runtime_under_test());
        let mut bench = Bench {
            host: Host::new(scene.dir()),
            evil: Evil::compile(&scene.dir().join("evil"), canary.dir()),
            report: Report::new(),
            runtime: &runtime,
            canary,
        };
        // The cgroup that all containers of this test share as a parent is made by the first one and stays.
        runtime.bundle("true").and_then(|b| b.create()).expect("the plain configuration works");
        let before = Census::take(&[]);
        let plan = Plan::new(COUNT);
        let dir = bench.canary.dir().to_owned();
        for (number, hostile, mut numbers) in plan.images(&dir) {
            bench.one(number, &hostile, &mut numbers);
        }
        let Bench { report, .. } = bench;
        report.finish("root file systems");
        before.assert_same("after all of them were deleted");
    }
);
