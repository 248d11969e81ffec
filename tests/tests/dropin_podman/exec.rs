//! Programs started in a running container.

use anyhow::ensure;
use magikrun_tests::dropin::{Check, Client, eventually};

use crate::support::{Sleeper, contains, equal};

pub(crate) const CHECKS: &[Check<Client>] = &[
    ("exec", |p| {
        Sleeper::new(p, "")?
            .exec("", "echo inside")
            .and_then(|o| equal(&o, "inside"))
    }),
    ("exec passes the exit code on", |p| {
        let c = Sleeper::new(p, "")?;
        p.exits(&format!("exec {} sh -c 'exit 9'", c.name), 9)?;
        p.exits(&format!("exec {} sh -c 'kill -15 $$'", c.name), 143)
            .map(drop)
    }),
    ("exec of a missing program is 127", |p| {
        let c = Sleeper::new(p, "")?;
        p.exits(&format!("exec {} nosuch", c.name), 127).map(drop)
    }),
    ("exec of what is no program is 126", |p| {
        let c = Sleeper::new(p, "")?;
        p.exits(&format!("exec {} /etc/plain", c.name), 126).map(drop)
    }),
    ("exec with a terminal", |p| {
        let c = Sleeper::new(p, "")?;
        let line = format!("exec -it {} sh", c.name);
        p.terminal(&line, "tty; stty size; echo $((6*7)); exit 5\n")?
            .code(5)?
            .has("/dev/pts/")?
            .has("42")
            .map(drop)
    }),
    ("exec with stdin", |p| {
        let c = Sleeper::new(p, "")?;
        p.input(&format!("exec -i {} cat", c.name), b"typed")?
            .code(0)?
            .is("typed")
            .map(drop)
    }),
    ("exec as another user", |p| {
        let c = Sleeper::new(p, "")?;
        equal(&c.exec("-u web", "id -un")?, "web")?;
        equal(&c.exec("-u 5:6", "sh -c 'id -u; id -g'")?, "5\n6")
    }),
    ("exec with environment and directory", |p| {
        let c = Sleeper::new(p, "-e A=from-run -w /srv")?;
        equal(&c.exec("-e B=c", "sh -c 'echo $A $B; pwd'")?, "from-run c\n/srv")?;
        equal(&c.exec("-w /tmp", "pwd")?, "/tmp")
    }),
    ("exec keeps the sandbox", |p| {
        let c = Sleeper::new(
            p,
            "--cap-drop CHOWN --security-opt no-new-privileges --ulimit nofile=300:300 --ulimit nproc=32768:32768 -u web",
        )?;
        let status = "sh -c 'grep -E \"^(Cap(Bnd|Eff)|NoNewPrivs|Seccomp|Uid|Gid)\" /proc/self/status; ulimit -n; cat /proc/self/cgroup'";
        let (ours, first) = (c.exec("", status)?, c.exec("", "sh -c 'grep -E \"^(Cap(Bnd|Eff)|NoNewPrivs|Seccomp|Uid|Gid)\" /proc/1/status; ulimit -n; cat /proc/1/cgroup'")?);
        equal(&ours, &first)?;
        contains(&ours, "Seccomp:\t2")?;
        contains(&ours, "NoNewPrivs:\t1")
    }),
    ("exec enters the user namespace", |p| {
        let c = Sleeper::new(p, "--uidmap 0:100000:1000 --gidmap 0:100000:1000")?;
        let out = c.exec(
            "",
            "sh -c 'cat /proc/self/uid_map; readlink /proc/self/ns/user; id -u'",
        )?;
        ensure!(
            out.split_whitespace().nth(1) == Some("100000") && out.ends_with("\n0"),
            "{out}"
        );
        let line = format!("exec -t -u 5 {} sh -c 'id -u; stat -c %u $(tty)'", c.name);
        p.terminal(&line, "")?.code(0)?.is("5\n5").map(drop)
    }),
    ("exec in the background", |p| {
        let c = Sleeper::new(p, "")?;
        c.exec("-d", "sh -c 'echo done >/tmp/flag'")?;
        eventually("the file", || {
            c.exec("", "cat /tmp/flag").is_ok_and(|o| o == "done")
        })
    }),
];
