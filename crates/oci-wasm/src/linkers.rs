//! What programs find of their host.

use std::sync::OnceLock;

use wasmtime::{Engine, Linker, component};

use crate::{LoadError, files, host::Host, sockets};

/// The module that preview 1's functions are imported from.
pub(crate) const PREVIEW1: &str = "wasi_snapshot_preview1";

/// What programs of one engine are linked with. Made once: that takes longer than using it.
#[derive(Default)]
pub(crate) struct Linkers {
    plain: OnceLock<Linker<Host>>,
    listening: OnceLock<Linker<Host>>,
    component: OnceLock<component::Linker<Host>>,
}

impl std::fmt::Debug for Linkers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Linkers").finish_non_exhaustive()
    }
}

impl Linkers {
    /// That of modules; `listening`: they are given sockets.
    pub(crate) fn module(&self, engine: &Engine, listening: bool) -> Result<&Linker<Host>, LoadError> {
        let made = if listening { &self.listening } else { &self.plain };
        once(made, || {
            let mut linker = Linker::new(engine);
            wasmtime_wasi::p1::add_to_linker_async(&mut linker, |host: &mut Host| &mut host.wasi)?;
            // wasmtime-wasi traps on exit codes from 126 on; a process may have any.
            linker.allow_shadowing(true);
            linker.func_wrap(PREVIEW1, "proc_exit", |code: i32| -> wasmtime::Result<()> {
                Err(wasmtime_wasi::I32Exit(code).into())
            })?;
            linker.allow_shadowing(false);
            files::add_to_linker(&mut linker)?;
            sockets::add_polling(&mut linker)?;
            if listening {
                sockets::add_to_linker(&mut linker)?;
            }
            Ok(linker)
        })
    }

    /// That of components.
    pub(crate) fn component(&self, engine: &Engine) -> Result<&component::Linker<Host>, LoadError> {
        once(&self.component, || {
            let mut linker = component::Linker::new(engine);
            wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
            files::add_to_component_linker(&mut linker)?;
            wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
            Ok(linker)
        })
    }
}

/// What is there, or is made now.
pub(crate) fn once<T>(
    made: &OnceLock<T>,
    make: impl FnOnce() -> wasmtime::Result<T>,
) -> Result<&T, LoadError> {
    if let Some(made) = made.get() {
        return Ok(made);
    }
    let new = make().map_err(|e| LoadError::engine(&e))?;
    Ok(made.get_or_init(|| new))
}
