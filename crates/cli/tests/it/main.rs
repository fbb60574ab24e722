//! The built command as its users meet it: real processes, real pipes, real connections.
//!
//! Each module is one promise of the design; rows of docs/reliability.md's fault table that a test
//! stands for begin its name (n4, x3…).

mod bench;
mod bench_link;
mod bench_push;
mod compress;
mod config;
mod config_files;
mod cuts;
mod daemon;
mod data;
mod doctor;
mod doctor_proxy;
mod events;
mod exec;
mod exec_detached;
mod exec_ends;
mod exec_policy;
mod exec_terminal;
mod exec_verb;
mod fifo;
mod fifo_writers;
mod generated;
mod half_close;
mod hostile_handshake;
mod hostile_listener;
mod hostile_session;
mod memory;
mod peers;
mod pipe;
mod policy;
mod proxy;
mod quickstart;
mod relay;
mod relay_admin;
mod relay_faults;
mod relay_logs;
mod relay_ls;
mod relay_malice;
mod relay_reload;
mod relay_tls;
mod secrets;
mod signals;
mod slow;
mod sockets;
mod stdio;
mod storm;
mod support;
mod tickets;
mod tls;
mod token;
mod token_link;
mod usage;
mod websocket_ends;
mod websockets;
