use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;

/// The exit code of a program that was interrupted, as shells count it.
pub(crate) const EXIT_CODE: u8 = 130;

static ASKED: AtomicBool = AtomicBool::new(false);
static RUNNING: Mutex<Option<u32>> = Mutex::new(None);

/// Makes Ctrl-C and SIGTERM end the running child instead of us, so that what we started is stopped first.
///
/// A second one ends us at once; a server is stopped all the same, since it notices that we are gone.
///
/// # Errors
///
/// The handler cannot be installed.
pub(crate) fn handle() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if ASKED.swap(true, Ordering::SeqCst) {
            std::process::exit(EXIT_CODE.into());
        }
        if let Some(pid) = *running() {
            terminate(pid);
        }
    })
    .context("could not handle Ctrl-C")
}

/// Tells whether somebody asked us to stop.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// Ends the child too when we are asked to stop, for as long as the answer lives.
pub(crate) fn end_with_us(child: &Child) -> impl Drop + use<> {
    *running() = Some(child.id());
    if asked() {
        terminate(child.id());
    }
    Forget
}

struct Forget;

impl Drop for Forget {
    fn drop(&mut self) {
        *running() = None;
    }
}

fn running() -> std::sync::MutexGuard<'static, Option<u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks a child to end. One that has ended meanwhile is not waited for yet, so its id is still its own.
#[cfg(unix)]
fn terminate(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// Does nothing: a Ctrl-C goes to the whole console, the child included.
#[cfg(not(unix))]
fn terminate(_pid: u32) {}
