//! farpipe-faultproxy before a server: a network that is far.

use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};

use crate::process::Process;

/// A proxy with these flags before `to` (HOST:PORT), and the address that it listens at.
pub fn before(program: &Path, to: &str, flags: &[&str]) -> Result<(Process, String)> {
    let args = [&["--to", to], flags].concat();
    let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
    let mut proxy = Process::start(program, &args, Stdio::null(), Stdio::piped())?;
    let mut said = Vec::new();
    let mut stdout = proxy.stdout();
    let mut byte = [0];
    while stdout.read(&mut byte)? == 1 && byte != *b"\n" {
        said.push(byte[0]);
    }
    let said = String::from_utf8(said)?;
    let address = said.strip_prefix("listening on ");
    let address = address.context("the proxy does not listen")?.to_owned();
    Ok((proxy, address))
}
