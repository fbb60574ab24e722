//! Certificates for the peers that speak TLS, made by farpipe and removed at the end.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// `ca.pem`, `both.pem` and `both-key.pem`, for 127.0.0.1; `bench.pem` and `bench-key.pem` for an agent;
/// `policy.yaml` for one that takes a relay's word.
#[derive(Debug)]
pub struct Certificates(PathBuf);

impl Certificates {
    pub fn make(farpipe: &Path) -> Result<Self> {
        let made = Self(folder());
        let agent = ["issue", "bench", "--kind", "agent", "--san", "127.0.0.1"];
        for args in [
            &["init"][..],
            &["issue", "both", "--san", "127.0.0.1"],
            &agent,
        ] {
            let mut command = Command::new(farpipe);
            command.arg("cert").args(args).arg("--dir").arg(&made.0);
            let output = command.output().context("cannot run farpipe cert")?;
            let words = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "farpipe cert: {words}");
        }
        let mut options = OpenOptions::new();
        let policy = options.write(true).create_new(true).mode(0o600);
        let mut policy = policy.open(made.0.join("policy.yaml"))?;
        policy.write_all(b"trust_relay: true\n")?;
        Ok(made)
    }
}

impl Certificates {
    /// One more, for a host.
    pub fn issue(&self, farpipe: &Path, name: &str, host: &str) -> Result<()> {
        let mut command = Command::new(farpipe);
        command.args(["cert", "issue", name, "--san", host, "-q", "--dir"]);
        let output = command.arg(&self.0).output()?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "farpipe cert: {words}");
        Ok(())
    }

    /// Flags of who shows one of them.
    pub fn shown(&self, name: &str) -> Vec<String> {
        let file = |name: &str| self.0.join(name).display().to_string();
        let (cert, key) = (format!("{name}.pem"), format!("{name}-key.pem"));
        let flags = [
            ["--cert", &file(&cert)],
            ["--key", &file(&key)],
            ["--ca", &file("ca.pem")],
        ];
        flags.concat().into_iter().map(str::to_owned).collect()
    }

    pub fn dir(&self) -> &Path {
        &self.0
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What stands for `CERTS` in arguments.
pub fn folder() -> PathBuf {
    std::env::temp_dir().join(format!("farpipe-bench-certs-{}", std::process::id()))
}
