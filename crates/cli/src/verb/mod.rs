//! The verbs, one file each, and the flags that several of them share.

pub(crate) mod agent;
pub(crate) mod bench;
pub(crate) mod cert;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod connect;
pub(crate) mod doctor;
pub(crate) mod door;
pub(crate) mod exec;
pub(crate) mod listen;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod ping;
pub(crate) mod pipe;
pub(crate) mod policy;
pub(crate) mod proxy;
pub(crate) mod quickstart;
mod registration;
pub(crate) mod relay;
mod route;
mod secure;
pub(crate) mod session;
mod terminal;
mod ticket;
pub(crate) mod token;
