//! Pods under libkrun, for real, from the command line. `cargo xtask test --krun` runs them: where ordinary kernels do not
//! run under KVM it makes one that does, in which the kernel's own code is emulated, and everything takes its time.

use std::{
    ffi::OsString,
    process::Command,
    time::{Duration, Instant},
};

use magikrun_tests::{BUSYBOX, Census, Magikrun, Output, Scene, busybox_layout, container, isolated, pod};
use serde_json::json;

/// Names the directory of what the machines are made of, with a kernel that libkrun boots here.
const FILES_VARIABLE: &str = "MAGIKRUN_KRUN_FILES";
/// Names that of what `cargo xtask vm --krun` makes, with libkrunfw's own kernel.
const STOCK_FILES_VARIABLE: &str = "MAGIKRUN_KRUN_STOCK_FILES";
/// Seconds that a guest may take to say hello.
const HELLO_TIME: &str = "600";
/// Nothing is asserted about how long anything takes.
const PATIENCE: Duration = Duration::from_secs(600);
/// But an answer that no guest boots comes by then.
const BOUND: Duration = Duration::from_secs(180);

/// magikrun with libkrun among its drivers.
struct Krun {
    magikrun: Magikrun,
    /// What its driver variables say.
    environment: Vec<(&'static str, OsString)>,
    began: Instant,
}

impl Krun {
    /// With files that a variable names; `None`, and a word about it, without them.
    fn new(scene: &Scene, variable: &str, driver: &str, more: &[(&'static str, &str)]) -> Option<Self> {
        let Some(files) = std::env::var_os(variable) else {
            #[expect(clippy::print_stderr, reason = "a skipped test says so")]
            {
                eprintln!("SKIPPED: `cargo xtask test --krun` runs it ({variable})");
            }
            return None;
        };
        let more = more.iter().map(|(name, value)| (*name, value.into()));
        Some(Self {
            magikrun: Magikrun::new(scene),
            environment: [
                ("MAGIKRUN_VM_FILES", files),
                ("MAGIKRUN_VM_DRIVER", driver.into()),
            ]
            .into_iter()
            .chain(more)
            .collect(),
            began: Instant::now(),
        })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.magikrun.command(args);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// With busybox's image, whose layers are unpacked already: for the first pod that needs them they are, and they stay,
    /// being the store's.
    fn prepare(&self, scene: &Scene) {
        let source = busybox_layout(&scene.dir().join("layout")).reference(BUSYBOX);
        self.ok(&["image", "pull", &source]);
        let mut native = pod("native", &[container("c", BUSYBOX, "exit 0")]);
        native["spec"]["restartPolicy"] = json!("Never");
        assert_eq!(self.magikrun.pod_run(&native).code, 0);
        self.magikrun.ok(&["pod", "delete", "--force", "native"]);
    }

    /// A pod of a machine, in a file.
    fn manifest(&self, name: &str, containers: &[serde_json::Value]) -> String {
        let mut manifest = pod(name, containers);
        manifest["spec"]["runtimeClassName"] = json!("microvm");
        manifest["spec"]["restartPolicy"] = json!("Never");
        self.magikrun.manifest(manifest.to_string())
    }

    /// Runs a command, and shows what it did: the output of this test is what is read of it.
    #[expect(
        clippy::print_stderr,
        reason = "what a person wants to see who runs this by hand"
    )]
    fn run(&self, args: &[&str]) -> Output {
        let out = self.command(args).output().expect("magikrun");
        let output = Output {
            code: out.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        };
        let Output { code, stdout, stderr } = &output;
        let at = self.began.elapsed().as_secs();
        eprintln!(
            "[{at:>4} s] $ magikrun {}\n{stdout}{stderr}[exit code {code}]",
            args.join(" ")
        );
        output
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert_eq!(out.code, 0, "magikrun {args:?}: {}", out.stderr);
        out.stdout
    }

    fn status(&self, pod: &str) -> serde_json::Value {
        let text = self.ok(&["pod", "status", pod, "--format", "json"]);
        serde_json::from_str(&text).expect("JSON")
    }

    /// The status in which this container has ended.
    fn ended(&self, pod: &str, container: usize) -> serde_json::Value {
        let begun = Instant::now();
        loop {
            let status = self.status(pod);
            if status["containers"][container]["state"]["exit"].is_object() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it ends: {status}");
            std::thread::sleep(Duration::from_secs(3));
        }
    }
}

/// What a monitor is confined to, as the host sees it.
fn assert_confined() {
    let mut monitors = vec![];
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        if read("cmdline")
            .split('\0')
            .next()
            .is_some_and(|p| p.ends_with("/magikrun-vmm"))
        {
            monitors.push(read("status"));
        }
    }
    let [status] = monitors.as_slice() else {
        panic!("one monitor: {monitors:?}");
    };
    for line in [
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "CapEff:\t0000000000000004",
        "CapBnd:\t0000000000000004",
    ] {
        assert!(status.contains(line), "{line} in {status}");
    }
    assert!(!status.contains("Uid:\t0"), "{status}");
}

isolated!(
    fn a_pod_of_two_containers_lives_and_dies_under_libkrun(scene) {
        let slow = [("MAGIKRUN_VM_HELLO_TIME", HELLO_TIME)];
        let Some(krun) = Krun::new(scene, FILES_VARIABLE, "krun", &slow) else {
            return;
        };
        krun.prepare(scene);
        let before = Census::take(&krun.magikrun.roots());
        let file = krun.manifest("two", &[
            container("talker", BUSYBOX, "echo hello from $(uname -r); trap 'echo bye; exit 3' TERM; while :; do sleep 1; done"),
            container("job", BUSYBOX, "echo working >&2; exit 7"),
        ]);
        krun.ok(&["pod", "run", "-f", &file]);
        assert_confined();
        let status = krun.status("two");
        assert_eq!(status["runtimeClass"], "microvm", "{status}");
        assert_eq!(status["phase"], "Running", "{status}");

        // One program at a time: this KVM's emulation has been seen to fail those that start together.
        let status = krun.ended("two", 1);
        assert_eq!(status["containers"][1]["state"]["exit"]["code"], 7, "{status}");
        let out = krun.run(&["pod", "exec", "-c", "talker", "two", "--", "sh", "-c", "echo out; echo err >&2; exit 42"]);
        assert_eq!((out.code, out.stdout.as_str(), out.stderr.as_str()), (42, "out\n", "err\n"));
        let log = krun.ok(&["pod", "logs", "-c", "talker", "two"]);
        let kernel = log.strip_prefix("hello from ").expect("the log").trim();
        let own = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the host's kernel");
        assert_ne!(kernel, own.trim(), "a kernel of its own");
        let log = krun.run(&["pod", "logs", "-c", "job", "two"]);
        assert_eq!((log.stdout.as_str(), log.stderr.as_str()), ("", "working\n"), "kept apart");

        krun.ok(&["pod", "stop", "-t", "120", "two"]);
        let status = krun.status("two");
        assert_eq!(status["containers"][0]["state"]["exit"]["code"], 3, "its own exit code, on SIGTERM: {status}");
        assert!(krun.ok(&["pod", "logs", "-c", "talker", "two"]).ends_with("bye\n"));
        krun.ok(&["pod", "delete", "two"]);
        assert_eq!(krun.magikrun.pods(), Vec::<String>::new());
        before.assert_same("after delete");
    }
);

isolated!(
    fn where_kvm_does_not_run_the_kernel_it_is_said_in_time_and_qemu_is_taken_if_allowed(scene) {
        let Some(auto) = Krun::new(scene, STOCK_FILES_VARIABLE, "auto", &[]) else {
            return;
        };
        let only = Krun::new(scene, STOCK_FILES_VARIABLE, "krun", &[]).expect("the same files");
        auto.prepare(scene);
        let begun = Instant::now();
        let info = auto.ok(&["system", "info", "--format", "json"]);
        assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
        let info: serde_json::Value = serde_json::from_str(&info).expect("JSON");
        let microvm = &info["platform"]["microvm"];
        assert_eq!(microvm["available"], true, "{microvm}");
        let how = microvm["detail"].as_str().expect("text");
        let boots = how.starts_with("libkrun");
        if !boots {
            assert!(how.starts_with("QEMU") && how.contains("; krun: ") && how.contains("magikrun-vmm ended"), "{how}");
        }
        let before = Census::take(&auto.magikrun.roots());
        let file = auto.manifest("one", &[container("c", BUSYBOX, "echo hello; exit 5")]);

        let begun = Instant::now();
        let out = only.run(&["pod", "run", "-f", &file]);
        assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
        if boots {
            assert_eq!(out.code, 0, "{}", out.stderr);
            only.ok(&["pod", "delete", "--force", "one"]);
        } else {
            assert_ne!(out.code, 0, "{}", out.stdout);
            assert!(out.stderr.contains("magikrun-vmm ended") && out.stderr.contains("KVM"), "{}", out.stderr);
            assert_eq!(out.stderr.trim_end().lines().count(), 1, "{}", out.stderr);
            before.assert_same("after a boot that failed");
        }

        auto.ok(&["pod", "run", "-f", &file]);
        let status = auto.ended("one", 0);
        assert_eq!(status["containers"][0]["state"]["exit"]["code"], 5, "{status}");
        assert_eq!(auto.ok(&["pod", "logs", "one"]), "hello\n");
        auto.ok(&["pod", "delete", "--force", "one"]);
        before.assert_same("after delete");
    }
);
