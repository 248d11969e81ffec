//! `process` (runtime-spec, config.md "Process").

use anyhow::{Result, ensure};
use serde_json::json;

use crate::harness::{Check, Runtime, has_line};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        name: "process: args, env and cwd",
        run: args_env_cwd,
    },
    Check {
        name: "process: exit code is passed on by run",
        run: exit_code,
    },
    Check {
        name: "process: a signal's exit code is 128 + n",
        run: signal_code,
    },
    Check {
        name: "process: a missing cwd is made or refused",
        run: missing_cwd,
    },
    Check {
        name: "process: uid, gid and additional gids",
        run: user,
    },
    Check {
        name: "process: umask",
        run: umask,
    },
    Check {
        name: "process: rlimits",
        run: rlimits,
    },
    Check {
        name: "process: an unknown rlimit is refused",
        run: rlimits_fail,
    },
    Check {
        name: "process: the same rlimit twice is refused",
        run: rlimits_twice,
    },
    Check {
        name: "process: capabilities",
        run: capabilities,
    },
    Check {
        name: "process: no capabilities at all",
        run: no_capabilities,
    },
    Check {
        name: "process: ambient capabilities of a user",
        run: ambient,
    },
    Check {
        name: "process: oomScoreAdj",
        run: oom_score_adj,
    },
    Check {
        name: "process: noNewPrivileges",
        run: no_new_privileges,
    },
    Check {
        name: "process: is pid 1 with no other fds",
        run: fds,
    },
    Check {
        name: "process: SIGPIPE is not ignored, no signal is blocked",
        run: signals_default,
    },
];

fn args_env_cwd(r: &Runtime) -> Result<()> {
    let out = r.run("", |c| {
        c["process"]["args"] = json!([
            "/bin/sh",
            "-c",
            "echo \"$0 $1\"; pwd; echo \"$TESTA-$TESTB\"",
            "zero",
            "o n e"
        ]);
        c["process"]["env"] = json!(["PATH=/bin", "TESTA=valueA", "TESTB=with space=and"]);
        c["process"]["cwd"] = json!("/root");
    })?;
    ensure!(out == "zero o n e\n/root\nvalueA-with space=and\n", "{out:?}");
    Ok(())
}

fn exit_code(r: &Runtime) -> Result<()> {
    let code = r.bundle("exit 42")?.try_run()?.status.code();
    ensure!(code == Some(42), "{code:?}");
    Ok(())
}

fn signal_code(r: &Runtime) -> Result<()> {
    let code = r.bundle("sh -c 'kill -9 $$'; exit $?")?.try_run()?.status.code();
    ensure!(code == Some(137), "{code:?}");
    Ok(())
}

fn missing_cwd(r: &Runtime) -> Result<()> {
    let out = r.run("pwd", |c| c["process"]["cwd"] = json!("/made/for/it"))?;
    ensure!(out == "/made/for/it\n", "{out:?}");
    Ok(())
}

fn user(r: &Runtime) -> Result<()> {
    let out = r.run("id -u; id -g; grep Groups /proc/self/status", |c| {
        c["process"]["user"] = json!({"uid": 10, "gid": 20, "additionalGids": [5, 6]});
    })?;
    has_line(&out, "10")?;
    has_line(&out, "20")?;
    let groups = out
        .lines()
        .find_map(|l| l.strip_prefix("Groups:"))
        .unwrap_or_default();
    let groups: Vec<&str> = groups.split_whitespace().collect();
    ensure!(
        groups.contains(&"5") && groups.contains(&"6") && !groups.contains(&"0"),
        "{groups:?}"
    );
    Ok(())
}

fn umask(r: &Runtime) -> Result<()> {
    let out = r.run("umask", |c| c["process"]["user"]["umask"] = json!(0o027))?;
    has_line(&out, "0027")
}

