//! [`WasmtimeRuntime`]: its configuration, and the trait.

use std::{
    collections::HashMap,
    net::TcpListener,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use magik_oci::{
    ContainerId, ContainerState, CpuStats, CreateOptions, Error, ExecFailure, ExecIo, ExecOptions, Exit,
    MemoryStats, OciRuntime, PidsStats, Result, Signal, Stats, Status, Stdio,
};
use oci_spec::runtime::{LinuxResources, Process};

use crate::{
    LoadError, Loader, Metering, World,
    annotations::{ALLOW_OUTBOUND, LISTEN},
    container::{Container, Ready},
    engine::Allocation,
    host::ProgramSetup,
    limiter::Usage,
    limits::DEFAULT_WASM_MEMORY,
    loader::Program,
    network::{Listen, Loopback, Network, Protocol},
    program::Linked,
    spec::Bundle,
    stdio::Streams,
};

/// WebAssembly containers in this process; see the [crate's documentation](crate).
///
/// Cloning it is cheap, and clones share their containers. Its operations need a tokio runtime with
/// I/O and time enabled, which must keep running while containers do.
///
/// ```no_run
/// # async fn run() -> magik_oci::Result<()> {
/// use magik_oci::{CreateOptions, OciRuntime, Stdio};
/// use oci_wasm::{Loader, WasmtimeRuntime};
///
/// let loader = Loader::builder("/var/lib/example/wasm-cache".into()).build();
/// let runtime = WasmtimeRuntime::new(loader);
/// let id = "web".parse()?;
/// runtime.create(&id, "/bundle".as_ref(), Stdio::default(), CreateOptions::default()).await?;
/// runtime.start(&id).await?;
/// let exit = runtime.wait(&id).await?;
/// runtime.delete(&id, false).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct WasmtimeRuntime {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    loader: Loader,
    loopback: Loopback,
    /// `None`: being created.
    containers: Mutex<HashMap<ContainerId, Option<Arc<Container>>>>,
}

impl WasmtimeRuntime {
    /// A runtime whose programs come through `loader`. Nothing is touched before its first
    /// operation.
    #[must_use]
    pub fn new(loader: Loader) -> Self {
        Self {
            shared: Arc::new(Shared {
                loader,
                loopback: Loopback::default(),
                containers: Mutex::default(),
            }),
        }
    }

    /// Does what [`create`](OciRuntime::create) does, and then forgets the container. Problems are
    /// reported, and the program is compiled and stays loaded. So a process that then gives up its
    /// rights needs neither a compiler nor write access to the cache.
    ///
    /// # Errors
    /// As `create`.
    pub async fn prepare(&self, id: &ContainerId, bundle: &Path) -> Result<()> {
        let container = self.make(id, bundle, Stdio::default(), CreateOptions::default());
        container.await.map(drop)
    }

