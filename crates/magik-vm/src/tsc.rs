//! The frequency of this processor's time-stamp counter, which an emulated guest sees as its own.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

/// Measurements, of which the middle one is taken: this process may be interrupted in any of them.
const MEASUREMENTS: usize = 5;
/// How long each takes.
const LENGTH: Duration = Duration::from_millis(2);

/// The counter's frequency in kHz, measured once.
pub(crate) fn kilohertz() -> u64 {
    static MEASURED: OnceLock<u64> = OnceLock::new();
    *MEASURED.get_or_init(|| {
        let mut all: [u64; MEASUREMENTS] = std::array::from_fn(|_| measure());
        all.sort_unstable();
        all[MEASUREMENTS / 2]
    })
}

fn measure() -> u64 {
    let (began, from) = (Instant::now(), counter());
    std::thread::sleep(LENGTH);
    let (to, took) = (counter(), began.elapsed());
    let ticks = u128::from(to.wrapping_sub(from));
    u64::try_from(ticks * 1_000_000 / took.as_nanos().max(1)).unwrap_or(u64::MAX)
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "reading the counter is an intrinsic")]
fn counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and it only reads.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn counter() -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_frequency_is_that_of_a_processor() {
        assert!((200_000..10_000_000).contains(&kilohertz()), "{}", kilohertz());
    }
}
