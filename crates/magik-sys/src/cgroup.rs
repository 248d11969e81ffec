//! Where control groups are, and their removal.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where every distribution mounts the hierarchies.
pub const MOUNT_ROOT: &str = "/sys/fs/cgroup";
/// `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const CGROUP2_MAGIC: i128 = 0x6367_7270;

/// Whether there is a cgroup v2 at this path.
///
/// # Errors
/// There is no such path.
pub fn is_v2(path: impl rustix::path::Arg) -> io::Result<bool> {
    Ok(i128::from(rustix::fs::statfs(path)?.f_type) == CGROUP2_MAGIC)
}

/// The control groups that a process is in, or this process is: the paths of `/proc/PID/cgroup`.
///
/// # Errors
/// There is no such process.
pub fn paths_of(pid: Option<i32>) -> io::Result<Vec<PathBuf>> {
    let file = pid.map_or_else(
        || "/proc/self/cgroup".to_owned(),
        |pid| format!("/proc/{pid}/cgroup"),
    );
    let text = fs::read_to_string(file)?;
    Ok(text
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .map(PathBuf::from)
        .collect())
}

/// `None` for what is not there: a control group that is removed between the opening and the
/// reading of one of its files answers ENODEV.
///
/// # Errors
/// All others.
pub fn missing_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The control groups directly below one; none if it is not there.
///
/// # Errors
/// It cannot be read.
pub fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for entry in missing_is_none(fs::read_dir(dir))?.into_iter().flatten() {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            dirs.push(entry.path());
        }
    }
    Ok(dirs)
}

/// Removes a control group and those below it, deepest first; one that is not there is no error.
///
/// # Errors
/// EBUSY: there is a process in one of them, or was a moment ago.
pub fn remove_tree(dir: &Path) -> io::Result<()> {
    let remove = || match fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    };
    // Busy: it has processes, or children.
    let Err(busy) = remove() else { return Ok(()) };
    let children = children(dir)?;
    if children.is_empty() {
        return Err(busy);
    }
    children.iter().try_for_each(|child| remove_tree(child))?;
    remove()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_from_below_and_what_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("a/b")).unwrap();
        remove_tree(&top).unwrap();
        remove_tree(&top).unwrap();
        fs::create_dir_all(&top).unwrap();
        fs::write(top.join("file"), "").unwrap();
        assert!(remove_tree(&top).is_err());
        assert!(children(&top).unwrap().is_empty() && children(&top.join("none")).unwrap().is_empty());
    }

    #[test]
    fn this_process_is_somewhere() {
        assert!(paths_of(None).unwrap().iter().all(|path| path.is_absolute()));
        assert!(!is_v2("/proc").unwrap() && is_v2("/none").is_err());
    }
}
