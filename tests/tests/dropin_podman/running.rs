//! Running: streams, exit codes, terminals, containers in the background.

use magikrun_tests::dropin::{Check, Client};

use crate::support::{Sleeper, contains, equal};

pub(crate) const CHECKS: &[Check<Client>] = &[
    ("run passes stdout on", |p| {
        p.says("run --rm box echo hello", "hello")
    }),
    ("run keeps stderr apart", |p| {
        let out = p.exits("run --rm box sh -c 'echo out; echo err >&2'", 0)?;
        out.is("out")?.complains("err").map(drop)
    }),
    ("run passes stdin on", |p| {
        p.input("run --rm -i box cat", b"typed")?
            .code(0)?
            .is("typed")
            .map(drop)
    }),
    ("run passes the exit code on", |p| {
        p.exits("run --rm box sh -c 'exit 7'", 7).map(drop)
    }),
    ("a signalled program ends with 128 + n", |p| {
        p.exits("run --rm --init box sh -c 'kill -9 $$'", 137).map(drop)
    }),
    ("a missing program is 127", |p| {
        p.exits("run --rm box /nosuch", 127)?
            .complains("no such file")
            .map(drop)
    }),
    ("a missing program in PATH is 127", |p| {
        p.exits("run --rm box nosuch", 127).map(drop)
    }),
    ("what is no program is 126", |p| {
        p.exits("run --rm box /etc/plain", 126)?
            .complains("permission denied")
            .map(drop)
    }),
    ("a directory is no program", |p| {
        p.exits("run --rm box /etc", 126).map(drop)
    }),
    ("working directory", |p| {
        p.says("run --rm -w /srv box pwd", "/srv")
    }),
    ("environment", |p| {
        p.says("run --rm -e A=b box sh -c 'echo $A'", "b")
    }),
    ("HOME comes from passwd", |p| {
        p.says("run --rm -u web box sh -c 'echo $HOME'", "/srv")
    }),
    ("hostname", |p| {
        p.says("run --rm --hostname box.test box hostname", "box.test")
    }),
    ("entrypoint", |p| {
        p.says("run --rm --entrypoint echo box a b", "a b")
    }),
    ("user by number", |p| {
        p.says("run --rm -u 1000:50 box sh -c 'id -u; id -g'", "1000\n50")
    }),
    ("user by name", |p| {
        p.says(
            "run --rm -u web box id",
            "uid=33(web) gid=34(www) groups=34(www),44(extra)",
        )
    }),
    ("supplementary group", |p| {
        p.ok("run --rm --group-add 77 box id -G")
            .and_then(|o| contains(&o, "77"))
    }),
    ("umask", |p| {
        p.says("run --rm --umask 0077 box sh -c umask", "0077")
    }),
    ("init as pid 1", |p| {
        p.ok("run --rm --init box cat /proc/1/cmdline")
            .and_then(|o| contains(&o, "init"))
    }),
    ("the program is pid 1", |p| {
        p.says("run --rm box sh -c 'echo $$'", "1")
    }),
    // Terminals.
    ("a terminal", |p| {
        p.terminal("run --rm -t box tty", "")?
            .code(0)?
            .has("/dev/pts/0")
            .map(drop)
    }),
    ("the terminal has the caller's size", |p| {
        // It is told when the program may already run.
        p.terminal("run --rm -it box sh -c 'sleep 0.3; stty size'", "")?
            .has("40 100")
            .map(drop)
    }),
    ("typing into a terminal", |p| {
        p.terminal("run --rm -it box sh", "echo $((6*7))\nexit 5\n")?
            .code(5)?
            .has("42")
            .map(drop)
    }),
    ("a terminal of another user is theirs", |p| {
        let line = "run --rm -t -u 1000 box sh -c 'echo x >/dev/tty && stat -c %u $(tty)'";
        p.terminal(line, "")?.code(0)?.has("1000").map(drop)
    }),
    ("/dev/console is the terminal", |p| {
        p.terminal("run --rm -t box sh -c 'echo here >/dev/console'", "")?
            .has("here")
            .map(drop)
    }),
    // In the background.
    ("detached, waited for", |p| {
        let c = Sleeper::running(p, "", "sh -c 'sleep 0.3; exit 4'")?;
        equal(&c.ok("wait", "")?, "4")
    }),
    ("logs", |p| {
        let c = Sleeper::running(p, "", "sh -c 'echo one; echo two >&2'")?;
        c.ok("wait", "")?;
        p.exits(&format!("logs {}", c.name), 0)?
            .is("one")?
            .complains("two")
            .map(drop)
    }),
    ("logs of a terminal", |p| {
        let c = Sleeper::running(p, "-t", "echo from a terminal")?;
        c.ok("wait", "")?;
        equal(&c.ok("logs", "")?, "from a terminal")
    }),
    ("created, then started and attached", |p| {
        let name = p.name();
        p.ok(&format!("create --name {name} box sh -c 'echo attached; exit 6'"))?;
        let c = Sleeper { podman: p, name };
        p.exits(&format!("start -a {}", c.name), 6)?
            .is("attached")
            .map(drop)
    }),
    ("run --rm leaves no container", |p| {
        let name = p.name();
        p.ok(&format!("run --rm --name {name} box true"))?;
        p.run(&format!("inspect {name}"))?.failed().map(drop)
    }),
];
