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

/// Row F1, names that are only odd: they are kept to the byte.
#[tokio::test]
async fn f1_a_tree_is_the_same_at_its_target() {
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

/// Row F7: a terabyte of nothing.
#[tokio::test]
async fn f7_holes_stay_holes_and_cost_nothing() {
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

/// Row F3, at the source.
#[tokio::test]
async fn f3_what_is_special_is_left_out_and_the_rest_copied() {
    let (_dir, at) = dir();
    let from = at.join("from");
    fs::create_dir(&from).expect("a directory");
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, from.join("fifo"), mode).expect("a FIFO");
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).expect("a socket");
    // The device of /dev/null; only root may make one.
    let device = rustix::fs::makedev(1, 3);
    let kind = rustix::fs::FileType::CharacterDevice;
    let made = rustix::fs::mknodat(rustix::fs::CWD, from.join("null"), kind, mode, device);
    fs::write(from.join("suid"), "x").expect("a file");
    set_mode(&from.join("suid"), 0o6755);
    fs::write(from.join(".x.farpipe-part"), "left over").expect("a file");
    let (summary, events) = copy(&from, &at.join("to")).await;
    let mut expected = vec!["a FIFO is not copied", "a socket is not copied"];
    match made {
        Ok(()) => expected.insert(1, "a device is not copied"),
        Err(error) => eprintln!("without a device, which cannot be made here: {error}"),
    }
    assert_eq!(summary.counts.files, 1);
    assert_eq!(summary.troubles, expected.len() as u64);
    let message = |event: &Event| match event {
        Event::Trouble { message, .. } => message.clone(),
        other => panic!("{other:?}"),
    };
    let mut messages: Vec<_> = events.iter().map(message).collect();
    messages.sort();
    assert_eq!(messages, expected);
    let made = at.join("to/suid").metadata().expect("it is there");
    assert_eq!(made.mode() & 0o7777, 0o755);
    assert!(!at.join("to/.x.farpipe-part").exists());
}

/// Row F3, at the target: what is special there is in the way and not opened, and what has another name
/// elsewhere is not written through.
#[tokio::test]
async fn f3_nothing_is_written_through_what_is_at_the_target() {
    let (_dir, at) = dir();
    let (from, to) = (at.join("from"), at.join("to"));
    fs::create_dir(&from).expect("a directory");
    fs::create_dir(&to).expect("a directory");
    for name in ["fifo", "socket", "linked"] {
        fs::write(from.join(name), "new").expect("a file");
    }
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, to.join("fifo"), mode).expect("a FIFO");
    let _socket = std::os::unix::net::UnixListener::bind(to.join("socket")).expect("a socket");
    fs::write(at.join("secret"), "before").expect("a file");
    fs::hard_link(at.join("secret"), to.join("linked")).expect("another name");
    // As well in the place of what is not whole yet.
    fs::hard_link(at.join("secret"), to.join(".linked.farpipe-part")).expect("another name");
    let (summary, events) = copy(&from.join("."), &to).await;
    assert_eq!(
        (summary.counts.files, summary.troubles),
        (1, 2),
        "{events:?}"
    );
    for name in ["fifo", "socket"] {
        let kind = to.join(name).symlink_metadata().expect("it is there");
        assert!(!kind.is_file(), "{name} stays");
    }
    assert_eq!(fs::read(to.join("linked")).expect("a file"), b"new");
    assert_eq!(fs::read(at.join("secret")).expect("a file"), b"before");
}

/// Row F7: names that differ by case are two, wherever the file system has them as two.
#[tokio::test]
async fn f7_names_that_differ_by_case_are_two_files() {
    let (_dir, at) = dir();
    let (from, to) = (at.join("from"), at.join("to"));
    fs::create_dir_all(from.join("D")).expect("a directory");
    fs::create_dir_all(from.join("d")).expect("a directory");
    for name in ["a", "A", "D/x", "d/X"] {
        fs::write(from.join(name), name).expect("a file");
    }
    let (summary, _) = copy(&from, &to).await;
    assert_eq!(all(&from), all(&to));
    assert_eq!(summary.troubles, 0);
}

/// Row F7: more small files than may be offered at once; what waits is bounded, and all of them come.
#[tokio::test]
async fn f7_more_small_files_than_may_be_offered_at_once() {
    const FILES: usize = farpipe_proto::limits::COPY_OFFERS_MAX + 1000;
    // In memory: making them is not what is tested.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let dir = dir.expect("a directory");
    let at = dir.path().canonicalize().expect("it is there");
    let (from, to) = (at.join("from"), at.join("to"));
    fs::create_dir(&from).expect("a directory");
    for n in 0..FILES {
        fs::File::create(from.join(n.to_string())).expect("a file");
    }
    let (summary, events) = copy(&from, &to).await;
    assert_eq!(events, []);
    assert_eq!(summary.counts.files, FILES as u64);
    assert_eq!(fs::read_dir(&to).expect("a directory").count(), FILES);
}

