//! Hostile images: links, device nodes, pipes and sockets at every path that a runtime touches, and code that a runtime might
//! load. Whatever lies there, the runtime answers with an exit code of its own in time, no file of the host is read or
//! changed, and nothing of the image is executed by anybody but its own container.
//!
//! The images come from a seeded generator, so a failure repeats: `MAGIKRUN_HOSTILE_IMAGES=count[@seed[@only]]`.
#![cfg(target_os = "linux")]
#![allow(
    dead_code,
    clippy::print_stderr,
    reason = "the harness is the conformance suite's; the test reports"
)]

mod bundles;
mod canary;
mod evil;
#[path = "../conformance/harness.rs"]
mod harness;
mod image;
mod pods;

use std::{collections::BTreeSet, path::Path};

use image::{Hostile, Numbers, WORK};

/// Which images to make.
struct Plan {
    count: usize,
    seed: u64,
    only: Option<usize>,
}

impl Plan {
    fn new(count: usize) -> Self {
        let wanted = std::env::var("MAGIKRUN_HOSTILE_IMAGES").unwrap_or_else(|_| count.to_string());
        let mut parts = wanted
            .split('@')
            .map(|part| part.parse().expect("count[@seed[@only]]"));
        Self {
            count: parts
                .next()
                .map_or(count, |n: u64| usize::try_from(n).expect("a number")),
            seed: parts.next().unwrap_or(20_261_130),
            only: parts.next().map(|n| usize::try_from(n).expect("a number")),
        }
    }

    /// Each image with its number and numbers of its own.
    fn images(&self, canary: &Path) -> impl Iterator<Item = (usize, Hostile, Numbers)> {
        (0..self.count)
            .filter(|n| self.only.is_none_or(|only| only == *n))
            .map(move |number| {
                // Never zero, from which xorshift does not move; neighbours are far apart.
                let seed = (self.seed + number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                let mut numbers = Numbers(seed | 1);
                let hostile = Hostile::new(number, &mut numbers, canary);
                (number, hostile, numbers)
            })
    }
}

/// What was wrong, with all images.
struct Report {
    failures: Vec<String>,
    runs: usize,
    ran: usize,
}

impl Report {
    fn new() -> Self {
        Self {
            failures: vec![],
            runs: 0,
            ran: 0,
        }
    }

    /// Told, so that somebody who reads the log sees what a runtime refuses.
    fn refused(what: &str, said: &str) {
        eprintln!("refused {what}: {}", said.trim());
    }

    fn fail(&mut self, what: &str, why: impl std::fmt::Display) {
        eprintln!("FAIL {what}: {why}");
        self.failures.push(format!("{what}: {why}"));
    }

    /// What a command that was run to its end must not have done.
    fn judge(&mut self, what: &str, output: &std::process::Output) {
        use std::os::unix::process::ExitStatusExt;
        let said = String::from_utf8_lossy(&output.stderr);
        if let Some(signal) = output.status.signal() {
            self.fail(what, format!("ended by signal {signal}: {said}"));
        }
        if said.contains("panicked") {
            self.fail(what, &said);
        }
        if !output.status.success() && said.trim().is_empty() && output.stdout.is_empty() {
            self.fail(what, format!("{} without a word", output.status));
        }
    }

    /// What a container printed must be nothing of the host.
    fn printed(&mut self, what: &str, said: &[u8]) {
        let said = String::from_utf8_lossy(said);
        for secret in [canary::SECRET, canary::SECRET_ID] {
            if said.contains(secret) {
                self.fail(what, format!("the container read files of the host: {said:?}"));
            }
        }
    }

    /// Fails the test, naming everything.
    fn finish(self, kind: &str) {
        eprintln!("{} hostile {kind}, {} ran", self.runs, self.ran);
        assert!(
            self.failures.is_empty(),
            "{} of {} hostile {kind} did harm:\n{}",
            self.failures.len(),
            self.runs,
            self.failures.join("\n")
        );
        assert!(
            self.runs < 30 || self.ran > self.runs / 4,
            "the generator is off: {} of {} ran",
            self.ran,
            self.runs
        );
    }
}

/// What a container does with its image: reads what lies at the hostile sites, and looks for the host from where it is.
fn probe(hostile: &Hostile, canary: &Path) -> String {
    let up = "../".repeat(16);
    let from_here = format!("{up}{}", canary.display().to_string().trim_start_matches('/'));
    // A terminal has nothing to read until somebody types.
    let terminal = |site: &str| ["/dev/console", "/dev/ptmx", "/dev/stdin", "/dev/tty"].contains(&site);
    let mut files: BTreeSet<String> = hostile
        .things
        .iter()
        .filter(|(site, _)| !terminal(site))
        .flat_map(|(site, _)| [(*site).to_owned(), format!("{site}/secret")])
        .filter(|file| hostile.may_be_read(file))
        .collect();
    files.extend([
        "secret".to_owned(),
        format!("{from_here}/full/secret"),
        format!("/proc/self/cwd/{from_here}/full/secret"),
        format!("/proc/1/cwd/{from_here}/full/secret"),
        format!("{WORK}/secret"),
    ]);
    for file in [
        "/etc/passwd",
        "/etc/group",
        "/etc/hosts",
        "/etc/resolv.conf",
        "/etc/hostname",
    ] {
        if hostile.may_be_read(file) {
            files.insert(file.to_owned());
        }
    }
    let files: Vec<_> = files.into_iter().collect();
    format!(
        "for f in {}; do /bin/busybox head -c 2000 \"$f\" 2>/dev/null; done; /bin/busybox id; \
         /bin/busybox ls -a . {from_here} 2>/dev/null; true",
        files.join(" ")
    )
}

#[test]
fn a_seed_gives_the_same_images_every_time() {
    let made = || {
        let plan = Plan {
            count: 136,
            seed: 7,
            only: None,
        };
        let images: Vec<_> = plan
            .images(Path::new("/canary"))
            .map(|(_, hostile, _)| hostile.to_string())
            .collect();
        images
    };
    assert_eq!(made(), made());
    assert!(
        made().iter().collect::<BTreeSet<_>>().len() > 80,
        "the images differ"
    );
}