fn rlimits(r: &Runtime) -> Result<()> {
    let out = r.run("cat /proc/self/limits", |c| {
        c["process"]["rlimits"] = json!([
            {"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 512},
            {"type": "RLIMIT_CORE", "hard": 4096, "soft": 1024}
        ]);
    })?;
    let limit = |name: &str| -> Vec<String> {
        let line = out.lines().find(|l| l.starts_with(name)).unwrap_or_default();
        line[name.len().min(line.len())..]
            .split_whitespace()
            .take(2)
            .map(str::to_owned)
            .collect()
    };
    ensure!(limit("Max open files") == ["512", "1024"], "{out}");
    ensure!(limit("Max core file size") == ["1024", "4096"], "{out}");
    Ok(())
}

fn rlimits_fail(r: &Runtime) -> Result<()> {
    r.refuses(|c| c["process"]["rlimits"] = json!([{"type": "RLIMIT_TEST", "hard": 4, "soft": 4}]))
}

fn rlimits_twice(r: &Runtime) -> Result<()> {
    let limit = json!({"type": "RLIMIT_CORE", "hard": 4, "soft": 4});
    r.refuses(|c| c["process"]["rlimits"] = json!([limit, limit]))
}

const STATUS: &str = "grep -E '^(Cap|NoNewPrivs|Sig)' /proc/self/status";

fn field(out: &str, name: &str) -> u64 {
    let value = out
        .lines()
        .find_map(|l| l.strip_prefix(name))
        .unwrap_or("x")
        .trim_start_matches(':')
        .trim();
    u64::from_str_radix(value, 16).unwrap_or(u64::MAX)
}

fn capabilities(r: &Runtime) -> Result<()> {
    let out = r.run(STATUS, |c| {
        let caps = json!(["CAP_CHOWN", "CAP_KILL"]);
        c["process"]["capabilities"] =
            json!({"bounding": caps, "effective": ["CAP_KILL"], "permitted": caps, "inheritable": []});
    })?;
    // capability.h: CAP_CHOWN is 0, CAP_KILL 5; execve by root raises effective to permitted and bounding.
    ensure!(
        field(&out, "CapBnd") == 0x21 && field(&out, "CapPrm") == 0x21 && field(&out, "CapInh") == 0,
        "{out}"
    );
    Ok(())
}

fn no_capabilities(r: &Runtime) -> Result<()> {
    let out = r.run(STATUS, |c| c["process"]["capabilities"] = json!({}))?;
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        ensure!(field(&out, set) == 0, "{out}");
    }
    Ok(())
}

fn ambient(r: &Runtime) -> Result<()> {
    let out = r.run(STATUS, |c| {
        let caps = json!(["CAP_NET_BIND_SERVICE"]);
        c["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        c["process"]["capabilities"] =
            json!({"bounding": caps, "effective": caps, "permitted": caps, "inheritable": caps, "ambient": caps});
    })?;
    ensure!(
        field(&out, "CapEff") == 1 << 10 && field(&out, "CapAmb") == 1 << 10,
        "{out}"
    );
    Ok(())
}

fn oom_score_adj(r: &Runtime) -> Result<()> {
    has_line(
        &r.run("cat /proc/self/oom_score_adj", |c| {
            c["process"]["oomScoreAdj"] = json!(321);
        })?,
        "321",
    )
}

fn no_new_privileges(r: &Runtime) -> Result<()> {
    for on in [true, false] {
        let out = r.run(STATUS, |c| c["process"]["noNewPrivileges"] = json!(on))?;
        ensure!(field(&out, "NoNewPrivs") == u64::from(on), "{on}: {out}");
    }
    Ok(())
}

fn fds(r: &Runtime) -> Result<()> {
    let out = r.run("echo $$; echo /proc/self/fd/*", |_| ())?;
    let mut lines = out.lines();
    ensure!(lines.next() == Some("1"), "{out}");
    let open: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    // 0, 1, 2 and the one that sh reads the directory with.
    ensure!(open.len() <= 4, "{open:?}");
    Ok(())
}

fn signals_default(r: &Runtime) -> Result<()> {
    let out = r.run(STATUS, |_| ())?;
    // Bit 12 is SIGPIPE, which Rust programs ignore. Others may be ignored by whoever started the tests.
    ensure!(
        field(&out, "SigBlk") == 0 && field(&out, "SigIgn") & (1 << 12) == 0,
        "{out}"
    );
    Ok(())
}
