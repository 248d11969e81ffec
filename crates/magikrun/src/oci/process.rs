//! The process that `exec` starts: from a file, or from the container's own with options applied.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use magik_oci::{ContainerState, Status};
use oci_spec::runtime::{Capability, LinuxCapabilities, Process, Spec};

use super::{args::ExecArgs, users};

/// The longest process document that is read.
const MAX_PROCESS_SIZE: u64 = 4 << 20;

/// The process that the arguments ask for; names of users are looked up below `root`.
pub(super) fn build(args: &ExecArgs, state: &ContainerState, root: Option<&Path>) -> Result<Process> {
    if let Some(cgroup) = &args.cgroup {
        bail!("--cgroup {cgroup}: a cgroup below the container's own is not supported");
    }
    if args.ignore_paused && state.status == Status::Paused {
        bail!(
            "--ignore-paused: container {} is paused, and starting a process there is not supported",
            state.id
        );
    }
    let mut process = match &args.process {
        // runc ignores the other options then; --tty and --detach concern us, not the process.
        Some(path) => parse(path)?,
        None => from_options(args, state, root)?,
    };
    if args.tty {
        process.set_terminal(Some(true));
    }
    users::check(process.user())?;
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        bail!("exec needs a program: give it after the container id, or --process FILE");
    }
    Ok(process)
}

fn parse(path: &Path) -> Result<Process> {
    serde_json::from_slice(&read(path, MAX_PROCESS_SIZE)?)
        .with_context(|| format!("{}: not a process of the runtime-spec", path.display()))
}

/// Reads a file up to `limit` bytes.
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let name = || path.display().to_string();
    let mut text = Vec::new();
    File::open(path)
        .with_context(name)?
        .take(limit + 1)
        .read_to_end(&mut text)
        .with_context(name)?;
    if text.len() as u64 > limit {
        bail!("{}: more than {limit} bytes", path.display());
    }
    Ok(text)
}

fn from_options(args: &ExecArgs, state: &ContainerState, root: Option<&Path>) -> Result<Process> {
    let config = state.bundle.join("config.json");
    let spec: Spec = serde_json::from_slice(&read(&config, MAX_PROCESS_SIZE)?)
        .with_context(|| format!("{}: not a runtime-spec configuration", config.display()))?;
    let mut process = spec
        .process()
        .clone()
        .with_context(|| format!("{}: has no process", config.display()))?;
    process
        .set_terminal(Some(false))
        .set_args(Some(args.args.clone()));
    if let Some(cwd) = &args.cwd {
        process.set_cwd(absolute(cwd)?);
    }
    let mut env = process.env().clone().unwrap_or_default();
    for variable in &args.env {
        set_variable(&mut env, variable)?;
    }
    process.set_env(Some(env));
    if let Some(user) = &args.user {
        users::apply(process.user_mut(), user, root)?;
    }
    if !args.additional_gids.is_empty() {
        let mut gids = process.user().additional_gids().clone().unwrap_or_default();
        gids.extend(&args.additional_gids);
        process.user_mut().set_additional_gids(Some(gids));
    }
    if !args.cap.is_empty() {
        let capabilities = with_capabilities(
            process.capabilities().clone().unwrap_or_else(no_capabilities),
            &args.cap,
        )?;
        process.set_capabilities(Some(capabilities));
    }
    if args.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(profile) = &args.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &args.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    Ok(process)
}

fn absolute(cwd: &Path) -> Result<PathBuf> {
    if !cwd.is_absolute() {
        bail!("--cwd {}: give an absolute path", cwd.display());
    }
    Ok(cwd.to_owned())
}

/// Adds `NAME=VALUE`, in the place of an earlier one of that name.
fn set_variable(env: &mut Vec<String>, variable: &str) -> Result<()> {
    let Some((name, _)) = variable.split_once('=').filter(|(name, _)| !name.is_empty()) else {
        bail!("--env {variable:?}: use NAME=VALUE");
    };
    env.retain(|other| other.split_once('=').is_none_or(|(n, _)| n != name));
    env.push(variable.to_owned());
    Ok(())
}

