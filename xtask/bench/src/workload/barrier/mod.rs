//! What the order barrier costs, beside a bare map behind locks that keeps the same books.
//!
//! Peers do not use this part of the folder, so `main.rs` names it, not the folder's own table of contents.

mod bare;
mod gate;
mod memory;
mod replay;
mod setting;
mod trace;
mod zipf;

use relaykit_event_barrier::{Barrier, Limits};

use crate::workload::Measurement;
use gate::{Plain, Sharded};
use setting::{Book, Setting};
use trace::Trace;

/// Runs a case once: `BOOK/MIX/KEYS/THREADS` with an optional `/each`, or `bytes-…`; see [`Setting`].
///
/// # Errors
///
/// No case has this name, or a book was not empty in the end.
pub(crate) fn measure(case: &str, name: &str) -> anyhow::Result<Measurement> {
    match name {
        "bytes-blocked" => memory::blocked(case, &[1_000_000]),
        "bytes-blocked-worst" => memory::blocked(case, &memory::SIZES),
        "bytes-released" => memory::released(case, memory::Way::Released),
        "bytes-succeeded" => memory::released(case, memory::Way::Succeeded),
        _ => {
            let setting: Setting = name.parse()?;
            let traces: Vec<_> =
                (0..setting.threads).map(|thread| Trace::of_thread(&setting, thread)).collect();
            let measured = match setting.book {
                Book::Ours => {
                    let limits = setting.mix.limits();
                    let ours = Barrier::builder()
                        .limits(Limits::default().key_threshold(limits.threshold).drain(limits.drain));
                    replay::timed(ours.build()?, &traces)?
                }
                Book::Sharded => replay::timed(Sharded::pair(setting.mix.limits()), &traces)?,
                Book::Plain => replay::timed(Plain::pair(setting.mix.limits()), &traces)?,
            };
            Ok(setting.describe(measured.describe(case)))
        }
    }
}
