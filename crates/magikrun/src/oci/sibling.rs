//! The binaries that lie beside this one.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The path of a backend's binary, which lies beside this one. The kernel does not know this
/// process's own path once it is sealed, so it is taken from the arguments.
pub(super) fn beside(binary: &str, backend: &str) -> Result<PathBuf> {
    find(binary)
        .with_context(|| format!("runtime {backend}: {binary} is not installed: it belongs beside magikrun"))
}

/// The same, `None` where it is not installed.
pub(super) fn find(binary: &str) -> Option<PathBuf> {
    let called = PathBuf::from(env::args_os().next()?);
    let own = if called.components().count() > 1 {
        called
    } else {
        let search = env::var_os("PATH")?;
        env::split_paths(&search)
            .map(|dir| dir.join(&called))
            .find(|path| path.is_file())?
    };
    let beside = |own: &Path| Some(own.canonicalize().ok()?.with_file_name(binary));
    beside(&own).filter(|path| path.is_file())
}
