//! Which driver starts a pod's machine.

use std::{
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use magik_oci::Capability;
use oci_krun::{Acceleration, Qemu, VmDriver, VmFiles};

/// Names the way machines are started in the environment, where the caller leaves it open: `qemu-kvm` or `qemu-tcg`.
pub const DRIVER_VARIABLE: &str = "MAGIKRUN_VM_DRIVER";

const KVM: &str = "/dev/kvm";
/// How long a guest may take to say hello that the hardware runs: it takes a fraction of a second.
const KVM_TIME: Duration = Duration::from_secs(10);
/// How long an emulated one may take, on a busy machine.
const TCG_TIME: Duration = Duration::from_secs(60);

/// What machines are started with: as the caller says, or the fastest that really boots here.
#[derive(Debug, Clone)]
pub(super) struct Drivers {
    pub(super) files: VmFiles,
    /// What the caller, or the environment, asked for.
    pub(super) asked: Option<Acceleration>,
    /// Where it is remembered what boots.
    pub(super) state: PathBuf,
}

/// A choice, and what was found out on the way.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) acceleration: Acceleration,
    /// Why the faster way was not taken.
    because: Option<String>,
}

impl Drivers {
    pub(super) fn new(files: VmFiles, state: PathBuf) -> Self {
        let asked = std::env::var(DRIVER_VARIABLE).ok();
        let asked = asked
            .and_then(|name| Named::from_str(&name).ok())
            .map(|named| named.0);
        Self { files, asked, state }
    }

    /// Takes what was asked for, or the hardware where a guest boots on it, or else the emulator. Tries at most once per boot
    /// of the host; blocks for as long.
    pub(super) fn choose(&self) -> Choice {
        if let Some(acceleration) = self.asked {
            return Choice {
                acceleration,
                because: None,
            };
        }
        let kvm = if Path::new(KVM).exists() {
            self.boots(Acceleration::Kvm, KVM_TIME)
        } else {
            Err(format!("there is no {KVM}"))
        };
        match kvm {
            Ok(_) => Choice {
                acceleration: Acceleration::Kvm,
                because: None,
            },
            Err(why) => Choice {
                acceleration: Acceleration::Tcg,
                because: Some(why),
            },
        }
    }

    /// Whether machines boot here, and how. What was asked for is believed; else a guest is booted, once.
    pub(super) fn availability(&self) -> Capability {
        let Choice {
            acceleration,
            because,
        } = self.choose();
        let manner = match (self.asked, acceleration) {
            (Some(_), _) => self.find(acceleration).map(|driver| driver.manner()),
            (None, Acceleration::Kvm) => self.boots(acceleration, KVM_TIME),
            (None, Acceleration::Tcg) => self.boots(acceleration, TCG_TIME),
        };
        let because = because.map_or(String::new(), |why| format!(" ({KVM}: {why})"));
        match manner {
            Ok(manner) => Capability {
                available: true,
                detail: manner + &because,
            },
            Err(why) => Capability {
                available: false,
                detail: why + &because,
            },
        }
    }

    fn find(&self, acceleration: Acceleration) -> Result<Qemu, String> {
        let found = self
            .files
            .vminit()
            .and_then(|_| Qemu::find(&self.files, acceleration));
        found.map_err(|e| e.to_string())
    }

    /// How guests run, if one does.
    fn boots(&self, acceleration: Acceleration, limit: Duration) -> Result<String, String> {
        let driver = self.find(acceleration)?;
        // Where there is no such directory yet, and none can be made, the verdict is not remembered.
        let mut builder = std::fs::DirBuilder::new();
        let _ = builder.recursive(true).mode(0o700).create(&self.state);
        let probe = async {
            oci_krun::probe(&driver, &self.files, &self.state, limit)
                .await
                .map_err(|e| e.to_string())
        };
        // On a thread of its own: the caller may be in an event loop.
        let tried = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
                tokio.map_err(|e| e.to_string())?.block_on(probe)
            });
            thread
                .join()
                .unwrap_or_else(|_| Err("the probe failed".to_owned()))
        });
        tried.map(|()| driver.manner())
    }
}

/// An acceleration by its name in the environment.
struct Named(Acceleration);

impl FromStr for Named {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "qemu-kvm" => Ok(Self(Acceleration::Kvm)),
            "qemu-tcg" => Ok(Self(Acceleration::Tcg)),
            _ => Err(()),
        }
    }
}
