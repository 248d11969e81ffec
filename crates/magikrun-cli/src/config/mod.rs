//! The configuration: what holds, and where it comes from.
//!
//! A value comes from the first of these that has it: an option, a variable, the user's file
//! (`~/.config/magikrun/config.toml`), the system's (`/etc/magikrun/config.toml`), for some keys a
//! file of podman's that says the same, and the default. `MAGIKRUN_CONFIG` names one file that is
//! read instead of both.
//!
//! The OCI commands (`magikrun create` and the like) do not read these files: engines call them
//! several times for each container and say with options where state is.

mod containers;
mod file;
mod keys;
mod show;

use std::{
    ffi::OsString,
    fmt::Display,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use clap::{ArgMatches, parser::ValueSource};
use magik_pri::{RuntimeClass, parse_quantity};
use serde::Serialize;

use self::{
    file::Trust,
    keys::{KEYS, OLD_DATA_DIR},
};
pub(crate) use self::{file::Values, keys::Users, show::show};

/// Names one file to read instead of the user's and the system's.
const VARIABLE: &str = "MAGIKRUN_CONFIG";
/// The file's name, in the directory of the system and in that of the user.
const FILE: &str = "magikrun/config.toml";
/// Where the system's configuration is.
const ETC: &str = "/etc";

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "from", content = "name")]
pub(crate) enum Origin {
    /// An option of the command line.
    Flag(&'static str),
    /// A variable of the environment.
    Variable(&'static str),
    /// A file.
    File(PathBuf),
    /// Nobody said anything.
    Default,
}

impl Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "{name}"),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Set<T> {
    pub(crate) value: T,
    pub(crate) origin: Origin,
}

/// What the files and the environment say. What an option says is the command line's
/// ([`GlobalArgs`](crate::roots::GlobalArgs)), which asks here for what it does not have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Config {
    /// The files that were read, the one that counts most first.
    files: Vec<(PathBuf, Values)>,
    /// Variables of keys that are no global options.
    http_registries: Option<Set<Vec<String>>>,
    allowed_unsafe_sysctls: Option<Set<Vec<String>>>,
    runtime: Option<Set<RuntimeClass>>,
    user_namespaces: Option<Set<Users>>,
    log_size: Option<Set<u64>>,
    /// What was said by an option or variable of all commands, by the key.
    given: Vec<(&'static str, Origin)>,
}

impl Config {
    /// Reads the files and the environment.
    ///
    /// # Errors
    /// A file is somebody else's or makes no sense; a variable makes no sense.
    pub(crate) fn load() -> Result<Self> {
        Self::of(Path::new(ETC), &|name| std::env::var_os(name))
    }

    /// With the directory of the system's configuration, and the environment.
    fn of(etc: &Path, env: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        let mut config = Self::default();
        if let Some(path) = set(VARIABLE).map(PathBuf::from) {
            match file::read(&path, Trust::Required)? {
                Some(values) => config.files.push((path, values)),
                None => bail!("{VARIABLE}={}: there is no such file", path.display()),
            }
        } else {
            let absolute = |name: &str| set(name).filter(|dir| Path::new(dir).is_absolute());
            let home = magik_image::config_home(&absolute);
            let user = home.map(|dir| (dir.join(FILE), Trust::OwnOnly));
            for (path, trust) in user.into_iter().chain([(etc.join(FILE), Trust::Required)]) {
                if let Some(values) = file::read(&path, trust)? {
                    config.files.push((path, values));
                }
            }
        }
        config.http_registries = variable(env, "http-registries", names)?;
        config.allowed_unsafe_sysctls = variable(env, "allowed-unsafe-sysctls", names)?;
        config.runtime = variable(env, "runtime", str::parse)?;
        config.user_namespaces = variable(env, "user-namespaces", |text| {
            clap::ValueEnum::from_str(text, false).map_err(|_| "use auto or never".to_owned())
        })?;
        config.log_size = variable(env, "logs.max-size", |text| match parse_quantity(text)? {
            size if size < file::MIN_LOG_SIZE => Err(file::too_small(size)),
            size => Ok(size),
        })?;
        Ok(config)
    }

    /// Remembers which options and variables of all commands were given.
    pub(crate) fn note_given(&mut self, matches: &ArgMatches) {
        for key in KEYS {
            let Some(option) = key.option else { continue };
            let id = option.trim_start_matches('-').replace('-', "_");
            let origin = match matches.value_source(&id) {
                Some(ValueSource::CommandLine) => Origin::Flag(option),
                Some(ValueSource::EnvVariable) => Origin::Variable(key.variable),
                _ => continue,
            };
            self.given.push((key.name, origin));
        }
    }

    /// What `--data-dir`'s variable of old says, where there is no new one.
    pub(crate) fn old_data_dir(&mut self) -> Option<PathBuf> {
        let dir = std::env::var_os(OLD_DATA_DIR).filter(|dir| !dir.is_empty())?;
        self.given.push(("data-dir", Origin::Variable(OLD_DATA_DIR)));
        Some(dir.into())
    }

