//! `HOST:PORT`, as URLs and endpoints have it.

use std::fmt;
use std::str::FromStr;

/// A name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Name or address, IPv6 without brackets. Not empty.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Why a text is no [`HostPort`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HostPortError(&'static str);

impl HostPortError {
    /// What is wrong.
    #[must_use]
    pub fn why(self) -> &'static str {
        self.0
    }
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let (host, port) = match text.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6
                    .split_once("]:")
                    .ok_or(HostPortError("no port; write [ADDRESS]:PORT"))?;
                if host.parse::<std::net::Ipv6Addr>().is_err() {
                    return Err(HostPortError("no IPv6 address between the brackets"));
                }
                (host, port)
            }
            None => text
                .rsplit_once(':')
                .ok_or(HostPortError("no port; write HOST:PORT"))?,
        };
        if host.is_empty() {
            return Err(HostPortError("no host; write HOST:PORT"));
        }
        if host.contains(':') && !text.starts_with('[') {
            return Err(HostPortError(
                "write an IPv6 address in brackets: [ADDRESS]:PORT",
            ));
        }
        let port = port
            .parse()
            .map_err(|_| HostPortError("the port is no number from 0 to 65535"))?;
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}
