//! WebAssembly programs in native containers, by the OCI command line: podman's way to run them (`run.oci.handler=wasm`).
#![cfg(target_os = "linux")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use magikrun_test_images::{proxy_wasm, tool_wasm};
use magikrun_test_world::catches;
use magikrun_tests::{Census, Magikrun, Output, Scene, isolated};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A bundle whose root has a module `/bin/tool.wasm`, a text `/etc/text`, and nothing else: no libraries, no shell.
struct Bundle<'a> {
    magikrun: &'a Magikrun,
    dir: PathBuf,
    spec: Value,
}

impl<'a> Bundle<'a> {
    fn new(magikrun: &'a Magikrun, scene: &Scene, name: &str) -> Self {
        let dir = scene.dir().join(name);
        for sub in ["bin", "etc", "data", "proc", "dev", "sys"] {
            fs::create_dir_all(dir.join("rootfs").join(sub)).expect("rootfs");
        }
        fs::copy(tool_wasm().expect("tool"), dir.join("rootfs/bin/tool.wasm")).expect("module");
        fs::write(dir.join("rootfs/etc/text"), "from a file\n").expect("text");
        magikrun.ok(&["spec", "--bundle", path(&dir)]);
        let config = dir.join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&config).expect("spec")).expect("JSON");
        fs::remove_file(&config).expect("config.json");
        spec["process"]["terminal"] = json!(false);
        spec["root"]["readonly"] = json!(false);
        spec["annotations"] = json!({"run.oci.handler": "wasm"});
        Self { magikrun, dir, spec }
    }

    fn root(&self, path: &str) -> PathBuf {
        self.dir.join("rootfs").join(path)
    }

    fn save(&self, args: &[&str]) {
        let mut spec = self.spec.clone();
        spec["process"]["args"] = json!(args);
        fs::write(self.dir.join("config.json"), spec.to_string()).expect("config.json");
    }

    fn tool(&self, args: &[&str]) -> Output {
        self.run(&[&["/bin/tool.wasm"], args].concat())
    }

    fn run(&self, args: &[&str]) -> Output {
        self.save(args);
        self.magikrun.run(&["run", "--bundle", path(&self.dir), "c"])
    }

    /// The one line of a program that cannot be run.
    fn error(&self, args: &[&str]) -> String {
        self.save(args);
        self.magikrun.error(&["run", "--bundle", path(&self.dir), "c"])
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// It ended so, with nothing on standard error.
#[track_caller]
fn expect(out: &Output, code: i32, stdout: &str) {
    assert_eq!(
        (out.code, out.stdout.as_str(), out.stderr.as_str()),
        (code, stdout, ""),
        "{out:?}"
    );
}

isolated!(
    fn a_program_has_arguments_environment_streams_and_an_exit_code(scene) {
        let magikrun = Magikrun::new(scene);
        let mut bundle = Bundle::new(&magikrun, scene, "b");
        bundle.spec["process"]["env"] = json!(["PATH=/bin", "A=1 2", "LD_PRELOAD=/etc/text", "LD_DEBUG=all"]);
        // Nothing of it is the loader's of what runs the program. By PATH:
        let out = bundle.run(&["tool.wasm", "hello", "x y", ""]);
        assert_eq!((out.code, out.stderr.as_str()), (0, "to stderr\n"), "{out:?}");
        let expected = "arg tool.wasm\narg hello\narg x y\narg \nenv A=1 2\n";
        assert!(out.stdout.starts_with(expected), "{out:?}");
        assert!(out.stdout.contains("env LD_PRELOAD=/etc/text\n") && out.stdout.contains("env PATH=/bin\n"));
        expect(&bundle.tool(&["exit", "42"]), 42, "");
        let aborted = bundle.tool(&["abort"]);
        assert!(aborted.code == 134 && aborted.stderr.contains("unreachable"), "{aborted:?}");

        bundle.save(&["/bin/tool.wasm", "cat"]);
        let mut command = magikrun.command(&["run", "--bundle", path(&bundle.dir), "c"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("magikrun");
        child.stdin.take().expect("stdin").write_all(b"in and out").expect("write");
        let out = child.wait_with_output().expect("magikrun");
        assert_eq!((out.status.code(), out.stdout.as_slice()), (Some(0), b"in and out".as_slice()));
    }
);

isolated!(
    fn it_has_the_containers_files_and_user_and_no_more(scene) {
        let magikrun = Magikrun::new(scene);
        let mut bundle = Bundle::new(&magikrun, scene, "b");
        expect(&bundle.tool(&["read", "/etc/text"]), 0, "from a file\n");
        expect(&bundle.tool(&["write", "/etc/new", "text"]), 0, "");
        assert_eq!(fs::read(bundle.root("etc/new")).expect("file"), b"text");
        // Its own process is nowhere to be found: who writes to its memory is no WebAssembly any more.
        for file in ["/proc/self/mem", "/proc/1/mem", "/proc/self/maps", "/proc/../proc/self/status"] {
            let hidden = bundle.tool(&["read", file]);
            assert!(hidden.code == 1 && hidden.stdout.contains("No such file"), "{file}: {hidden:?}");
        }
        // A volume, read-only.
        let volume = scene.dir().join("volume");
        fs::create_dir(&volume).expect("volume");
        fs::write(volume.join("file"), "of the volume").expect("file");
        let mounts = bundle.spec["mounts"].as_array_mut().expect("mounts");
        mounts.push(json!({"destination": "/data", "type": "bind", "source": volume, "options": ["rbind", "ro"]}));
        expect(&bundle.tool(&["read", "/data/file"]), 0, "of the volume");
        assert_eq!(bundle.tool(&["write", "/data/new", "text"]).code, 1);
        assert!(!volume.join("new").exists());
        // A user who may not write, on a root where nobody may.
        bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        expect(&bundle.tool(&["read", "/etc/text"]), 0, "from a file\n");
        assert_eq!(bundle.tool(&["write", "/etc/another", "text"]).code, 1);
        bundle.spec["process"]["user"] = json!({"uid": 0, "gid": 0});
        bundle.spec["root"]["readonly"] = json!(true);
        let refused = bundle.tool(&["write", "/etc/another", "text"]);
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(!bundle.root("etc/another").exists());
    }
);

isolated!(
    fn every_way_to_make_a_container_runs_it(scene) {
        let magikrun = Magikrun::new(scene);
        let hello = |bundle: &Bundle<'_>, what: &str| {
            let out = bundle.tool(&["read", "/etc/text"]);
            assert_eq!((out.code, out.stdout.as_str()), (0, "from a file\n"), "{what}: {out:?}");
        };
        // With hooks, libcontainer makes all of it; in a user namespace so, too.
        let mut bundle = Bundle::new(&magikrun, scene, "hooks");
        bundle.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/true"}]});
        hello(&bundle, "hooks");
        let mut bundle = Bundle::new(&magikrun, scene, "users");
        bundle.spec["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({"type": "user"}));
        for mappings in ["uidMappings", "gidMappings"] {
            bundle.spec["linux"][mappings] = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        }
        hello(&bundle, "user namespace");
        // With a seccomp filter, privileges dropped before and after it is loaded.
        let mut bundle = Bundle::new(&magikrun, scene, "seccomp");
        let filter = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mount", "ptrace"], "action": "SCMP_ACT_ERRNO"}],
        });
        bundle.spec["linux"]["seccomp"] = filter;
        for no_new_privileges in [true, false] {
            bundle.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
            hello(&bundle, "seccomp");
        }
        // Chosen by the image's variant, or the option; with `smart`, what is no module is an ordinary program.
        bundle.spec["annotations"] = json!({"module.wasm.image/variant": "compat"});
        hello(&bundle, "compat");
        assert!(bundle.error(&["/etc/text"]).contains("not WebAssembly"));
        bundle.spec["annotations"] = json!({"module.wasm.image/variant": "compat-smart"});
        hello(&bundle, "compat-smart");
        fs::copy("/bin/busybox", bundle.root("bin/busybox")).expect("busybox");
        expect(&bundle.run(&["/bin/busybox", "echo", "native"]), 0, "native\n");
        bundle.spec["annotations"] = json!({});
        bundle.save(&["/bin/tool.wasm", "exit", "3"]);
        let out = magikrun.run(&["--runtime", "wasm", "run", "--bundle", path(&bundle.dir), "c"]);
        expect(&out, 3, "");
    }
);

isolated!(
    fn signals_and_limits_end_it(scene) {
        let magikrun = Magikrun::new(scene);
        let mut bundle = Bundle::new(&magikrun, scene, "b");
        bundle.spec["annotations"]["magikrun.dev/wasm.fuel"] = json!("off");
        for (signal, code) in [("TERM", 143), ("INT", 130), ("KILL", 137)] {
            for (what, line) in [("sleep", "sleeping\n"), ("spin", "")] {
                bundle.save(&["/bin/tool.wasm", what, "100"]);
                let mut command = magikrun.command(&["run", "--bundle", path(&bundle.dir), "c"]);
                let mut child = command.stdout(Stdio::piped()).spawn().expect("magikrun");
                let mut said = String::new();
                if line.is_empty() {
                    running(&magikrun);
                } else {
                    let mut stdout = BufReader::new(child.stdout.take().expect("stdout"));
                    stdout.read_line(&mut said).expect("a line");
                }
                assert_eq!(said, line);
                if signal == "KILL" && what == "sleep" {
                    magikrun.ok(&["pause", "c"]);
                    assert!(magikrun.ok(&["state", "c"]).contains("paused"));
                    magikrun.ok(&["resume", "c"]);
                    // There is no program in it to execute.
                    let exec = magikrun.run(&["exec", "c", "/bin/sh"]);
                    assert!(exec.code != 0 && exec.stderr.contains("/bin/sh"), "{exec:?}");
                }
                magikrun.ok(&["kill", "c", signal]);
                assert_eq!(child.wait().expect("magikrun").code(), Some(code), "{what}: {signal}");
            }
        }
        bundle.spec["annotations"]["magikrun.dev/wasm.deadline-seconds"] = json!("1");
        let late = bundle.tool(&["spin"]);
        assert!(late.code == 137 && late.stderr.contains("longer than 1 s"), "{late:?}");
        bundle.spec["annotations"] = json!({"run.oci.handler": "wasm", "magikrun.dev/wasm.fuel": "1000000"});
        let exhausted = bundle.tool(&["spin"]);
        assert!(exhausted.code == 137 && exhausted.stderr.contains("fuel"), "{exhausted:?}");
        bundle.spec["annotations"]["magikrun.dev/wasm.fuel"] = json!("off");
        bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 64 << 20, "swap": 64 << 20});
        assert_eq!(bundle.tool(&["hog"]).code, 137);
    }
);

