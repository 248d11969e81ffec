//! Namespaces, id mappings and sysctls (config-linux.md).

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::harness::{Check, Runtime, has_line};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        name: "hostname",
        run: hostname,
    },
    Check {
        name: "domainname",
        run: domainname,
    },
    Check {
        name: "namespaces: new pid",
        run: |r| fresh(r, "pid", "pid"),
    },
    Check {
        name: "namespaces: new network",
        run: |r| fresh(r, "network", "net"),
    },
    Check {
        name: "namespaces: new ipc",
        run: |r| fresh(r, "ipc", "ipc"),
    },
    Check {
        name: "namespaces: new uts",
        run: |r| fresh(r, "uts", "uts"),
    },
    Check {
        name: "namespaces: new mount",
        run: |r| fresh(r, "mount", "mnt"),
    },
    Check {
        name: "namespaces: new cgroup",
        run: |r| fresh(r, "cgroup", "cgroup"),
    },
    Check {
        name: "namespaces: new user",
        run: new_user,
    },
    Check {
        name: "namespaces: new time with offsets",
        run: time_offsets,
    },
    Check {
        name: "namespaces: absent network is the host's",
        run: |r| inherited(r, "network", "net"),
    },
    Check {
        name: "namespaces: absent ipc is the host's",
        run: |r| inherited(r, "ipc", "ipc"),
    },
    Check {
        name: "namespaces: absent pid is the host's",
        run: |r| inherited(r, "pid", "pid"),
    },
    Check {
        name: "namespaces: network by path",
        run: |r| by_path(r, "network", "net", "--net"),
    },
    Check {
        name: "namespaces: ipc by path",
        run: |r| by_path(r, "ipc", "ipc", "--ipc"),
    },
    Check {
        name: "namespaces: uts by path",
        run: |r| by_path(r, "uts", "uts", "--uts"),
    },
    Check {
        name: "namespaces: pid by path",
        run: pid_by_path,
    },
    Check {
        name: "namespaces: a path of the wrong type is refused",
        run: wrong_type,
    },
    Check {
        name: "namespaces: a path that is missing is refused",
        run: missing_path,
    },
    Check {
        name: "namespaces: the same type twice is refused",
        run: twice,
    },
    Check {
        name: "uid and gid mappings",
        run: mappings,
    },
    Check {
        name: "sysctl",
        run: sysctl,
    },
    Check {
        name: "sysctl: of the host's network is refused",
        run: sysctl_host,
    },
];

fn set(config: &mut Value, kind: &str, path: Option<&str>) {
    let list = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
    list.retain(|n| n["type"] != kind);
    list.push(path.map_or_else(|| json!({"type": kind}), |p| json!({"type": kind, "path": p})));
}

fn unset(config: &mut Value, kind: &str) {
    config["linux"]["namespaces"]
        .as_array_mut()
        .expect("namespaces")
        .retain(|n| n["type"] != kind);
}

fn hostname(r: &Runtime) -> Result<()> {
    let out = r.run("hostname", |c| c["hostname"] = json!("name-of-the-container"))?;
    ensure!(out == "name-of-the-container\n", "{out:?}");
    Ok(())
}

fn domainname(r: &Runtime) -> Result<()> {
    let out = r.run("cat /proc/sys/kernel/domainname", |c| {
        c["domainname"] = json!("domain.example");
        c["ociVersion"] = json!("1.1.0");
    })?;
    ensure!(out == "domain.example\n", "{out:?}");
    Ok(())
}

fn host(file: &str) -> Result<String> {
    Ok(fs::read_link(format!("/proc/self/ns/{file}"))?
        .to_string_lossy()
        .into_owned())
}

fn in_container(r: &Runtime, file: &str, change: impl FnOnce(&mut Value)) -> Result<String> {
    Ok(r.run(&format!("readlink /proc/self/ns/{file}"), change)?
        .trim()
        .to_owned())
}

fn fresh(r: &Runtime, kind: &str, file: &str) -> Result<()> {
    let inside = in_container(r, file, |c| set(c, kind, None))?;
    ensure!(inside.starts_with(file) && inside != host(file)?, "{inside}");
    Ok(())
}

fn inherited(r: &Runtime, kind: &str, file: &str) -> Result<()> {
    let inside = in_container(r, file, |c| {
        unset(c, kind);
        if kind == "network" {
            // A new sysfs cannot be mounted in the host's network namespace by some kernels' rules; it is not the point here.
            c["mounts"]
                .as_array_mut()
                .expect("mounts")
                .retain(|m| m["type"] != "sysfs");
        }
        if kind == "ipc" {
            c["mounts"]
                .as_array_mut()
                .expect("mounts")
                .retain(|m| m["type"] != "mqueue");
        }
    })?;
    ensure!(inside == host(file)?, "{inside}");
    Ok(())
}

