//! The environment of our own programs.

/// What a program of ours is started with that runs beside containers: nothing of the caller's but what helps to find faults.
#[must_use]
pub fn helper_environment() -> Vec<String> {
    let passed = ["RUST_LOG", "RUST_BACKTRACE"]
        .into_iter()
        .filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)));
    ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()]
        .into_iter()
        .chain(passed)
        .collect()
}
