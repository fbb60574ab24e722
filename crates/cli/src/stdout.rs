//! A stdout that was closed when the process started (`farpipe … >&-`) takes no bytes.
//!
//! Before `main`, Rust's runtime opens `/dev/null` in the place of a closed standard descriptor, so
//! that no other file gets its number. Data written there would be lost, and the status 0. So that
//! one is replaced by a `/dev/null` that cannot be written: the first byte fails with EBADF, here
//! and in commands that inherit it, as it does in `cat >&-`. Nothing to write is no failure.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};

static WAS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Runs before the runtime's own start, which is the only moment that tells a closed descriptor
/// from `/dev/null`: callers like Python's `subprocess.DEVNULL` open that the same way.
#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "a function in .init_array; it makes one system call and allocates nothing"
)]
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

#[cfg(target_os = "linux")]
extern "C" fn look() {
    let closed = rustix::io::fcntl_getfd(rustix::stdio::stdout()) == Err(rustix::io::Errno::BADF);
    WAS_CLOSED.store(closed, Ordering::Relaxed);
}

/// Makes a stdout that was closed fail. For the beginning of `main`.
pub(crate) fn keep_closed() -> io::Result<()> {
    if WAS_CLOSED.load(Ordering::Relaxed) {
        let unwritable = rustix::fs::open("/dev/null", OFlags::RDONLY, Mode::empty())?;
        rustix::stdio::dup2_stdout(unwritable)?;
    }
    Ok(())
}
