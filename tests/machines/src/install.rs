//! What an installation has of virtual machines.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use magik_vm::{VMM_PROGRAM, VmFiles, VmProcess};

use crate::vm;

/// What virtual machines are made of. libkrunfw, which the kernel was taken from, is the system's.
const FILES: [&str; 4] = [
    VmFiles::INIT,
    VmFiles::KERNEL,
    VmProcess::VsockDevice.as_str(),
    VMM_PROGRAM,
];

/// Copies those of the files that were made.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for name in FILES {
        if from.join(name).is_file() {
            vm::replace(&from.join(name), &to.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_copied_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&from).unwrap();
        for name in [VmFiles::INIT, VmFiles::KERNEL, "libkrunfw.so.5", "other"] {
            fs::write(from.join(name), name).unwrap();
        }
        for _ in 0..2 {
            copy(&from, &to).unwrap();
        }
        let mut names: Vec<String> = fs::read_dir(&to)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let mut wanted = [VmFiles::INIT, VmFiles::KERNEL];
        wanted.sort_unstable();
        assert_eq!(names, wanted);
        assert_eq!(fs::read_to_string(to.join(VmFiles::INIT)).unwrap(), VmFiles::INIT);
    }
}
