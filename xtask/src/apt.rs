//! Installs Debian packages that are missing, and says so.

use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::host;

/// Needed to build the workspace.
pub const BUILD: &[&str] = &["gcc", "libc6-dev", "pkg-config", "libseccomp-dev"];

/// Needed to run virtual machines without libkrun.
pub const MACHINES: &[&str] = &["qemu-system-x86"];

/// Says why nothing is installed here although something is missing.
#[derive(Debug)]
pub struct Missing {
    /// The packages.
    pub packages: Vec<String>,
    /// Why they stay missing.
    pub why: &'static str,
}

/// Installs the packages that are missing. Returns those that stay missing, where this machine cannot install.
///
/// # Errors
/// If apt-get fails.
pub fn ensure(sh: &Shell, packages: &[&str]) -> Result<Option<Missing>> {
    let missing: Vec<String> = packages
        .iter()
        .filter(|p| !installed(p))
        .map(|p| (*p).to_owned())
        .collect();
    if missing.is_empty() {
        return Ok(None);
    }
    let refuse = |why| {
        Ok(Some(Missing {
            packages: missing.clone(),
            why,
        }))
    };
    if !host::has_program("apt-get") {
        return refuse("this is not a Debian system");
    }
    if !host::is_root() {
        return refuse("installing needs root");
    }
    println!(
        "installing {} (apt-get, no recommended packages, no service is started)",
        missing.join(", ")
    );
    let _policy = NoServices::install()?;
    let install = || {
        let missing = &missing;
        cmd!(sh, "apt-get install -y -q --no-install-recommends {missing...}")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("NEEDRESTART_MODE", "l")
            .env("RUNLEVEL", "1")
            .quiet()
            .ignore_stdout()
            .run()
    };
    // A fresh machine has no package lists, an old one has lists whose packages are gone.
    if install().is_err() {
        println!("apt-get update");
        cmd!(sh, "apt-get update -q").quiet().ignore_stdout().run()?;
        install().with_context(|| format!("installing {}", missing.join(" ")))?;
    }
    Ok(None)
}

fn installed(package: &str) -> bool {
    let query = std::process::Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status}", package])
        .output();
    query.is_ok_and(|out| out.status.success() && out.stdout == b"installed")
}

/// While it lives, maintainer scripts start no service (`invoke-rc.d` asks /usr/sbin/policy-rc.d; 101 is "forbidden").
struct NoServices {
    remove: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn install() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { remove: false });
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(POLICY)
            .context(POLICY)?;
        file.write_all(b"#!/bin/sh\nexit 101\n")?;
        Ok(Self { remove: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.remove {
            // Left behind it would only keep services from starting at installation; there is nobody to tell.
            let _ = fs::remove_file(POLICY);
        }
    }
}
