//! Files of installed Debian packages, with the shared libraries they need.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::LayerBuilder;

/// What no program needs to run.
const LEFT_OUT: [&str; 5] = [
    "/usr/share/doc",
    "/usr/share/man",
    "/usr/share/lintian",
    "/usr/share/bug",
    "/usr/share/locale",
];

impl LayerBuilder {
    /// The files of Debian packages installed here, at their own places, and every library their programs are linked
    /// with. Dependencies are not followed: name them.
    ///
    /// # Errors
    /// If a package is not installed or a file cannot be read.
    pub fn packages(&mut self, names: &[&str]) -> Result<&mut Self> {
        // A merged-/usr system: programs ask for /lib64/ld-linux-x86-64.so.2 and /bin/sh.
        for (link, target) in [
            ("/bin", "usr/bin"),
            ("/sbin", "usr/sbin"),
            ("/lib", "usr/lib"),
            ("/lib64", "usr/lib64"),
        ] {
            self.symlink(link, target)?;
        }
        let mut libraries = BTreeSet::new();
        for name in names {
            let listing = Command::new("dpkg").args(["-L", name]).output().context("dpkg")?;
            ensure!(
                listing.status.success(),
                "Debian package {name} is not installed: apt-get install {name}"
            );
            for path in String::from_utf8(listing.stdout)?.lines().map(Path::new) {
                let ours = path.is_absolute()
                    && path != Path::new("/.")
                    && !LEFT_OUT.iter().any(|p| path.starts_with(p));
                // dpkg names some files that an administrator, or an image's slimming, has removed.
                let Ok(meta) = path.symlink_metadata() else {
                    continue;
                };
                if !ours {
                    continue;
                }
                self.host(real_place(path))?;
                if meta.is_file() && is_elf(path)? {
                    libraries.append(&mut linked(path)?);
                }
            }
        }
        for library in libraries {
            self.library(&library)?;
        }
        Ok(self)
    }

    /// A library under the name it is asked for by, and the file this name is a link to.
    fn library(&mut self, path: &Path) -> Result<()> {
        let path = real_place(path);
        self.host(&path)?;
        let target = path.canonicalize()?;
        if target != path {
            self.host(target)?;
        }
        Ok(())
    }
}

/// The path with its directory's links resolved: `/lib/x86_64-linux-gnu/libc.so.6` lies in `/usr/lib/…`.
fn real_place(path: &Path) -> PathBuf {
    match (
        path.parent().and_then(|p| p.canonicalize().ok()),
        path.file_name(),
    ) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}

fn is_elf(path: &Path) -> Result<bool> {
    use std::io::Read;
    let mut magic = Vec::new();
    std::fs::File::open(path)
        .with_context(|| path.display().to_string())?
        .take(4)
        .read_to_end(&mut magic)?;
    Ok(magic == b"\x7fELF")
}

/// The libraries `ldd` finds for a program, the dynamic loader included; none for a static one.
fn linked(path: &Path) -> Result<BTreeSet<PathBuf>> {
    let out = Command::new("ldd").arg(path).output().context("ldd")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)" or "/lib64/ld-linux-x86-64.so.2 (0x…)".
    Ok(text
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect())
}
