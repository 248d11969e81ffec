//! From the first instruction to the end of the pod.

use std::{io, sync::Arc, time::Duration};

use magik_infra::{InitOptions, PodInit, PodOutcome, StateDir, guest::PROCESSES};
use oci_native::NativeRuntime;
use rustix::fs::{Mode, OFlags};

use crate::{dial::Dialer, machine, mounts};

/// The runtime's own files.
const RUNTIME_ROOT: &str = "/run/oci";
/// Where the pod init keeps what on a host is the pod's state directory.
const STATE: &str = "/run/state";
/// Logs are carried to the host as they are written; the guest keeps only what is under way.
const MAX_LOG_SIZE: u64 = 1 << 20;
/// How long the host may take to fetch the pod's last words.
const LAST_WORDS: Duration = Duration::from_secs(60);

/// Prepares the guest and runs the pod.
///
/// # Errors
/// Says in one line, for the console, what this guest lacks.
pub(crate) fn run() -> io::Result<()> {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let sealed = mounts::own_root()?;
    machine::open_console()?;
    let config = mounts::config(&mounts::config_path())?;
    mounts::for_pod(&config)?;
    if !sealed {
        oci_native::seal_self_exe().map_err(io::Error::other)?;
    }
    rustix::system::sethostname(config.hostname.as_bytes())?;
    for (name, value) in &config.sysctls {
        magik_sys::sysctl::set(&magik_sys::sysctl::path(name), value)
            .map_err(|e| std::io::Error::new(e.kind(), format!("sysctl {name}: {e}")))?;
    }
    magik_sys::raise_loopback()?;
    std::fs::create_dir(STATE)?;
    let state = rustix::fs::open(
        STATE,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let runtime = NativeRuntime::builder(RUNTIME_ROOT.into())
        .reap_orphans(true)
        .build();
    let options = InitOptions {
        runtime_class: "microvm".into(),
        max_log_size: MAX_LOG_SIZE,
        own_files: true,
        ..InitOptions::default()
    };
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio.block_on(async {
        let dialer = Dialer::new(config.nonce);
        let (launch, welcome) = dialer
            .launch()
            .await
            .map_err(|e| io::Error::new(e.kind(), format!("dial the host: {e}")))?;
        machine::set_clock(welcome)?;
        let outcome = PodInit::new(Arc::new(runtime), StateDir::new(state), options)
            // The launcher has ended, and the machine ends with it.
            .committed_when(|_| false)
            .shared_processes(config.shared_processes.then(|| PROCESSES.into()))
            .run(launch, dialer)
            .await?;
        if !matches!(outcome, PodOutcome::Abandoned) {
            // The host still reads the end of the logs, and then ends the machine.
            tokio::time::sleep(LAST_WORDS).await;
        }
        Ok(())
    })
}
