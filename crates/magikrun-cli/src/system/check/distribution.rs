//! Which distribution this is (os-release(5)), and how things are installed there.

use std::{fs, path::Path};

use serde::Serialize;

/// A family of distributions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Family {
    Debian,
    Fedora,
    Arch,
    Alpine,
    Suse,
    Other,
}

/// Something that a distribution has as a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Package {
    Qemu,
    Certificates,
}

impl Family {
    /// That of this host.
    pub(super) fn of_host() -> Self {
        let files = ["/etc/os-release", "/usr/lib/os-release"];
        let text = files
            .iter()
            .find_map(|file| fs::read_to_string(Path::new(file)).ok());
        Self::of(&text.unwrap_or_default())
    }

    /// That of an os-release file: by what the distribution is, else by what it is like.
    pub(super) fn of(os_release: &str) -> Self {
        let value = |key: &str| {
            let line = os_release
                .lines()
                .find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
        };
        let names = format!("{} {}", value("ID"), value("ID_LIKE"));
        let family = names.split_whitespace().find_map(|name| match name {
            "debian" | "ubuntu" => Some(Self::Debian),
            "fedora" | "rhel" | "centos" => Some(Self::Fedora),
            "arch" => Some(Self::Arch),
            "alpine" => Some(Self::Alpine),
            name if name.contains("suse") || name == "sles" => Some(Self::Suse),
            _ => None,
        });
        family.unwrap_or(Self::Other)
    }

    /// The command, for root, that installs a package.
    pub(super) fn install(self, package: Package) -> String {
        let (debian, fedora, arch, alpine, suse) = match package {
            Package::Qemu => (
                "qemu-system-x86",
                "qemu-system-x86-core",
                "qemu-system-x86",
                "qemu-system-x86_64",
                "qemu-x86",
            ),
            Package::Certificates => (
                "ca-certificates",
                "ca-certificates",
                "ca-certificates",
                "ca-certificates",
                "ca-certificates",
            ),
        };
        match self {
            Self::Debian => format!("apt install {debian}"),
            Self::Fedora => format!("dnf install {fedora}"),
            Self::Arch => format!("pacman -S {arch}"),
            Self::Alpine => format!("apk add {alpine}"),
            Self::Suse => format!("zypper install {suse}"),
            Self::Other => match package {
                Package::Qemu => "install QEMU (qemu-system-x86_64)".to_owned(),
                Package::Certificates => {
                    "install the certificates of authorities (ca-certificates)".to_owned()
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_is_known_by_what_it_is_or_is_like() {
        for (text, family) in [
            ("NAME=\"Debian GNU/Linux\"\nID=debian\n", Family::Debian),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", Family::Debian),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", Family::Fedora),
            ("ID=fedora\n", Family::Fedora),
            ("ID=manjaro\nID_LIKE=arch\n", Family::Arch),
            ("ID=alpine\n", Family::Alpine),
            ("ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\n", Family::Suse),
            ("ID=nixos\n", Family::Other),
            ("ID_LIKE\nIDX=debian", Family::Other),
            ("", Family::Other),
        ] {
            assert_eq!(Family::of(text), family, "{text}");
        }
        assert_eq!(Family::Suse.install(Package::Qemu), "zypper install qemu-x86");
        assert!(Family::Other.install(Package::Qemu).starts_with("install QEMU"));
    }
}
