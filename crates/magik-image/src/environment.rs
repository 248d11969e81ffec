//! Variables of the environment that say where a user's files are.

use std::{ffi::OsString, path::PathBuf};

/// Gives the variables of an environment, that of a test or of the process.
pub(crate) type Variables<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// The path in a variable; an empty one counts as not set.
pub(crate) fn variable(env: &Variables<'_>, name: &str) -> Option<PathBuf> {
    env(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The directory of the user's configuration (XDG base directory specification), by the variables of
/// an environment; for root none that belongs to another user.
#[must_use]
pub fn config_home(env: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    match variable(env, "XDG_CONFIG_HOME") {
        Some(dir) => own(dir),
        None => Some(own(variable(env, "HOME")?)?.join(".config")),
    }
}

/// A directory of the user's; for root none of another user's, who would choose what root trusts:
/// with `sudo -E`, HOME is that user's.
pub(crate) fn own(dir: PathBuf) -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt as _;
    let is_root = rustix::process::geteuid().is_root();
    let of_another = || std::fs::metadata(&dir).is_ok_and(|found| found.uid() != 0);
    if is_root && of_another() {
        return None;
    }
    Some(dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use super::*;

    #[test]
    fn root_reads_no_configuration_of_another_user() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_owned();
        let env = |name: &str| (name == "HOME").then(|| home.clone().into_os_string());
        assert_eq!(config_home(&env), Some(home.join(".config")));
        if rustix::process::geteuid().is_root() {
            chown(&home, Some(1234), None).unwrap();
            assert_eq!(config_home(&env), None);
            let of_both = |_: &str| Some(home.clone().into_os_string());
            assert_eq!(config_home(&of_both), None);
        }
        assert!(own("/no/such/directory".into()).is_some());
    }
}
