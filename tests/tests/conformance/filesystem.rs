//! `root`, `mounts`, devices, masked and read-only paths (config.md, config-linux.md).

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::harness::{Check, Runtime, has_line};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        name: "root: writable by default",
        run: root_writable,
    },
    Check {
        name: "root: readonly",
        run: root_readonly,
    },
    Check {
        name: "root: propagation private",
        run: |r| propagation(r, "private", ""),
    },
    Check {
        name: "root: propagation slave",
        run: |r| propagation(r, "slave", "master:"),
    },
    Check {
        name: "root: propagation shared",
        run: |r| propagation(r, "shared", "shared:"),
    },
    Check {
        name: "root: propagation unbindable",
        run: |r| propagation(r, "unbindable", "unbindable"),
    },
    Check {
        name: "root: an unknown propagation is refused",
        run: unknown_propagation,
    },
    Check {
        name: "mounts: bind, read-only and writable",
        run: bind,
    },
    Check {
        name: "mounts: bind of a file onto a path that is missing",
        run: bind_file,
    },
    Check {
        name: "mounts: tmpfs with its options",
        run: tmpfs,
    },
    Check {
        name: "mounts: rbind takes what is below along",
        run: rbind,
    },
    Check {
        name: "mounts: a /dev of the host's is taken as it is",
        run: own_dev,
    },
    Check {
        name: "mounts: later ones cover earlier ones",
        run: order,
    },
    Check {
        name: "mounts: a missing source is refused",
        run: missing_source,
    },
    Check {
        name: "mounts: a destination that is a symlink stays inside",
        run: symlink_destination,
    },
    Check {
        name: "devices: the default ones and links",
        run: default_devices,
    },
    Check {
        name: "devices: as listed, with mode and owner",
        run: listed_devices,
    },
    Check {
        name: "masked paths: file, directory and missing",
        run: masked,
    },
    Check {
        name: "read-only paths",
        run: readonly_paths,
    },
    Check {
        name: "seccomp: errno for a syscall",
        run: seccomp,
    },
    Check {
        name: "seccomp: argument rules",
        run: seccomp_args,
    },
    Check {
        name: "seccomp: an unknown action is refused",
        run: seccomp_bad,
    },
];

fn add_mount(config: &mut Value, mount: Value) {
    config["mounts"].as_array_mut().expect("mounts").push(mount);
}

fn root_writable(r: &Runtime) -> Result<()> {
    let b = r.bundle("echo x > /file")?;
    b.run()?;
    ensure!(b.rootfs().join("file").exists());
    Ok(())
}

fn root_readonly(r: &Runtime) -> Result<()> {
    let out = r.run(
        "touch /file 2>/dev/null && echo writable; touch /dev/shm/x && echo shm",
        |c| c["root"]["readonly"] = json!(true),
    )?;
    ensure!(out == "shm\n", "{out:?}");
    Ok(())
}

