//! What a pod has on disk is measured while it runs, and one that has too much is ended.
//!
//! The init has one thread, and a container may make any number of files: so measuring goes a part at
//! a time, with a break after each that is so long that all of it together takes little of a
//! processor.

use std::{io, time::Duration};

use magik_sys::tree::Measure;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use crate::plan::DiskLimit;

/// From the end of one round to the next.
const PERIOD: Duration = Duration::from_secs(2);
/// How many files are looked at before others have their turn.
const PART: usize = 200;
/// How long a break is, compared with what was done before it: 2 % of a processor.
const BREAK: u32 = 50;

/// Measures until something is too large, and then says what is to be said of the pod.
pub(super) async fn measure(limits: Vec<DiskLimit>, exceeded: mpsc::Sender<String>) {
    loop {
        sleep(PERIOD).await;
        for limit in &limits {
            match exceeds(limit).await {
                Ok(false) => {}
                Ok(true) => {
                    let _ = exceeded.send(limit.message.clone()).await;
                    return;
                }
                // Who writes there may be removing directories just now.
                Err(error) => {
                    let path = limit.path.display();
                    tracing::warn!(%path, %error, "what is on disk cannot be measured");
                }
            }
        }
    }
}

async fn exceeds(limit: &DiskLimit) -> io::Result<bool> {
    let mut measure = Measure::begin(&limit.path)?;
    loop {
        let begun = Instant::now();
        let done = measure.step(PART)?;
        // What is nested too deep to be counted could be of any size.
        if measure.size() > limit.bytes || measure.is_too_deep() {
            return Ok(true);
        }
        if done {
            return Ok(false);
        }
        sleep(begun.elapsed() * BREAK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_takes_more_than_it_may_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..1000 {
            std::fs::write(dir.path().join(n.to_string()), [1; 5000]).unwrap();
        }
        let limit = |bytes| DiskLimit {
            path: dir.path().to_owned(),
            bytes,
            message: bytes.to_string(),
        };
        assert!(exceeds(&limit(1 << 20)).await.unwrap());
        assert!(!exceeds(&limit(64 << 20)).await.unwrap());
        let gone = DiskLimit {
            path: dir.path().join("none"),
            ..limit(1)
        };
        let (sender, mut exceeded) = mpsc::channel(1);
        measure(vec![gone, limit(64 << 20), limit(1 << 20)], sender).await;
        assert_eq!(exceeded.recv().await.unwrap(), (1 << 20).to_string());
        assert!(exceeded.recv().await.is_none());
    }

    #[tokio::test]
    async fn what_is_nested_too_deep_to_be_measured_is_too_much() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("d/".repeat(200))).unwrap();
        let limit = DiskLimit {
            path: dir.path().to_owned(),
            bytes: u64::MAX,
            message: String::new(),
        };
        assert!(exceeds(&limit).await.unwrap());
    }
}
