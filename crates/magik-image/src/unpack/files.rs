//! Going through the files of a layer.

use std::{collections::VecDeque, fs::File, io, os::fd::AsFd, path::Path};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use super::{
    remove::names,
    tree::{join, open_root, resolve},
};

/// Calls `each` with every regular file below `tree`, opened for reading, in no order.
///
/// # Errors
/// The kernel's, and those of `each`.
pub(crate) fn each_file(tree: &Path, mut each: impl FnMut(&mut File) -> io::Result<()>) -> io::Result<()> {
    let root = open_root(tree)?;
    // By paths and not by descending, as in `copy`.
    let mut todo = VecDeque::from([Vec::new()]);
    while let Some(path) = todo.pop_front() {
        let dir = resolve(&root, &path, OFlags::RDONLY)?;
        for name in names(dir.as_fd())? {
            let stat = fs::statat(&dir, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let below = join(&path, name.to_bytes()).map_err(|_| Errno::NAMETOOLONG)?;
                    todo.push_back(below);
                }
                FileType::RegularFile => {
                    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                    let file = fs::openat(&dir, name.as_c_str(), flags, Mode::empty())?;
                    each(&mut File::from(file))?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}
