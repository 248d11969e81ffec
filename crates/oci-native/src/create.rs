//! `create`, and undoing one that failed.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use magik_oci::{ContainerId, ContainerState, CreateOptions, Error, Result, Status, Stdio};
use oci_spec::runtime::{Hook, Spec};
use rustix::fs::{Mode, OFlags};

use crate::{
    cgroup::{self, Layout, PathError, WarmUp},
    direct,
    lifecycle::state,
    proc::Process,
    runtime::NativeRuntime,
    seccomp::keep_for_exec,
    spec::{self, Prepared},
    store::{Locked, Record},
    surroundings::host_uid,
    worker::{self, CreateJob, Descriptors, Failure, INIT_PID, Job, Request},
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
        let bundle = fs::canonicalize(bundle).map_err(|e| Error::InvalidBundle {
            bundle: bundle.to_owned(),
            reason: e.to_string(),
        })?;
        let own = cgroup::paths_of(None).map_err(Error::io("reading /proc/self/cgroup"))?;
        let root = if config.systemd {
            self.systemd_root()?
        } else {
            Some(config.cgroup_root.as_path())
        };
        let other = given.is_some();
        let mut spec = match given {
            Some(spec) => spec,
            None => spec::load(&bundle)?,
        };
        let added = spec::add(&mut spec, &options.env, &options.mounts) || other;
        let mut prepared = spec::prepare(id, &bundle, spec, root, &own, self.layout()?)?;
        prepared.adapted |= added;
        check_terminal(&bundle, &prepared.spec, &options)?;
        // Where a write to `tasks` does, nothing has to be waited for.
        let direct = prepared.direct;
        let _warm_up = if direct && matches!(self.layout()?, Layout::V1(_)) {
            None
        } else {
            WarmUp::begin(self.layout()?, config.children.reaps_orphans())
        };
        let filter = self.take_filter(&bundle, &mut prepared)?;
        make_cwd(&prepared.spec);
        let mut descriptors = descriptors(stdio, options.console)?;

        let locked = config.store.reserve(id)?;
        let mut undo = Undo {
            runtime: self,
            cgroup: None,
            locked: Some(locked),
        };
        if !config.systemd
            && self
                .cgroup(&prepared.cgroup)?
                .is_occupied()
                .map_err(Error::io("looking into the cgroup"))?
        {
            // Deleting the container would kill them (trap 9).
            return Err(spec::cgroup_refused(
                &bundle,
                &prepared.cgroup,
                &PathError::Occupied,
            ));
        }
        undo.cgroup = Some(prepared.cgroup.clone());
        let locked = undo.locked()?;
        let mut record = record(id, &bundle, &prepared);
        locked.write(&record)?;
        let resources = prepared.spec.linux().as_ref().and_then(|l| l.resources().clone());
        let placement = if direct {
            let placement = direct::take(&mut prepared, self.layout()?, locked.dir());
            Some(placement.map_err(Error::io(format!("preparing container {id}")))?)
        } else {
            None
        };
        let mut job = create_job(locked, &bundle, &mut prepared, options.no_pivot, config.systemd)?;
        job.placement = placement;
        if let Some((load, process)) = filter {
            keep_for_exec(locked.dir(), &load.filter, &process)?;
            job.filter = Some(load);
        }
        if let Some(runner) = &config.runner {
            let (runner, fds) = runner
                .for_worker()
                .map_err(Error::io(format!("creating container {id}")))?;
            (job.runner, descriptors.runner) = (Some(runner), fds);
        }
        let request = Request {
            caller: rustix::process::getpid().as_raw_nonzero().get(),
            preserve_fds: options.preserve_fds,
            console: descriptors.console.is_some(),
            runner: descriptors.runner.len(),
            job: Job::Create(Box::new(job)),
        };
        let answer = worker::run(&config.children, &config.helper, request, descriptors).await;
        let done = answer
            .map_err(Error::io(format!("creating container {id}")))?
            .map_err(|e| failed(id, "create", e))?;
        let process = done
            .process
            .ok_or_else(|| failed(id, "create", Failure::Other("there is no init".into())))?;
        config
            .children
            .adopt_container(id, process.pid)
            .map_err(Error::io(format!("watching container {id}")))?;
        if config.systemd {
            record.cgroup = systemd_cgroup(process.pid)?;
        }
        if let Some(resources) = &resources {
            // Not before all that makes the container has left its cgroup, or is about to: limits are for the container.
            let cgroup = self.cgroup(&record.cgroup)?;
            let limited = if direct {
                cgroup.limit(resources)
            } else if direct::in_first_user_namespace() {
                cgroup.restrict_devices(resources)
            } else {
                // As in runc: whoever is root in a user namespace only can load no program.
                Ok(())
            };
            limited.map_err(|e| failed(id, "create", Failure::Other(e)))?;
        }
        record.init = Some(process);
        locked.write(&record)?;
        if let Some(file) = &options.pid_file {
            write_pid_file(file, process.pid)?;
        }
        undo.locked = None;
        Ok(state(record, Status::Created))
    }

    /// systemd makes v2 cgroups only, and only where it is the init.
    fn systemd_root(&self) -> Result<Option<&'static Path>> {
        let why = match self.layout()? {
            crate::cgroup::Layout::V1(_) => {
                "libcgroups does it on cgroup v2 only; leave --systemd-cgroup out"
            }
            crate::cgroup::Layout::V2(_) if !Path::new(SYSTEMD_BOOTED).is_dir() => {
                "this host's init is not systemd"
            }
            crate::cgroup::Layout::V2(_) => return Ok(None),
        };
        Err(Error::Unsupported {
            what: "a cgroup made by systemd".into(),
            why: why.into(),
        })
    }
}

