//! Runs the manifests of `tests/manifests` and looks at what their headers say.
//!
//! Each is a pod as somebody writes it, with a comment on top that says what must be seen; see
//! `tests/manifests/README.md`. A new file is found by itself: a directory is one test natively, and
//! one in virtual machines.

mod boots;
mod file;
mod header;
mod images;
mod look;

use magik_pri::RuntimeClass;
use magikrun_test_world::mount_tmpfs;

use self::look::{Look, shell};
pub use self::{
    file::{Manifest, directories, manifests},
    header::{Header, Place, Step},
};
use crate::{Census, Magikrun, Scene};

/// A directory of the host that is empty before a manifest's `before:`.
const HOST: &str = "/srv";

/// `DIRECTORY/NAME` of the one manifest to run.
const ONLY: &str = "MANIFEST";

/// What is not as its header says.
#[derive(Debug, Default)]
struct Failures(Vec<String>);

impl Failures {
    /// Says so at once: what else goes wrong may end the test.
    #[expect(clippy::print_stderr, reason = "the runner shows it where the test fails")]
    fn add(&mut self, manifest: &Manifest, how: &str, what: impl std::fmt::Display) {
        let failure = format!("{} ({how}): {what}", manifest.path.display());
        eprintln!("{failure}");
        self.0.push(failure);
    }

    #[track_caller]
    fn assert_none(self) {
        assert!(
            self.0.is_empty(),
            "{} manifests do not do what they say",
            self.0.len()
        );
    }
}

/// All that is a pod's: images are the store's, and so is what is compiled of them.
fn census(magikrun: &Magikrun) -> Census {
    Census::take(&[&magikrun.state, &magikrun.root.join("pods")])
}

fn chosen(directory: &str, class: &str) -> Vec<Manifest> {
    let only = std::env::var(ONLY).ok();
    let is_chosen = |manifest: &Manifest| {
        only.as_ref()
            .is_none_or(|only| *only == format!("{directory}/{}", manifest.name))
    };
    let mut chosen = manifests(directory);
    chosen.retain(|manifest| is_chosen(manifest) && manifest.header.on.contains(class) && can_run(manifest));
    chosen
}

/// Whether the host has what it needs; says so when not.
fn can_run(manifest: &Manifest) -> bool {
    let missing = manifest
        .header
        .needs
        .iter()
        .find(|command| shell(command).is_err());
    #[expect(
        clippy::print_stderr,
        reason = "a skipped test says so where the runner shows it"
    )]
    if let Some(command) = missing {
        eprintln!("SKIPPED {}: needs: {command}", manifest.path.display());
    }
    missing.is_none()
}

/// Runs each manifest of a directory that says `on: CLASS` as a pod of its own.
///
/// # Panics
/// If one does not do what its header says.
pub fn run_each(scene: &Scene, directory: &str, class: RuntimeClass) {
    let magikrun = prepare(scene, class);
    let mut failures = Failures::default();
    for manifest in chosen(directory, class.as_str()) {
        // The census says what was left, and by which of them.
        let before = census(&magikrun);
        if let Err(error) = run(&magikrun, &manifest) {
            failures.add(&manifest, class.as_str(), error);
        }
        before.assert_same(&format!("after {}", manifest.path.display()));
    }
    failures.assert_none();
}

/// Runs the manifests of a directory that say `on: microvm`, many in each machine.
///
/// # Panics
/// If one does not do what its header says.
pub fn run_in_machines(scene: &Scene, directory: &str) {
    let class = RuntimeClass::MicroVm;
    let magikrun = prepare(scene, class);
    let before = census(&magikrun);
    let mut failures = Failures::default();
    for boot in boots::boots(directory, chosen(directory, class.as_str())) {
        if let Err(error) = run_boot(&magikrun, &boot, &mut failures) {
            for manifest in &boot.manifests {
                failures.add(manifest, &boot.name, &error);
            }
        }
        before.assert_same(&format!("after {}", boot.name));
    }
    failures.assert_none();
}

/// Sees that manifests of directories are refused where they say so, by kinds of pods that cannot do what they say.
///
/// # Panics
/// If one is not, or is refused in other words.
pub fn refuse_each(scene: &Scene, directories: &[String]) {
    let magikrun = Magikrun::with_busybox(scene);
    let before = Census::take(&magikrun.roots());
    let mut failures = Failures::default();
    for manifest in directories.iter().flat_map(|directory| manifests(directory)) {
        for (class, lines) in &manifest.header.refused_on {
            let file = manifest.path.display().to_string();
            let args = ["pod", "run", "-q", "--runtime", class, "-f", &file];
            let out = magikrun.run(&args);
            if let Err(error) = is_refused(&out, &file, lines) {
                failures.add(&manifest, class, error);
            }
        }
    }
    before.assert_same("after pods that were refused");
    failures.assert_none();
}

/// magikrun with the images that manifests name, and an empty [`HOST`].
fn prepare(scene: &Scene, class: RuntimeClass) -> Magikrun {
    mount_tmpfs(HOST.as_ref(), 64 << 20).expect("a directory of the host");
    let magikrun = Magikrun::new(scene)
        .with_variable("MAGIKRUN_SECCOMP_PROFILES", "/srv/seccomp")
        .with_variable("MAGIKRUN_ALLOWED_UNSAFE_SYSCTLS", "net.ipv4.tcp_max*");
    images::load(&magikrun, scene, class);
    magikrun
}

