//! Which backend a container has, and where its state is.

use std::{
    future::Future,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use magik_oci::{ContainerId, ContainerState, OciRuntime};

use super::{config::Config, route::Globals};

/// crun's annotation: the handler that runs the container.
const HANDLER_ANNOTATION: &str = "run.oci.handler";
/// The annotation of images that hold a WASM module.
const WASM_ANNOTATION: &str = "module.wasm.image/variant";

/// What can run a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Native,
    Krun,
    /// A native container whose program is, or may be, WebAssembly.
    Wasm {
        only_modules: bool,
    },
}

impl Kind {
    /// `--runtime`, else the annotations, else native.
    fn choose(option: Option<&str>, annotation: impl Fn(&str) -> Option<String>) -> Result<Self> {
        if let Some(name) = option {
            return Self::named(name).with_context(|| format!("--runtime {name}: no such backend"));
        }
        if let Some(handler) = annotation(HANDLER_ANNOTATION) {
            return Self::named(&handler).with_context(|| {
                format!("annotation {HANDLER_ANNOTATION}: no backend {handler:?}: use native, krun or wasm")
            });
        }
        match annotation(WASM_ANNOTATION).as_deref() {
            Some(variant @ ("compat" | "compat-smart")) => Ok(Self::Wasm {
                only_modules: variant == "compat-smart",
            }),
            _ => Ok(Self::Native),
        }
    }

    /// What made a container.
    fn found(root: &Path, id: &ContainerId) -> Self {
        #[cfg(feature = "krun")]
        if oci_krun::KrunRuntime::has(root, id) {
            return Self::Krun;
        }
        // Once created, one that runs WebAssembly is like any other.
        let _ = (root, id);
        Self::Native
    }

    fn named(name: &str) -> Option<Self> {
        match name {
            "native" => Some(Self::Native),
            "krun" => Some(Self::Krun),
            // crun has one handler per WASM engine; we have one engine.
            "wasm" | "wasmtime" | "wasmedge" | "wasmer" | "wamr" => Some(Self::Wasm { only_modules: false }),
            _ => None,
        }
    }
}

/// A backend and its state directory.
pub(super) struct Backend {
    runtime: Box<dyn OciRuntime>,
    root: PathBuf,
    executor: tokio::runtime::Runtime,
    /// Its containers run on a kernel of their own.
    in_guest: bool,
}

impl Backend {
    /// The backend of a container that is to be created.
    pub(super) fn for_new(globals: &Globals, config: &Config, bundle: &Path) -> Result<Self> {
        let annotation = |name: &str| config.annotations.as_ref()?.get(name).cloned();
        Self::new(
            globals,
            Kind::choose(globals.runtime.as_deref(), annotation)?,
            Some(bundle),
        )
    }

    /// The backend of all containers that exist.
    pub(super) fn open(globals: &Globals) -> Result<Self> {
        // The options for new containers are checked; here they have no effect.
        Kind::choose(globals.runtime.as_deref(), |_| None)?;
        Self::new(globals, Kind::Native, None)
    }

    /// The backend of a container that exists: the one that made it, whatever the options say.
    pub(super) fn of(globals: &Globals, id: &ContainerId) -> Result<Self> {
        Kind::choose(globals.runtime.as_deref(), |_| None)?;
        Self::new(globals, Kind::found(&root(globals)?, id), None)
    }

    /// `bundle`: of the container that is to be created.
    fn new(globals: &Globals, kind: Kind, bundle: Option<&Path>) -> Result<Self> {
        let root = root(globals)?;
        let runtime = match kind {
            Kind::Native => native(globals, &root, None)?,
            Kind::Krun => krun(globals, &root)?,
            Kind::Wasm { only_modules } => native(globals, &root, bundle.map(|b| (b, only_modules)))?,
        };
        // Only this thread: the native backend forks.
        let executor = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("tokio")?;
        Ok(Self {
            runtime,
            root,
            executor,
            in_guest: kind == Kind::Krun,
        })
    }

