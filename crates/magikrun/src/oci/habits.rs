//! What is meant for pods where podman's, docker's and kubectl's commands have the name of an OCI
//! runtime's.

use std::{ffi::OsString, io, path::Path};

use anyhow::{Result, bail};
use magik_oci::{ContainerId, Error};

use super::{backend::Backend, route::Globals};
use crate::failure::Misused;

/// What does it for pods.
const COMMANDS: [(&str, &str); 9] = [
    ("create", "pod run IMAGE' or 'magikrun pod run -f FILE"),
    ("delete", "pod delete POD' or 'magikrun pod delete -f FILE"),
    ("events", "pod events POD"),
    ("exec", "pod exec -it POD -- COMMAND"),
    ("kill", "pod stop -t 0 POD"),
    ("list", "pod ls"),
    ("ps", "pod ls"),
    ("run", "pod run IMAGE' or 'magikrun pod run -f FILE"),
    ("start", "pod run -f FILE"),
];

/// The failure with what to do, where a person meant a pod: engines give `--log` or `--root`, and
/// read what is said as it is.
pub(super) fn advise(
    globals: &Globals,
    command: &str,
    rest: &[OsString],
    error: anyhow::Error,
) -> anyhow::Error {
    let of_engine = globals.log.is_some() || globals.root.is_some() || named_bundle(rest);
    let ours = COMMANDS.iter().find(|(theirs, _)| *theirs == command);
    match ours {
        Some((_, ours)) if !of_engine && is_mistaken(&error) => {
            let text = crate::failure::chain(&error);
            anyhow::anyhow!("{text}; for pods there is 'magikrun {ours}'")
        }
        _ => error,
    }
}

/// Refuses the file of a manifest in the place of a container: here `-f` is `--force`, which would
/// do nothing and say nothing.
pub(super) fn check_no_manifest(backend: &Backend, id: &ContainerId) -> Result<()> {
    let path = Path::new(id.as_str());
    let manifest = path
        .extension()
        .is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
    if manifest && path.is_file() && backend.block_on(backend.runtime().state(id)).is_err() {
        bail!("{id} is a file and no container; for pods there is 'magikrun pod delete -f {id}'");
    }
    Ok(())
}

/// Whether it says which bundle or process is meant, as engines and people do who know runc.
fn named_bundle(rest: &[OsString]) -> bool {
    rest.iter().filter_map(|arg| arg.to_str()).any(|arg| {
        ["--bundle", "--process", "--pid-file", "--console-socket"]
            .iter()
            .any(|option| arg.starts_with(option))
            || arg == "-b"
    })
}

/// Whether it is such an error as somebody gets who means something else.
fn is_mistaken(error: &anyhow::Error) -> bool {
    let no_file = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
    error.is::<Misused>()
        || error.chain().any(|cause| {
            matches!(
                cause.downcast_ref::<Error>(),
                Some(Error::NotFound(_) | Error::InvalidId(_))
            ) || cause.is::<magik_oci::InvalidId>()
                || cause.downcast_ref::<io::Error>().is_some_and(no_file)
        })
}
