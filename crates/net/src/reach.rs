//! From a name to a connection: its addresses, and the first of them that answers.
//!
//! A name may have addresses that lead nowhere (a family without a route, a host that is gone), so
//! they are tried beside each other, each a little after the one before (RFC 8305). What fails names
//! every address with what became of it: which one is dead tells more than that nothing answered.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::opener::DIAL_MAX;

/// Wait before the next address is tried as well (RFC 8305 section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// More addresses do not help anybody and fill the screen.
const SHOWN_MAX: usize = 8;

/// The addresses of a name, in the order in which they are tried; as long as a dial may take.
pub(crate) async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let looking = tokio::net::lookup_host((host, port));
    let Ok(found) = tokio::time::timeout(DIAL_MAX, looking).await else {
        let why = "no answer from the resolver";
        return Err(io::Error::new(io::ErrorKind::TimedOut, why));
    };
    let addresses = interleaved(found?.collect());
    if addresses.is_empty() {
        let why = "it has no address";
        return Err(io::Error::new(io::ErrorKind::NotFound, why));
    }
    Ok(addresses)
}

/// Addresses in the order of RFC 8305 section 4: families in turn, the resolver's first first.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut ours, mut others): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|a| a.is_ipv6() == first_is_v6);
    ours.reverse();
    others.reverse();
    let mut out = Vec::with_capacity(ours.len() + others.len());
    loop {
        match (ours.pop(), others.pop()) {
            (None, None) => return out,
            (a, b) => out.extend(a.into_iter().chain(b)),
        }
    }
}

/// Connects to the first address that answers, within 10 s.
pub(crate) async fn happy_eyeballs(addresses: &[SocketAddr]) -> Result<TcpStream, Unreached> {
    let attempt = |address: SocketAddr| TcpStream::connect(address);
    let had = first(addresses, ATTEMPT_DELAY, DIAL_MAX, attempt).await;
    had.map_err(Unreached)
}

/// What comes first of attempts at `addresses`: the next one begins when one fails, or `delay` after
/// the one before, beside it; what is not there after `time` is given up. Else each address with its
/// failure; `None` if there was no answer.
///
/// # Cancellation
/// Dropping it drops all attempts.
pub(crate) async fn first<T, E, F>(
    addresses: &[SocketAddr],
    delay: Duration,
    time: Duration,
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<T, Vec<(SocketAddr, Option<E>)>>
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    let until = tokio::time::Instant::now() + time;
    let mut attempts = JoinSet::new();
    let mut waiting = addresses.iter().copied().enumerate();
    let mut failed: Vec<(SocketAddr, Option<E>)> =
        addresses.iter().map(|address| (*address, None)).collect();
    loop {
        match waiting.next() {
            Some((at, address)) => {
                let attempt = attempt(address);
                attempts.spawn(async move { (at, attempt.await) });
            }
            None if attempts.is_empty() => return Err(failed),
            None => {}
        }
        tokio::select! {
            Some(ended) = attempts.join_next() => {
                let (at, ended) = ended.expect("an attempt is not aborted, and does not panic");
                match ended {
                    Ok(had) => return Ok(had),
                    Err(error) => failed[at].1 = Some(error),
                }
            }
            () = tokio::time::sleep(delay), if waiting.len() > 0 => {}
            () = tokio::time::sleep_until(until) => return Err(failed),
        }
    }
}

/// Addresses of which none could be had, each with what became of it; no answer if `None`.
#[derive(Debug)]
pub struct Unreached(Vec<(SocketAddr, Option<io::Error>)>);

impl Unreached {
    /// Whether each of them says that nobody listens there.
    pub(crate) fn is_refused(&self) -> bool {
        self.all(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// Whether one of them did not answer: it may do so yet.
    pub(crate) fn is_silent(&self) -> bool {
        self.0.iter().any(|(_, error)| error.is_none())
    }

    /// Whether one of them reset the connection.
    pub(crate) fn is_reset(&self) -> bool {
        let is_reset = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionReset;
        let mut errors = self.0.iter().filter_map(|(_, error)| error.as_ref());
        errors.any(is_reset)
    }

    fn all(&self, is: impl Fn(&io::Error) -> bool) -> bool {
        self.0.iter().all(|(_, e)| e.as_ref().is_some_and(&is))
    }

    /// Which addresses were tried, where that says more than `host`.
    pub(crate) fn tried(&self, host: &str) -> String {
        let mut tried: Vec<_> = self.0.iter().map(|(a, _)| a.ip().to_string()).collect();
        if tried == [host] {
            return String::new();
        }
        shorten(&mut tried);
        format!(" (tried {})", tried.join(", "))
    }
}

/// One address only: what became of it; several: each with that.
impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = |error: &Option<io::Error>| match error {
            Some(error) => error.to_string(),
            None => format!("no answer within {} s", DIAL_MAX.as_secs()),
        };
        if let [(_, error)] = self.0.as_slice() {
            return f.write_str(&words(error));
        }
        let each = self.0.iter();
        let each = each.map(|(address, error)| format!("{}: {}", address.ip(), words(error)));
        let mut each: Vec<_> = each.collect();
        shorten(&mut each);
        f.write_str(&each.join("; "))
    }
}

impl std::error::Error for Unreached {}

impl From<Unreached> for io::Error {
    /// Known by the kind of its last failure.
    fn from(unreached: Unreached) -> Self {
        let known = unreached.0.iter().rev();
        let mut kinds = known.filter_map(|(_, error)| Some(error.as_ref()?.kind()));
        let kind = kinds.next().unwrap_or(io::ErrorKind::TimedOut);
        Self::new(kind, unreached)
    }
}

fn shorten(shown: &mut Vec<String>) {
    if shown.len() > SHOWN_MAX {
        shown.truncate(SHOWN_MAX);
        shown.push("…".to_owned());
    }
}

#[cfg(test)]
mod tests;
