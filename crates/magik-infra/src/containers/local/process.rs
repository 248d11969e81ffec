//! What an exec'd process is: the container's own process with another program.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use oci_spec::runtime::{BoxBuilder, Process, Spec};

use crate::rpc::control as proto;

/// The largest `config.json` that is read, in bytes.
const MAX_CONFIG: u64 = 4 << 20;

/// Why a process cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} has no process")]
    NoProcess { path: PathBuf },
    #[error("the process is none of the runtime-spec: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("no program was given")]
    NoProgram,
    #[error("environment variable {0:?} is not of the form NAME=value")]
    Environment(String),
    #[error("working directory {0:?} is not absolute")]
    WorkingDirectory(String),
    #[error("user {0:?} is not of the form uid[:gid]")]
    User(String),
}

/// Reads the container's process from its bundle and changes what was asked for: capabilities, limits,
/// no_new_privs and the rest of the sandbox stay as they are.
pub(super) fn process(bundle: &Path, start: &proto::ExecStart) -> Result<Process, ProcessError> {
    if !start.process.is_empty() {
        let mut process: Process = serde_json::from_slice(&start.process)?;
        if process.args().as_ref().is_none_or(Vec::is_empty) {
            return Err(ProcessError::NoProgram);
        }
        process.set_terminal(Some(start.tty));
        process.set_console_size(console_size(start));
        return Ok(process);
    }
    adapt(own_process(bundle)?, start)
}

/// The container's own process.
pub(crate) fn own_process(bundle: &Path) -> Result<Process, ProcessError> {
    let path = bundle.join("config.json");
    let spec = read(&path).map_err(|source| ProcessError::Read {
        path: path.clone(),
        source,
    })?;
    spec.process().clone().ok_or(ProcessError::NoProcess { path })
}

fn read(path: &Path) -> io::Result<Spec> {
    let mut json = Vec::new();
    File::open(path)?.take(MAX_CONFIG + 1).read_to_end(&mut json)?;
    if json.len() as u64 > MAX_CONFIG {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {MAX_CONFIG} bytes"),
        ));
    }
    Ok(serde_json::from_slice(&json)?)
}

fn adapt(mut process: Process, start: &proto::ExecStart) -> Result<Process, ProcessError> {
    if start.args.is_empty() {
        return Err(ProcessError::NoProgram);
    }
    process.set_args(Some(start.args.clone()));
    process.set_terminal(Some(start.tty));
    let mut env = process.env().clone().unwrap_or_default();
    for variable in &start.env {
        let name = match variable.split_once('=') {
            Some((name, _)) if !name.is_empty() && !variable.contains('\0') => name,
            _ => return Err(ProcessError::Environment(variable.clone())),
        };
        env.retain(|old| old.split('=').next() != Some(name));
        env.push(variable.clone());
    }
    process.set_env(Some(env));
    if !start.cwd.is_empty() {
        if !start.cwd.starts_with('/') || start.cwd.contains('\0') {
            return Err(ProcessError::WorkingDirectory(start.cwd.clone()));
        }
        process.set_cwd(start.cwd.clone().into());
    }
    if !start.user.is_empty() {
        let (uid, gid) = user(&start.user).ok_or_else(|| ProcessError::User(start.user.clone()))?;
        let mut user = process.user().clone();
        user.set_uid(uid);
        if let Some(gid) = gid {
            user.set_gid(gid);
        }
        process.set_user(user);
    }
    process.set_console_size(console_size(start));
    Ok(process)
}

/// The terminal's size, if there is a terminal.
fn console_size(start: &proto::ExecStart) -> Option<oci_spec::runtime::Box> {
    let size = start.size.as_ref().filter(|_| start.tty)?;
    let console = BoxBuilder::default()
        .height(u64::from(size.rows))
        .width(u64::from(size.columns));
    console.build().ok()
}

/// `uid[:gid]`; without a group it stays the container's, as with runc.
fn user(text: &str) -> Option<(u32, Option<u32>)> {
    match text.split_once(':') {
        None => Some((text.parse().ok()?, None)),
        Some((uid, gid)) => Some((uid.parse().ok()?, Some(gid.parse().ok()?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> Process {
        serde_json::from_value(serde_json::json!({
            "user": {"uid": 5, "gid": 6, "additionalGids": [7]},
            "args": ["server"],
            "env": ["PATH=/bin", "A=1"],
            "cwd": "/srv",
            "noNewPrivileges": true,
            "capabilities": {"bounding": ["CAP_KILL"]},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 9, "soft": 8}],
        }))
        .unwrap()
    }

    fn start() -> proto::ExecStart {
        let mut start = proto::ExecStart::new();
        start.args = vec!["sh".into(), "-c".into(), "true".into()];
        start
    }

    #[test]
    fn keeps_everything_that_was_not_asked_for() {
        let own = container();
        let process = adapt(own.clone(), &start()).unwrap();
        assert_eq!(process.args().as_ref().unwrap(), &start().args);
        assert_eq!(process.env(), own.env());
        assert_eq!(process.cwd(), own.cwd());
        assert_eq!(process.user(), own.user());
        assert_eq!(process.capabilities(), own.capabilities());
        assert_eq!(process.rlimits(), own.rlimits());
        assert_eq!(process.no_new_privileges(), own.no_new_privileges());
        assert_eq!(process.terminal(), Some(false));
    }

    #[test]
    fn changes_environment_directory_and_user() {
        let mut start = start();
        start.env = vec!["A=2".into(), "B=x=y".into()];
        start.cwd = "/tmp".into();
        start.user = "1000:1001".into();
        let process = adapt(container(), &start).unwrap();
        assert_eq!(process.env().as_ref().unwrap(), &["PATH=/bin", "A=2", "B=x=y"]);
        assert_eq!(process.cwd(), Path::new("/tmp"));
        assert_eq!((process.user().uid(), process.user().gid()), (1000, 1001));
        assert_eq!(process.user().additional_gids(), &Some(vec![7]));
    }

    #[test]
    fn a_whole_process_goes_before_its_parts() {
        let mut start = start();
        start.process = serde_json::to_vec(&container()).unwrap();
        start.tty = true;
        let process = process(Path::new("/no/such/bundle"), &start).unwrap();
        assert_eq!(process.args().as_ref().unwrap(), &["server"]);
        assert_eq!((process.user().uid(), process.terminal()), (5, Some(true)));
        for (text, part) in [
            ("{", "runtime-spec"),
            (r#"{"cwd": "/", "user": {"uid": 0, "gid": 0}}"#, "no program"),
        ] {
            start.process = text.into();
            let error = super::process(Path::new("/no/such/bundle"), &start).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn refuses_what_is_malformed_by_name() {
        let refused = |change: fn(&mut proto::ExecStart)| {
            let mut start = start();
            change(&mut start);
            adapt(container(), &start).unwrap_err().to_string()
        };
        assert!(refused(|s| s.args.clear()).contains("no program"));
        assert!(refused(|s| s.env = vec!["NOVALUE".into()]).contains("NOVALUE"));
        assert!(refused(|s| s.env = vec!["=x".into()]).contains("=x"));
        assert!(refused(|s| s.cwd = "relative".into()).contains("relative"));
        for user in ["root", "1:", ":1", "-1", "1:2:3", "4294967296"] {
            let mut start = start();
            start.user = user.into();
            assert!(adapt(container(), &start).is_err(), "{user}");
        }
    }
}
