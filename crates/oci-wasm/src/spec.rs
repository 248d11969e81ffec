//! A bundle, as far as it is about WebAssembly.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use magik_oci::{ContainerId, Error, ExecFailure, mounts};
use oci_spec::runtime::{Mount, Process, Spec};

use crate::{
    annotations::{DEADLINE, FUEL, HTTP_CONCURRENCY},
    engine::POOL_SLOTS,
    host::Directory,
    limits::{DEFAULT_HTTP_CONCURRENCY, DEFAULT_WASM_FUEL},
};

/// The largest `config.json` in bytes.
const MAX_CONFIG_SIZE: u64 = 1024 * 1024;

/// What glibc's loader reads.
#[cfg(target_os = "linux")]
pub(crate) const PRELOAD: &str = "/etc/ld.so.preload";

/// What a bundle asks for.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) oci_version: String,
    pub(crate) annotations: HashMap<String, String>,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) cwd: String,
    pub(crate) directories: Vec<Directory>,
    /// The module, open.
    pub(crate) module: File,
    /// Bytes; `None`: no limit is named.
    pub(crate) memory: Option<u64>,
    /// `None`: epochs.
    pub(crate) fuel: Option<u64>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) http_concurrency: usize,
}

/// Why a bundle cannot be used.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// A field is missing, malformed or asks for what this runtime does not do.
    Field(String),
    /// The program is not there, or cannot be opened.
    Program {
        program: String,
        failure: ExecFailure,
        reason: String,
    },
}

impl Refusal {
    pub(crate) fn of_container(self, id: &ContainerId, bundle: &Path) -> Error {
        match self {
            Self::Field(reason) => Error::invalid_bundle(bundle, reason),
            Self::Program {
                program,
                failure,
                reason,
            } => Error::CannotExecute {
                id: id.clone(),
                program,
                failure,
                reason,
            },
        }
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self::Field(reason)
    }
}

impl Bundle {
    /// Reads the bundle in `directory`; `env` and `mounts` are added to its own.
    pub(crate) fn open(directory: &Path, env: &[String], mounts: &[Mount]) -> Result<Self, Refusal> {
        let spec = read(directory)?;
        if spec
            .hooks()
            .as_ref()
            .is_some_and(|h| *h != oci_spec::runtime::Hooks::default())
        {
            return Err("hooks: a WebAssembly container has no process to run them for"
                .to_owned()
                .into());
        }
        let root = root(&spec)?;
        let mut directories = vec![Directory {
            host: directory.join(root.path()),
            _held: None,
            guest: "/".to_owned(),
            read_only: root.readonly().unwrap_or(false),
        }];
        for mount in spec.mounts().iter().flatten().chain(mounts) {
            directories.extend(directory_of(mount)?);
        }
        Self::read(&spec, directory, env, directories)
    }

    /// Reads the bundle of another runtime's container, in which the program finds its directories.
    #[cfg(target_os = "linux")]
    pub(crate) fn of_native(directory: &Path) -> Result<Self, Refusal> {
        Self::read(&read(directory)?, directory, &[], Vec::new())
    }

    /// Whether a dynamic loader in the root would load more into each program there (ld.so(8)).
    #[cfg(target_os = "linux")]
    pub(crate) fn preloads(directory: &Path) -> Result<bool, String> {
        let rootfs = directory.join(root(&read(directory)?)?.path());
        Ok(open_beneath(&rootfs, Path::new(PRELOAD)).is_ok())
    }

    fn read(
        spec: &Spec,
        directory: &Path,
        env: &[String],
        directories: Vec<Directory>,
    ) -> Result<Self, Refusal> {
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| "process is missing".to_owned())?;
        let rootfs = directory.join(root(spec)?.path());
        let env = environment(process, env);
        let args = process.args().clone().unwrap_or_default();
        let program = args.first().ok_or_else(|| "process.args is empty".to_owned())?;
        let cwd = text("process.cwd", process.cwd())?;
        let module = open_program(&rootfs, program, &cwd, &env)?;
        let annotations = spec.annotations().clone().unwrap_or_default();
        Ok(Self {
            oci_version: spec.version().clone(),
            fuel: fuel(annotations.get(FUEL).map(String::as_str))?,
            deadline: positive(&annotations, DEADLINE)?.map(Duration::from_secs),
            http_concurrency: concurrency(&annotations)?,
            memory: memory(spec),
            annotations,
            args,
            env,
            cwd,
            directories,
            module,
        })
    }
}

fn root(spec: &Spec) -> Result<&oci_spec::runtime::Root, String> {
    spec.root().as_ref().ok_or_else(|| "root is missing".to_owned())
}

