//! The flags of both ends of a pipe by a relay.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;
use farpipe_agent::endpoint::EndpointSpec;

use super::route::RouteArgs;
use super::session::{SessionArgs, span};
use crate::exit::WithStatus;

/// The pipe, and what is joined to it.
#[derive(Debug, Args)]
pub(crate) struct OneWayArgs {
    /// The pipe's name: up to 63 small letters, digits, dots, hyphens and underscores
    pub(crate) name: String,
    // Its help is that of the end it stands at: see `endpoint_help`.
    #[arg(default_value = "-", value_name = "ENDPOINT")]
    endpoint: OsString,
    /// End with a FIFO's first writer, instead of waiting for the next one
    #[arg(long)]
    once: bool,
    /// How long to wait for the other side to come (30s, 10m, 2h) [default: without end]
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub(crate) wait: Option<Duration>,
    #[command(flatten)]
    pub(crate) route: RouteArgs,
    #[command(flatten)]
    pub(crate) session: SessionArgs,
}

impl OneWayArgs {
    /// The endpoint.
    pub(crate) fn spec(&self) -> anyhow::Result<EndpointSpec> {
        EndpointSpec::parse(&self.endpoint)
            .and_then(|spec| if self.once { spec.once() } else { Ok(spec) })
            .map_err(|error| WithStatus::usage(error.to_string(), "see `farpipe --help`"))
    }
}