/// `LinuxCapabilities::default()` holds three.
fn no_capabilities() -> LinuxCapabilities {
    let mut none = LinuxCapabilities::default();
    none.set_bounding(None)
        .set_effective(None)
        .set_inheritable(None)
        .set_permitted(None)
        .set_ambient(None);
    none
}

/// Adds capabilities to every set a process starts with but the ambient one, as runc does.
fn with_capabilities(mut capabilities: LinuxCapabilities, names: &[String]) -> Result<LinuxCapabilities> {
    let mut added = Vec::new();
    for name in names {
        let upper = name.to_ascii_uppercase();
        let full = if upper.starts_with("CAP_") {
            upper
        } else {
            format!("CAP_{upper}")
        };
        let parsed = serde_json::from_value::<Capability>(full.into());
        added.push(
            parsed
                .ok()
                .with_context(|| format!("--cap {name}: no such capability"))?,
        );
    }
    let with = |set: &Option<std::collections::HashSet<Capability>>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend(added.iter().copied());
        Some(set)
    };
    let (bounding, effective, permitted) = (
        with(capabilities.bounding()),
        with(capabilities.effective()),
        with(capabilities.permitted()),
    );
    capabilities
        .set_bounding(bounding)
        .set_effective(effective)
        .set_permitted(permitted);
    Ok(capabilities)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn state(bundle: &Path) -> ContainerState {
        ContainerState {
            bundle: bundle.into(),
            ..ContainerState::new("c".parse().unwrap(), Status::Running)
        }
    }

    fn exec(bundle: &Path, line: &str) -> Result<Process> {
        build(
            &ExecArgs::try_parse_from(line.split_whitespace()).unwrap(),
            &state(bundle),
            None,
        )
    }

    fn bundle() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let config = serde_json::json!({"ociVersion": "1.0.2", "process": {
            "terminal": true, "user": {"uid": 5, "gid": 6}, "args": ["init"], "cwd": "/w", "noNewPrivileges": false,
            "env": ["PATH=/bin", "A=1"], "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 10, "soft": 10}],
            "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
        }});
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        dir
    }

    #[test]
    fn without_options_it_is_the_containers_process_with_another_program() {
        let process = exec(bundle().path(), "c id -u").unwrap();
        assert_eq!(process.args().as_deref().unwrap(), ["id", "-u"]);
        assert_eq!(process.cwd(), Path::new("/w"));
        assert_eq!((process.user().uid(), process.user().gid()), (5, 6));
        assert_eq!(process.terminal(), Some(false));
        assert_eq!(process.rlimits().as_ref().unwrap().len(), 1);
    }

    #[test]
    fn each_option_changes_its_own_part() {
        let line = "-t -e A=2 -e B=x=y --cwd /z -u 1:2 -g 7 -g 8 -c net_admin --no-new-privs c id";
        let process = exec(bundle().path(), line).unwrap();
        assert_eq!(process.env().as_deref().unwrap(), ["PATH=/bin", "A=2", "B=x=y"]);
        assert_eq!(process.cwd(), Path::new("/z"));
        assert_eq!((process.user().uid(), process.user().gid()), (1, 2));
        assert_eq!(process.user().additional_gids().as_deref().unwrap(), [7, 8]);
        assert_eq!(
            (process.terminal(), process.no_new_privileges()),
            (Some(true), Some(true))
        );
        let capabilities = process.capabilities().as_ref().unwrap();
        for set in [
            capabilities.bounding(),
            capabilities.effective(),
            capabilities.permitted(),
        ] {
            assert!(set.as_ref().unwrap().contains(&Capability::NetAdmin));
        }
        assert!(
            capabilities
                .ambient()
                .as_ref()
                .is_none_or(std::collections::HashSet::is_empty)
        );
    }

    #[test]
    fn mistakes_name_the_option() {
        let dir = bundle();
        for (line, part) in [
            ("c", "needs a program"),
            ("-e novalue c id", "--env"),
            ("-e =x c id", "--env"),
            ("--cwd rel c id", "--cwd"),
            ("--cap nosuch c id", "--cap"),
            ("--process /nosuch c", "/nosuch"),
            ("--cgroup x c id", "--cgroup"),
        ] {
            let error = exec(dir.path(), line).unwrap_err().to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