    /// Why a container was ended, in one line; also the last line of its standard error.
    ///
    /// # Errors
    /// There is no such container.
    pub fn exit_message(&self, id: &ContainerId) -> Result<Option<String>> {
        let ended = self.container(id)?.ended();
        let ended = ended.borrow();
        Ok(ended.as_ref().and_then(|e| e.message.clone()))
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<ContainerId, Option<Arc<Container>>>> {
        self.shared
            .containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn container(&self, id: &ContainerId) -> Result<Arc<Container>> {
        let containers = self.containers();
        containers
            .get(id)
            .cloned()
            .flatten()
            .ok_or_else(|| Error::NotFound(id.clone()))
    }

    async fn make(
        &self,
        id: &ContainerId,
        directory: &Path,
        stdio: Stdio,
        options: CreateOptions,
    ) -> Result<Container> {
        unsupported(&options)?;
        let directory = std::path::absolute(directory)
            .map_err(Error::io(format!("finding the bundle {}", directory.display())))?;
        let bundle = Bundle::open(&directory, &options.env, &options.mounts)
            .map_err(|refusal| refusal.of_container(id, &directory))?;
        let annotation = |name: &str| bundle.annotations.get(name).map(String::as_str);
        let network = Network::new(
            annotation(LISTEN),
            annotation(ALLOW_OUTBOUND),
            self.shared.loopback.clone(),
        );
        let network = network
            .await
            .map_err(|reason| Error::invalid_bundle(&directory, reason))?;
        let limit = bundle.memory.unwrap_or(DEFAULT_WASM_MEMORY);
        let program_name = bundle.args.first().cloned().unwrap_or_default();
        let cannot = |error: LoadError| Error::CannotExecute {
            id: id.clone(),
            program: program_name.clone(),
            failure: ExecFailure::NotExecutable,
            reason: format!("it {error}"),
        };
        let program = self.load(bundle.module, Metering::of(bundle.fuel)).await;
        let program = program.map_err(cannot)?;
        let needs = program.initial_memory();
        if needs > limit {
            return Err(cannot(LoadError::NeedsMemory { needs, limit }));
        }
        let linked = program.link(!network.listen.is_empty()).map_err(cannot)?;
        let listeners = listen(&linked, &network.listen)?;
        let streams =
            Streams::new(stdio).map_err(Error::io(format!("connecting the streams of container {id}")))?;
        let created = ContainerState {
            oci_version: bundle.oci_version,
            bundle: directory,
            annotations: bundle.annotations,
            created: Some(jiff::Timestamp::now().to_string()),
            ..ContainerState::new(id.clone(), Status::Created)
        };
        let ready = Ready {
            linked,
            engine: &program.running.engine,
            listening: self.shared.loopback.add(&network.listen),
            setup: ProgramSetup {
                args: bundle.args,
                env: bundle.env,
                cwd: bundle.cwd,
                directories: bundle.directories,
                streams,
                network: Arc::new(network),
                usage: Arc::new(Usage::new(limit)),
                fuel: bundle.fuel,
            },
            listeners,
            http_concurrency: bundle.http_concurrency,
        };
        Ok(Container::new(created, bundle.deadline, ready))
    }

    /// The program, for instances of the kind it is used with.
    async fn load(&self, module: std::fs::File, metering: Metering) -> Result<Program, LoadError> {
        let again = module.try_clone().map_err(LoadError::io("reading it"))?;
        let program = self
            .shared
            .loader
            .load(module, metering, Allocation::OnDemand)
            .await?;
        if program.world()? == World::HttpProxy {
            return self.shared.loader.load(again, metering, Allocation::Pooled).await;
        }
        Ok(program)
    }
}

/// What only processes have.
fn unsupported(options: &CreateOptions) -> Result<()> {
    let what = if options.console.is_some() {
        "a terminal"
    } else if options.preserve_fds > 0 {
        "inheriting descriptors"
    } else {
        return Ok(());
    };
    Err(Error::unsupported(
        what,
        "a WebAssembly container is not a process",
    ))
}

/// Opens the sockets that a program is given.
pub(crate) fn listen(program: &Linked, addresses: &[Listen]) -> Result<Vec<TcpListener>> {
    // A component of the command world opens its sockets itself.
    if matches!(program, Linked::Command(_)) {
        return Ok(Vec::new());
    }
    addresses
        .iter()
        .filter(|l| l.protocol == Protocol::Tcp)
        .map(|l| TcpListener::bind(l.address).map_err(Error::io(format!("listening on {}", l.address))))
        .collect()
}

/// A container's id while it is created; free again unless the container was made.
struct Reservation<'a> {
    runtime: &'a WasmtimeRuntime,
    id: &'a ContainerId,
}

impl<'a> Reservation<'a> {
    fn take(runtime: &'a WasmtimeRuntime, id: &'a ContainerId) -> Result<Self> {
        let mut containers = runtime.containers();
        if containers.contains_key(id) {
            return Err(Error::AlreadyExists(id.clone()));
        }
        containers.insert(id.clone(), None);
        Ok(Self { runtime, id })
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut containers = self.runtime.containers();
        if matches!(containers.get(self.id), Some(None)) {
            containers.remove(self.id);
        }
    }
}

#[async_trait]
impl OciRuntime for WasmtimeRuntime {
    fn name(&self) -> &'static str {
        "wasm"
    }

    async fn create(
        &self,
        id: &ContainerId,
        bundle: &Path,
        stdio: Stdio,
        options: CreateOptions,
    ) -> Result<ContainerState> {
        let _reservation = Reservation::take(self, id)?;
        let pid_file = options.pid_file.clone();
        let container = Arc::new(self.make(id, bundle, stdio, options).await?);
        if let Some(path) = pid_file {
            std::fs::write(&path, std::process::id().to_string())
                .map_err(Error::io(format!("writing {}", path.display())))?;
        }
        let state = container.state();
        self.containers().insert(id.clone(), Some(container));
        Ok(state)
    }

