//! Command line of `peers`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::sink;

pub const USAGE: &str = "\
usage: farpipe-bench peers [OPTIONS]

  --size SIZE        bytes of the bulk transfer, with KiB, MiB or GiB (default 2GiB)
  --small SIZE       bytes written little at a time (default 200MiB)
  --write SIZE       of which so many at once (default 100)
  --read SIZE        bytes that the end of a pipeline reads at once (default 1MiB)
  --pings N          round trips a round (default 20000)
  --files N          files of the tree that is copied (default 100000)
  --dir DIR          where trees are copied to: of the file system that is meant, and empty space for each
                     round (default the folder for temporary files)
  --commands N       commands of each kind, one of each in turn (default 100)
  --ssh-user NAME    whom ssh logs in as, if this is root (default who runs this)
  --rounds N         rounds over all configurations (default 7, of trees 3)
  --only A,B         only configurations whose name contains A or B
  --tables A,B       of bulk, small, ping, forward, relay, tree, reuse (default all)
  --quiet PERCENT    repeat a run during which others used more of the machine than this; not of reuse, whose
                     runs are too short for the kernel to count
  --json             print every figure of every round as JSON instead of the tables
  --program N=PATH   where the program of peer N lies; peers without one are left out
";

#[derive(Debug)]
pub struct Options {
    pub size: u64,
    pub small: u64,
    /// Bytes of a small write.
    pub write: u64,
    /// Bytes of a read of the sink.
    pub read: u64,
    pub pings: usize,
    pub files: usize,
    /// Where trees are copied to.
    pub dir: PathBuf,
    pub commands: usize,
    pub ssh_user: Option<String>,
    pub rounds: usize,
    /// Of trees, each of which stays until the end.
    pub tree_rounds: usize,
    pub only: Vec<String>,
    pub tables: Vec<String>,
    /// The share of the machine that others may use during a run.
    pub others_max: Option<f64>,
    pub json: bool,
    pub programs: HashMap<String, PathBuf>,
}

/// `None` when help was asked for.
pub fn parse(args: &[&str]) -> Result<Option<Options>> {
    let mut options = Options {
        size: 2 << 30,
        small: 200 << 20,
        write: 100,
        read: sink::READ,
        pings: 20_000,
        files: 100_000,
        dir: std::env::temp_dir(),
        commands: 100,
        ssh_user: None,
        rounds: 7,
        tree_rounds: 3,
        only: Vec::new(),
        tables: ["bulk", "small", "ping", "forward", "relay", "tree", "reuse"]
            .map(str::to_owned)
            .to_vec(),
        others_max: None,
        json: false,
        programs: HashMap::new(),
    };
    let mut args = args.iter();
    while let Some(&arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} wants a value"));
        match arg {
            "--size" => options.size = size(value()?)?,
            "--small" => options.small = size(value()?)?,
            "--write" => options.write = size(value()?)?.max(1),
            "--read" => options.read = size(value()?)?.max(1),
            "--pings" => options.pings = value()?.parse()?,
            "--files" => options.files = value()?.parse()?,
            "--dir" => options.dir = value()?.into(),
            "--commands" => options.commands = value()?.parse()?,
            "--ssh-user" => options.ssh_user = Some((*value()?).to_owned()),
            "--rounds" => {
                options.rounds = value()?.parse()?;
                options.tree_rounds = options.rounds;
            }
            "--only" => options.only = list(value()?),
            "--tables" => options.tables = list(value()?),
            "--quiet" => options.others_max = Some(value()?.parse::<f64>()? / 100.0),
            "--json" => options.json = true,
            "--program" => {
                let (name, path) = value()?.split_once('=').context("--program wants N=PATH")?;
                options
                    .programs
                    .insert(name.to_owned(), PathBuf::from(path));
            }
            "--help" | "-h" => return Ok(None),
            _ => bail!("unknown option {arg}\n{USAGE}"),
        }
    }
    Ok(Some(options))
}

impl Options {
    /// Where a program lies that a table cannot do without.
    pub fn program(&self, name: &str) -> Result<&Path> {
        let path = self.programs.get(name).map(PathBuf::as_path);
        path.with_context(|| format!("--program {name}=PATH is wanted"))
    }

    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }

    pub fn wants_table(&self, table: &str) -> bool {
        self.tables.iter().any(|name| name == table)
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

fn size(text: &str) -> Result<u64> {
    let (digits, unit) = text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    );
    let shift = match unit {
        "" | "B" => 0,
        "KiB" | "K" => 10,
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        _ => bail!("{text}: sizes are in KiB, MiB or GiB"),
    };
    let number: u64 = digits
        .parse()
        .with_context(|| format!("{text} is no size"))?;
    Ok(number << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(size("2GiB").unwrap(), 2 << 30);
        assert_eq!(size("100").unwrap(), 100);
        assert!(size("2GB").is_err());
    }
}
