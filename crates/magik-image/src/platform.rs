//! Which of an index's images is for this machine.

use std::{fmt, str::FromStr};

use oci_spec::image::{Descriptor, ImageConfiguration};
use serde::{Deserialize, Serialize};

/// Operating system, architecture and perhaps variant, as in Go: `linux/arm64`, `linux/arm/v7`.
///
/// ```
/// use magik_image::platform::Platform;
/// let platform: Platform = "linux/aarch64/v8".parse().unwrap();
/// assert_eq!(platform.to_string(), "linux/arm64");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// A text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a platform: write OS/ARCHITECTURE[/VARIANT], such as linux/amd64 or linux/arm/v7")]
pub struct InvalidPlatform(pub String);

impl Platform {
    /// Builds a platform, with the names that differ from Go's replaced by those.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (os, architecture) = (os.to_ascii_lowercase(), architecture.to_ascii_lowercase());
        let variant = variant.filter(|v| !v.is_empty()).map(str::to_ascii_lowercase);
        // As containerd's `platforms.Normalize`.
        let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
            ("x86_64" | "x86-64" | "amd64", Some("v1") | None) => ("amd64", None),
            ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", Some("8" | "v8") | None) => ("arm64", None),
            ("aarch64" | "arm64", variant) => ("arm64", variant),
            ("i386" | "i686" | "x86" | "386", _) => ("386", None),
            ("armhf", _) | ("arm", Some("7") | None) => ("arm", Some("v7")),
            ("armel", _) | ("arm", Some("6")) => ("arm", Some("v6")),
            (other, variant) => (other, variant),
        };
        Self {
            os,
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// What containers on this machine run: always Linux, on other hosts in a virtual machine.
    #[must_use]
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, None)
    }

    /// `linux`.
    #[must_use]
    pub fn os(&self) -> &str {
        &self.os
    }

    /// `amd64`, `arm64`.
    #[must_use]
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// `v7`, for an architecture that has several.
    #[must_use]
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// WebAssembly runs on every machine; its images name `wasm` or `wasm32` as the architecture.
    #[must_use]
    pub fn is_wasm(&self) -> bool {
        self.architecture.starts_with("wasm")
    }

    /// How well an image for `image` serves this platform: lower is better, `None` is not at all.
    fn rank(&self, image: &Self) -> Option<u8> {
        if image.is_wasm() {
            return if self.is_wasm() { Some(0) } else { Some(200) };
        }
        if (&self.os, &self.architecture) != (&image.os, &image.architecture) {
            return None;
        }
        if self.variant == image.variant {
            return Some(0);
        }
        match (self.architecture.as_str(), self.variant(), image.variant()) {
            // An older ARM's programs run on a newer one; the newest of them is best.
            ("arm", Some(have), Some(needs)) => version(have)?.checked_sub(version(needs)?),
            // Without a variant of the machine, the plain image serves, else v8 of arm64.
            (_, Some(_), None) => Some(100),
            _ => None,
        }
    }
}