    async fn start(&self, id: &ContainerId) -> Result<()> {
        let container = self.container(id)?;
        let status = container.status();
        if status != Status::Created {
            return Err(Error::wrong_state(id, "start", status));
        }
        let started = container.start().await;
        started.map_err(|reason| Error::failed(id, "start", reason))
    }

    async fn state(&self, id: &ContainerId) -> Result<ContainerState> {
        Ok(self.container(id)?.state())
    }

    async fn wait(&self, id: &ContainerId) -> Result<Exit> {
        Ok(self.container(id)?.exit().await)
    }

    async fn kill(&self, id: &ContainerId, signal: Signal, _all: bool) -> Result<()> {
        let container = self.container(id)?;
        match container.status() {
            status @ (Status::Creating | Status::Stopped) => Err(Error::wrong_state(id, "kill", status)),
            _ => {
                container.signal(signal);
                Ok(())
            }
        }
    }

    async fn delete(&self, id: &ContainerId, force: bool) -> Result<()> {
        let container = match self.container(id) {
            Err(Error::NotFound(_)) if force => return Ok(()),
            container => container?,
        };
        let status = container.status();
        if status != Status::Stopped {
            if !force {
                return Err(Error::wrong_state(id, "delete", status));
            }
            container.signal(Signal::KILL);
            container.exit().await;
        }
        self.containers().remove(id);
        Ok(())
    }

    async fn exec(&self, id: &ContainerId, _: &Process, _: ExecIo, _: ExecOptions) -> Result<i32> {
        self.container(id)?;
        Err(no_exec())
    }

    async fn wait_exec(&self, id: &ContainerId, _: i32) -> Result<Exit> {
        self.container(id)?;
        Err(no_exec())
    }

    async fn pause(&self, id: &ContainerId) -> Result<()> {
        let container = self.container(id)?;
        match container.status() {
            Status::Running => container.control.set_paused(true),
            status => return Err(Error::wrong_state(id, "pause", status)),
        }
        Ok(())
    }

    async fn resume(&self, id: &ContainerId) -> Result<()> {
        let container = self.container(id)?;
        match container.status() {
            Status::Paused => container.control.set_paused(false),
            status => return Err(Error::wrong_state(id, "resume", status)),
        }
        Ok(())
    }

    async fn update(&self, id: &ContainerId, resources: &LinuxResources) -> Result<()> {
        let container = self.container(id)?;
        let cpu = resources.cpu().as_ref();
        let other = [
            (
                "a processor limit",
                cpu.is_some_and(|c| c.quota().is_some() || c.cpus().is_some()),
            ),
            ("a limit of processes", resources.pids().is_some()),
        ];
        if let Some((what, _)) = other.into_iter().find(|(_, asked)| *asked) {
            let why = "a WebAssembly container has a limit of memory only; its pod's process may have others";
            return Err(Error::unsupported(what, why));
        }
        if let Some(limit) = resources
            .memory()
            .as_ref()
            .and_then(oci_spec::runtime::LinuxMemory::limit)
        {
            // -1 is no limit.
            container
                .usage
                .set_limit(u64::try_from(limit).unwrap_or(DEFAULT_WASM_MEMORY));
        }
        Ok(())
    }

    async fn stats(&self, id: &ContainerId) -> Result<Stats> {
        let container = self.container(id)?;
        let usage = &container.usage;
        let cpu = usage.cpu();
        let alive = matches!(container.status(), Status::Running | Status::Paused);
        Ok(Stats {
            cpu: CpuStats {
                usage_ns: cpu,
                user_ns: cpu,
                ..CpuStats::default()
            },
            memory: MemoryStats {
                usage: usage.memory(),
                working_set: usage.memory(),
                peak: usage.peak(),
                limit: Some(usage.limit()),
                ..MemoryStats::default()
            },
            pids: PidsStats {
                current: u64::from(alive),
                limit: None,
            },
            fuel: container.metered.then(|| usage.fuel()),
        })
    }

    async fn processes(&self, id: &ContainerId) -> Result<Vec<i32>> {
        self.container(id)?;
        Ok(Vec::new())
    }

    async fn list(&self) -> Result<Vec<ContainerState>> {
        let mut states: Vec<_> = self.containers().values().flatten().map(|c| c.state()).collect();
        states.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(states)
    }
}

fn no_exec() -> Error {
    let why = "a WebAssembly container is one program and has nothing to run another in";
    Error::unsupported("exec", why)
}
