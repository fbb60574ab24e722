//! Trees between two ends in one process, and ends whose other end is hostile.

mod hostile;
mod resume;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use tempfile::TempDir;
use tokio::sync::watch;

use super::ask::{self, End};
use super::{Base, Event, Journal, Receiver, Sender, Source, Summary, Top, name_of};
use crate::PipeError;
use crate::beneath::Place;

/// A directory of a test's own.
fn dir() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().canonicalize().expect("it is there");
    (dir, path)
}

fn place(path: &Path) -> Place {
    Place::beneath(Path::new("/"), path).expect("a plain path")
}

fn source(path: &Path) -> Source {
    Source::open(place(path), path.as_os_str()).expect("a source")
}

fn base(path: &Path) -> Base {
    Base::open(&place(path), path.as_os_str(), false, &[]).expect("a target")
}

/// A journal whose events are kept.
fn journal() -> (Journal, Arc<Mutex<Vec<Event>>>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&events);
    let journal = Journal::new(move |event| into.lock().expect("no panic").push(event));
    (journal, events)
}

/// Copies one source here, and says what happened.
async fn copy_with(
    from: &Path,
    to: &Path,
    dry_run: bool,
) -> (Result<Summary, PipeError>, Vec<Event>) {
    let (journal, events) = journal();
    let names = Top::Given(vec![name_of(from.as_os_str())]);
    let (_cancel, cancelled) = watch::channel(false);
    let sender = End::Here(Sender::new(vec![source(from)]));
    let receiver = End::Here(Receiver::new(base(to), names, dry_run));
    let copied = ask::run(sender, receiver, &journal, cancelled).await;
    let events = std::mem::take(&mut *events.lock().expect("no panic"));
    (copied, events)
}

async fn copy(from: &Path, to: &Path) -> (Summary, Vec<Event>) {
    let (copied, events) = copy_with(from, to, false).await;
    (copied.expect("a copy"), events)
}

/// Everything that is beneath a directory: name, kind and mode, time, content.
fn all(dir: &Path) -> Vec<(PathBuf, u32, i64, i64, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).expect("a directory") {
            let path = entry.expect("an entry").path();
            let meta = path.symlink_metadata().expect("it is there");
            let content = if meta.is_symlink() {
                let target = fs::read_link(&path).expect("a link");
                target.as_os_str().as_bytes().to_vec()
            } else if meta.is_dir() {
                open.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).expect("a file")
            };
            let name = path.strip_prefix(dir).expect("it lies there").to_owned();
            found.push((name, meta.mode(), meta.mtime(), meta.mtime_nsec(), content));
        }
    }
    found.sort();
    found
}

fn set_time(path: &Path, seconds: u64, nanos: u32) {
    let at = UNIX_EPOCH + Duration::new(seconds, nanos);
    let file = fs::File::open(path).expect("it is there");
    file.set_modified(at).expect("its owner may");
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its owner may");
}

/// A tree with everything in it that is copied.
fn tree(at: &Path) {
    fs::create_dir_all(at.join("d/e/f")).expect("directories");
    fs::create_dir(at.join("empty")).expect("a directory");
    fs::write(at.join("a"), "hello").expect("a file");
    fs::write(at.join("d/none"), "").expect("a file");
    fs::write(at.join("d/new\nline\x1b[2J"), "x").expect("a file");
    fs::write(at.join(OsStr::from_bytes(b"d/\xff\xfe")), "not UTF-8").expect("a file");
    fs::write(at.join("d/e/f/private"), vec![7; 300_000]).expect("a file");
    set_mode(&at.join("d/e/f/private"), 0o600);
    let long = "n".repeat(250);
    fs::write(at.join("d/e").join(&long), "long").expect("a file");
    symlink("../a", at.join("d/in")).expect("a link");
    symlink("/nowhere/at/all", at.join("d/out")).expect("a link");
    symlink("e", at.join("d/dir")).expect("a link");
    set_time(&at.join("a"), 981_173_106, 789);
    set_mode(&at.join("d/e"), 0o555);
    set_time(&at.join("d/e"), 1_000_000_000, 5);
    set_time(&at.join("d"), 1, 1);
}

#[tokio::test]
async fn a_tree_is_the_same_at_its_target() {
    let (_dir, at) = dir();
    let (from, to) = (at.join("from"), at.join("to"));
    tree(&from);
    let (summary, events) = copy(&from, &to).await;
    assert_eq!(events, []);
    assert_eq!((summary.counts.files, summary.counts.links), (6, 3));
    assert_eq!(all(&from), all(&to));
    // Once more: nothing is left to do, and a change is found.
    let (summary, _) = copy(&from.join("."), &to).await;
    assert_eq!((summary.counts.files, summary.counts.unchanged), (0, 9));
    fs::write(from.join("a"), "HELLO").expect("a file");
    set_mode(&from.join("d/none"), 0o640);
    let (summary, _) = copy(&from.join("."), &to).await;
    assert_eq!(summary.counts.files, 1);
    assert_eq!(all(&from), all(&to));
}

#[tokio::test]
async fn holes_stay_holes_and_cost_nothing() {
    let (_dir, at) = dir();
    let from = at.join("sparse");
    let file = fs::File::create(&from).expect("a file");
    // As large as the file system lets it be, up to a terabyte.
    let sizes = [1_u64 << 40, 1 << 34];
    let size = sizes.into_iter().find(|size| file.set_len(*size).is_ok());
    let size = size.expect("one of them");
    use std::os::unix::fs::FileExt as _;
    file.write_all_at(b"in the middle", size / 2 + 5)
        .expect("room");
    drop(file);
    let to = at.join("to");
    let (summary, _) = copy(&from, &to).await;
    assert_eq!(summary.counts.bytes, size);
    let made = to.metadata().expect("it is there");
    assert_eq!(made.len(), size);
    assert!(made.blocks() < 20_000, "{} blocks", made.blocks());
    let file = fs::File::open(&to).expect("it is there");
    let mut bytes = [0; 23];
    file.read_exact_at(&mut bytes, size / 2)
        .expect("it is as long");
    assert_eq!(&bytes, b"\0\0\0\0\0in the middle\0\0\0\0\0");
}

