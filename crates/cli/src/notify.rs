//! What systemd wants to be told of a service of `Type=notify`: a datagram to `$NOTIFY_SOCKET`.
//! Without that variable nothing is said; a service manager that does not listen is no reason to
//! fail.

use std::os::unix::net::UnixDatagram;

/// It serves.
pub(crate) fn ready() {
    say("READY=1");
}

/// It reads its configuration again; [`ready`] follows.
pub(crate) fn reloading() {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
    say(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
}

/// It ends.
pub(crate) fn stopping() {
    say("STOPPING=1");
}

fn say(words: &str) {
    if let Err(error) = send(words) {
        tracing::debug!("the service manager was not told {words:?}: {error}");
    }
}

fn send(words: &str) -> std::io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    #[cfg(target_os = "linux")]
    {
        use std::os::linux::net::SocketAddrExt as _;
        use std::os::unix::ffi::OsStrExt as _;
        use std::os::unix::net::SocketAddr;

        // In a namespace of its own, not in the file system.
        if let Some(name) = path.as_bytes().strip_prefix(b"@") {
            let address = SocketAddr::from_abstract_name(name)?;
            socket.send_to_addr(words.as_bytes(), &address)?;
            return Ok(());
        }
    }
    socket.send_to(words.as_bytes(), path)?;
    Ok(())
}
