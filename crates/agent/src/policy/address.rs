//! `HOST:PORT` as a rule has it: one host or some, one port or some.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use farpipe_net::HostPort;

/// Where `listen` is when no host is said, as with `tcp-listen:`.
const LISTEN_HOST: &str = "127.0.0.1";

/// The addresses that a rule means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Addresses {
    hosts: Hosts,
    ports: RangeInclusive<u16>,
}

/// A name is never looked up here: a rule for an address is for who says the address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    Any,
    Name(String),
    /// `*.example.org`: what ends with this, and has a label before it. Begins with a dot.
    Below(String),
    Address(IpAddr),
    Network {
        base: IpAddr,
        bits: u8,
    },
}

impl Addresses {
    /// `HOST:PORT`: the host a name, an address, `ADDRESS/BITS`, `*.DOMAIN` or `*`; the port a number,
    /// `FROM-TO` or `*`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once("]:"),
            None => text
                .rsplit_once(':')
                .filter(|(host, _)| !host.contains(':')),
        }
        .ok_or("write HOST:PORT, an IPv6 address in brackets: [ADDRESS]:PORT")?;
        let ports = ports(port).ok_or("the port is a number, FROM-TO, or * for all")?;
        let hosts = Hosts::parse(host)
            .ok_or("the host is a name, an address, ADDRESS/BITS, *.DOMAIN, or * for all")?;
        if text.starts_with('[') && !matches!(hosts, Hosts::Address(_) | Hosts::Network { .. }) {
            return Err("no IPv6 address between the brackets".to_owned());
        }
        Ok(Self { hosts, ports })
    }

    /// `[HOST:]PORT`.
    pub(super) fn parse_listening(text: &str) -> Result<Self, String> {
        if text.contains(':') {
            return Self::parse(text);
        }
        Self::parse(&format!("{LISTEN_HOST}:{text}"))
    }

    pub(super) fn have(&self, asked: &HostPort) -> bool {
        self.ports.contains(&asked.port) && self.hosts.have(&asked.host)
    }
}

impl Hosts {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        if let Some((base, bits)) = text.split_once('/') {
            let base: IpAddr = base.parse().ok()?;
            let bits = bits.parse().ok().filter(|bits| *bits <= width(base))?;
            return Some(Self::Network { base, bits });
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self::Address(address.to_canonical()));
        }
        if let Some(domain) = text.strip_prefix("*.") {
            return Some(Self::Below(format!(".{}", host_name(domain)?)));
        }
        host_name(text).map(Self::Name)
    }

    fn have(&self, host: &str) -> bool {
        if let Ok(address) = host.parse::<IpAddr>() {
            let address = address.to_canonical();
            return match self {
                Self::Any => true,
                Self::Address(one) => *one == address,
                Self::Network { base, bits } => {
                    width(*base) == width(address)
                        && leading(*base, *bits) == leading(address, *bits)
                }
                Self::Name(_) | Self::Below(_) => false,
            };
        }
        // What is neither is not asked of a resolver, which reads `0x7f.1` as an address.
        let Some(name) = host_name(host) else {
            return false;
        };
        match self {
            Self::Any => true,
            Self::Name(one) => *one == name,
            Self::Below(domain) => name.len() > domain.len() && name.ends_with(domain.as_str()),
            Self::Address(_) | Self::Network { .. } => false,
        }
    }
}

/// A name of a host in the one way it is compared in: lower case, without the dot of the root. None
/// if it is no name, or one that a resolver takes for an address.
fn host_name(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        let is_in = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(is_in)
    };
    let last = text.rsplit('.').next()?;
    let is_number = last.starts_with(|c: char| c.is_ascii_digit());
    let fits = text.len() <= 253 && text.split('.').all(is_label) && !is_number;
    fits.then(|| text.to_ascii_lowercase())
}

const fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The first bits of an address, which are its network.
fn leading(address: IpAddr, bits: u8) -> u128 {
    let (number, width) = match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    number.checked_shr(width - u32::from(bits)).unwrap_or(0)
}

fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    if text == "*" {
        return Some(0..=u16::MAX);
    }
    // `+80` parses as a number.
    let number = |text: &str| {
        let is_number = text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|_| is_number)
    };
    match text.split_once('-') {
        Some((from, to)) => {
            let ports = number(from)?..=number(to)?;
            (!ports.is_empty()).then_some(ports)
        }
        None => number(text).map(|port| port..=port),
    }
}
