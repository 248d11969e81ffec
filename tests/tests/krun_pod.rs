//! A pod under libkrun, for real, from the command line. `cargo xtask test --krun` runs it: where ordinary kernels do not
//! run under KVM it makes one that does, in which the kernel's own code is emulated, and everything takes its time.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use magikrun_tests::{BUSYBOX, Census, Magikrun, Output, busybox_layout, container, isolated, pod};
use serde_json::json;

/// Names the directory of what the machines are made of, with a kernel that libkrun boots here.
const FILES_VARIABLE: &str = "MAGIKRUN_KRUN_FILES";
/// Seconds that a guest may take to say hello.
const HELLO_TIME: &str = "600";
/// Nothing is asserted about how long anything takes.
const PATIENCE: Duration = Duration::from_secs(600);

/// magikrun with libkrun, whatever else there is.
struct Krun {
    magikrun: Magikrun,
    files: PathBuf,
    began: Instant,
}

impl Krun {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.magikrun.command(args);
        command
            .env("MAGIKRUN_VM_DRIVER", "krun")
            .env("MAGIKRUN_VM_HELLO_TIME", HELLO_TIME)
            .env("MAGIKRUN_VM_FILES", &self.files);
        command
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

    fn status(&self) -> serde_json::Value {
        let text = self.ok(&["pod", "status", "two", "--format", "json"]);
        serde_json::from_str(&text).expect("JSON")
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
        let Some(files) = std::env::var_os(FILES_VARIABLE) else {
            #[expect(clippy::print_stderr, reason = "a skipped test says so")]
            {
                eprintln!("SKIPPED a_pod_of_two_containers_lives_and_dies_under_libkrun: `cargo xtask test --krun` runs it");
            }
            return;
        };
        let krun = Krun {
            magikrun: Magikrun::new(scene),
            files: files.into(),
            began: Instant::now(),
        };
        let source = busybox_layout(&scene.dir().join("layout")).reference(BUSYBOX);
        krun.ok(&["image", "pull", &source]);
        // Layers are unpacked for the first pod that needs them, and stay: they are the store's.
        let mut native = pod("native", &[container("c", BUSYBOX, "exit 0")]);
        native["spec"]["restartPolicy"] = json!("Never");
        assert_eq!(krun.magikrun.pod_run(&native).code, 0);
        krun.magikrun.ok(&["pod", "delete", "-f", "native"]);
        let before = Census::take(&krun.magikrun.roots());

        let mut manifest = pod("two", &[
            container("talker", BUSYBOX, "echo hello from $(uname -r); trap 'echo bye; exit 3' TERM; while :; do sleep 1; done"),
            container("job", BUSYBOX, "echo working >&2; exit 7"),
        ]);
        manifest["spec"]["runtimeClassName"] = json!("microvm");
        let file = krun.magikrun.manifest(manifest.to_string());
        krun.ok(&["pod", "run", "-f", &file]);
        assert_confined();
        let status = krun.status();
        assert_eq!(status["runtimeClass"], "microvm", "{status}");
        assert_eq!(status["phase"], "Running", "{status}");

        let out = krun.run(&["pod", "exec", "-c", "talker", "two", "--", "sh", "-c", "echo out; echo err >&2; exit 42"]);
        assert_eq!((out.code, out.stdout.as_str(), out.stderr.as_str()), (42, "out\n", "err\n"));
        let begun = Instant::now();
        while krun.status()["containers"][1]["state"]["exit"]["code"] != 7 {
            assert!(begun.elapsed() < PATIENCE, "the job ends");
            std::thread::sleep(Duration::from_secs(3));
        }
        let log = krun.ok(&["pod", "logs", "-c", "talker", "two"]);
        let kernel = log.strip_prefix("hello from ").expect("the log").trim();
        let own = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the host's kernel");
        assert_ne!(kernel, own.trim(), "a kernel of its own");
        assert_eq!(krun.ok(&["pod", "logs", "-c", "job", "two"]), "working\n");

        krun.ok(&["pod", "stop", "-t", "120", "two"]);
        let status = krun.status();
        assert_eq!(status["containers"][0]["state"]["exit"]["code"], 3, "its own exit code, on SIGTERM: {status}");
        assert!(krun.ok(&["pod", "logs", "-c", "talker", "two"]).ends_with("bye\n"));
        krun.ok(&["pod", "delete", "two"]);
        assert_eq!(krun.magikrun.pods(), Vec::<String>::new());
        before.assert_same("after delete");
    }
);
