//! `create`, and undoing one that failed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use magik_oci::{ContainerId, ContainerState, CreateOptions, Error, Result, Status, Stdio};
use magik_sys::{cgroup::paths_of, process::Process};
use oci_spec::runtime::{Hook, Process as SpecProcess, Spec};

use crate::{
    cgroup::{self, PathError},
    container::INIT_PID,
    failure::Failure,
    job::{CreateJob, Descriptors, Job, Request},
    process::owner::host_uid,
    runtime::NativeRuntime,
    seccomp::{Filter, keep_for_exec},
    spec::{self, Prepared},
    store::{Locked, Record, write_pid_file},
    worker,
};

/// What exists where systemd is the init (sd_booted(3)).
const SYSTEMD_BOOTED: &str = "/run/systemd/system";

impl NativeRuntime {
    pub(crate) async fn create_container(
        &self,
        id: &ContainerId,
        bundle: &Path,
        given: Option<Spec>,
        stdio: Stdio,
        options: CreateOptions,
    ) -> Result<ContainerState> {
        let config = &self.config;
        config
            .children
            .ensure_reaping()
            .map_err(Error::io("watching for children"))?;
        let bundle = fs::canonicalize(bundle).map_err(|e| Error::invalid_bundle(bundle, e.to_string()))?;
        let prepared = self.prepare(id, &bundle, given, &options)?;
        let filter = self.filter(&bundle, &prepared.spec)?;
        let mut descriptors = Descriptors::new(stdio, options.console)?;

        let locked = config.store.reserve(id)?;
        let mut undo = Undo {
            runtime: self,
            cgroup: None,
            locked: Some(locked),
        };
        self.check_unoccupied(&bundle, &prepared.cgroup)?;
        undo.cgroup = Some(prepared.cgroup.clone());
        let locked = undo.locked()?;
        let mut record = record(id, &bundle, &prepared);
        locked.write(&record)?;
        keep(locked.dir(), &prepared.spec, filter.as_ref())?;
        let mut runner = None;
        if let Some(host) = &config.runner {
            let (job, fds) = host.for_worker().map_err(creating(id))?;
            (runner, descriptors.runner) = (Some(job), fds);
        }
        let resources = prepared.spec.linux().as_ref().and_then(|l| l.resources().clone());
        let user = prepared.spec.process().as_ref().map(|p| p.user().uid());
        let job = CreateJob {
            id: id.to_string(),
            dir: locked.dir().to_owned(),
            bundle,
            owner: user.and_then(|uid| host_uid(&prepared.spec, uid)),
            spec: prepared.spec,
            cgroup: prepared.cgroup,
            layout: self.layout()?.clone(),
            no_pivot: options.no_pivot,
            new_keyring: config.new_keyrings,
            own_domain: config.own_domains,
            filter,
            runner,
        };
        let request = Request {
            caller: rustix::process::getpid().as_raw_nonzero().get(),
            preserve_fds: options.preserve_fds,
            console: descriptors.console.is_some(),
            runner: descriptors.runner.len(),
            job: Job::Create(Box::new(job)),
        };
        let process = self.make_init(id, request, descriptors).await?;
        if let Some(resources) = &resources {
            // After all makers have left the cgroup: limits are for the container.
            self.cgroup(&record.cgroup)?
                .limit(resources)
                .map_err(|e| Failure::Other(e).of_container(id, "create"))?;
        }
        record.init = Some(process);
        locked.write(&record)?;
        if let Some(file) = &options.pid_file {
            write_pid_file(file, process.pid)?;
        }
        undo.locked = None;
        Ok(record.state(Status::Created))
    }

    /// Has a worker make the container's init, and watches it from then on.
    async fn make_init(
        &self,
        id: &ContainerId,
        request: Request,
        descriptors: Descriptors,
    ) -> Result<Process> {
        let config = &self.config;
        let failed = |failure: Failure| failure.of_container(id, "create");
        let answer = worker::run(&config.children, &config.helper, request, descriptors).await;
        let done = answer.map_err(creating(id))?.map_err(failed)?;
        let process = done
            .process
            .ok_or_else(|| failed(Failure::Other("there is no init".into())))?;
        config
            .children
            .adopt_container(id, process.pid)
            .map_err(Error::io(format!("watching container {id}")))?;
        Ok(process)
    }

    /// The new container's spec, checked.
    fn prepare(
        &self,
        id: &ContainerId,
        bundle: &Path,
        given: Option<Spec>,
        options: &CreateOptions,
    ) -> Result<Prepared> {
        let own = paths_of(None).map_err(Error::io("reading /proc/self/cgroup"))?;
        if self.config.systemd {
            self.check_systemd()?;
        }
        let mut spec = given.map_or_else(|| spec::load(bundle), Ok)?;
        spec::add(&mut spec, &options.env, &options.mounts);
        let prepared = spec::prepare(id, bundle, spec, &self.config.cgroup_root, &own)?;
        check_terminal(bundle, &prepared.spec, options)?;
        Ok(prepared)
    }

