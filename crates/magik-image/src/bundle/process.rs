//! Program, environment and working directory, composed of image and container as in Kubernetes.

use std::path::{Component, Path, PathBuf};

use oci_spec::image::Config;

use super::{BundleError, ContainerSettings, user::User};

/// `PATH` where neither image nor settings have one; the runtime needs it to find the program.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is run: the table of Kubernetes' "Define a Command and Arguments for a Container".
pub(super) fn args(image: Option<&Config>, settings: &ContainerSettings) -> Result<Vec<String>, BundleError> {
    let entrypoint = image.and_then(|c| c.entrypoint().clone()).unwrap_or_default();
    let cmd = image.and_then(|c| c.cmd().clone()).unwrap_or_default();
    // An empty list counts as none, as it does for Kubernetes.
    let given = |list: &Option<Vec<String>>| list.clone().filter(|list| !list.is_empty());
    let args = match (given(&settings.command), given(&settings.args)) {
        (Some(command), args) => [command, args.unwrap_or_default()].concat(),
        (None, Some(args)) => [entrypoint, args].concat(),
        (None, None) => [entrypoint, cmd].concat(),
    };
    if args.first().is_none_or(String::is_empty) {
        return Err(BundleError::NoCommand);
    }
    for (n, arg) in args.iter().enumerate() {
        no_nul(&format!("args[{n}]"), arg)?;
    }
    Ok(args)
}

/// The image's variables, then the settings'; each name at its first place, with its last value.
pub(super) fn env(
    image: Option<&Config>,
    settings: &ContainerSettings,
    user: &User,
) -> Result<Vec<String>, BundleError> {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| match env.iter_mut().find(|(n, _)| n == name) {
        Some(entry) => value.clone_into(&mut entry.1),
        None => env.push((name.to_owned(), value.to_owned())),
    };
    set("PATH", DEFAULT_PATH);
    if settings.terminal {
        set("TERM", "xterm");
    }
    if let Some(hostname) = &settings.hostname {
        set("HOSTNAME", hostname);
    }
    set("HOME", &user.home);
    for (n, variable) in image
        .and_then(|c| c.env().as_deref())
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let field = format!("image config: Env[{n}]");
        no_nul(&field, variable)?;
        match variable.split_once('=') {
            Some((name, value)) if !name.is_empty() => set(name, value),
            _ => {
                return Err(BundleError::field(
                    field,
                    format!("{variable:?} is not NAME=value"),
                ));
            }
        }
    }
    for (n, (name, value)) in settings.env.iter().enumerate() {
        let field = format!("env[{n}]");
        if name.is_empty() || name.contains('=') {
            return Err(BundleError::field(
                field,
                format!("{name:?} is not a variable's name"),
            ));
        }
        no_nul(&field, name)?;
        no_nul(&field, value)?;
        set(name, value);
    }
    Ok(env
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect())
}

/// The working directory, normalised: the settings', the image's, `/`.
pub(super) fn cwd(image: Option<&Config>, settings: &ContainerSettings) -> Result<PathBuf, BundleError> {
    if let Some(cwd) = &settings.cwd {
        return absolute("workingDir", cwd);
    }
    let of_image = image.and_then(|c| c.working_dir().as_deref()).unwrap_or_default();
    // Some builders write it without the leading slash; docker and podman read it from the root.
    absolute("image config: WorkingDir", &Path::new("/").join(of_image))
}

/// An absolute path of the container without `.` and `..`.
pub(super) fn absolute(field: &str, path: &Path) -> Result<PathBuf, BundleError> {
    if !path.is_absolute() {
        return Err(BundleError::field(
            field,
            format!("{} is not an absolute path", path.display()),
        ));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(BundleError::field(
            field,
            format!("{} has a '..' in it", path.display()),
        ));
    }
    no_nul(field, &path.to_string_lossy())?;
    Ok(path.components().collect())
}

/// The kernel takes C strings.
pub(super) fn no_nul(field: &str, text: &str) -> Result<(), BundleError> {
    if text.contains('\0') {
        return Err(BundleError::field(field, "has a NUL byte in it"));
    }
    Ok(())
}
