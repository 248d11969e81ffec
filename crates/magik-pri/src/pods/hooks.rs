//! Test hooks: `run_pod` stops at a named step until the test has done what it wants to do.
//!
//! `MAGIKRUN_TEST_PAUSE=<step>` names the step, `MAGIKRUN_TEST_PAUSE_FILE=<path>` the file that is created when it is
//! reached; it goes on once the file is deleted. Only with the feature `test-hooks`.

use crate::Step;

#[cfg(not(feature = "test-hooks"))]
#[expect(clippy::unused_async, reason = "the same as the one that pauses")]
pub(crate) async fn reached(_: Step) {}

/// Pauses if a test asked for it: after validation, after the images were pulled, after the reservation, after the init
/// answered, after it is ready, and between the rename and `Commit`.
#[cfg(feature = "test-hooks")]
pub(crate) async fn reached(step: Step) {
    if std::env::var("MAGIKRUN_TEST_PAUSE").as_deref() != Ok(step.to_string().as_str()) {
        return;
    }
    let Some(file) = std::env::var_os("MAGIKRUN_TEST_PAUSE_FILE") else {
        return;
    };
    if let Err(error) = std::fs::write(&file, step.to_string()) {
        tracing::error!(%error, "cannot make the pause file");
        return;
    }
    while std::fs::exists(&file).unwrap_or(false) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
