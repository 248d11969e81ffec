//! The files every machine needs: kernel, init, device programs.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Names the directory of [`VmFiles`] in the environment.
pub const FILES_VARIABLE: &str = "MAGIKRUN_VM_FILES";

/// Where machines are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmFiles {
    /// The directory: `vmlinux`, `vminit`, and programs that the system does not have.
    directory: PathBuf,
}

const REMEDY: &str = "`cargo xtask vm` makes it in target/vm; MAGIKRUN_VM_FILES names its directory";

impl VmFiles {
    /// The name of the guest's first program in the directory.
    pub const INIT: &str = "vminit";
    /// The name of the kernel as an ELF file in the directory.
    pub const KERNEL: &str = "vmlinux";

    /// Files in a directory of the caller's choice.
    #[must_use]
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The directory that [`FILES_VARIABLE`] names, else `vm` beside the directory of this program's
    /// binary (a build's `target/vm`), else `lib/magikrun` beside it, else that directory itself (where
    /// it is installed), else `/usr/lib/magikrun`.
    #[must_use]
    pub fn find() -> Self {
        if let Some(directory) = std::env::var_os(FILES_VARIABLE) {
            return Self::new(directory.into());
        }
        let own = std::env::current_exe().ok();
        let here = own.as_deref().and_then(Path::parent);
        let above = here.and_then(Path::parent);
        let above = above
            .into_iter()
            .flat_map(|dir| [dir.join("vm"), dir.join("lib/magikrun")]);
        // The last: where it is built, a program of that name lies beside it, which is not static.
        let mut candidates = above.chain(here.map(Path::to_owned));
        let found = candidates.find(|dir| dir.join(Self::INIT).is_file());
        Self::new(found.unwrap_or_else(|| "/usr/lib/magikrun".into()))
    }

    /// The directory.
    #[must_use]
    pub fn into_directory(self) -> PathBuf {
        self.directory
    }

    /// The guest's first program.
    ///
    /// # Errors
    /// It is not there.
    pub fn vminit(&self) -> Result<PathBuf> {
        self.file(Self::INIT)
    }

    /// The kernel as an ELF file.
    ///
    /// # Errors
    /// It is not there.
    pub fn kernel(&self) -> Result<PathBuf> {
        self.file(Self::KERNEL)
    }

    /// A program, in the directory or in the system's.
    ///
    /// # Errors
    /// It is in neither.
    pub fn program(&self, name: &str, elsewhere: &[&str], remedy: &str) -> Result<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories = std::env::split_paths(&path).chain(elsewhere.iter().map(PathBuf::from));
        self.first(name, directories, remedy)
    }

    /// A library, in the directory or in the system's; what a link leads to.
    ///
    /// # Errors
    /// It is in neither.
    pub fn library(&self, name: &str, elsewhere: &[&str], remedy: &str) -> Result<PathBuf> {
        let found = self.first(name, elsewhere.iter().map(PathBuf::from), remedy)?;
        found
            .canonicalize()
            .map_err(Error::io(found.display().to_string()))
    }

    /// The first of this name, here or in one of the directories.
    fn first(&self, name: &str, elsewhere: impl Iterator<Item = PathBuf>, remedy: &str) -> Result<PathBuf> {
        std::iter::once(self.directory.clone())
            .chain(elsewhere)
            .map(|directory| directory.join(name))
            .find(|path| path.is_file())
            .ok_or_else(|| Error::Missing {
                what: name.to_owned(),
                remedy: remedy.to_owned(),
            })
    }

    fn file(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        if path.is_file() {
            return Ok(path);
        }
        Err(Error::Missing {
            what: path.display().to_string(),
            remedy: REMEDY.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let files = VmFiles::new(dir.path().to_owned());
        let error = files.kernel().unwrap_err().to_string();
        assert!(
            error.contains("vmlinux") && error.contains("cargo xtask vm"),
            "{error}"
        );
        let error = files.program("no-such-program", &[], "install it").unwrap_err();
        assert_eq!(error.to_string(), "no-such-program is missing: install it");
        std::fs::write(dir.path().join("sh"), "").unwrap();
        assert_eq!(files.program("sh", &[], "").unwrap(), dir.path().join("sh"));
    }
}
