//! Tickets between people: printed or written to a file by the listening side. `given.rs` takes them
//! on the dialling one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use farpipe_net::{Tickets, Url, UsedUp};
use tokio::net::UdpSocket;
use zeroize::Zeroizing;

use super::session::span;
use crate::exit::WithStatus;
use crate::output;

/// Where the dialling side looks for a ticket.
pub(crate) const VARIABLE: &str = "FARPIPE_TICKET";

/// Values of `--ticket-for`.
const VALID_FOR: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// Addresses for documentation (RFC 5737, RFC 3849): nothing is sent to them, the way to them is the
/// way out.
const ELSEWHERE: [(&str, &str); 2] = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];

/// A time for which a secret may lie about.
pub(crate) fn valid_for(text: &str) -> Result<Duration, String> {
    let time = span(text)?;
    if !VALID_FOR.contains(&time) {
        return Err("from 1s to 1d; the default is 10m".to_owned());
    }
    Ok(time)
}

/// Where a listener's tickets go: to whoever reads stderr, or to a file.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) tickets: Arc<Tickets>,
    pub(crate) valid_for: Duration,
    pub(crate) file: Option<PathBuf>,
}

/// An outlet that has given out a ticket.
#[derive(Debug)]
pub(crate) struct Opened {
    outlet: Outlet,
    /// What to type, behind the ticket.
    connect: String,
    /// What follows that.
    last: &'static str,
    /// What is to be said of the first ticket.
    news: Zeroizing<String>,
    written: Option<Written>,
}

impl Outlet {
    /// Makes the first ticket to `url`, and its file; [`Opened::serve`] says so, with what to type:
    /// the verb in front of the URL, and what comes last.
    pub(crate) async fn open(
        self,
        verb: &str,
        url: &Url,
        last: &'static str,
    ) -> anyhow::Result<Opened> {
        let host = dialled_host(&url.host).await;
        let url = Url {
            host,
            ..url.clone()
        };
        let mut opened = Opened {
            outlet: self,
            connect: format!("farpipe {verb} {}", quoted(&url.revealed())),
            last,
            news: Zeroizing::default(),
            written: None,
        };
        opened.news = opened.give_out()?;
        Ok(opened)
    }
}

impl Opened {
    /// Says where the first ticket is, and gives out another when one has expired; with `keep` also when one was used. Ends when
    /// no other is due.
    pub(crate) async fn serve(mut self, keep: bool) {
        // The URL in it is to be dialled, with all that it has.
        output::line_with_secret(&self.news);
        loop {
            match self.outlet.tickets.used_up().await {
                UsedUp::Claimed if !keep => return,
                UsedUp::Claimed | UsedUp::Expired => {}
            }
            match self.give_out() {
                Ok(news) => output::line_with_secret(&news),
                Err(error) => {
                    output::error(&format!("no new ticket: {error:#}"));
                    return;
                }
            }
        }
    }

    /// Makes another ticket; what is to be said of it.
    fn give_out(&mut self) -> anyhow::Result<Zeroizing<String>> {
        let ticket = self.outlet.tickets.issue().reveal();
        let within = minutes(self.outlet.valid_for);
        let (connect, last) = (&self.connect, self.last);
        let news = match (&self.outlet.file, &mut self.written) {
            (None, _) => format!(
                "on the other host, once, within {within}:\n  {VARIABLE}={} {connect}{last}",
                *ticket
            ),
            (Some(path), written @ None) => {
                *written = Some(Written::create(path, &ticket)?);
                let file = path.display();
                format!(
                    "a ticket for the other host, good once, within {within}, is in {file}:\n  \
                     {connect} --ticket-file {file}{last}"
                )
            }
            (Some(path), Some(written)) => {
                written.replace(&ticket)?;
                format!(
                    "a new ticket, good once, within {within}, is in {}",
                    path.display()
                )
            }
        };
        Ok(Zeroizing::new(news))
    }
}

/// A file of ours with a ticket in it; goes when it is dropped.
#[derive(Debug)]
struct Written {
    path: PathBuf,
    /// Device and inode: what lies there later may be another's.
    id: (u64, u64),
}

impl Written {
    fn create(path: &Path, ticket: &str) -> anyhow::Result<Self> {
        let file = match create_new(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(WithStatus::failure(
                    format!("{} exists and is not overwritten", path.display()),
                    Some("choose another name for --ticket-file, or move it away".to_owned()),
                ));
            }
            made => made.with_context(|| format!("cannot make {}", path.display()))?,
        };
        let written = Self::fill(file, path, ticket);
        written.with_context(|| format!("cannot write {}", path.display()))
    }

    fn fill(mut file: File, path: &Path, ticket: &str) -> io::Result<Self> {
        let meta = file.metadata()?;
        // Removes the file if there is an error.
        let written = Self {
            path: path.to_owned(),
            id: (meta.dev(), meta.ino()),
        };
        file.write_all(ticket.as_bytes())?;
        file.write_all(b"\n")?;
        Ok(written)
    }

    /// Puts another ticket in its place at once: a reader sees one or the other.
    fn replace(&mut self, ticket: &str) -> anyhow::Result<()> {
        let failed = || format!("cannot write {} anew", self.path.display());
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        let mut fresh = create_new(&new)
            .and_then(|file| Self::fill(file, &new, ticket))
            .with_context(failed)?;
        anyhow::ensure!(self.is_there(), "{} is no longer ours", self.path.display());
        fs::rename(&new, &self.path).with_context(failed)?;
        std::mem::swap(&mut self.id, &mut fresh.id);
        Ok(())
    }

    fn is_there(&self) -> bool {
        let meta = fs::symlink_metadata(&self.path);
        meta.is_ok_and(|meta| (meta.dev(), meta.ino()) == self.id)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        if self.is_there() {
            // Of no more use; if it cannot be removed, it hurts nobody.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn create_new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}

/// What the other host dials for what is listened on: for every address the one that this host goes
/// out from.
async fn dialled_host(host: &str) -> String {
    let is_every = host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
    if !is_every {
        return host.to_owned();
    }
    for (from, to) in ELSEWHERE {
        let way = async {
            let socket = UdpSocket::bind(from).await?;
            socket.connect(to).await?;
            socket.local_addr()
        };
        if let Ok(address) = way.await {
            return address.ip().to_string();
        }
    }
    "HOST".to_owned()
}

/// A URL as a shell takes it.
fn quoted(url: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/%@+,=[]".contains(&byte);
    if url.bytes().all(is_plain) {
        return url.to_owned();
    }
    format!("'{}'", url.replace('\'', "'\\''"))
}

fn minutes(time: Duration) -> String {
    match time.as_secs() {
        secs if secs % 3600 == 0 => format!("{} h", secs / 3600),
        secs if secs % 60 == 0 => format!("{} min", secs / 60),
        secs => format!("{secs} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_survives_the_shell() {
        assert_eq!(quoted("wss://[::1]:7000/a-b"), "wss://[::1]:7000/a-b");
        assert_eq!(quoted("wss://h:1/a&b"), "'wss://h:1/a&b'");
        assert_eq!(quoted("wss://h:1/a'b"), "'wss://h:1/a'\\''b'");
    }

    #[test]
    fn a_ticket_lies_about_for_a_second_to_a_day() {
        for (text, shown) in [
            ("1s", "1 s"),
            ("90s", "90 s"),
            ("10m", "10 min"),
            ("1d", "24 h"),
        ] {
            assert_eq!(minutes(valid_for(text).expect(text)), shown);
        }
        for text in ["0", "500ms", "25h", "soon"] {
            valid_for(text).expect_err(text);
        }
    }
}
