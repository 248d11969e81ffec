//! What a program that runs pods also is: their inits.

use std::{
    io,
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use magik_infra::ExtensionRegistry;

use crate::{
    RuntimeClass,
    pods::init::{self, is_asked_for},
};

/// Whether this program has looked for its role.
static LOOKED: AtomicBool = AtomicBool::new(false);

/// The init of one backend's pods: `ROLE` of its module.
#[derive(Debug, Clone, Copy)]
pub struct Role {
    class: RuntimeClass,
    run: fn(PathBuf, ExtensionRegistry) -> io::Result<ExitCode>,
    extensions: ExtensionRegistry,
}

impl Role {
    /// With these extensions, which pods may ask for
    /// ([`RunOptions::extensions`](crate::RunOptions::extensions)).
    #[must_use]
    pub const fn extensions(self, extensions: ExtensionRegistry) -> Self {
        Self { extensions, ..self }
    }

    #[cfg_attr(
        not(any(feature = "native", feature = "krun", feature = "wasm")),
        expect(dead_code, reason = "there is no backend")
    )]
    pub(crate) const fn new(
        class: RuntimeClass,
        run: fn(PathBuf, ExtensionRegistry) -> io::Result<ExitCode>,
    ) -> Self {
        Self {
            class,
            run,
            extensions: &[],
        }
    }
}

/// Runs this process as the init of a pod, if that is what it was started for, and returns how it
/// ended; `None`: it was not, and `main` goes on.
///
/// The `main` of every program that runs pods begins with it, before it makes a thread or opens
/// anything (so not inside of `#[tokio::main]`): [`Pods`](crate::Pods) starts the program once more as
/// each pod's init, unless a program for that lies beside it. Descriptors from 3 on are those that the
/// launcher gave it.
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     # #[cfg(all(feature = "native", target_os = "linux"))]
///     if let Some(ended) = magik_pri::run_role_if_asked(&[magik_pri::native::ROLE]) {
///         return ended;
///     }
///     // …
///     # std::process::ExitCode::SUCCESS
/// }
/// ```
#[must_use]
pub fn run_role_if_asked(roles: &[Role]) -> Option<ExitCode> {
    LOOKED.store(true, Ordering::Relaxed);
    if magik_infra::pause::is_asked_for(std::env::args_os()) {
        return Some(magik_infra::pause::main());
    }
    let sandbox = is_asked_for()?;
    let run = || {
        let class = init::class(&sandbox)?;
        let role = roles.iter().find(|role| role.class == class);
        let Some(role) = role else {
            return Err(io::Error::other(format!(
                "this program is no init of {class} pods"
            )));
        };
        (role.run)(sandbox, role.extensions)
    };
    Some(init::report(run()))
}

/// Whether this program can be started once more as an init.
pub(crate) fn has_looked() -> bool {
    LOOKED.load(Ordering::Relaxed)
}