/// A process in a namespace of its own, ended when dropped.
struct Holder(std::process::Child);

impl Holder {
    fn new(option: &str) -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args([option, "sleep", "60"]);
        let holder = Self(command.spawn().context("unshare")?);
        let comm = format!("/proc/{}/comm", holder.0.id());
        crate::harness::eventually("the namespace's holder", || {
            Ok(fs::read_to_string(&comm)? == "sleep\n")
        })?;
        Ok(holder)
    }

    fn path(&self, file: &str) -> String {
        format!("/proc/{}/ns/{file}", self.0.id())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn by_path(r: &Runtime, kind: &str, file: &str, option: &str) -> Result<()> {
    let holder = Holder::new(option)?;
    let path = holder.path(file);
    let inside = in_container(r, file, |c| {
        set(c, kind, Some(&path));
        if kind == "uts" {
            c.as_object_mut().expect("an object").remove("hostname");
        }
    })?;
    ensure!(inside == fs::read_link(&path)?.to_string_lossy(), "{inside}");
    Ok(())
}

fn pid_by_path(r: &Runtime) -> Result<()> {
    let first = r.bundle("sleep 100")?;
    first.create()?;
    first.ok("start", &[])?;
    let path = format!("/proc/{}/ns/pid", first.pid()?);
    let inside = in_container(r, "pid", |c| set(c, "pid", Some(&path)))?;
    ensure!(inside == fs::read_link(&path)?.to_string_lossy(), "{inside}");
    Ok(())
}

fn wrong_type(r: &Runtime) -> Result<()> {
    r.refuses(|c| set(c, "network", Some("/proc/self/ns/ipc")))
}

fn missing_path(r: &Runtime) -> Result<()> {
    r.refuses(|c| set(c, "network", Some("/no/such/namespace")))
}

fn twice(r: &Runtime) -> Result<()> {
    r.refuses(|c| {
        c["linux"]["namespaces"]
            .as_array_mut()
            .expect("namespaces")
            .push(json!({"type": "pid"}));
    })
}

fn map(config: &mut Value) {
    set(config, "user", None);
    config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 1000, "size": 2000}]);
    config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 3000, "size": 2000}]);
    config["linux"]["resources"] = json!({});
}

fn open_to_mapped_ids(b: &crate::harness::Bundle<'_>) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for dir in [b.dir(), &b.rootfs()] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

fn new_user(r: &Runtime) -> Result<()> {
    let mut b = r.bundle("readlink /proc/self/ns/user")?;
    map(&mut b.config);
    open_to_mapped_ids(&b)?;
    let inside = b.run()?;
    ensure!(inside.trim() != host("user")?, "{inside}");
    Ok(())
}

fn mappings(r: &Runtime) -> Result<()> {
    let mut b = r.bundle("cat /proc/self/uid_map /proc/self/gid_map; id -u")?;
    map(&mut b.config);
    open_to_mapped_ids(&b)?;
    let out = b.run()?;
    let words: Vec<Vec<&str>> = out.lines().map(|l| l.split_whitespace().collect()).collect();
    ensure!(
        words == [vec!["0", "1000", "2000"], vec!["0", "3000", "2000"], vec!["0"]],
        "{out:?}"
    );
    Ok(())
}

fn time_offsets(r: &Runtime) -> Result<()> {
    let out = r.run("cut -d. -f1 /proc/uptime", |c| {
        c["ociVersion"] = json!("1.1.0");
        set(c, "time", None);
        c["linux"]["timeOffsets"] =
            json!({"boottime": {"secs": 1_000_000}, "monotonic": {"secs": 1_000_000}});
    })?;
    ensure!(out.trim().parse::<u64>()? >= 1_000_000, "{out}");
    Ok(())
}

fn sysctl(r: &Runtime) -> Result<()> {
    let out = r.run("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni", |c| {
        c["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.shmmni": "1234"});
    })?;
    has_line(&out, "1")?;
    has_line(&out, "1234")
}

fn sysctl_host(r: &Runtime) -> Result<()> {
    r.refuses(|c| {
        unset(c, "network");
        c["mounts"]
            .as_array_mut()
            .expect("mounts")
            .retain(|m| m["type"] != "sysfs");
        c["linux"]["sysctl"] = json!({"net.ipv4.ip_default_ttl": "64"});
    })
}
