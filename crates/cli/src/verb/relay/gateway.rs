//! What a relay's gateway is told: who it is, and whose pages may use it.

use clap::Args;
use farpipe_net::tls::{hosts_in_certificate, read_certificate};
use farpipe_net::{HostPort, Url};
use farpipe_relay::GatewayConfig;

use crate::verb::secure::ListenTls;

/// Pipes and topics over HTTP.
#[derive(Debug, PartialEq, Eq, Args)]
pub(crate) struct GatewayArgs {
    /// Do not serve pipes and topics over HTTP at /p/ and /t/
    #[arg(long, conflicts_with_all = ["gateway_host", "origin"])]
    no_gateway: bool,
    /// A name or address under which HTTP clients reach this relay, beside those in its certificate,
    /// that of --listen, and localhost; others are refused, for a web page can make up a name;
    /// repeatable
    #[arg(long, value_name = "NAME", value_parser = host)]
    gateway_host: Vec<String>,
    /// An origin whose web pages may use pipes, as https://example.org; others than the relay's own
    /// are refused; repeatable
    #[arg(long, value_name = "URL", value_parser = origin)]
    origin: Vec<String>,
}

fn host(text: &str) -> Result<String, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let name = bare.unwrap_or(text);
    // With a port it is read as an address is; the port must be the one that was put there.
    let is_host = match name.contains(':') {
        true => name.parse::<std::net::Ipv6Addr>().is_ok(),
        false => format!("{name}:1").parse::<HostPort>().is_ok(),
    };
    match is_host {
        true => Ok(name.to_ascii_lowercase()),
        false => Err("a name or an address, without a port".to_owned()),
    }
}

fn origin(text: &str) -> Result<String, String> {
    farpipe_agent::endpoint::parse_origin(text).map_err(str::to_owned)
}

impl GatewayArgs {
    /// The gateway of the door at `url`; `None` if there is to be none.
    ///
    /// # Errors
    /// The certificate cannot be read.
    pub(super) fn config(
        &self,
        url: &Url,
        tls: &ListenTls,
    ) -> anyhow::Result<Option<GatewayConfig>> {
        if self.no_gateway || !url.scheme.is_web_socket() {
            return Ok(None);
        }
        let mut hosts = self.gateway_host.clone();
        hosts.push(url.host.to_ascii_lowercase());
        if let Some(file) = tls.certificate().filter(|_| url.scheme.is_tls()) {
            hosts.extend(hosts_in_certificate(&read_certificate(file)?));
        }
        Ok(Some(GatewayConfig {
            hosts,
            origins: self.origin.clone(),
        }))
    }
}
