//! What the checks of all fields have in common.

use std::{
    path::{Component, Path, PathBuf},
    time::Duration,
};

use magik_image::source::{ImageSource, InvalidSource};

use super::{ContainerSpec, PodSpec, PullPolicy, SpecError};

pub(super) type Result<T> = std::result::Result<T, SpecError>;

/// Puts the path before a reason.
pub(super) trait At<T> {
    fn at(self, path: &str) -> Result<T>;
}

impl<T> At<T> for std::result::Result<T, String> {
    fn at(self, path: &str) -> Result<T> {
        self.map_err(|reason| SpecError::invalid(path, reason))
    }
}

impl PodSpec {
    /// [`all_containers`](Self::all_containers), each with where it is in a manifest:
    /// `spec.containers[0]`.
    pub(crate) fn containers_by_path(&self) -> impl Iterator<Item = (String, &ContainerSpec)> {
        let lists = [
            ("initContainers", &self.init_containers),
            ("containers", &self.containers),
        ];
        lists.into_iter().flat_map(|(list, containers)| {
            let numbered = containers.iter().enumerate();
            numbered.map(move |(i, container)| (format!("spec.{list}[{i}]"), container))
        })
    }
}

/// A number of seconds, of which there are at least so many.
pub(super) fn seconds(value: i64, least: i64) -> std::result::Result<Duration, String> {
    match u64::try_from(value) {
        Ok(seconds) if value >= least && value <= i64::from(i32::MAX) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("{value} is not between {least} and {}", i32::MAX)),
    }
}

/// Takes an absolute path without `..`, and drops what means nothing in it.
pub(super) fn absolute(text: &str) -> std::result::Result<PathBuf, String> {
    let path = Path::new(text);
    if text.len() > 4095 || text.contains('\0') {
        return Err("is no path: too long, or it holds a NUL".into());
    }
    if !path.is_absolute() {
        return Err(format!("{text:?} must be absolute"));
    }
    if path.components().any(|c| matches!(c, Component::ParentDir)) {
        return Err(format!("{text:?} must not hold '..'"));
    }
    Ok(path.components().collect())
}

/// Where an image is.
pub(super) fn image(text: &str) -> std::result::Result<ImageSource, String> {
    if text.is_empty() {
        return Err("is missing: name one, such as docker.io/library/nginx:1.27".into());
    }
    text.parse().map_err(|e: InvalidSource| e.to_string())
}

/// When it is pulled.
pub(super) fn pull_policy(text: Option<&str>) -> std::result::Result<Option<PullPolicy>, String> {
    match text {
        None | Some("") => Ok(None),
        Some("Always") => Ok(Some(PullPolicy::Always)),
        Some("IfNotPresent") => Ok(Some(PullPolicy::IfNotPresent)),
        Some("Never") => Ok(Some(PullPolicy::Never)),
        Some(other) => Err(format!("{other:?} is none of Always, IfNotPresent, Never")),
    }
}