    /// What the files say of a key.
    pub(crate) fn file<T>(&self, key: impl Fn(&Values) -> Option<T>) -> Option<Set<T>> {
        self.files.iter().find_map(|(path, values)| {
            let (value, origin) = (key(values)?, Origin::File(path.clone()));
            Some(Set { value, origin })
        })
    }

    /// The registries that are spoken to in plain HTTP.
    pub(crate) fn allowed_unsafe_sysctls(&self) -> Set<Vec<String>> {
        self.or_default(&self.allowed_unsafe_sysctls, |v| v.allowed_unsafe_sysctls.clone())
    }

    pub(crate) fn http_registries(&self) -> Set<Vec<String>> {
        self.or_default(&self.http_registries, |v| v.http_registries.clone())
    }

    /// The class of pods that name none.
    pub(crate) fn runtime(&self) -> Set<RuntimeClass> {
        self.or(&self.runtime, |v| v.runtime, RuntimeClass::Native)
    }

    /// Which pods have users of their own where they do not say.
    pub(crate) fn user_namespaces(&self) -> Set<Users> {
        self.or_default(&self.user_namespaces, |v| v.user_namespaces)
    }

    /// The size at which a container's log is rotated, in bytes; `None`: magikrun's own.
    pub(crate) fn log_size(&self) -> Option<Set<u64>> {
        let here = self.log_size.clone().or_else(|| self.file(|v| v.logs.max_size));
        here.or_else(containers::log_size)
    }

    fn or_default<T: Clone + Default>(
        &self,
        variable: &Option<Set<T>>,
        key: impl Fn(&Values) -> Option<T>,
    ) -> Set<T> {
        self.or(variable, key, T::default())
    }

    fn or<T: Clone>(
        &self,
        variable: &Option<Set<T>>,
        key: impl Fn(&Values) -> Option<T>,
        default: T,
    ) -> Set<T> {
        let set = variable.clone().or_else(|| self.file(key));
        set.unwrap_or(Set {
            value: default,
            origin: Origin::Default,
        })
    }
}

/// What the variable of a key says.
fn variable<T>(
    env: &dyn Fn(&str) -> Option<OsString>,
    key: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<Set<T>>> {
    let Some(name) = KEYS.iter().find(|known| known.name == key).map(|k| k.variable) else {
        return Ok(None);
    };
    let Some(text) = env(name).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let text = text.to_string_lossy();
    match parse(&text) {
        Ok(value) => Ok(Some(Set {
            value,
            origin: Origin::Variable(name),
        })),
        Err(why) => bail!("{name}={text}: {why}"),
    }
}

/// Names with commas between them.
fn names(text: &str) -> Result<Vec<String>, String> {
    let names = text.split([',', ' ']).filter(|name| !name.is_empty());
    Ok(names.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(dir: &Path, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = dir.join(FILE);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    #[test]
    fn a_variable_goes_before_the_users_file_and_that_before_the_systems() {
        let dir = tempfile::tempdir().unwrap();
        let (etc, home) = (dir.path().join("etc"), dir.path().join("home"));
        let system = write(
            &etc,
            "runtime = 'wasm'\npull-timeout = 1\nuser-namespaces = 'never'\n",
        );
        let user = write(&home, "runtime = 'microvm'\npull-timeout = 2\n");
        let env = |variables: &'static [(&'static str, &'static str)]| {
            let home = home.clone();
            move |name: &str| match name {
                "XDG_CONFIG_HOME" => Some(home.clone().into_os_string()),
                name => variables
                    .iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, value)| (*value).into()),
            }
        };
        let config = Config::of(&etc, &env(&[])).unwrap();
        let pull_timeout = config.file(|v| v.pull_timeout).unwrap();
        assert_eq!(pull_timeout.value, 2);
        assert_eq!(pull_timeout.origin, Origin::File(user));
        assert_eq!(config.runtime().value, RuntimeClass::MicroVm);
        assert_eq!(
            config.user_namespaces(),
            Set {
                value: Users::Never,
                origin: Origin::File(system.clone())
            }
        );
        assert_eq!(config.http_registries().origin, Origin::Default);

        let config = Config::of(&etc, &env(&[("MAGIKRUN_RUNTIME", "native")])).unwrap();
        let set = (RuntimeClass::Native, Origin::Variable("MAGIKRUN_RUNTIME"));
        assert_eq!((config.runtime().value, config.runtime().origin), set);

        for (name, value) in [
            ("MAGIKRUN_RUNTIME", "docker"),
            ("MAGIKRUN_USER_NAMESPACES", "maybe"),
            ("MAGIKRUN_LOGS_MAX_SIZE", "12"),
            ("MAGIKRUN_CONFIG", "/nonexistent/config.toml"),
        ] {
            let only = move |asked: &str| (asked == name).then(|| value.into());
            let error = Config::of(&etc, &only).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name}={value}: ")), "{error}");
        }
        let path = system.into_os_string();
        let one = Config::of(&home, &move |name| (name == VARIABLE).then(|| path.clone())).unwrap();
        assert_eq!(one.runtime().value, RuntimeClass::Wasm);
        assert_eq!(one.files.len(), 1);
    }
}
