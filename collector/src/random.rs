//! The one place where random bytes and the real time come from.

use std::time::{SystemTime, UNIX_EPOCH};

use weighbridge_meter::UtcMillis;

/// Fills the bytes from the kernel.
///
/// Without randomness no key and no salt can be made: the process ends rather than go on with guessable ones.
pub fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the kernel's random source works on every supported system");
}

/// So many random bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut bytes);
    bytes
}

/// The wall clock.
#[expect(
    clippy::disallowed_methods,
    reason = "this is where the time comes from that is passed on as an argument"
)]
pub fn now() -> UtcMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UtcMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
