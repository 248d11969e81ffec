//! Progress of a transfer: a bar for each blob on a terminal, which says when its layer is unpacked; nothing elsewhere.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use magik_image::pull::{Event, Progress};

/// Bars below a line that says what is being done; all of it vanishes when this is dropped.
#[derive(Debug)]
pub(crate) struct Bars {
    all: MultiProgress,
    title: ProgressBar,
    /// By the blob's digest as text.
    blobs: Mutex<HashMap<String, ProgressBar>>,
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
            blobs: Mutex::default(),
        }
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

impl Drop for Bars {
    fn drop(&mut self) {
        self.clear();
    }
}