/// Row F7: a file where a directory is to be, and a directory where a file is to be.
#[tokio::test]
async fn f7_what_is_in_the_way_stays_and_the_others_go_on() {
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

/// Puts two entries in each other's place, unless the copy has one of them away at the moment.
#[cfg(target_os = "linux")]
fn swap(at: &fs::File, one: &str, other: &str) -> bool {
    let flags = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(at, one, at, other, flags).is_ok()
}

/// Row F2: somebody puts a link in the place of a directory a million times at the source, and a million
/// times at the target, while copies are at it. Nothing outside of the one is read, nor outside of the
/// other written.
#[cfg(target_os = "linux")]
#[test]
fn f2_no_swapped_link_leads_a_copy_out_of_its_source_or_its_target() {
    const SWAPS: usize = 1_000_000;
    // In memory, so that it is the copies that take the time.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let dir = dir.expect("a directory");
    let at = dir.path().canonicalize().expect("it is there");
    let (from, to) = (at.join("from"), at.join("to"));
    let (secret, mine) = (at.join("secret"), at.join("mine"));
    fs::create_dir_all(secret.join("e")).expect("directories");
    // Nothing lies below what is outside of the target, so that something could be made there.
    fs::create_dir(&mine).expect("a directory");
    for dir in [secret.clone(), secret.join("e"), mine.clone()] {
        let content = if dir == mine { "mine" } else { "secret" };
        let names = (0..10).map(|n| n.to_string());
        for name in names.chain(["hidden".to_owned()]) {
            fs::write(dir.join(name), content).expect("a file");
        }
        set_mode(&dir, 0o500);
    }
    for (root, outside) in [(&from, &secret), (&to, &mine)] {
        for dir in ["d/e", "deep/e"] {
            fs::create_dir_all(root.join(dir)).expect("directories");
        }
        for link in ["link", "deeper"] {
            symlink(outside, root.join(link)).expect("a link");
        }
    }
    // By their descriptors: their paths lead elsewhere half of the time.
    let mut files = Vec::new();
    for dir in ["d/e", "deep/e"] {
        for n in 0..10 {
            let path = from.join(dir).join(n.to_string());
            fs::write(&path, "x").expect("a file");
            files.push(fs::File::open(path).expect("it is there"));
        }
    }
    let outside = || {
        let mode = |dir: &PathBuf| dir.metadata().expect("it is there").mode();
        (all(&secret), all(&mine), mode(&secret), mode(&mine))
    };
    let before = outside();
    let over = AtomicBool::new(false);
    let (copied, stopped) = std::thread::scope(|scope| {
        let swapping = scope.spawn(|| {
            let open = |root: &Path| fs::File::open(root).expect("a directory");
            let (source, target) = (open(&from), open(&to));
            let (mut at_source, mut at_target) = (0, 0);
            while (at_source < SWAPS || at_target < SWAPS) && !over.load(Ordering::Relaxed) {
                for (root, count) in [(&source, &mut at_source), (&target, &mut at_target)] {
                    *count += usize::from(swap(root, "d", "link"));
                    *count += usize::from(swap(root, "deep/e", "deeper"));
                }
            }
            (at_source, at_target)
        });
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let copying = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let (mut copied, mut stopped) = (0, 0);
            for round in 1.. {
                // Else they would be the same already.
                let time = UNIX_EPOCH + Duration::from_secs(round);
                files.iter().for_each(|file| {
                    file.set_modified(time).expect("its owner may");
                });
                // What is swapped is in the way; where its target is gone altogether, a copy ends.
                let (summary, events) = runtime.block_on(copy_with(&from.join("."), &to, false));
                let summary = summary.unwrap_or_default();
                copied += summary.counts.files;
                stopped += summary.troubles;
                assert_eq!(outside(), before, "it was written there");
                // Nor are names told that are only there.
                let events = format!("{events:?}");
                assert!(!events.contains("hidden"), "{events}");
                let made = all_while_swapped(fs::File::open(&to).expect("a directory"));
                let is_secret = |content: &Vec<u8>| content == b"secret";
                assert!(!made.iter().any(is_secret), "it was read there");
                if swapping.is_finished() {
                    break;
                }
            }
            (copied, stopped)
        }));
        over.store(true, Ordering::Relaxed);
        let (at_source, at_target) = swapping.join().expect("no panic");
        let copying = copying.expect("nothing outside is touched");
        assert!(at_source >= SWAPS && at_target >= SWAPS);
        copying
    });
    let told = format!("{copied} copied, {stopped} stopped");
    eprintln!("{told}");
    assert!(copied > 0 && stopped > 0, "{told}");
}

/// The content of all files beneath a directory in which names are swapped meanwhile. Each name is opened by
/// itself, and no link.
#[cfg(target_os = "linux")]
fn all_while_swapped(dir: fs::File) -> Vec<Vec<u8>> {
    use rustix::fs::{Mode, OFlags};
    use std::io::Read as _;

    let mut found = Vec::new();
    for entry in rustix::fs::Dir::read_from(&dir).expect("a directory") {
        let entry = entry.expect("an entry");
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(opened) = rustix::fs::openat(&dir, name, flags, Mode::empty()) else {
            continue;
        };
        let mut file = fs::File::from(opened);
        if file.metadata().expect("it is open").is_dir() {
            found.extend(all_while_swapped(file));
        } else {
            let mut content = Vec::new();
            file.read_to_end(&mut content).expect("a file");
            found.push(content);
        }
    }
    found
}
