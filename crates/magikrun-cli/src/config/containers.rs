//! What containers.conf(5), podman's configuration, says that magikrun has, too: the size at which
//! a container's log is rotated (`log_size_max` in `[containers]`).

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{
    Origin, Set,
    file::{self, MIN_LOG_SIZE, Trust},
};

/// The largest file that is read, in bytes.
const MAX_SIZE: u64 = 1 << 20;

#[derive(Default, Deserialize)]
struct Conf {
    #[serde(default)]
    containers: Containers,
}

#[derive(Default, Deserialize)]
struct Containers {
    log_size_max: Option<i64>,
}

/// `log_size_max`, of the last of podman's files that has it; a negative number, no limit in
/// podman, is nothing here, where every log has one.
pub(super) fn log_size() -> Option<Set<u64>> {
    find(Path::new("/"), &|name| std::env::var_os(name))
}

fn find(root: &Path, env: &dyn Fn(&str) -> Option<OsString>) -> Option<Set<u64>> {
    let found = files(root, env).into_iter().rev().find_map(|path| {
        let size = size_in(&path)?;
        Some((size, path))
    });
    let (size, path) = found?;
    let value = u64::try_from(size).ok()?.max(MIN_LOG_SIZE);
    Some(Set {
        value,
        origin: Origin::File(path),
    })
}

/// podman's files in the order in which they are read: a later one overrides.
fn files(root: &Path, env: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    if let Some(only) = env("CONTAINERS_CONF").filter(|value| !value.is_empty()) {
        return vec![only.into()];
    }
    let user = magik_image::config_home(env);
    let directories = [
        Some(root.join("usr/share/containers")),
        Some(root.join("etc/containers")),
        user.map(|dir| dir.join("containers")),
    ];
    let mut files = Vec::new();
    for dir in directories.into_iter().flatten() {
        files.push(dir.join("containers.conf"));
        let entries = std::fs::read_dir(dir.join("containers.conf.d"));
        let mut dropins: Vec<PathBuf> = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "conf"))
            .collect();
        dropins.sort();
        files.extend(dropins);
    }
    files
}

/// A file that makes no sense is podman's matter, and said once.
fn size_in(path: &Path) -> Option<i64> {
    let parsed = file::text(path, Trust::OwnOnly, MAX_SIZE).and_then(|text| {
        let conf: Conf = toml::from_str(&text.unwrap_or_default())
            .map_err(|e| anyhow::anyhow!("{}: {}", path.display(), e.message()))?;
        Ok(conf.containers.log_size_max)
    });
    parsed.unwrap_or_else(|error| {
        tracing::warn!("containers.conf is not read: {error:#}");
        None
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_last_file_that_says_it_counts_and_no_limit_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let none = |_: &str| None;
        assert_eq!(find(root, &none), None);
        let etc = root.join("etc/containers");
        fs::create_dir_all(etc.join("containers.conf.d")).unwrap();
        let conf = etc.join("containers.conf");
        fs::write(
            &conf,
            "[containers]\nlog_size_max = 20000000\npids_limit = 7\n[engine]\n",
        )
        .unwrap();
        let set = find(root, &none).unwrap();
        assert_eq!((set.value, set.origin), (20_000_000, Origin::File(conf.clone())));
        let dropin = etc.join("containers.conf.d/10.conf");
        fs::write(&dropin, "[containers]\nlog_size_max = -1\n").unwrap();
        assert_eq!(find(root, &none), None);
        fs::write(&dropin, "[containers]\npids_limit = -1\n").unwrap();
        assert_eq!(find(root, &none).unwrap().value, 20_000_000);
        fs::write(&dropin, "[containers]\nlog_size_max = 8192\n").unwrap();
        assert_eq!(find(root, &none).unwrap().value, MIN_LOG_SIZE);
        fs::write(&dropin, "[containers]\npids_limit = -1\n").unwrap();
        let only = move |name: &str| (name == "CONTAINERS_CONF").then(|| dropin.clone().into());
        assert_eq!(find(root, &only), None);
    }
}
