//! `cargo xtask sim`: the long runs of the simulations, of which `cargo xtask test` plays slices.
//!
//! Each is an example of farpipe-sim that prints its figures and ends at the first wrong byte with
//! all that decides the run.

use anyhow::Result;

use crate::tools;

/// Seeds of each simulation unless said otherwise.
pub const SEEDS: u64 = 10_000;

/// The example and what it is told beside the number of seeds.
const RUNS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("sweep", &["--exhaustive", "--seeds"]),
    ("net_sweep", &["--exhaustive", "--seeds"]),
    ("net_turmoil", &["--seeds"]),
    ("net_relays", &["--seeds"]),
];

/// Runs all of them.
pub fn run(seeds: u64) -> Result<()> {
    let seeds = seeds.to_string();
    for (example, options) in RUNS {
        let mut args = vec!["run", "--release", "--package", "farpipe-sim", "--example"];
        args.extend([example, "--"]);
        args.extend_from_slice(options);
        args.push(&seeds);
        tools::check(&mut tools::cargo(&args))?;
    }
    Ok(())
}