fn read(directory: &Path) -> Result<Spec, String> {
    let path = directory.join("config.json");
    let say = |e: &dyn std::fmt::Display| format!("config.json: {e}");
    let file = File::open(&path).map_err(|e| say(&e))?;
    let mut text = Vec::new();
    file.take(MAX_CONFIG_SIZE + 1)
        .read_to_end(&mut text)
        .map_err(|e| say(&e))?;
    if text.len() as u64 > MAX_CONFIG_SIZE {
        return Err(format!("config.json: more than {MAX_CONFIG_SIZE} bytes"));
    }
    serde_json::from_slice(&text).map_err(|e| say(&e))
}

fn environment(process: &Process, more: &[String]) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = Vec::new();
    for variable in process.env().iter().flatten().chain(more) {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        match env.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => value.clone_into(old),
            None => env.push((name.to_owned(), value.to_owned())),
        }
    }
    env
}

fn text(field: &str, path: &Path) -> Result<String, String> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| format!("{field} is not UTF-8"))
}

/// Opens the program below the root. It is looked up as in a shell: in the working directory, and
/// along `PATH` if its name has no slash.
fn open_program(rootfs: &Path, program: &str, cwd: &str, env: &[(String, String)]) -> Result<File, Refusal> {
    let path = env
        .iter()
        .find(|(name, _)| name == "PATH")
        .map_or("", |(_, value)| value);
    let mut places = vec![cwd];
    if !program.contains('/') {
        places.extend(path.split(':').filter(|p| !p.is_empty()));
    }
    let (mut failure, mut reason) = (ExecFailure::NotFound, "no such file".to_owned());
    for place in places {
        match open_beneath(rootfs, &Path::new(place).join(program)) {
            Ok(file) => return Ok(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                (failure, reason) = (ExecFailure::of(&error), error.to_string());
                break;
            }
        }
    }
    Err(Refusal::Program {
        program: program.to_owned(),
        failure,
        reason,
    })
}

