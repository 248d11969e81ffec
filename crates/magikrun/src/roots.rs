//! magikrun's directories: `--root` and `--state-dir`, and their defaults.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

/// The data root that was given (`--root`), else the default one; absolute.
///
/// # Errors
/// None was given, and no variable of the environment says where this user's is.
pub fn data_root(given: Option<&Path>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => default_data_root(is_root(), |name| env::var_os(name))?,
    };
    absolute(&path, "--root")
}

/// The state root that was given (`--state-dir`), else the default one; absolute.
///
/// # Errors
/// As [`data_root`]'s.
pub fn state_root(given: Option<&Path>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => default_state_root(is_root(), |name| env::var_os(name))?,
    };
    absolute(&path, "--state-dir")
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn absolute(path: &Path, option: &str) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{option} {}", path.display()))
}

/// The XDG base directory specification: a relative path in one of its variables is to be ignored.
fn xdg(variable: &str, get: &impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    get(variable).map(PathBuf::from).filter(|p| p.is_absolute())
}

fn default_data_root(root: bool, get: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    if root {
        return Ok("/var/lib/magikrun".into());
    }
    let base = xdg("XDG_DATA_HOME", &get).or_else(|| Some(xdg("HOME", &get)?.join(".local/share")));
    match base {
        Some(base) => Ok(base.join("magikrun")),
        None => bail!("data root: neither XDG_DATA_HOME nor HOME is set: give --root DIR"),
    }
}

fn default_state_root(root: bool, get: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    if root {
        return Ok("/run/magikrun".into());
    }
    // No fallback below /tmp: another user could make it first and own our sockets.
    match xdg("XDG_RUNTIME_DIR", &get) {
        Some(base) => Ok(base.join("magikrun")),
        None => bail!("state root: XDG_RUNTIME_DIR is not set: give --state-dir DIR"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
        |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into())
    }

    #[test]
    fn root_uses_the_system_directories() {
        let set = env(&[("XDG_DATA_HOME", "/x"), ("XDG_RUNTIME_DIR", "/y")]);
        assert_eq!(
            default_data_root(true, &set).unwrap(),
            Path::new("/var/lib/magikrun")
        );
        assert_eq!(
            default_state_root(true, &set).unwrap(),
            Path::new("/run/magikrun")
        );
    }

    #[test]
    fn users_get_their_xdg_directories_and_relative_ones_are_ignored() {
        assert_eq!(
            default_data_root(false, env(&[("XDG_DATA_HOME", "/x")])).unwrap(),
            Path::new("/x/magikrun")
        );
        let relative = env(&[("XDG_DATA_HOME", "x"), ("HOME", "/h")]);
        assert_eq!(
            default_data_root(false, relative).unwrap(),
            Path::new("/h/.local/share/magikrun")
        );
        assert!(
            default_data_root(false, env(&[]))
                .unwrap_err()
                .to_string()
                .contains("--root")
        );
        assert_eq!(
            default_state_root(false, env(&[("XDG_RUNTIME_DIR", "/r")])).unwrap(),
            Path::new("/r/magikrun")
        );
        assert!(
            default_state_root(false, env(&[]))
                .unwrap_err()
                .to_string()
                .contains("--state-dir")
        );
    }
}
