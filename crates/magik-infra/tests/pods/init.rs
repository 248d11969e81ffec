//! The init's side: what a launcher's re-exec does, with the least around [`PodInit`].

use std::{path::PathBuf, sync::Arc};

use magik_infra::{InitOptions, PodInit, PodOutcome, StateDir};
use oci_native::NativeRuntime;
use tokio::net::UnixStream;

pub(crate) const ARGUMENT: &str = "pod-init";

/// `pod-init DIRECTORY CGROUP`: the launch socket is `DIRECTORY/launch.sock`, the state directory `DIRECTORY/pod.pending`,
/// and how it ended is written to `DIRECTORY/outcome`.
pub(crate) fn main() -> ! {
    let arguments: Vec<String> = std::env::args().collect();
    let (directory, cgroup) = (PathBuf::from(&arguments[2]), PathBuf::from(&arguments[3]));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let outcome = runtime.block_on(async {
        let launch = UnixStream::connect(directory.join("launch.sock")).await.unwrap();
        let state = std::fs::File::open(directory.join("pod.pending")).unwrap();
        let state = StateDir::new(state.into());
        let control = state.bind_control().unwrap();
        let containers = NativeRuntime::builder(directory.join("oci"))
            .cgroup_root(cgroup)
            .reap_orphans(true)
            .build();
        PodInit::new(Arc::new(containers), state, InitOptions::default())
            .run(launch, control)
            .await
            .unwrap()
    });
    let (text, code) = match outcome {
        PodOutcome::Finished(status) => (format!("finished {:?}", status.phase), status.exit_code()),
        PodOutcome::Failed(error) => (format!("failed {error}"), 1),
        PodOutcome::Abandoned => ("abandoned".to_owned(), 1),
    };
    std::fs::write(directory.join("outcome"), text).unwrap();
    std::process::exit(code);
}
