//! containerd ends and comes back while containers live.

use anyhow::{Result, ensure};
use magikrun_test_world::has_ended;
use magikrun_tests::dropin::{Check, eventually};
use rustix::process::{Pid, Signal, kill_process};

use magikrun_test_cri::api::{sandbox, state};

use crate::node::{Node, SLEEPER};

pub(crate) const CHECKS: &[Check<Node>] = &[(
    "containers outlive a killed containerd, and what happened meanwhile is seen",
    |n| {
        let pod = n.pod()?;
        let lives = pod.start(&format!("trap 'echo after' USR1; {SLEEPER}"), |_| {})?;
        let ends = pod.start("trap 'exit 9' USR1; while :; do sleep 0.1; done", |_| {})?;
        let signal = |pid: u64| -> Result<()> {
            let pid = Pid::from_raw(i32::try_from(pid)?).expect("a pid");
            Ok(kill_process(pid, Signal::USR1)?)
        };
        lives.catching(Signal::TERM)?;
        let (living, ending) = (lives.catching(Signal::USR1)?, ends.catching(Signal::USR1)?);
        n.containerd.kill()?;
        signal(ending)?;
        eventually("it ends", || has_ended(ending))?;
        n.containerd.start_again()?;
        n.wait_until_ready()?;
        ensure!(pod.status()?.state == sandbox::READY, "{:?}", pod.status());
        ensure!(lives.status()?.state == state::RUNNING, "{:?}", lives.status());
        let ended = ends.ended()?;
        ensure!(ended.exit_code == 9, "{ended:?}");
        ensure!(lives.exec("echo inside")? == "inside");
        signal(living)?;
        eventually("its log goes on", || {
            lives.stdout().is_ok_and(|t| t.contains("after"))
        })?;
        lives.stop(20)?;
        ensure!(lives.status()?.exit_code == 3, "{:?}", lives.status());
        // And new ones start.
        pod.says("echo new", |_| {}, "new")
    },
)];