fn propagation(r: &Runtime, kind: &str, tag: &str) -> Result<()> {
    let out = r.run("cat /proc/self/mountinfo", |c| {
        c["linux"]["rootfsPropagation"] = json!(kind);
    })?;
    let root = out
        .lines()
        .find(|l| l.split(' ').nth(4) == Some("/"))
        .unwrap_or_default();
    let optional = root
        .split(" - ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .skip(6)
        .collect::<Vec<_>>()
        .join(" ");
    ensure!(
        if tag.is_empty() {
            optional.is_empty()
        } else {
            optional.contains(tag)
        },
        "{root}"
    );
    Ok(())
}

fn unknown_propagation(r: &Runtime) -> Result<()> {
    r.refuses(|c| c["linux"]["rootfsPropagation"] = json!("sideways"))
}

fn bind(r: &Runtime) -> Result<()> {
    let host = tempfile::tempdir()?;
    fs::write(host.path().join("seen"), "from the host\n")?;
    let out = r.run("cat /ro/seen; touch /ro/x 2>/dev/null || echo refused; touch /rw/made", |c| {
        add_mount(c, json!({"destination": "/ro", "type": "bind", "source": host.path(), "options": ["bind", "ro"]}));
        add_mount(c, json!({"destination": "/rw", "type": "bind", "source": host.path(), "options": ["rbind", "rw"]}));
    })?;
    ensure!(out == "from the host\nrefused\n", "{out:?}");
    ensure!(host.path().join("made").exists());
    Ok(())
}

fn bind_file(r: &Runtime) -> Result<()> {
    let host = tempfile::NamedTempFile::new()?;
    fs::write(host.path(), "content\n")?;
    let out = r.run("cat /new/dir/file", |c| {
        add_mount(c, json!({"destination": "/new/dir/file", "type": "bind", "source": host.path(), "options": ["bind"]}));
    })?;
    ensure!(out == "content\n", "{out:?}");
    Ok(())
}

fn tmpfs(r: &Runtime) -> Result<()> {
    let script = "grep ' /mnt ' /proc/self/mountinfo; stat -c %a /mnt; dd if=/dev/zero of=/mnt/big bs=1024 count=2048 2>/dev/null || echo full";
    let out = r.run(script, |c| {
        let options = ["nosuid", "nodev", "noexec", "mode=1750", "size=1m"];
        add_mount(
            c,
            json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": options}),
        );
    })?;
    for part in ["nosuid", "nodev", "noexec"] {
        ensure!(out.contains(part), "{part}: {out}");
    }
    has_line(&out, "1750")?;
    has_line(&out, "full")
}

fn rbind(r: &Runtime) -> Result<()> {
    let out = r.run("ls /hostproc/self/status >/dev/null && echo below", |c| {
        add_mount(c, json!({"destination": "/hostproc", "type": "bind", "source": "/proc", "options": ["rbind", "ro"]}));
    })?;
    ensure!(out == "below\n", "{out:?}");
    Ok(())
}

fn own_dev(r: &Runtime) -> Result<()> {
    let script = "ls -ld /dev/marker; ls /dev/pts; grep -c ' /dev/shm ' /proc/self/mountinfo; touch /dev/x || echo refused";
    let mut b = r.bundle(script)?;
    let dev = b.dir().join("dev");
    for name in ["marker", "pts", "shm", "mqueue"] {
        fs::create_dir_all(dev.join(name))?;
    }
    // What a runtime would make there is there already, and is left alone.
    fs::write(dev.join("null"), "mine")?;
    std::os::unix::fs::symlink("/nowhere", dev.join("fd"))?;
    let mounts = b.config["mounts"].as_array_mut().expect("mounts");
    let place = mounts
        .iter()
        .position(|m| m["destination"] == "/dev")
        .expect("/dev");
    mounts[place] = json!({"destination": "/dev", "type": "bind", "source": dev, "options": ["rbind", "ro"]});
    let out = b.run()?;
    has_line(&out, "ptmx")?;
    has_line(&out, "1")?;
    has_line(&out, "refused")?;
    ensure!(out.contains("/dev/marker"), "{out}");
    ensure!(
        fs::read_to_string(dev.join("null"))? == "mine" && fs::read_dir(&dev)?.count() == 6,
        "the host's directory was changed"
    );
    Ok(())
}

fn order(r: &Runtime) -> Result<()> {
    let out = r.run("ls /mnt; ls /mnt/sub", |c| {
        add_mount(
            c,
            json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"}),
        );
        add_mount(
            c,
            json!({"destination": "/mnt/sub", "type": "tmpfs", "source": "tmpfs"}),
        );
    })?;
    ensure!(out == "sub\n", "{out:?}");
    Ok(())
}

fn missing_source(r: &Runtime) -> Result<()> {
    r.refuses(|c| {
        add_mount(
            c,
            json!({"destination": "/mnt", "type": "bind", "source": "/no/such/source", "options": ["bind"]}),
        );
    })
}

/// A link in the image must not lead a mount out of the rootfs (CVE-2021-30465's class).
fn symlink_destination(r: &Runtime) -> Result<()> {
    let outside = tempfile::tempdir()?;
    let mut b = r.bundle("ls /link/ 2>/dev/null; grep -c ' /tmp/' /proc/self/mountinfo || true")?;
    std::os::unix::fs::symlink(outside.path(), b.rootfs().join("link"))?;
    add_mount(
        &mut b.config,
        json!({"destination": "/link/inner", "type": "tmpfs", "source": "tmpfs"}),
    );
    b.try_run()?;
    ensure!(
        fs::read_dir(outside.path())?.next().is_none(),
        "the mount point was made outside of the rootfs"
    );
    Ok(())
}

fn default_devices(r: &Runtime) -> Result<()> {
    let script = "for d in null zero full random urandom tty; do stat -c '%n %F %a' /dev/$d; done; \
                  for l in fd stdin stdout stderr ptmx; do echo $l $(readlink /dev/$l); done; echo x > /dev/null && echo writable";
    let out = r.run(script, |_| ())?;
    for device in ["null", "zero", "full", "random", "urandom", "tty"] {
        has_line(&out, &format!("/dev/{device} character special file 666"))?;
    }
    for (link, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        has_line(&out, &format!("{link} {target}"))?;
    }
    ensure!(
        out.contains("ptmx /dev/pts/ptmx") || out.contains("ptmx pts/ptmx"),
        "{out}"
    );
    has_line(&out, "writable")
}

fn listed_devices(r: &Runtime) -> Result<()> {
    let script = "stat -c '%F %t:%T %a %u %g' /dev/test1 /dev/test2; stat -c '%F %a' /dev/pipe";
    let out = r.run(script, |c| {
        c["linux"]["devices"] = json!([
            {"path": "/dev/test1", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 5, "gid": 6},
            {"path": "/dev/test2", "type": "b", "major": 8, "minor": 10, "fileMode": 0o600},
            {"path": "/dev/pipe", "type": "p", "fileMode": 0o666}
        ]);
        c["linux"]["resources"] = json!({});
    })?;
    has_line(&out, "character special file a:e5 640 5 6")?;
    has_line(&out, "block special file 8:a 600 0 0")?;
    has_line(&out, "fifo 666")
}

fn masked(r: &Runtime) -> Result<()> {
    let mut b = r.bundle("cat /secret/file 2>/dev/null; ls /secretdir; cat /proc/cpuinfo; echo end")?;
    for dir in ["secret", "secretdir"] {
        fs::create_dir(b.rootfs().join(dir))?;
        fs::write(b.rootfs().join(dir).join("file"), "hidden\n")?;
    }
    b.config["linux"]["maskedPaths"] =
        json!(["/secret/file", "/secretdir", "/proc/cpuinfo", "/no/such/path"]);
    let out = b.run()?;
    ensure!(out == "end\n", "{out:?}");
    ensure!(Path::new("/proc/cpuinfo").metadata().is_ok());
    Ok(())
}

fn readonly_paths(r: &Runtime) -> Result<()> {
    let mut b = r.bundle("for p in /rodir/new /rofile /proc/sys/kernel/domainname; do (echo x > $p) 2>/dev/null && echo $p; done; cat /rofile")?;
    fs::create_dir(b.rootfs().join("rodir"))?;
    fs::write(b.rootfs().join("rofile"), "kept\n")?;
    b.config["linux"]["readonlyPaths"] = json!(["/rodir", "/rofile", "/proc/sys", "/no/such/path"]);
    let out = b.run()?;
    ensure!(out == "kept\n", "{out:?}");
    Ok(())
}

fn filter(rules: &Value) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"], "syscalls": rules})
}

