//! What can be done with one real socket: connect it, reset it, wait until it has sent, starve it,
//! drain it.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::num::NonZeroUsize;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream};

/// Connects, with the buffers set in time for the window to be made from them. Dropped half-way, a
/// connection that the other side has already is reset.
pub(crate) async fn connect(addr: SocketAddr, receive: Size, send: Size) -> io::Result<TcpStream> {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    set_buffers(&socket, receive, send)?;
    socket.set_zero_linger()?;
    let stream = socket.connect(addr).await?;
    SockRef::from(&stream).set_linger(None)?;
    Ok(stream)
}

/// Sets the sizes that are given. A listener's are those of the connections it accepts.
pub(crate) fn set_buffers(socket: &TcpSocket, receive: Size, send: Size) -> io::Result<()> {
    let size = |size: NonZeroUsize| u32::try_from(size.get()).unwrap_or(u32::MAX);
    if let Some(receive) = receive {
        socket.set_recv_buffer_size(size(receive))?;
    }
    if let Some(send) = send {
        socket.set_send_buffer_size(size(send))?;
    }
    Ok(())
}

/// The size of a socket's buffer, if not the system's.
pub(crate) type Size = Option<NonZeroUsize>;

/// Closes with RST, whatever is unread or unsent.
pub(crate) fn reset(stream: TcpStream) {
    // The one failure is a socket that the peer has torn already.
    let _ = stream.set_zero_linger();
    drop(stream);
}

/// Sends FIN after what has been written.
pub(crate) fn shut_down(stream: &TcpStream) {
    // The one failure is a socket that the peer has torn already.
    let _ = SockRef::from(stream).shutdown(Shutdown::Write);
}

/// Waits until the kernel has sent everything that was written, so that a reset overtakes nothing.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) async fn sent(stream: &TcpStream) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    // "Writable" now means that nothing is left unsent. The socket is about to be closed, so it may
    // stay so.
    if SockRef::from(stream).set_tcp_notsent_lowat(1).is_err() {
        return;
    }
    let _ = stream
        .async_io(Interest::WRITABLE, || {
            let mut fds = [PollFd::new(stream, PollFlags::OUT)];
            // Tokio's readiness is from before the option was set; asking makes the kernel tell of
            // the next change.
            match poll(
                &mut fds,
                Some(&Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                }),
            )? {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                _ => Ok(()),
            }
        })
        .await;
}

/// Other systems have no such option: what is unsent may be lost with the reset.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) async fn sent(_stream: &TcpStream) {
    tokio::task::yield_now().await;
}

/// Reads and throws away until the peer has closed. Writes nothing.
pub(crate) async fn swallow(stream: &TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        match stream.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => tokio::task::yield_now().await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Waits, without reading, until the peer has closed.
pub(crate) async fn closed(stream: &TcpStream) {
    loop {
        match stream.ready(Interest::READABLE).await {
            Ok(ready) if ready.is_read_closed() || ready.is_error() => return,
            // More unread bytes. Saying that a read would block makes tokio wait for the next
            // change.
            Ok(_) => {
                _ = stream.try_io(Interest::READABLE, || {
                    Err::<(), _>(io::ErrorKind::WouldBlock.into())
                })
            }
            Err(_) => return,
        }
    }
}

/// Whether the kernel holds bytes that the peer sent and nobody has read.
pub(crate) fn has_unread(stream: &TcpStream) -> bool {
    rustix::io::ioctl_fionread(stream).is_ok_and(|bytes| bytes > 0)
}
