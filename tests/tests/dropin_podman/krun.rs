//! Containers in machines of their own, which podman asks for by an annotation.

use anyhow::Result;
use magikrun_tests::dropin::{Check, Client, eventually};

use crate::support::{Sleeper, contains, equal};

/// crun's annotation.
const KRUN: &str = "--annotation run.oci.handler=krun";

pub(crate) const CHECKS: &[Check<Client>] = &[
    ("krun: output, exit code, files, a volume, an environment", |p| {
        let dir = p.directory()?;
        let script = "echo $GIVEN from $(hostname); cat /data/file; echo written >/vol/file; id -un; exit 7";
        let line =
            format!("run --rm -e GIVEN=word -h inside -u web -v {dir}:/vol {KRUN} box sh -c '{script}'");
        std::os::unix::fs::chown(&dir, Some(33), Some(34))?;
        let out = p.exits(&line, 7)?;
        equal(&out.stdout, "word from inside\nfrom image\nweb")?;
        equal(&std::fs::read_to_string(format!("{dir}/file"))?, "written\n")
    }),
    ("krun: exec, logs, stop, rm, start again", krun_life),
];

fn krun_life(p: &Client) -> Result<()> {
    let script = "sh -c \"trap 'echo term; exit 3' TERM; echo up; while :; do sleep 0.1; done\"";
    let c = Sleeper::running(p, KRUN, script)?;
    // It runs, and what it writes comes when the guest gets to it.
    eventually("the program's first line", || {
        c.ok("logs", "").is_ok_and(|log| log == "up")
    })?;
    equal(&c.exec("", "sh -c 'echo inside; touch /made'")?, "inside")?;
    p.exits(&format!("exec {} sh -c 'exit 9'", c.name), 9)?;
    equal(
        &p.input(&format!("exec -i {} cat", c.name), b"typed")?
            .code(0)?
            .stdout,
        "typed",
    )?;
    p.terminal(&format!("exec -it {} sh", c.name), "tty; echo $((6*7)); exit 5\n")?
        .code(5)?
        .has("42")?;
    c.ok("stop", "")?;
    equal(&c.inspect("State.ExitCode")?, "3")?;
    contains(&c.ok("logs", "")?, "term")?;
    c.ok("start", "")?;
    equal(&c.exec("", "ls /made")?, "/made")?;
    c.ok("kill", "")?;
    equal(&c.ok("wait", "")?, "137")
}
