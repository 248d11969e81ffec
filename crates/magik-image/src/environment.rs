//! Variables of the environment that say where a user's files are.

use std::{ffi::OsString, path::PathBuf};

/// Gives the variables of an environment, that of a test or of the process.
pub(crate) type Variables<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// The path in a variable; an empty one counts as not set.
pub(crate) fn variable(env: &Variables<'_>, name: &str) -> Option<PathBuf> {
    env(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The user's configuration (XDG base directory specification).
pub(crate) fn config_home(env: &Variables<'_>) -> Option<PathBuf> {
    variable(env, "XDG_CONFIG_HOME").or_else(|| Some(variable(env, "HOME")?.join(".config")))
}