fn run(magikrun: &Magikrun, manifest: &Manifest) -> Result<(), String> {
    let header = &manifest.header;
    prepare_host(manifest)?;
    let file = manifest.path.display().to_string();
    let out = magikrun.run(&["pod", "run", "-q", "--max-restart-delay", "1", "-f", &file]);
    if !header.refused.is_empty() {
        let refused = is_refused(&out, &file, &header.refused);
        if out.code == 0 {
            magikrun.ok(&["pod", "delete", "--force", "--all"]);
        }
        return refused;
    }
    if out.code != 0 {
        return Err(out.stderr);
    }
    let ids: Vec<&str> = out.stdout.lines().collect();
    let look = Look {
        magikrun,
        pod: &manifest.name,
        id: ids.first().copied().unwrap_or_default(),
        prefix: "",
    };
    let notes: Vec<String> = said(&out.stderr, &file).collect();
    let wanted = header.notes.iter().map(|note| format!("note: {note}"));
    let outcome = if notes == wanted.collect::<Vec<_>>() {
        see(&look, &header.steps)
    } else {
        Err(format!("it is said: {}", notes.join("\n")))
    };
    magikrun.ok(&["pod", "delete", "--force", "-f", &file]);
    outcome
}

/// Steps that are done, and what was seen instead at one that was not.
fn see(look: &Look<'_>, steps: &[Step]) -> Result<(), String> {
    for step in steps {
        look.check(step)
            .map_err(|error| format!("{step:?}: it {error}"))?;
    }
    Ok(())
}

fn prepare_host(manifest: &Manifest) -> Result<(), String> {
    for command in &manifest.header.before {
        shell(command).map_err(|error| format!("before: {command}: {error}"))?;
    }
    Ok(())
}

/// What a command says about a manifest, line by line, without where in the file that is.
fn said<'a>(stderr: &'a str, file: &'a str) -> impl Iterator<Item = String> + 'a {
    stderr.lines().map(move |line| {
        let line = line.strip_prefix("magikrun: ").unwrap_or(line);
        let about = line.strip_prefix(file).and_then(|rest| {
            // LINE:COLUMN, where the mistake has a place.
            let (place, text) = rest.strip_prefix(':')?.split_once(' ')?;
            let is_place = place.bytes().all(|byte| byte.is_ascii_digit() || byte == b':');
            is_place.then_some(text)
        });
        about.unwrap_or(line).to_owned()
    })
}

fn is_refused(out: &crate::Output, file: &str, lines: &[String]) -> Result<(), String> {
    let said: Vec<String> = said(&out.stderr, file).collect();
    if out.code != 0 && out.stdout.is_empty() && said == lines {
        return Ok(());
    }
    Err(format!("exit code {}, said: {}", out.code, said.join("\n")))
}

fn run_boot(magikrun: &Magikrun, boot: &boots::Boot, failures: &mut Failures) -> Result<(), String> {
    for manifest in &boot.manifests {
        prepare_host(manifest)?;
    }
    let text: Vec<String> = boot
        .documents
        .iter()
        .map(|document| format!("---\n{document}\n"))
        .collect();
    let file = magikrun.manifest(text.concat());
    let args = [
        "pod",
        "run",
        "-q",
        "--max-restart-delay",
        "1",
        "--runtime",
        "microvm",
        "-f",
        &file,
    ];
    let out = magikrun.run(&args);
    if out.code != 0 || !out.stderr.is_empty() {
        if out.code == 0 {
            magikrun.ok(&["pod", "delete", "--force", out.stdout.trim_end()]);
        }
        return Err(out.stderr);
    }
    let id = out.stdout.trim_end();
    // All that is seen while it runs, then what is seen when it was stopped.
    let mut is_stopped = false;
    for stopped in [false, true] {
        for manifest in &boot.manifests {
            let steps = &manifest.header.steps;
            let stop = steps.iter().position(|step| *step == Step::Stop);
            let (while_it_runs, then) = steps.split_at(stop.unwrap_or(steps.len()));
            let Some((_, then)) = then.split_first().filter(|_| stopped) else {
                if !stopped {
                    look_at(magikrun, boot, manifest, id, while_it_runs, failures);
                }
                continue;
            };
            if !std::mem::replace(&mut is_stopped, true) {
                magikrun.ok(&["pod", "stop", id]);
            }
            look_at(magikrun, boot, manifest, id, then, failures);
        }
    }
    magikrun.ok(&["pod", "delete", "--force", id]);
    Ok(())
}

fn look_at(
    magikrun: &Magikrun,
    boot: &boots::Boot,
    manifest: &Manifest,
    id: &str,
    steps: &[Step],
    failures: &mut Failures,
) {
    let look = Look {
        magikrun,
        pod: &boot.name,
        id,
        prefix: &boot.prefix(manifest),
    };
    if let Err(error) = see(&look, steps) {
        failures.add(manifest, &boot.name, error);
    }
}