/// Opens a file below `root` as if `root` were `/`; the kernel sees to it that nothing leads out.
#[cfg(target_os = "linux")]
fn open_beneath(root: &Path, path: &Path) -> std::io::Result<File> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
    use std::os::fd::AsRawFd;

    let root = openat(
        CWD,
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = File::from(openat2(&root, path, flags, Mode::empty(), resolve)?);
    // A device may do something by being opened.
    if !found.metadata()?.is_file() {
        return Err(std::io::Error::other("is not a file"));
    }
    let same = format!("/proc/self/fd/{}", found.as_raw_fd());
    Ok(openat(CWD, same, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// Opens a file below `root`. Nothing runs in the root yet that could change it meanwhile.
#[cfg(not(target_os = "linux"))]
fn open_beneath(root: &Path, path: &Path) -> std::io::Result<File> {
    let root = root.canonicalize()?;
    let relative: std::path::PathBuf = path
        .components()
        .filter(|c| {
            matches!(
                c,
                std::path::Component::Normal(_) | std::path::Component::ParentDir
            )
        })
        .collect();
    let path = root.join(relative).canonicalize()?;
    if !path.starts_with(&root) {
        return Err(std::io::Error::other("it lies outside the root"));
    }
    File::open(path)
}

/// File systems of the kernel's, which a program could not use: there is no `/proc` in WASI.
const KERNEL_TYPES: [&str; 6] = ["proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue"];

/// Files and directories that every container is given; names are looked up by the host.
const USUAL: [&str; 8] = [
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/run/.containerenv",
    "/run/secrets",
    "/dev",
    "/proc",
    "/sys",
];

/// A mount as a directory, `None` if it is nothing to a WebAssembly program.
fn directory_of(mount: &Mount) -> Result<Option<Directory>, String> {
    let guest = text("mounts.destination", mount.destination())?;
    let kind = mount.typ().as_deref().unwrap_or("bind");
    let option = |name: &str| mount.options().iter().flatten().any(|o| o == name);
    let bind = kind == "bind" || option("bind") || option("rbind");
    let usual = USUAL.iter().any(|u| mount.destination().starts_with(u));
    if !bind {
        return if usual || KERNEL_TYPES.contains(&kind) || matches!(guest.as_str(), "/run" | "/tmp") {
            Ok(None)
        } else {
            Err(format!(
                "mounts: {guest}: a {kind} file system cannot be given to a WebAssembly container"
            ))
        };
    }
    let source = mount
        .source()
        .as_ref()
        .ok_or_else(|| format!("mounts: {guest}: source is missing"))?;
    let named = |e: &dyn std::fmt::Display| format!("mounts: {guest}: {}: {e}", source.display());
    let mut options = mount.options().iter().flatten();
    let below = options.find_map(|o| mounts::sub_path(o));
    let (host, held) = match below.map(|path| open_below(source, path)).transpose() {
        Ok(Some((host, held))) => (host, Some(held)),
        Ok(None) => (source.clone(), None),
        Err(e) => return Err(named(&e)),
    };
    match std::fs::metadata(&host) {
        Ok(metadata) if metadata.is_dir() => Ok(Some(Directory {
            host,
            _held: held,
            guest,
            read_only: option("ro") || option("rro"),
        })),
        _ if usual => Ok(None),
        Ok(_) => Err(format!(
            "mounts: {guest}: only directories can be given to a WebAssembly container"
        )),
        Err(e) => Err(named(&e)),
    }
}

/// Opens what is at a path below a directory that another container may be changing, makes it where
/// it is missing, and returns it with the path that is just that, as long as it is open.
#[cfg(target_os = "linux")]
fn open_below(source: &Path, path: &Path) -> std::io::Result<(PathBuf, Arc<File>)> {
    use std::os::fd::AsRawFd;

    let directory = magik_sys::mount::look_at_dir(source)?;
    let found = File::from(magik_sys::beneath::find_or_make(&directory, path)?);
    let name = format!("/proc/self/fd/{}", found.as_raw_fd());
    Ok((name.into(), Arc::new(found)))
}

#[cfg(not(target_os = "linux"))]
fn open_below(_: &Path, _: &Path) -> std::io::Result<(PathBuf, Arc<File>)> {
    Err(std::io::Error::other("a part of a volume needs Linux"))
}

fn memory(spec: &Spec) -> Option<u64> {
    let limit = spec
        .linux()
        .as_ref()?
        .resources()
        .as_ref()?
        .memory()
        .as_ref()?
        .limit()?;
    u64::try_from(limit).ok().filter(|l| *l > 0)
}

fn fuel(text: Option<&str>) -> Result<Option<u64>, String> {
    match text.map(str::trim) {
        None => Ok(Some(DEFAULT_WASM_FUEL)),
        Some("off" | "0") => Ok(None),
        Some(number) => number
            .parse()
            .map(Some)
            .map_err(|_| format!("{FUEL}: {number:?} is neither a number nor \"off\"")),
    }
}

fn positive(annotations: &HashMap<String, String>, name: &str) -> Result<Option<u64>, String> {
    annotations
        .get(name)
        .map(|text| {
            text.trim()
                .parse()
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(|| format!("{name}: {text:?} is not a number above 0"))
        })
        .transpose()
}

fn concurrency(annotations: &HashMap<String, String>) -> Result<usize, String> {
    match positive(annotations, HTTP_CONCURRENCY)? {
        None => Ok(DEFAULT_HTTP_CONCURRENCY),
        Some(n) if n <= u64::from(POOL_SLOTS) => Ok(usize::try_from(n).unwrap_or(DEFAULT_HTTP_CONCURRENCY)),
        Some(n) => Err(format!("{HTTP_CONCURRENCY}: {n} is more than {POOL_SLOTS}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_fuel() {
        assert_eq!(fuel(None), Ok(Some(DEFAULT_WASM_FUEL)));
        assert_eq!(fuel(Some("off")), Ok(None));
        assert_eq!(fuel(Some("0")), Ok(None));
        assert_eq!(fuel(Some(" 12 ")), Ok(Some(12)));
        assert!(fuel(Some("-1")).is_err());
        assert!(fuel(Some("1e9")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn does_not_open_a_program_outside_the_root() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("rootfs");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(outer.path().join("secret"), "").unwrap();
        std::os::unix::fs::symlink(outer.path().join("secret"), root.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../secret", root.join("relative")).unwrap();
        for program in ["/absolute", "/relative", "../secret", "/../secret"] {
            assert!(open_program(&root, program, "/", &[]).is_err(), "{program}");
        }
        std::fs::write(root.join("app.wasm"), "").unwrap();
        for program in ["/app.wasm", "app.wasm", "./app.wasm", "../app.wasm"] {
            assert!(open_program(&root, program, "/", &[]).is_ok(), "{program}");
        }
    }

    #[test]
    fn environment_variables_are_there_once() {
        let process: Process = serde_json::from_value(
            serde_json::json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["A=1", "B=2"]}),
        )
        .unwrap();
        let env = environment(&process, &["A=3".to_owned()]);
        assert_eq!(
            env,
            [("A".to_owned(), "3".to_owned()), ("B".to_owned(), "2".to_owned())]
        );
    }
}
