//! What `cargo xtask torture` switches on in a build of its own, with `--cfg relaykit_torture`: places where the process dies, and
//! bugs that its tests must catch. In every other build there is nothing here to switch on.

/// Aborts the process if `RELAYKIT_CRASH_AT` names this place, at the visit that it names: `place:3` is the third.
#[cfg(relaykit_torture)]
pub fn crash_point(place: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static CHOSEN: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static VISITS: AtomicU32 = AtomicU32::new(0);
    let chosen = CHOSEN.get_or_init(|| {
        let text = std::env::var("RELAYKIT_CRASH_AT").ok()?;
        let (place, visit) = text.split_once(':')?;
        Some((place.to_owned(), visit.parse().ok()?))
    });
    if let Some((chosen, visit)) = chosen
        && chosen == place
        && VISITS.fetch_add(1, Ordering::SeqCst) + 1 == *visit
    {
        std::process::abort();
    }
}

/// Does nothing in this build.
#[cfg(not(relaykit_torture))]
#[inline]
pub const fn crash_point(_place: &str) {}

/// Returns whether `RELAYKIT_PLANT` names this bug.
#[cfg(relaykit_torture)]
pub fn planted(bug: &str) -> bool {
    use std::sync::OnceLock;

    static PLANTED: OnceLock<Option<String>> = OnceLock::new();
    PLANTED.get_or_init(|| std::env::var("RELAYKIT_PLANT").ok()).as_deref() == Some(bug)
}

/// Returns `false` in this build.
#[cfg(not(relaykit_torture))]
#[inline]
#[must_use]
pub const fn planted(_bug: &str) -> bool {
    false
}