#[tokio::test]
async fn what_is_special_is_left_out_and_the_rest_copied() {
    let (_dir, at) = dir();
    let from = at.join("from");
    fs::create_dir(&from).expect("a directory");
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, from.join("fifo"), mode).expect("a FIFO");
    fs::write(from.join("suid"), "x").expect("a file");
    set_mode(&from.join("suid"), 0o6755);
    fs::write(from.join(".x.farpipe-part"), "left over").expect("a file");
    let (summary, events) = copy(&from, &at.join("to")).await;
    assert_eq!((summary.counts.files, summary.troubles), (1, 1));
    let [Event::Trouble { message, .. }] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(message, "a FIFO is not copied");
    let made = at.join("to/suid").metadata().expect("it is there");
    assert_eq!(made.mode() & 0o7777, 0o755);
    assert!(!at.join("to/.x.farpipe-part").exists());
}

#[tokio::test]
async fn what_is_in_the_way_stays_and_the_others_go_on() {
    let (_dir, at) = dir();
    let (from, to) = (at.join("from"), at.join("to"));
    fs::create_dir_all(from.join("dir")).expect("a directory");
    fs::write(from.join("dir/inside"), "x").expect("a file");
    fs::write(from.join("file"), "x").expect("a file");
    fs::write(from.join("link"), "a file").expect("a file");
    fs::write(from.join("other"), "x").expect("a file");
    fs::create_dir_all(to.join("file/full")).expect("a directory");
    fs::write(to.join("dir"), "a file").expect("a file");
    fs::write(at.join("led to"), "before").expect("a file");
    symlink("../led to", to.join("link")).expect("a link");
    let (summary, events) = copy(&from.join("."), &to).await;
    assert_eq!(
        (summary.counts.files, summary.troubles),
        (2, 2),
        "{events:?}"
    );
    assert!(to.join("file/full").is_dir());
    assert_eq!(fs::read(to.join("dir")).expect("a file"), b"a file");
    // A link is replaced, and what it led to is not touched.
    assert_eq!(fs::read(at.join("led to")).expect("a file"), b"before");
    assert_eq!(fs::read(to.join("link")).expect("a file"), b"a file");
    assert!(!to.join("link").is_symlink());
}

/// Row F2, where the link stays: a directory is not entered by it.
#[tokio::test]
async fn f2_a_link_in_the_place_of_a_directory_is_in_the_way() {
    let (_dir, at) = dir();
    let (from, to, outside) = (at.join("from"), at.join("to"), at.join("outside"));
    fs::create_dir_all(from.join("d")).expect("a directory");
    fs::write(from.join("d/inside"), "x").expect("a file");
    fs::create_dir(&to).expect("a directory");
    fs::create_dir(&outside).expect("a directory");
    symlink(&outside, to.join("d")).expect("a link");
    let (summary, events) = copy(&from.join("."), &to).await;
    assert_eq!(
        (summary.counts.files, summary.troubles),
        (0, 1),
        "{events:?}"
    );
    assert_eq!(all(&outside), []);
}

#[tokio::test]
async fn a_dry_run_makes_nothing_and_says_what_it_would_make() {
    let (_dir, at) = dir();
    let from = at.join("from");
    fs::create_dir_all(from.join("d")).expect("a directory");
    fs::write(from.join("d/a"), "x").expect("a file");
    let (_, events) = copy_with(&from, &at.join("to"), true).await;
    let would = |path: &str| {
        let path = at.join("to").join(path);
        let bytes = path.as_os_str().as_bytes();
        Event::Would(bytes.strip_suffix(b"/").unwrap_or(bytes).to_vec())
    };
    assert_eq!(events, [would(""), would("d"), would("d/a")]);
    assert!(!at.join("to").exists());
}

/// Row F2: somebody puts a link in the place of a directory, again and again, while a copy is at it.
#[test]
fn f2_no_swapped_link_leads_a_copy_out_of_its_target() {
    let (_dir, at) = dir();
    let (from, to, outside) = (at.join("from"), at.join("to"), at.join("outside"));
    for dir in ["d/e", "deep/e"] {
        fs::create_dir_all(from.join(dir)).expect("directories");
        fs::create_dir_all(to.join(dir)).expect("directories");
        for n in 0..20 {
            fs::write(from.join(dir).join(n.to_string()), "x").expect("a file");
        }
    }
    fs::create_dir_all(outside.join("e")).expect("a directory");
    for link in ["link", "deeper"] {
        symlink(&outside, to.join(link)).expect("a link");
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let swap = |one: &str, other: &str| {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let at = rustix::fs::CWD;
                // The copy may hold either of them at the moment.
                let _ = rustix::fs::renameat_with(at, to.join(one), at, to.join(other), flags);
            };
            while !stop.load(Ordering::Relaxed) {
                swap("d", "link");
                swap("deep/e", "deeper");
            }
        });
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let copied = std::panic::catch_unwind(|| {
            runtime.block_on(async {
                for _ in 0..60 {
                    let _ = copy_with(&from.join("."), &to, false).await;
                    let left = all(&outside);
                    assert_eq!(left.len(), 1, "{left:?}");
                }
            });
        });
        stop.store(true, Ordering::Relaxed);
        copied.expect("nothing is outside");
    });
}
