//! Progress on a terminal, and nothing elsewhere: a bar for each blob, which says when its layer is unpacked, and the
//! steps of a pod that is run.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use magik_image::pull::{Event, Progress};
use magik_pri::{LaunchStep, RunProgress, Step};

/// Bars below a line that says what is being done; all of it vanishes when this is dropped.
#[derive(Debug)]
pub(crate) struct Bars {
    all: MultiProgress,
    title: ProgressBar,
    /// What the title says before the step.
    name: String,
    /// By the blob's digest as text.
    blobs: Mutex<HashMap<String, ProgressBar>>,
    /// The steps of a run, and when each began.
    steps: Mutex<Vec<(Step, Instant)>>,
}

impl Bars {
    /// `quiet` shows nothing, and so does a standard error that is no terminal.
    pub(crate) fn new(title: &str, quiet: bool) -> Self {
        let all = MultiProgress::new();
        if quiet {
            all.set_draw_target(ProgressDrawTarget::hidden());
        }
        let spinner = all.add(ProgressBar::new_spinner().with_message(title.to_owned()));
        spinner.enable_steady_tick(Duration::from_millis(100));
        Self {
            all,
            title: spinner,
            name: title.to_owned(),
            blobs: Mutex::default(),
            steps: Mutex::default(),
        }
    }

    /// How long each step took until now, or nothing where nobody looks on: `images 1.20 s, sandbox 14 ms`.
    pub(crate) fn times(&self) -> Option<String> {
        if self.all.is_hidden() {
            return None;
        }
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        Some(times(&steps, Instant::now()))
    }

    /// Takes everything off the screen; dropping the bars does it, too.
    pub(crate) fn clear(&self) {
        self.title.finish_and_clear();
        for (_, bar) in self.blobs().drain() {
            bar.finish_and_clear();
        }
        // A terminal that cannot be written to is nobody's loss here.
        let _ = self.all.clear();
    }

    fn blobs(&self) -> MutexGuard<'_, HashMap<String, ProgressBar>> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, digest: &str, size: u64) -> ProgressBar {
        let bar = ProgressBar::new(size)
            .with_style(style())
            .with_message(short(digest));
        let bar = self.all.add(bar);
        self.blobs().insert(digest.to_owned(), bar.clone());
        bar
    }
}

/// What a person calls a step.
fn step_name(step: Step) -> &'static str {
    match step {
        Step::Validate => "check",
        Step::Images => "images",
        Step::Reserve | Step::Launch => "sandbox",
        Step::Start => "containers",
        Step::Commit => "commit",
    }
}

/// Steps of one name are one.
fn times(steps: &[(Step, Instant)], now: Instant) -> String {
    let ends = steps.iter().skip(1).map(|(_, began)| *began).chain([now]);
    let mut named: Vec<(&str, Duration)> = Vec::new();
    for ((step, began), end) in steps.iter().zip(ends) {
        let (name, took) = (step_name(*step), end.saturating_duration_since(*began));
        match named.last_mut() {
            Some((last, sum)) if *last == name => *sum += took,
            _ => named.push((name, took)),
        }
    }
    let text = named.iter().map(|(name, took)| match took.as_millis() {
        millis @ 0..1000 => format!("{name} {millis} ms"),
        _ => format!("{name} {:.2} s", took.as_secs_f64()),
    });
    text.collect::<Vec<_>>().join(", ")
}

/// The algorithm and twelve digits, as docker shows a blob.
fn short(digest: &str) -> String {
    digest.chars().take("sha256:".len() + 12).collect()
}

fn style() -> ProgressStyle {
    let template = "{msg} [{bar:30}] {binary_bytes:>11}/{binary_total_bytes:<11} {binary_bytes_per_sec}";
    // A template that does not parse would be our mistake: the plain bar serves as well.
    ProgressStyle::with_template(template)
        .map_or_else(|_| ProgressStyle::default_bar(), |s| s.progress_chars("=> "))
}

impl Progress for Bars {
    fn event(&self, event: Event) {
        match event {
            Event::Cached { digest, size } => self.add(&digest.to_string(), size).finish(),
            Event::Started { digest, size } => {
                self.add(&digest.to_string(), size).tick();
            }
            Event::Bytes { digest, done } => {
                if let Some(bar) = self.blobs().get(&digest.to_string()) {
                    bar.set_position(done);
                }
            }
            Event::Done { digest } => {
                if let Some(bar) = self.blobs().get(&digest.to_string()) {
                    bar.finish();
                }
            }
            Event::Unpacked { digest } => {
                let digest = digest.to_string();
                if let Some(bar) = self.blobs().get(&digest) {
                    bar.finish_with_message(format!("{} unpacked", short(&digest)));
                }
            }
            _ => {}
        }
    }
}

impl RunProgress for Bars {
    fn step(&self, step: Step) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.push((step, Instant::now()));
        self.title
            .set_message(format!("{}: {}", self.name, step_name(step)));
    }

    fn launch(&self, step: LaunchStep, container: Option<&str>) {
        let of = container.map_or_else(|| "the pod".to_owned(), |name| format!("container {name}"));
        self.title.set_message(format!("{}: {of}: {step}", self.name));
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_lasts_until_the_next_one() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let steps = [
            (Step::Images, at(0)),
            (Step::Reserve, at(1204)),
            (Step::Launch, at(1206)),
            (Step::Start, at(1218)),
        ];
        assert_eq!(
            times(&steps, at(1230)),
            "images 1.20 s, sandbox 14 ms, containers 12 ms"
        );
        assert_eq!(times(&[], at(0)), "");
    }
}
