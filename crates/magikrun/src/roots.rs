//! magikrun's directories: `--data-dir` and `--state-dir`, and their defaults.
//!
//! runc's `--root`, which the OCI commands take, is another thing: their containers' state.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

/// The variables that name the data root: the first that is set counts. The second is older.
pub const DATA_VARIABLES: [&str; 2] = ["MAGIKRUN_DATA_DIR", "MAGIKRUN_ROOT"];

/// The data root that a variable of the environment names.
#[must_use]
pub fn data_root_of_environment() -> Option<PathBuf> {
    let set = DATA_VARIABLES.iter().filter_map(env::var_os);
    set.map(PathBuf::from).find(|path| !path.as_os_str().is_empty())
}

/// The data root that was given (`--data-dir`), else the default one; absolute.
///
/// # Errors
/// None was given, and no variable of the environment says where this user's is.
pub fn data_root(given: Option<&Path>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => default_data_root(is_root(), |name| env::var_os(name))?,
    };
    absolute(&path, "--data-dir")
}

/// The state root that was given (`--state-dir`), else the default one; absolute.
///
/// # Errors
/// Another user has the directory that it would be in.
pub fn state_root(given: Option<&Path>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => {
            let user = rustix::process::geteuid().as_raw();
            let path = default_state_root(user, |name| env::var_os(name), is_own);
            if path.parent() == Some(Path::new(SHARED)) {
                make_private(&path)?;
            }
            path
        }
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
        None => bail!("data root: neither XDG_DATA_HOME nor HOME is set: give --data-dir DIR"),
    }
}

/// Where every user may make directories.
const SHARED: &str = "/tmp";

/// Makes a directory where others might have made it before, and does not follow a link there. One
/// that is this user's stays so: nobody else removes or renames it in a sticky directory.
fn make_private(dir: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(e).with_context(|| format!("state root: {}", dir.display()));
        }
        _ => {}
    }
    let open = std::fs::symlink_metadata(dir).is_ok_and(|found| found.mode() & 0o077 != 0);
    if open || !is_own(dir) {
        bail!(
            "state root: {}: is a link, another user's, or open to others: give --state-dir DIR",
            dir.display()
        );
    }
    Ok(())
}

/// Whether a directory is this user's own.
fn is_own(dir: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::symlink_metadata(dir);
    found.is_ok_and(|found| found.is_dir() && found.uid() == rustix::process::geteuid().as_raw())
}

/// Without a session (su, cron, CI) there is no `XDG_RUNTIME_DIR`: then systemd's directory of this
/// user is taken, if there is one, or else one below `/tmp`. Where another user has made that first, it
/// is refused as every root is that belongs to somebody else.
fn default_state_root(
    user: u32,
    get: impl Fn(&str) -> Option<OsString>,
    is_own: impl Fn(&Path) -> bool,
) -> PathBuf {
    if user == 0 {
        return "/run/magikrun".into();
    }
    let of_session = xdg("XDG_RUNTIME_DIR", &get);
    let of_user = || Some(PathBuf::from(format!("/run/user/{user}"))).filter(|dir| is_own(dir));
    match of_session.or_else(of_user) {
        Some(base) => base.join("magikrun"),
        None => Path::new(SHARED).join(format!("magikrun-{user}")),
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
        let state = default_state_root(0, &set, |_| true);
        assert_eq!(state, Path::new("/run/magikrun"));
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
                .contains("--data-dir")
        );
        let set = env(&[("XDG_RUNTIME_DIR", "/r")]);
        let state = default_state_root(7, set, |_| true);
        assert_eq!(state, Path::new("/r/magikrun"));
    }

    #[test]
    fn a_directory_that_others_could_have_made_is_not_used() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        make_private(&path("new")).unwrap();
        make_private(&path("new")).unwrap();
        symlink(path("new"), path("link")).unwrap();
        std::fs::write(path("file"), "").unwrap();
        std::fs::create_dir(path("open")).unwrap();
        std::fs::set_permissions(path("open"), std::fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["link", "file", "open"] {
            let refused = make_private(&path(name)).unwrap_err().to_string();
            assert!(
                refused.contains(name) && refused.contains("--state-dir"),
                "{refused}"
            );
        }
    }

    #[test]
    fn without_a_session_the_state_is_where_nobody_else_can_make_it() {
        let relative = || env(&[("XDG_RUNTIME_DIR", "r")]);
        let with_systemd = default_state_root(7, relative(), |dir| dir == Path::new("/run/user/7"));
        assert_eq!(with_systemd, Path::new("/run/user/7/magikrun"));
        let alone = default_state_root(7, relative(), |_| false);
        assert_eq!(alone, Path::new("/tmp/magikrun-7"));
    }
}