/// `v7` is 7.
fn version(variant: &str) -> Option<u8> {
    variant.strip_prefix('v')?.parse().ok()
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let parts: Vec<&str> = text.split('/').collect();
        let plain = |part: &&str| {
            !part.is_empty()
                && part.len() <= 64
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        if !parts.iter().all(plain) {
            return Err(InvalidPlatform(text.to_owned()));
        }
        match parts[..] {
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(InvalidPlatform(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Platform {
    type Error = InvalidPlatform;
    fn try_from(text: String) -> Result<Self, InvalidPlatform> {
        text.parse()
    }
}

impl From<Platform> for String {
    fn from(platform: Platform) -> Self {
        platform.to_string()
    }
}

impl From<&oci_spec::image::Platform> for Platform {
    fn from(platform: &oci_spec::image::Platform) -> Self {
        let (os, architecture) = (platform.os().to_string(), platform.architecture().to_string());
        Self::new(&os, &architecture, platform.variant().as_deref())
    }
}

impl From<&ImageConfiguration> for Platform {
    fn from(config: &ImageConfiguration) -> Self {
        Self::new(
            &config.os().to_string(),
            &config.architecture().to_string(),
            config.variant().as_deref(),
        )
    }
}

/// No image of an index is for the platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no image for {wanted}, only for {offered}; choose one with --platform")]
pub struct NoImageForPlatform {
    /// What was asked for.
    pub wanted: Platform,
    /// What there is, for a person to read.
    pub offered: String,
}

/// Chooses the best image of an index for `wanted`; of equals the first (image-spec). An entry
/// without a platform is the last choice: its configuration will tell.
///
/// # Errors
/// [`NoImageForPlatform`] lists what there is.
pub fn choose<'a>(
    entries: &'a [Descriptor],
    wanted: &Platform,
) -> Result<&'a Descriptor, NoImageForPlatform> {
    let rank = |entry: &&Descriptor| match entry.platform() {
        Some(platform) => wanted.rank(&platform.into()),
        None => Some(u8::MAX),
    };
    let best = entries
        .iter()
        .filter_map(|entry| Some((rank(&entry)?, entry)))
        .min_by_key(|(rank, _)| *rank);
    best.map(|(_, entry)| entry).ok_or_else(|| {
        // `unknown/unknown` are attestations.
        let offered = entries
            .iter()
            .filter_map(|entry| entry.platform().as_ref())
            .map(Platform::from);
        let mut offered: Vec<String> = offered
            .filter(|p| p.os != "unknown")
            .map(|p| p.to_string())
            .collect();
        offered.sort();
        offered.dedup();
        offered.truncate(16);
        let offered = if offered.is_empty() {
            "nothing".to_owned()
        } else {
            offered.join(", ")
        };
        NoImageForPlatform {
            wanted: wanted.clone(),
            offered,
        }
    })
}

/// Checks that an image's configuration is for `wanted`: an index may lie or be missing.
///
/// # Errors
/// [`NoImageForPlatform`] names both.
pub fn check(config: &ImageConfiguration, wanted: &Platform) -> Result<(), NoImageForPlatform> {
    let is = Platform::from(config);
    // Builders often leave the variant out of the configuration or of the index.
    let same = is.os == wanted.os && is.architecture == wanted.architecture;
    if same || is.is_wasm() {
        return Ok(());
    }
    Err(NoImageForPlatform {
        wanted: wanted.clone(),
        offered: is.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use oci_spec::image::{DescriptorBuilder, MediaType, PlatformBuilder};

    use super::*;

    fn index(platforms: &[&str]) -> Vec<Descriptor> {
        let entry = |text: &&str| {
            let digest: oci_spec::image::Digest = magik_cas::Digest::sha256(text.as_bytes())
                .to_string()
                .parse()
                .unwrap();
            let builder = DescriptorBuilder::default()
                .media_type(MediaType::ImageManifest)
                .size(1_u64)
                .digest(digest);
            if text.is_empty() {
                return builder.build().unwrap();
            }
            let mut parts = text.split('/');
            let mut platform = PlatformBuilder::default()
                .os(parts.next().unwrap())
                .architecture(parts.next().unwrap());
            if let Some(variant) = parts.next() {
                platform = platform.variant(variant);
            }
            builder.platform(platform.build().unwrap()).build().unwrap()
        };
        platforms.iter().map(entry).collect()
    }

    #[track_caller]
    fn assert_chosen(platforms: &[&str], wanted: &str, expected: Option<&str>) {
        let entries = index(platforms);
        let chosen = choose(&entries, &wanted.parse().unwrap()).ok();
        let chosen = chosen.map(|entry| entry.platform().as_ref().map(Platform::from));
        let chosen = chosen.map(|platform| platform.map(|p| p.to_string()).unwrap_or_default());
        assert_eq!(chosen.as_deref(), expected, "{wanted}");
    }

    #[test]
    fn takes_the_image_for_the_architecture() {
        let all = [
            "linux/amd64",
            "linux/arm/v5",
            "linux/arm/v7",
            "linux/arm64/v8",
            "windows/amd64",
            "unknown/unknown",
        ];
        for (wanted, expected) in [
            ("linux/amd64", Some("linux/amd64")),
            ("linux/arm64", Some("linux/arm64")),
            ("linux/arm/v7", Some("linux/arm/v7")),
            ("linux/arm/v6", Some("linux/arm/v5")),
            ("linux/arm/v8", Some("linux/arm/v7")),
            ("windows/amd64", Some("windows/amd64")),
            ("linux/riscv64", None),
            ("linux/386", None),
        ] {
            assert_chosen(&all, wanted, expected);
        }
    }

    #[test]
    fn a_machine_does_not_get_an_image_for_a_newer_one() {
        let (plain, v3) = ("linux/amd64", "linux/amd64/v3");
        assert_chosen(&[v3], plain, None);
        assert_chosen(&[v3, plain], v3, Some(v3));
        assert_chosen(&[plain], v3, Some(plain));
        assert_chosen(&["linux/arm/v7"], "linux/arm/v6", None);
    }

    #[test]
    fn wasm_and_entries_without_a_platform_serve_for_want_of_better() {
        let native = "linux/amd64";
        assert_chosen(&["wasi/wasm32"], native, Some("wasi/wasm32"));
        assert_chosen(&["wasi/wasm", native], native, Some(native));
        assert_chosen(&["", "linux/arm64"], native, Some(""));
    }

    #[test]
    fn the_error_lists_what_there_is() {
        let entries = index(&["linux/s390x", "linux/arm64", "unknown/unknown"]);
        let message = choose(&entries, &"linux/amd64".parse().unwrap())
            .unwrap_err()
            .to_string();
        assert_eq!(
            message,
            "there is no image for linux/amd64, only for linux/arm64, linux/s390x; choose one with --platform"
        );
    }

    #[test]
    fn rejects_what_is_no_platform() {
        for text in ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/a b"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }
}
