//! Which driver starts machines here.

use std::{
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use magik_oci::{Capability, KVM};

use crate::{DriverKind, Error, HELLO_VARIABLE, Result, UnknownDriver, VmFiles, first_that_boots};

/// Names the driver in the environment, where the caller leaves it open: `krun`, `qemu-kvm`, `qemu-tcg`, `qemu` (the better of
/// these two) or `auto`, the default.
pub const DRIVER_VARIABLE: &str = "MAGIKRUN_VM_DRIVER";

/// How long a guest that the hardware runs may take to say hello where it is tried: it takes a fraction of a second.
const KVM_TIME: Duration = Duration::from_secs(10);

/// What machines are started with: as the caller says, or the best that really boots here.
#[derive(Debug, Clone)]
pub struct Drivers {
    files: VmFiles,
    /// What the caller, or the environment, allows; the best first.
    allowed: Result<Vec<DriverKind>, UnknownDriver>,
    /// Where it is remembered what boots.
    state: PathBuf,
}

impl Drivers {
    /// Those that [`DRIVER_VARIABLE`] allows; what boots is remembered in `state`.
    #[must_use]
    pub fn new(files: VmFiles, state: PathBuf) -> Self {
        let name = std::env::var(DRIVER_VARIABLE).unwrap_or_else(|_| "auto".to_owned());
        Self {
            files,
            allowed: DriverKind::allowed(&name).map(<[_]>::to_vec),
            state,
        }
    }

    /// Machines are made of these files.
    #[must_use]
    pub fn with_files(self, files: VmFiles) -> Self {
        Self { files, ..self }
    }

    /// No driver but this, whatever the environment allows.
    #[must_use]
    pub fn only(self, kind: DriverKind) -> Self {
        Self {
            allowed: Ok(vec![kind]),
            ..self
        }
    }

    /// What machines are made of.
    #[must_use]
    pub const fn files(&self) -> &VmFiles {
        &self.files
    }

    /// The one driver that is allowed, or the best in which a guest boots, and why those before it are none. Each is tried at
    /// most once per boot of the host; blocks for as long.
    fn choose(&self) -> Result<(DriverKind, Vec<(DriverKind, Error)>)> {
        match self.allowed.as_deref().map_err(|e| Error::Driver(e.clone()))? {
            // Whoever asks for it is believed, and sees what comes of it.
            [one] => Ok((*one, vec![])),
            several => first_that_boots(several, |kind| self.boots(kind)),
        }
    }

    /// The driver for a machine. May take as long as booting one with each driver that is allowed.
    ///
    /// # Errors
    /// None boots: with the reasons; or the environment names none that there is.
    pub fn kind(&self) -> Result<DriverKind> {
        let (kind, refused) = self.choose()?;
        for (kind, why) in refused {
            tracing::info!(%kind, %why, "a driver that boots no guest here is passed over");
        }
        Ok(kind)
    }

    /// Whether machines boot here, and how.
    #[must_use]
    pub fn availability(&self) -> Capability {
        let found = self.choose().and_then(|(kind, refused)| {
            self.files.vminit()?;
            let driver = kind.find(&self.files)?;
            let refused: String = refused
                .iter()
                .map(|(kind, why)| format!("; {kind}: {why}"))
                .collect();
            Ok(driver.manner() + &refused)
        });
        match found {
            Ok(detail) => Capability {
                available: true,
                detail,
            },
            Err(why) => Capability {
                available: false,
                detail: why.to_string(),
            },
        }
    }

    /// Whether a guest boots, with this driver.
    fn boots(&self, kind: DriverKind) -> Result<()> {
        if !kind.is_emulated() && !Path::new(KVM).exists() {
            return Err(Error::Unavailable(format!("there is no {KVM}")));
        }
        let driver = kind.find(&self.files)?;
        let limit = if kind.is_emulated() || std::env::var_os(HELLO_VARIABLE).is_some() {
            kind.hello_time()
        } else {
            KVM_TIME
        };
        // Where there is no such directory yet, and none can be made, the verdict is not remembered.
        let mut builder = std::fs::DirBuilder::new();
        let _ = builder.recursive(true).mode(0o700).create(&self.state);
        let probe = crate::probe(&*driver, &self.files, &self.state, limit);
        // On a thread of its own: the caller may be in an event loop.
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
                tokio
                    .map_err(|e| Error::Unavailable(e.to_string()))?
                    .block_on(probe)
            });
            let failed = |_| Err(Error::Unavailable("the probe failed".to_owned()));
            thread.join().unwrap_or_else(failed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_driver_is_believed_and_a_name_that_is_none_is_told() {
        let drivers = |allowed| Drivers {
            files: VmFiles::new("/no/such/directory".into()),
            allowed,
            state: "/no/such/directory".into(),
        };
        let asked = drivers(Ok(vec![DriverKind::QemuTcg]));
        assert_eq!(asked.kind().unwrap(), DriverKind::QemuTcg);
        // It is the files that are missing.
        let here = asked.availability();
        assert!(
            !here.available && here.detail.contains("vminit"),
            "{}",
            here.detail
        );
        let wrong = drivers(Err(DriverKind::allowed("xen").unwrap_err()));
        assert!(!wrong.availability().available);
        let said = wrong.kind().unwrap_err().to_string();
        assert!(
            said.starts_with("MAGIKRUN_VM_DRIVER: no driver is called \"xen\""),
            "{said}"
        );
    }
}
