//! Where the project lies, and running other programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The root of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the root of the workspace")
}

/// The build directory that this very program was built in, wherever the caller put it.
pub fn target_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot tell where xtask was built")?;
    let dir = exe
        .ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").exists());
    Ok(dir.map_or_else(|| root().join("target"), Path::to_path_buf))
}

/// A command with nothing on its stdin, run in the root of the workspace.
pub fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(root()).stdin(Stdio::null());
    command
}

/// A cargo command, by the cargo that runs us.
pub fn cargo(args: &[&str]) -> Command {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    command(&program, args)
}

/// Prints a command as it could be typed, runs it, and fails if it does.
pub fn check(command: &mut Command) -> Result<()> {
    let line = line(command);
    eprintln!("$ {line}");
    let status = command
        .status()
        .with_context(|| format!("cannot run {line}"))?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(())
}

/// What a command prints, without the end of the line.
pub fn output(program: &str, args: &[&str]) -> Result<String> {
    let mut command = command(program, args);
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", line(&command)))?;
    if !output.status.success() {
        bail!("{}: {}", line(&command), output.status);
    }
    let text = String::from_utf8(output.stdout)
        .with_context(|| format!("{program} printed what is not UTF-8"))?;
    Ok(text.trim_end().to_owned())
}

/// A command as it could be typed.
pub fn line(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default();
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
