//! The flag and the environment that name a proxy.

use clap::Args;
use farpipe_net::{Proxy, ProxyUrlError, Url};

use super::environment::Environment;
use crate::exit::WithStatus;

/// What leads out of a network that lets nothing else out.
#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    /// Connect through this proxy: http://HOST:PORT (CONNECT), socks5h:// (names resolved
    /// there) or socks5:// (here); else through that of $HTTPS_PROXY or $ALL_PROXY, which may have a
    /// password, but not to this host nor to those of $NO_PROXY
    #[arg(long, value_name = "URL")]
    pub(super) http_proxy: Option<String>,
    /// Where the variables are.
    #[arg(skip)]
    pub(super) environment: Environment,
}

impl ProxyArgs {
    /// The proxy on the way to `url`.
    pub(crate) fn resolve(&self, url: &Url) -> anyhow::Result<Option<Proxy>> {
        const HINT: &str = "for example http://proxy.example:3128 or socks5h://127.0.0.1:1080";
        let Some(typed) = &self.http_proxy else {
            let variable = |name: &str| self.environment.variable(name);
            return Proxy::from_environment(url, variable)
                .map_err(|error| WithStatus::usage(error.to_string(), HINT));
        };
        let proxy: Proxy = typed.parse().map_err(|error: ProxyUrlError| {
            WithStatus::usage(format!("--http-proxy: {error}"), HINT)
        })?;
        if proxy.has_password() {
            return Err(WithStatus::usage(
                "--http-proxy: a password does not belong into an argument or a configuration file",
                "put the URL into the environment, as HTTPS_PROXY",
            ));
        }
        Ok(Some(proxy))
    }
}
