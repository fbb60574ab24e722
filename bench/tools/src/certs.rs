//! Certificates for the peers that speak TLS, made by farpipe and removed at the end.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// `ca.pem`, `both.pem` and `both-key.pem`, for 127.0.0.1.
#[derive(Debug)]
pub struct Certificates(PathBuf);

impl Certificates {
    pub fn make(farpipe: &Path) -> Result<Self> {
        let made = Self(folder());
        for args in [&["init"][..], &["issue", "both", "--san", "127.0.0.1"]] {
            let mut command = Command::new(farpipe);
            command.arg("cert").args(args).arg("--dir").arg(&made.0);
            let output = command.output().context("cannot run farpipe cert")?;
            let words = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "farpipe cert: {words}");
        }
        Ok(made)
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