    /// The path of a container's root from here.
    pub(super) fn root_of(&self, state: &ContainerState) -> Option<PathBuf> {
        if self.in_guest {
            return super::show::rootfs(&state.bundle).map(PathBuf::from);
        }
        state.pid.map(|pid| format!("/proc/{pid}/root").into())
    }

    pub(super) fn runtime(&self) -> &dyn OciRuntime {
        &*self.runtime
    }

    /// The directory that has one directory per container.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.executor.block_on(future)
    }
}

#[cfg(feature = "native")]
fn builder(globals: &Globals, root: &Path) -> oci_native::NativeRuntimeBuilder {
    let systemd = globals.systemd_cgroup || globals.cgroup_manager.as_deref() == Some("systemd");
    oci_native::NativeRuntime::builder(root.to_owned()).systemd_cgroup(systemd)
}

#[cfg(feature = "krun")]
fn krun(globals: &Globals, root: &Path) -> Result<Box<dyn OciRuntime>> {
    let native = builder(globals, root).build();
    let state = crate::roots::state_root(state_dir(globals).as_deref())?;
    let program = super::sibling::find(oci_krun::PROGRAM);
    Ok(Box::new(oci_krun::KrunRuntime::new(
        native,
        root.to_owned(),
        state,
        program,
    )))
}

#[cfg(feature = "native")]
fn native(globals: &Globals, root: &Path, wasm: Option<(&Path, bool)>) -> Result<Box<dyn OciRuntime>> {
    let mut builder = builder(globals, root);
    if let Some((bundle, only_modules)) = wasm
        && let Some(runner) = super::wasm::runner(bundle, root, only_modules)?
    {
        builder = builder.runner(runner);
    }
    Ok(Box::new(builder.build()))
}

/// Before a process enters a container: nothing there may write to our binary through
/// `/proc/<pid>/exe` (CVE-2019-5736).
pub(super) fn seal() -> Result<()> {
    #[cfg(feature = "native")]
    match oci_native::seal_self_exe() {
        // Only root could mount, and only root's containers could write to root's file.
        Err(_) if !rustix::process::geteuid().is_root() => {}
        sealed => sealed?,
    }
    Ok(())
}

#[cfg(not(feature = "krun"))]
fn krun(_: &Globals, _: &Path) -> Result<Box<dyn OciRuntime>> {
    anyhow::bail!("runtime krun: this program was built without it, the feature \"krun\" of magikrun")
}

#[cfg(not(feature = "native"))]
fn native(_: &Globals, _: &Path, _: Option<(&Path, bool)>) -> Result<Box<dyn OciRuntime>> {
    anyhow::bail!("runtime native: this build has no native backend")
}

/// `--root`, else `oci` in `--state-dir` or its default.
fn root(globals: &Globals) -> Result<PathBuf> {
    let root = match &globals.root {
        Some(root) => root.clone(),
        None => crate::roots::state_root(state_dir(globals).as_deref())?.join("oci"),
    };
    std::path::absolute(&root).with_context(|| format!("--root {}", root.display()))
}

/// `--state-dir`, as an option or a variable.
fn state_dir(globals: &Globals) -> Option<PathBuf> {
    let from_environment = || std::env::var_os("MAGIKRUN_STATE_DIR").map(PathBuf::from);
    globals.state_dir.clone().or_else(from_environment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(option: Option<&str>, annotations: &[(&str, &str)]) -> Result<Kind> {
        Kind::choose(option, |name| {
            annotations
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn the_option_goes_before_the_annotations_and_native_is_what_is_left() {
        assert_eq!(choose(None, &[]).unwrap(), Kind::Native);
        assert_eq!(choose(None, &[("run.oci.handler", "krun")]).unwrap(), Kind::Krun);
        assert_eq!(
            choose(None, &[("module.wasm.image/variant", "compat-smart")]).unwrap(),
            Kind::Wasm { only_modules: true }
        );
        assert_eq!(
            choose(Some("native"), &[("run.oci.handler", "krun")]).unwrap(),
            Kind::Native
        );
        let error = choose(None, &[("run.oci.handler", "nosuch")])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("run.oci.handler") && error.contains("nosuch"),
            "{error}"
        );
    }
}
