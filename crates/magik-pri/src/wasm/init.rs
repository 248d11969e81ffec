//! What a WebAssembly pod's process does.

use std::{io, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use magik_infra::{ExtensionRegistry, InitOptions, LaunchError, LaunchStep, PodInit, plan::PodPlan};
use magik_oci::ContainerId;
use oci_wasm::{Loader, WasmtimeRuntime};

use super::{
    arguments::{Arguments, Told},
    isolation::Kind,
};
use crate::{
    RuntimeClass,
    pods::init::{self, Init},
};

pub(crate) fn run(sandbox: PathBuf, extensions: ExtensionRegistry) -> io::Result<ExitCode> {
    let Init {
        config,
        sandbox,
        descriptors,
    } = Init::<Told>::begin(sandbox, |told| told.isolation != Kind::None)?;
    let arguments = Arguments::new(&config, &sandbox);
    if arguments.isolation != Kind::None {
        init::enter_namespaces(
            &config.hostname,
            !arguments.host_network,
            arguments.isolation == Kind::Root,
        )?;
    }
    let loader = Loader::builder(config.data.join("wasm-cache")).build();
    let runtime = WasmtimeRuntime::new(loader);
    let descriptors = if arguments.isolation == Kind::None {
        descriptors
    } else {
        descriptors.with_state(super::confine::own_view)?
    };
    init::serve(descriptors, async |serving| {
        let options = InitOptions {
            runtime_class: RuntimeClass::Wasm.as_str().into(),
            // A compilation may take long, and is bounded by itself.
            extension_timeout: Duration::from_secs(10),
            ..InitOptions::default()
        };
        let state_fd = rustix::io::fcntl_dupfd_cloexec(&serving.state, 0)?;
        let prepared = runtime.clone();
        PodInit::new(Arc::new(runtime), serving.state, options)
            .registry(extensions)
            .publish(serving.listeners)
            .prepare(async move |plan| {
                prepare(prepared, &plan).await?;
                super::confine::confine(&arguments, &plan, &state_fd).map_err(|e| pod_error(&e))?;
                Ok(())
            })
            .run(serving.launch, serving.control)
            .await
    })
}

/// Compiles and loads every program while that is still allowed. In a thread that is gone
/// afterwards, since what a process gives up is given up by the threads it makes from then on.
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
