//! What a WebAssembly pod's process does.

use std::{io, process::ExitCode, sync::Arc, time::Duration};

use magik_infra::{InitOptions, LaunchError, LaunchStep, PodInit, StateDir, plan::PodPlan};
use magik_oci::ContainerId;
use oci_wasm::{Loader, WasmtimeRuntime};
use rustix::fs::Mode;

use super::{arguments::Arguments, isolation::Kind};
use crate::pods::init::{self, Descriptors};

/// Runs this process as a WebAssembly pod, and returns how it ended.
///
/// The `main` of the program that pods are calls it, after [`oci_wasm::run_compiler_if_asked`] and before it has made a thread
/// or opened anything. Descriptors from 3 on are those that the launcher gave it.
#[must_use]
pub fn pod_main() -> ExitCode {
    init::report(run())
}

fn run() -> io::Result<ExitCode> {
    let arguments = Arguments::read()?;
    let descriptors = Descriptors::take()?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    #[cfg(target_os = "linux")]
    if arguments.isolation != Kind::None {
        init::enter_namespaces(
            &arguments.hostname,
            !arguments.host_network,
            arguments.isolation == Kind::Root,
        )?;
    }
    let loader = Loader::builder(arguments.data.join("wasm-cache")).build();
    let runtime = WasmtimeRuntime::builder(loader).build();
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    #[cfg(target_os = "linux")]
    let state = if arguments.isolation == Kind::None {
        descriptors.state
    } else {
        super::confine::own_view(descriptors.state)?
    };
    #[cfg(not(target_os = "linux"))]
    let state = descriptors.state;
    let outcome = tokio.block_on(async {
        let state = StateDir::new(state);
        let control = state.bind_control()?;
        let options = InitOptions {
            runtime_class: "wasm".into(),
            // A compilation may take long, and is bounded by itself.
            extension_timeout: Duration::from_secs(10),
            ..InitOptions::default()
        };
        descriptors.launch.set_nonblocking(true)?;
        let launch = tokio::net::UnixStream::from_std(descriptors.launch)?;
        #[cfg(target_os = "linux")]
        let state_fd = rustix::io::fcntl_dupfd_cloexec(&state, 0)?;
        let prepared = runtime.clone();
        PodInit::new(Arc::new(runtime), state, options)
            .publish(descriptors.listeners)
            .prepare(async move |plan| {
                prepare(prepared, &plan).await?;
                #[cfg(target_os = "linux")]
                super::confine::confine(&arguments, &plan, &state_fd).map_err(|e| pod_error(&e))?;
                Ok(())
            })
            .run(launch, control)
            .await
    })?;
    Ok(init::ended(&outcome, descriptors.lock))
}

/// Compiles and loads every program while that is still allowed. In a thread that is gone afterwards, since what a process
/// gives up is given up by the threads it makes from then on.
async fn prepare(runtime: WasmtimeRuntime, plan: &Arc<PodPlan>) -> Result<(), LaunchError> {
    let plan = plan.clone();
    let (done, end) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("prepare".into()).spawn(move || {
        let _ = done.send(prepare_all(&runtime, &plan));
    });
    let thread = thread.map_err(|e| pod_error(&e))?;
    let prepared = end.await;
    // It has ended but for its last instructions.
    let _ = thread.join();
    prepared.unwrap_or_else(|_| Err(pod_error(&"preparing the programs failed")))
}

fn prepare_all(runtime: &WasmtimeRuntime, plan: &PodPlan) -> Result<(), LaunchError> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let tokio = tokio.map_err(|e| pod_error(&e))?;
    tokio.block_on(async {
        for container in plan.init_containers.iter().chain(&plan.containers) {
            let (name, step) = (&container.name, LaunchStep::Create);
            let id = ContainerId::new(name).map_err(|e| LaunchError::container(name, step, &e))?;
            let prepared = runtime.prepare(&id, &container.bundle).await;
            prepared.map_err(|e| LaunchError::runtime(name, step, &e))?;
        }
        Ok(())
    })
}

fn pod_error(message: &dyn std::fmt::Display) -> LaunchError {
    LaunchError::pod(LaunchStep::Confine, message)
}