fn seccomp(r: &Runtime) -> Result<()> {
    let out = r.run(
        "mkdir /made 2>&1 || echo refused; grep Seccomp: /proc/self/status",
        |c| {
            c["linux"]["seccomp"] =
                filter(&json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]));
        },
    )?;
    ensure!(out.contains("Operation not permitted"), "{out}");
    has_line(&out, "refused")?;
    ensure!(
        out.lines().any(|l| l.starts_with("Seccomp:") && l.ends_with('2')),
        "{out}"
    );
    Ok(())
}

fn seccomp_args(r: &Runtime) -> Result<()> {
    let out = r.run("kill -0 1 && echo zero; kill -USR2 $$ 2>&1; echo $?", |c| {
        let args = json!([{"index": 1, "value": 12, "op": "SCMP_CMP_EQ"}]);
        c["linux"]["seccomp"] =
            filter(&json!([{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 16, "args": args}]));
    })?;
    has_line(&out, "zero")?;
    ensure!(out.contains("busy"), "EBUSY: {out}");
    Ok(())
}

fn seccomp_bad(r: &Runtime) -> Result<()> {
    r.refuses(|c| {
        c["linux"]["seccomp"] = filter(&json!([{"names": ["mkdir"], "action": "SCMP_ACT_NOSUCH"}]));
    })
}
