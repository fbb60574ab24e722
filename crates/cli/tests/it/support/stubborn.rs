//! A command with all that makes processes hard to end.

use super::Running;

/// It ignores the signals that ask, a child of its has left its parents, and another one leads a process
/// group of its own. Says their numbers.
pub(crate) const STUBBORN: &str = "trap '' HUP TERM INT
    (sleep 1000 & echo $!)
    bash -c 'set -m; sleep 1000 & echo $!; kill -9 $$' 2>/dev/null
    echo $$
    while :; do sleep 0.01; done";

/// The numbers that [`STUBBORN`] says.
#[track_caller]
pub(crate) fn numbers(exec: &Running) -> Vec<String> {
    let mut said = Vec::new();
    let mut len = 1;
    while said.iter().filter(|byte| **byte == b'\n').count() < 3 {
        said = exec.stdout_until(len);
        len = said.len() + 1;
    }
    let text = String::from_utf8(said).expect("numbers");
    text.lines().map(str::to_owned).collect()
}
