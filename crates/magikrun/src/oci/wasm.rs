//! Native containers whose program is WebAssembly.
//!
//! Another binary, which lies beside this one, handles WebAssembly. It is asked about the bundle's
//! program, and answers what the container is to run instead: itself, with the machine code.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use magik_sys::socket;
use oci_native::{Runner, RunnerFiles};
use rustix::net::RecvFlags;
use serde::Deserialize;

use super::sibling;
use crate::roots;

/// The binary that runs WebAssembly; it lies beside `magikrun`.
const BINARY: &str = "magikrun-wasm";
/// What that binary is asked.
const PREPARE: &str = "magikrun-wasm-prepare";
/// The longest answer in bytes: the annotations that are passed on are most of it.
const MAX_ANSWER_SIZE: usize = 256 * 1024;

/// What that binary answers.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    /// Why the program cannot be run, in one line.
    refused: Option<String>,
    /// It is no WebAssembly.
    native: bool,
    /// Whether there is a dynamic loader among the descriptors.
    loader: bool,
    libraries: usize,
    arguments: Vec<String>,
}

/// What runs the program of a bundle; `None` if it is not WebAssembly, which `only_modules` allows.
/// `state` is the directory of the containers' state.
pub(super) fn runner(bundle: &Path, state: &Path, only_modules: bool) -> Result<Option<Runner>> {
    let (answer, descriptors) = ask(bundle, &cache(state)?, only_modules)?;
    if let Some(reason) = answer.refused {
        bail!("{reason}");
    }
    if answer.native {
        return Ok(None);
    }
    let mut descriptors = descriptors.into_iter();
    let (Some(code), Some(binary)) = (descriptors.next(), descriptors.next()) else {
        bail!("{BINARY}: it gave no answer of use: is it of another version than magikrun?");
    };
    let files = RunnerFiles {
        binary,
        loader: answer.loader.then(|| descriptors.next()).flatten(),
        libraries: descriptors.take(answer.libraries).collect(),
    };
    Ok(Some(Runner::new(files, answer.arguments)?.inherit(code)))
}

fn ask(bundle: &Path, cache: &Path, only_modules: bool) -> Result<(Answer, Vec<OwnedFd>)> {
    let binary = sibling::beside(BINARY, "wasm")?;
    let (ours, theirs) = socket::pair()?;
    let mut child = Command::new(&binary)
        .arg(PREPARE)
        .args([bundle, cache])
        .arg(if only_modules { "modules" } else { "all" })
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| binary.display().to_string())?;
    let received = receive(&ours);
    let status = child.wait().with_context(|| binary.display().to_string())?;
    let (text, descriptors) = received.with_context(|| binary.display().to_string())?;
    if text.is_empty() {
        bail!("{}: it ended without an answer: {status}", binary.display());
    }
    let answer = serde_json::from_slice(&text).with_context(|| binary.display().to_string())?;
    Ok((answer, descriptors))
}

/// One message; empty if the other end was closed.
fn receive(socket: &OwnedFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut text = vec![0; MAX_ANSWER_SIZE];
    let (size, descriptors) = socket::receive(socket, &mut text, RecvFlags::empty())?;
    text.truncate(size);
    Ok((text, descriptors))
}

/// Where machine code is kept: with that of pods; for root in a user namespace, who is another user
/// on the host, with the state.
fn cache(state: &Path) -> Result<PathBuf> {
    let given = roots::data_root_of_environment();
    let user_namespace = magik_sys::process::in_user_namespace().unwrap_or(false);
    if given.is_none() && user_namespace && rustix::process::geteuid().is_root() {
        return Ok(state.join(".wasm-cache"));
    }
    Ok(roots::data_root(given.as_deref())?.join("wasm-cache"))
}