/// Waits until the container's program runs.
fn running(magikrun: &Magikrun) {
    for _ in 0..200 {
        let state = magikrun.run(&["state", "c"]).stdout;
        let state: Value = serde_json::from_str(&state).unwrap_or_default();
        let argument = |pid: &Value| fs::read_to_string(format!("/proc/{pid}/cmdline"));
        if state["status"] == "running" && argument(&state["pid"]).is_ok_and(|a| a.contains("tool.wasm")) {
            // It waits for signals before anything else; give it that.
            let pid = state["pid"].as_u64();
            if pid.is_some_and(|pid| catches(pid, Signal::TERM)) {
                return;
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("it does not run");
}

isolated!(
    fn what_is_no_program_is_one_line_and_leaves_nothing(scene) {
        let magikrun = Magikrun::new(scene);
        let mut bundle = Bundle::new(&magikrun, scene, "b");
        expect(&bundle.tool(&["exit", "0"]), 0, "");
        let start = r#"(memory (export "memory") 1) (func (export "_start"))"#;
        let imports = format!(r#"(module (import "env" "magic" (func)) {start})"#);
        let files: [(&str, Vec<u8>, &str); 5] = [
            ("text", b"#!/bin/sh\n".to_vec(), "not WebAssembly"),
            ("elf", b"\x7fELF\x02\x01\x01\0 and the rest".to_vec(), "precompiled"),
            ("cut.wasm", b"\0asm\x01\0\0\0\x01\xff".to_vec(), "compiled"),
            ("library.wasm", b"\0asm\x01\0\0\0".to_vec(), "_start"),
            ("imports.wasm", wat::parse_str(imports).expect("module"), "env::magic"),
        ];
        // What is sound but no program is compiled before anybody sees that, and stays in the cache.
        let before = Census::take(&[&magikrun.state]);
        for (name, content, said) in &files {
            fs::write(bundle.root(&format!("bin/{name}")), content).expect("file");
            let line = bundle.error(&[&format!("/bin/{name}")]);
            assert!(line.contains(said) && line.contains(name), "{name}: {line}");
            fs::remove_file(bundle.root(&format!("bin/{name}"))).expect("file");
        }
        assert!(bundle.error(&["/bin/nothing.wasm"]).contains("/bin/nothing.wasm"));
        // Nothing outside of the root is found.
        let outside = scene.dir().join("outside.wasm");
        fs::copy(tool_wasm().expect("tool"), &outside).expect("module");
        std::os::unix::fs::symlink(&outside, bundle.root("bin/link.wasm")).expect("link");
        assert!(bundle.error(&["/bin/link.wasm"]).contains("/bin/link.wasm"));
        fs::remove_file(bundle.root("bin/link.wasm")).expect("link");
        fs::remove_file(outside).expect("module");
        // Nor would the image's own libraries be part of what runs the program.
        fs::write(bundle.root("etc/ld.so.preload"), "/lib/evil.so").expect("file");
        assert!(bundle.error(&["/bin/tool.wasm"]).contains("ld.so.preload"));
        fs::remove_file(bundle.root("etc/ld.so.preload")).expect("file");
        let mounts = bundle.spec["mounts"].as_array().expect("mounts").clone();
        bundle.spec["mounts"] = json!([]);
        bundle.spec["linux"]["maskedPaths"] = json!([]);
        bundle.spec["linux"]["readonlyPaths"] = json!([]);
        let without = bundle.tool(&["exit", "0"]);
        assert!(
            without.code == 126 && without.stderr.contains("needs /proc"),
            "{without:?}"
        );
        bundle.spec["mounts"] = json!(mounts);
        before.assert_same("bad programs");
    }
);

isolated!(
    fn a_server_answers_in_the_containers_network(scene) {
        let magikrun = Magikrun::new(scene);
        let mut bundle = Bundle::new(&magikrun, scene, "b");
        fs::copy(proxy_wasm().expect("proxy"), bundle.root("bin/proxy.wasm")).expect("module");
        bundle.spec["annotations"]["magikrun.dev/wasm.listen"] = json!("8080");
        bundle.spec["annotations"]["magikrun.dev/wasm.fuel"] = json!("off");
        let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.retain(|n| n["type"] != "network");
        bundle.save(&["/bin/proxy.wasm"]);
        let mut command = magikrun.command(&["run", "--bundle", path(&bundle.dir), "c"]);
        let mut child = command.stdout(Stdio::null()).spawn().expect("magikrun");
        let answer = (0..200).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            let mut stream = std::net::TcpStream::connect("127.0.0.1:8080").ok()?;
            stream.write_all(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n").ok()?;
            BufReader::new(stream).lines().next()?.ok()
        });
        assert!(answer.as_deref().is_some_and(|a| a.contains("200")), "{answer:?}");
        magikrun.ok(&["kill", "c", "TERM"]);
        assert_eq!(child.wait().expect("magikrun").code(), Some(0));
    }
);
