//! The runtime of every verb: one thread, which looks on for a moment before it sleeps if `spin.rs` says so.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::runtime::{Builder, Runtime};

use crate::spin::Spin;

/// One thread: what comes is handed from socket to pipe without waking another processor. What may block
/// has threads of its own.
///
/// # Errors
/// The system gives no epoll or no descriptors.
pub(crate) fn new() -> io::Result<Runtime> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let spin = Arc::new(Mutex::new(Spin::new(processors)));
    Builder::new_current_thread()
        .enable_all()
        .on_thread_park(move || {
            if looks_on(&spin) {
                stay_awake(Arc::clone(&spin));
            }
        })
        .build()
}

/// A task that is there instead of nothing keeps the thread awake.
#[expect(
    clippy::disallowed_methods,
    reason = "the runtime itself has nobody to own it, and it ends within the time of a look or two"
)]
fn stay_awake(spin: Arc<Mutex<Spin>>) {
    tokio::spawn(look(spin));
}

/// Whether to look again at once, rather than sleep.
fn looks_on(spin: &Mutex<Spin>) -> bool {
    let mut spin = spin.lock().unwrap_or_else(PoisonError::into_inner);
    spin.handle_idle(Instant::now(), farpipe_net::moved())
}

/// Has the runtime look at the network again and again, for as long as that is worth it. Ends by itself.
async fn look(spin: Arc<Mutex<Spin>>) {
    loop {
        // Whoever is to answer may wait for this very processor.
        std::thread::yield_now();
        tokio::task::yield_now().await;
        if !looks_on(&spin) {
            return;
        }
    }
}