    /// Refuses a cgroup with processes: deleting the container would kill them.
    fn check_unoccupied(&self, bundle: &Path, path: &Path) -> Result<()> {
        let occupied = self.cgroup(path)?.is_occupied();
        if occupied.map_err(Error::io("looking into the cgroup"))? {
            return Err(spec::cgroup_refused(bundle, path, &PathError::Occupied));
        }
        Ok(())
    }

    /// The filter of a new container.
    fn filter(&self, bundle: &Path, spec: &Spec) -> Result<Option<Filter>> {
        let profile = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
        let compiled = profile.map(|p| self.config.filters.get(p)).transpose();
        compiled.map_err(|e| Error::invalid_bundle(bundle, e.to_string()))
    }

    /// The error for a cgroup that systemd should make, which is not supported.
    fn check_systemd(&self) -> Result<()> {
        let why = match self.layout()? {
            cgroup::Layout::V1(_) => "it is there on cgroup v2 only; leave --systemd-cgroup out",
            cgroup::Layout::V2(_) if !Path::new(SYSTEMD_BOOTED).is_dir() => "this host's init is not systemd",
            cgroup::Layout::V2(_) => "this build has no D-Bus; leave --systemd-cgroup out",
        };
        Err(Error::unsupported("a cgroup made by systemd", why))
    }
}

fn creating(id: &ContainerId) -> impl FnOnce(std::io::Error) -> Error {
    Error::io(format!("creating container {id}"))
}

/// Removes what a creation has made so far, unless it is told that it succeeded. Synchronous: it
/// also runs when the future is dropped.
struct Undo<'a> {
    runtime: &'a NativeRuntime,
    cgroup: Option<PathBuf>,
    locked: Option<Locked>,
}

impl Undo<'_> {
    fn locked(&self) -> Result<&Locked> {
        self.locked
            .as_ref()
            .ok_or_else(|| Error::io("create")(std::io::ErrorKind::NotFound.into()))
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        let Some(locked) = self.locked.take() else { return };
        let id = locked.id().clone();
        kill_recorded(
            &locked.dir().join(INIT_PID),
            self.runtime.config.children.reaps_orphans(),
        );
        if let (Some(path), Ok(layout)) = (&self.cgroup, self.runtime.layout())
            && let Err(e) = cgroup::Cgroup::new(layout, path).destroy()
        {
            tracing::warn!(container = %id, error = %e, "the cgroup of a failed creation remains");
        }
        self.runtime.config.children.forget_container(&id);
        if let Err(e) = locked.remove() {
            tracing::warn!(container = %id, error = %e, "the directory of a failed creation remains");
        }
    }
}

/// Kills the process whose pid the worker wrote to a file, and reaps it if no other task does. It
/// is a child of this process, so its pid cannot have become another's.
fn kill_recorded(pid_file: &Path, reaped_elsewhere: bool) {
    let Some(pid) = fs::read_to_string(pid_file)
        .ok()
        .and_then(|t| t.trim().parse().ok())
    else {
        return;
    };
    let Ok(process) = Process::of(pid) else { return };
    let _ = process.signal(libc::SIGKILL);
    if let (false, Some(pid)) = (reaped_elsewhere, rustix::process::Pid::from_raw(pid)) {
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
    }
}

fn check_terminal(bundle: &Path, spec: &Spec, options: &CreateOptions) -> Result<()> {
    let wanted = spec
        .process()
        .as_ref()
        .and_then(SpecProcess::terminal)
        .unwrap_or(false);
    let reason = match (wanted, options.console.is_some()) {
        (true, false) => "process.terminal: needs a console socket",
        (false, true) => "process.terminal: is false, but there is a console socket",
        _ => return Ok(()),
    };
    Err(Error::invalid_bundle(bundle, reason))
}

fn has_hooks(hooks: Option<&Vec<Hook>>) -> bool {
    hooks.is_some_and(|h| !h.is_empty())
}

fn record(id: &ContainerId, bundle: &Path, prepared: &Prepared) -> Record {
    let spec = &prepared.spec;
    let hooks = spec.hooks().as_ref();
    Record {
        oci_version: spec.version().clone(),
        id: id.clone(),
        bundle: bundle.to_owned(),
        annotations: spec.annotations().clone().unwrap_or_default(),
        created: jiff::Timestamp::now().to_string(),
        cgroup: prepared.cgroup.clone(),
        init: None,
        poststart: hooks.is_some_and(|h| has_hooks(h.poststart().as_ref())),
        poststop: hooks.is_some_and(|h| has_hooks(h.poststop().as_ref())),
    }
}

/// Writes into the container's directory what exec reads later.
fn keep(dir: &Path, spec: &Spec, filter: Option<&Filter>) -> Result<()> {
    let json = serde_json::to_vec(spec).map_err(std::io::Error::from);
    json.and_then(|json| fs::write(dir.join("config.json"), json))
        .and_then(|()| filter.map_or(Ok(()), |filter| keep_for_exec(dir, filter)))
        .map_err(Error::io(format!("writing into {}", dir.display())))
}
