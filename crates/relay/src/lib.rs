//! The meeting point of agents and those who ask for them: lets both in, knows agents by name, joins
//! tunnels. It reads nothing of what they carry and keeps nothing of a session: when it dies, the
//! two ends go on over another one.

mod admin;
mod audit;
mod gateway;
mod going;
mod held;
mod hub;
mod joined;
mod left;
mod metrics;
mod registry;
mod relay;
mod topics;
mod tunnels;
mod windows;

/// Fuzz targets of what the gateway is asked (docs/fuzzing.md).
#[cfg(feature = "fuzz")]
pub mod fuzz {
    pub use crate::gateway::fuzz::{gateway_body, gateway_request};
}

pub use admin::{Admin, AdminError, AdminListener, Order};
pub use gateway::GatewayConfig;
pub use relay::{Door, Load, Relay, RelayConfig, Running};
pub use topics::Topics;