/// Removes what a creation has made so far, unless it is told that it succeeded. Synchronous: it also runs when the
/// future is dropped.
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

/// Kills the process whose pid libcontainer wrote to a file, and reaps it where that is ours to do. It is a child of this
/// process, so its pid cannot have become another's.
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

/// Makes the working directory where the image lacks it, as runc does. Whatever cannot be made now may be there once the
/// container's mounts are; if not, libcontainer says so.
fn make_cwd(spec: &Spec) {
    use rustix::fs::{ResolveFlags, mkdirat, openat2};
    let (Some(process), Some(root)) = (spec.process(), spec.root()) else {
        return;
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(root) = rustix::fs::open(root.path(), flags, Mode::empty()) else {
        return;
    };
    // The kernel resolves every step inside the root: a symlink of the image leads nowhere else.
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut dir = root.as_fd().try_clone_to_owned();
    let mut path = PathBuf::new();
    for component in process.cwd().components() {
        let std::path::Component::Normal(name) = component else {
            continue;
        };
        let Ok(parent) = &dir else { return };
        path.push(name);
        let open = || openat2(&root, &path, flags, Mode::empty(), resolve);
        let opened = match open() {
            Err(rustix::io::Errno::NOENT) => {
                mkdirat(parent, name, Mode::from_raw_mode(0o755)).and_then(|()| open())
            }
            other => other,
        };
        dir = opened.map_err(std::io::Error::from);
    }
}

fn check_terminal(bundle: &Path, spec: &Spec, options: &CreateOptions) -> Result<()> {
    let wanted = spec
        .process()
        .as_ref()
        .and_then(oci_spec::runtime::Process::terminal)
        .unwrap_or(false);
    let reason = match (wanted, options.console.is_some()) {
        (true, false) => "process.terminal: needs a console socket",
        (false, true) => "process.terminal: is false, but there is a console socket",
        _ => return Ok(()),
    };
    Err(Error::InvalidBundle {
        bundle: bundle.to_owned(),
        reason: reason.into(),
    })
}

/// With a terminal there are no streams: until the terminal is there, the container has the worker's `/dev/null`.
pub(crate) fn descriptors(stdio: Stdio, console: Option<OwnedFd>) -> Result<Descriptors> {
    if console.is_some() {
        return Ok(Descriptors {
            console,
            ..Descriptors::default()
        });
    }
    let null = || {
        rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Error::io("opening /dev/null")(e.into()))
    };
    let stdio = [stdio.stdin, stdio.stdout, stdio.stderr]
        .into_iter()
        .map(|fd| fd.map_or_else(null, Ok));
    Ok(Descriptors {
        stdio: stdio.collect::<Result<_>>()?,
        ..Descriptors::default()
    })
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

/// Writes the spec into the container's directory, from where exec reads it later and libcontainer now.
fn create_job(
    locked: &Locked,
    bundle: &Path,
    prepared: &mut Prepared,
    no_pivot: bool,
    systemd: bool,
) -> Result<CreateJob> {
    let file = locked.dir().join("config.json");
    serde_json::to_vec(&prepared.spec)
        .map_err(std::io::Error::from)
        .and_then(|json| fs::write(&file, json))
        .map_err(Error::io(format!("writing {}", file.display())))?;
    // Hooks are told the bundle's path: the original serves them where nothing had to be adapted.
    let original = prepared.spec.hooks().is_some() && !prepared.adapted;
    let user = prepared.spec.process().as_ref().map(|p| p.user().uid());
    let label = prepared
        .spec
        .process()
        .as_ref()
        .and_then(|p| p.selinux_label().clone());
    Ok(CreateJob {
        id: locked.id().to_string(),
        dir: locked.dir().to_owned(),
        bundle: if original {
            bundle.to_owned()
        } else {
            locked.dir().to_owned()
        },
        no_pivot,
        systemd,
        label: label.filter(|l| !l.is_empty() && worker::selinux_is_enabled()),
        placement: None,
        surroundings: std::mem::take(&mut prepared.surroundings),
        filter: None,
        runner: None,
        owner: user.and_then(|uid| host_uid(&prepared.spec, uid)),
    })
}

pub(crate) fn failed(id: &ContainerId, operation: &'static str, failure: Failure) -> Error {
    match failure {
        Failure::Executable(why) => Error::CannotExecute {
            id: id.clone(),
            program: why.program,
            failure: why.failure,
            reason: why.reason,
        },
        Failure::Other(reason) => Error::Failed {
            id: id.clone(),
            operation,
            reason,
        },
    }
}

/// The cgroup systemd chose, as the kernel tells it.
fn systemd_cgroup(pid: i32) -> Result<PathBuf> {
    let failed = Error::io(format!("reading /proc/{pid}/cgroup"));
    match cgroup::paths_of(Some(pid)) {
        Ok(paths) => paths
            .into_iter()
            .next_back()
            .ok_or_else(|| failed(std::io::ErrorKind::NotFound.into())),
        Err(e) => Err(failed(e)),
    }
}

/// Writes a pid to a file. Whoever waits for it to appear finds the whole pid in it.
///
/// # Errors
/// It cannot be written.
pub fn write_pid_file(file: &Path, pid: i32) -> Result<()> {
    let mut new = file.to_owned().into_os_string();
    new.push(".new");
    fs::write(&new, pid.to_string())
        .and_then(|()| fs::rename(&new, file))
        .map_err(Error::io(format!("writing {}", file.display())))
}
