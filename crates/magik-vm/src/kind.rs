//! The drivers by name.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Acceleration, Error, Krun, Qemu, Result, VmDriver, VmFiles};

/// Names, in seconds, how long a guest may take to say hello, on hosts that are slower than [`DriverKind::hello_time`] expects.
pub const HELLO_VARIABLE: &str = "MAGIKRUN_VM_HELLO_TIME";
/// The longest time that [`HELLO_VARIABLE`] may name, in seconds.
const MAX_HELLO: u64 = 3600;

/// A driver, and how it runs guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriverKind {
    /// libkrun, by the hardware.
    Krun,
    /// QEMU, by the hardware.
    QemuKvm,
    /// QEMU, emulated.
    QemuTcg,
}

/// A name that no driver has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no driver is called {0:?}: use auto, krun, qemu, qemu-kvm or qemu-tcg")]
pub struct UnknownDriver(String);

impl DriverKind {
    /// All of them, the best first.
    pub const ALL: [Self; 3] = [Self::Krun, Self::QemuKvm, Self::QemuTcg];

    /// Those that a name allows, the best first: `auto`, `krun`, `qemu`, `qemu-kvm`, `qemu-tcg`.
    ///
    /// # Errors
    /// The name is none of these.
    pub fn allowed(name: &str) -> Result<&'static [Self], UnknownDriver> {
        match name {
            "auto" => Ok(&Self::ALL),
            "qemu" => Ok(&Self::ALL[1..]),
            one => {
                let place = Self::ALL.iter().position(|kind| kind.as_str() == one);
                let place = place.ok_or_else(|| UnknownDriver(one.to_owned()))?;
                Ok(&Self::ALL[place..=place])
            }
        }
    }

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Krun => "krun",
            Self::QemuKvm => "qemu-kvm",
            Self::QemuTcg => "qemu-tcg",
        }
    }

    /// Whether guests are emulated, and thus slow.
    #[must_use]
    pub const fn is_emulated(self) -> bool {
        matches!(self, Self::QemuTcg)
    }

    /// The driver, with the programs and files of this host.
    ///
    /// # Errors
    /// Names what is missing, and how to get it.
    pub fn find(self, files: &VmFiles) -> Result<Box<dyn VmDriver>> {
        Ok(match self {
            Self::Krun => Box::new(Krun::find(files)?),
            Self::QemuKvm => Box::new(Qemu::find(files, Acceleration::Kvm)?),
            Self::QemuTcg => Box::new(Qemu::find(files, Acceleration::Tcg)?),
        })
    }

    /// How long a guest may take to say hello: what [`HELLO_VARIABLE`] says, else more than enough on a busy machine.
    #[must_use]
    pub fn hello_time(self) -> Duration {
        let said = std::env::var(HELLO_VARIABLE).ok().and_then(|s| s.parse().ok());
        Duration::from_secs(said.map_or(60, |seconds: u64| seconds.min(MAX_HELLO)))
    }
}

impl From<Acceleration> for DriverKind {
    fn from(acceleration: Acceleration) -> Self {
        match acceleration {
            Acceleration::Kvm => Self::QemuKvm,
            Acceleration::Tcg => Self::QemuTcg,
        }
    }
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DriverKind {
    type Err = UnknownDriver;

    fn from_str(name: &str) -> Result<Self, UnknownDriver> {
        match Self::allowed(name)? {
            [one] => Ok(*one),
            _ => Err(UnknownDriver(name.to_owned())),
        }
    }
}

/// The first of these drivers in which a guest boots, and why those before it are none; `boots` says whether one does.
///
/// # Errors
/// None does: with the reasons, the best driver's first.
pub fn first_that_boots(
    kinds: &[DriverKind],
    mut boots: impl FnMut(DriverKind) -> Result<()>,
) -> Result<(DriverKind, Vec<(DriverKind, Error)>)> {
    let mut refused = Vec::new();
    for kind in kinds {
        match boots(*kind) {
            Ok(()) => return Ok((*kind, refused)),
            Err(error) => refused.push((*kind, error)),
        }
    }
    let reasons = refused.iter().map(|(kind, error)| format!("{kind}: {error}"));
    Err(Error::Unavailable(reasons.collect::<Vec<_>>().join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no(why: &str) -> Result<()> {
        Err(Error::Unavailable(why.to_owned()))
    }

    #[test]
    fn a_driver_is_found_by_its_name_and_auto_is_the_best() {
        for kind in DriverKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
            assert_eq!(DriverKind::allowed(kind.as_str()).unwrap(), [kind]);
        }
        assert_eq!(DriverKind::allowed("auto").unwrap()[0], DriverKind::Krun);
        assert_eq!(
            DriverKind::allowed("qemu").unwrap(),
            [DriverKind::QemuKvm, DriverKind::QemuTcg]
        );
        let error = DriverKind::allowed("xen").unwrap_err().to_string();
        assert!(error.contains("xen") && error.contains("qemu-tcg"), "{error}");
        assert!("auto".parse::<DriverKind>().is_err());
    }

    #[test]
    fn what_does_not_boot_is_passed_over_if_that_is_allowed() {
        let only_tcg = |kind: DriverKind| {
            if kind == DriverKind::QemuTcg {
                Ok(())
            } else {
                no("KVM ends")
            }
        };
        let (found, refused) = first_that_boots(DriverKind::allowed("auto").unwrap(), only_tcg).unwrap();
        assert_eq!(found, DriverKind::QemuTcg);
        assert_eq!(refused.len(), 2);
        let error = first_that_boots(DriverKind::allowed("krun").unwrap(), only_tcg).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no guest boots on this host: krun: no guest boots on this host: KVM ends"
        );
    }
}
