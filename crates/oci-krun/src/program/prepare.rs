//! What a container's machine will be, decided and written down before there is one.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink},
    path::Path,
    process::ExitCode,
};

use magik_infra::plan::{AttachPlan, ContainerPlan, Lifecycle, PodPlan, RootfsPlan, UpperPlan};
use magik_sys::process::in_user_namespace;
use magik_vm::{Drivers, Machine, VmFiles};
use rustix::fs::{CWD, FileType, Mode};
use serde::Serialize;

use super::{
    BUNDLE, DATA, PLAN, ROOT, SANDBOX, SUPERVISE, Streams, at,
    bundle::{self, Parts},
    text,
};
use crate::words::{Answer, STARTED};

/// The longest `config.json` that is read, in bytes.
const MAX_CONFIG: u64 = 4 << 20;
/// The longest host name there is.
const MAX_HOSTNAME: usize = 64;
/// What of the host's root the supervisor is started with: its program's libraries.
const SYSTEM: [&str; 8] = ["bin", "etc", "lib", "lib32", "lib64", "nix", "sbin", "usr"];

/// Prepares the machine of a bundle's container in an existing, empty directory; what is known of
/// drivers is in `state`.
pub(super) fn run(bundle: &Path, id: &OsStr, dir: &Path, state: &Path, streams: Streams) -> ExitCode {
    let answer = answer(bundle, id, dir, state).unwrap_or_else(|e| Answer::Refused(e.to_string()));
    let say = || streams.output.try_clone_to_owned().map(fs::File::from);
    let said = serde_json::to_vec(&answer).map_err(io::Error::from);
    match said.and_then(|json| say()?.write_all(&json)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn answer(bundle: &Path, id: &OsStr, dir: &Path, state: &Path) -> io::Result<Answer> {
    let id = text(id)?;
    if !rustix::process::geteuid().is_root() || in_user_namespace().unwrap_or(true) {
        return Ok(Answer::Refused("machines need root on the host".to_owned()));
    }
    let spec = match read(bundle) {
        Ok(spec) => spec,
        Err(error) => return Ok(Answer::Bundle(format!("config.json: {error}"))),
    };
    let parts = match Parts::of(bundle, &spec) {
        Ok(parts) => parts,
        Err(reason) => return Ok(Answer::Bundle(reason)),
    };
    let files = VmFiles::find();
    let drivers = Drivers::new(files.clone(), state.to_owned());
    let driver = drivers.kind().map_err(io::Error::other)?;
    files
        .vminit()
        .and_then(|_| driver.find(&files))
        .map_err(io::Error::other)?;

    for (name, mode) in [
        (SANDBOX, 0o700),
        (DATA, 0o700),
        ("data/logs", 0o700),
        (ROOT, 0o755),
    ] {
        make(&dir.join(name), mode)?;
    }
    let plan = plan(&dir.join(SANDBOX), &dir.join(DATA), id, &parts)?;
    write(&dir.join(SANDBOX).join(PLAN), &plan)?;
    let hostname = parts.hostname.clone().filter(|name| !name.is_empty());
    let machine = Machine {
        memory_mib: parts.memory_mib,
        vcpus: if driver.is_emulated() { 1 } else { parts.vcpus },
        driver,
        hello_time: driver.hello_time(),
        files: files.into_directory(),
        data: dir.join(DATA),
        hostname: hostname.unwrap_or_else(|| id.chars().take(MAX_HOSTNAME).collect()),
        containers: if parts.writable.is_none() {
            vec![id.to_owned()]
        } else {
            vec![]
        },
        empty_dirs: vec![],
        volume_group: None,
        shared_processes: false,
        sysctls: vec![],
        shares: parts.shares.clone(),
    };
    machine.write(&dir.join(SANDBOX))?;
    lay_out(&dir.join(ROOT))?;
    let started = dir.join(STARTED);
    rustix::fs::mknodat(CWD, &started, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .map_err(|e| at(&started)(e.into()))?;
    let own = std::env::current_exe()?;
    let program = [&own, Path::new(SUPERVISE), dir];
    let host = bundle::on_host(
        &spec,
        &parts,
        &dir.join(ROOT),
        &program,
        &magik_oci::helper_environment(),
        driver,
    );
    Ok(match host {
        Ok(host) => Answer::Spec(Box::new(host)),
        Err(reason) => Answer::Bundle(reason),
    })
}

fn read(bundle: &Path) -> io::Result<oci_spec::runtime::Spec> {
    let mut json = Vec::new();
    let file = fs::File::open(bundle.join("config.json"))?;
    file.take(MAX_CONFIG + 1).read_to_end(&mut json)?;
    if json.len() as u64 > MAX_CONFIG {
        return Err(io::Error::other(format!("has more than {MAX_CONFIG} bytes")));
    }
    Ok(serde_json::from_slice(&json)?)
}

/// Writes the guest's bundle, and says how its container is created.
fn plan(sandbox: &Path, data: &Path, id: &str, parts: &Parts) -> io::Result<PodPlan> {
    let bundle = sandbox.join(BUNDLE);
    make(&bundle, 0o700)?;
    make(&bundle.join("rootfs"), 0o755)?;
    let mut guest = parts.guest.clone();
    let rootfs = match &parts.writable {
        Some(path) => RootfsPlan::Directory { path: path.clone() },
        // Mount points that the image lacks are made in the guest's memory.
        None => {
            let rw = data.join("rw").join(id);
            RootfsPlan::Overlay {
                lower: vec![parts.rootfs.clone()],
                upper: Some(UpperPlan {
                    upper: rw.join("upper"),
                    work: rw.join("work"),
                }),
            }
        }
    };
    if let Some(root) = guest.root_mut() {
        root.set_path(match &parts.writable {
            Some(path) => path.clone(),
            None => "rootfs".into(),
        });
    }
    write(&bundle.join("config.json"), &guest)?;
    Ok(PodPlan {
        id: id.to_owned(),
        name: id.to_owned(),
        namespace: "default".to_owned(),
        containers: vec![ContainerPlan {
            name: id.to_owned(),
            image: String::new(),
            image_id: None,
            bundle,
            rootfs,
            log: data.join("logs").join("none"),
            attach: Some(AttachPlan {
                terminal: parts.terminal,
            }),
            lifecycle: Lifecycle::default(),
            message: None,
            console: magik_infra::plan::ConsolePlan::default(),
            ephemeral: None,
        }],
        ..PodPlan::default()
    })
}

/// The root that the supervisor starts on: places for mounts, and links to the host's libraries.
fn lay_out(root: &Path) -> io::Result<()> {
    for name in ["dev", "host", "proc"] {
        make(&root.join(name), 0o755)?;
    }
    for name in SYSTEM {
        if Path::new("/").join(name).exists() {
            let link = root.join(name);
            symlink(Path::new("host").join(name), &link).map_err(at(&link))?;
        }
    }
    Ok(())
}

fn make(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().mode(mode).create(path).map_err(at(path))
}

fn write(path: &Path, what: &impl Serialize) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(at(path))?;
    Ok(serde_json::to_writer(file, what)?)
}
