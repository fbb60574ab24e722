//! Copies that are cut, and go on.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;

use super::super::ask::{self, End};
use super::super::{Event, Receiver, Sender, Top, pair};
use super::{base, copy, dir, journal, set_time, source};
use crate::PipeError;

const MIB: usize = 1 << 20;
const SIZE: usize = 24 * MIB;

/// What does not look alike anywhere.
fn content(seed: u64) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_be_bytes());
    let mut bytes = vec![0; SIZE + 12_345];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// A copy of which the receiving end gets so many pieces; then it is left.
async fn cut_after(from: &Path, to: &Path, pieces: usize) {
    let ((sent, mut there), (here, input)) = (pair(), pair());
    let ((answers, answered), (say, mut said)) = (pair(), pair());
    let (first, _) = journal();
    let (second, _) = journal();
    let sender = Sender::new(vec![source(from)]).run(answered, sent, first);
    let top = Top::Given(vec![Some(b"to".to_vec())]);
    let receiver = Receiver::new(base(to), top, false).run(input, say, second);
    let passing = async move {
        for _ in 0..pieces {
            here.send(there.recv().await.expect("more"))
                .await
                .expect("it listens");
        }
    };
    let answering = async move {
        while let Some(piece) = said.recv().await {
            let _ = answers.send(piece).await;
        }
    };
    let (sent, received, (), ()) = tokio::join!(sender, receiver, passing, answering);
    assert!(sent.is_err() && received.is_err());
}

fn kept(events: &[Event]) -> Option<u64> {
    events.iter().find_map(|event| match event {
        Event::Kept { kept, .. } => Some(*kept),
        _ => None,
    })
}

/// Whether what was kept was read again; `None`: nothing was kept.
fn is_reread(events: &[Event]) -> Option<bool> {
    events.iter().find_map(|event| match event {
        // The sending end's, which does not know, is not told here.
        Event::Kept { is_reread, .. } => Some(*is_reread),
        _ => None,
    })
}

/// Changes a file until its file system's clock tells that it was later than its sidecar was written.
fn until_later(at: &Path, mut change: impl FnMut(&fs::File)) {
    let moment = |name: &str| {
        let stat = rustix::fs::stat(at.join(name)).expect("it is there");
        let (seconds, nanos) = match name.ends_with("part") {
            true => (stat.st_ctime, stat.st_ctime_nsec as i64),
            false => (stat.st_mtime, stat.st_mtime_nsec as i64),
        };
        i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
    };
    let mut open = fs::OpenOptions::new();
    let part = open.write(true).open(at.join(".to.farpipe-part"));
    let part = part.expect("it is there");
    let noted = moment(".to.farpipe-sums");
    while moment(".to.farpipe-part") < noted + 50_000_000 {
        change(&part);
    }
}

fn left(at: &Path) -> Vec<String> {
    let names = fs::read_dir(at).expect("a directory");
    let names = names.map(|entry| entry.expect("an entry").file_name());
    names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.starts_with('.'))
        .collect()
}

#[tokio::test]
async fn f6_a_copy_that_was_cut_goes_on_where_it_was() {
    let (_dir, at) = dir();
    let (from, to) = (at.join("from"), at.join("to"));
    let bytes = content(1);
    fs::write(&from, &bytes).expect("a file");
    fs::write(&to, "before").expect("a file");
    cut_after(&from, &to, 30).await;
    assert_eq!(fs::read(&to).expect("a file"), b"before");
    assert_eq!(left(&at).len(), 2);
    let part = at.join(".to.farpipe-part");
    let first = part.metadata().expect("it is there").ino();
    let (summary, events) = copy(&from, &to).await;
    let kept = kept(&events).expect("something was kept");
    assert!(
        kept >= MIB as u64 && kept.is_multiple_of(MIB as u64),
        "{kept}"
    );
    assert_eq!(summary.counts.kept, kept);
    assert_eq!(
        to.metadata().expect("it is there").ino(),
        first,
        "the same part"
    );
    assert_eq!(is_reread(&events), Some(false));
    assert!(fs::read(&to).expect("a file") == bytes);
    assert_eq!(left(&at), [""; 0]);
}

/// What was received is not read, unless somebody else was at it; what was changed never becomes the file.
#[tokio::test]
async fn f6_a_part_that_somebody_changed_begins_again() {
    for keeps_time in [false, true] {
        let (_dir, at) = dir();
        let (from, to) = (at.join("from"), at.join("to"));
        let bytes = content(1);
        fs::write(&from, &bytes).expect("a file");
        cut_after(&from, &to, 30).await;
        let part = at.join(".to.farpipe-part");
        let before = part.metadata().expect("it is there");
        until_later(&at, |part| {
            part.write_all_at(b"not this", 1000).expect("room");
            if keeps_time {
                part.set_modified(before.modified().expect("a time"))
                    .expect("its owner may");
            }
        });
        let (summary, events) = copy(&from, &to).await;
        assert_eq!(summary.counts.kept, 0);
        let restarted = |event: &Event| matches!(event, Event::Restarted { .. });
        assert!(events.iter().any(restarted), "{events:?}");
        assert!(fs::read(&to).expect("a file") == bytes);
        assert_eq!(left(&at), [""; 0]);
    }
}

/// What is behind the bytes that are noted goes in any case, and a mode means nothing: they are read, and are good.
#[tokio::test]
async fn f6_a_part_that_was_touched_is_read_and_kept() {
    let (_dir, at) = dir();
    let (from, to) = (at.join("from"), at.join("to"));
    let bytes = content(1);
    fs::write(&from, &bytes).expect("a file");
    cut_after(&from, &to, 30).await;
    until_later(&at, |part| {
        let mode = fs::Permissions::from_mode(0o640);
        part.set_permissions(mode).expect("its owner may");
        let end = part.metadata().expect("it is open").len();
        part.write_all_at(b"more", end).expect("room");
    });
    let (summary, events) = copy(&from, &to).await;
    assert!(summary.counts.kept >= MIB as u64);
    assert_eq!(is_reread(&events), Some(true));
    assert!(fs::read(&to).expect("a file") == bytes);
}

#[tokio::test]
async fn f6_a_part_that_lost_its_end_begins_again() {
    let (_dir, at) = dir();
    let (from, to) = (at.join("from"), at.join("to"));
    let bytes = content(1);
    fs::write(&from, &bytes).expect("a file");
    cut_after(&from, &to, 30).await;
    let part = fs::OpenOptions::new()
        .write(true)
        .open(at.join(".to.farpipe-part"));
    part.expect("it is there").set_len(5).expect("a file");
    let (summary, _) = copy(&from, &to).await;
    assert_eq!(summary.counts.kept, 0);
    assert!(fs::read(&to).expect("a file") == bytes);
}

#[tokio::test]
async fn f6_a_source_that_changed_meanwhile_is_never_mixed_with_what_was_kept() {
    for same_look in [false, true] {
        let (_dir, at) = dir();
        let (from, to) = (at.join("from"), at.join("to"));
        fs::write(&from, content(1)).expect("a file");
        set_time(&from, 1_000_000_000, 0);
        cut_after(&from, &to, 30).await;
        let changed = content(2);
        let file = fs::OpenOptions::new()
            .write(true)
            .open(&from)
            .expect("it is there");
        file.write_all_at(&changed, 0).expect("room");
        drop(file);
        if same_look {
            // Same size, time and number: only its bytes tell.
            set_time(&from, 1_000_000_000, 0);
        }
        let (summary, events) = copy(&from, &to).await;
        assert_eq!(summary.counts.kept, 0);
        let restarted = |event: &Event| matches!(event, Event::Restarted { .. });
        assert!(events.iter().any(restarted), "{events:?}");
        assert!(fs::read(&to).expect("a file") == changed);
        assert_eq!(left(&at), [""; 0]);
    }
}

/// Two copies were killed, of which the second had found the part of the first; and what looks alike stays.
#[tokio::test]
async fn f8_all_parts_that_killed_copies_left_go_with_the_next() {
    let (_dir, at) = dir();
    let (from, to) = (at.join("from"), at.join("to"));
    fs::write(&from, "whole").expect("a file");
    for name in [
        ".to.farpipe-part",
        ".to.0123456789abcdef.farpipe-part",
        ".to.fedcba9876543210.farpipe-part",
        ".other.0123456789abcdef.farpipe-part",
    ] {
        fs::write(at.join(name), "half").expect("a file");
    }
    let last = fs::metadata(at.join(".other.0123456789abcdef.farpipe-part"));
    let last = last.and_then(|last| last.modified()).expect("a time");
    while last
        .elapsed()
        .is_ok_and(|age| age < Duration::from_millis(20))
    {
        tokio::task::yield_now().await;
    }
    let (summary, _) = copy(&from, &to).await;
    assert_eq!((summary.counts.files, summary.troubles), (1, 0));
    assert_eq!(fs::read(&to).expect("a file"), b"whole");
    assert_eq!(left(&at), [".other.0123456789abcdef.farpipe-part"]);
}

/// A log, say: it is copied as it was when it was opened, unless something in front changed as well.
#[tokio::test]
async fn f6_a_source_that_only_grew_is_copied_as_it_was() {
    use std::io::Write as _;

    for (in_front, is_sparse) in [(false, false), (false, true), (true, false)] {
        let (_dir, at) = dir();
        let (from, to) = (at.join("from"), at.join("to"));
        let bytes = content(3);
        fs::write(&from, &bytes).expect("a file");
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(&from)
            .expect("it is there");
        if is_sparse {
            file.set_len(4 * SIZE as u64).expect("a file");
            file.write_all(b"behind a hole").expect("room");
        }
        let opened = fs::read(&from).expect("a file");
        set_time(&from, 1_000_000_000, 0);
        let ((sent, mut there), (here, input)) = (pair(), pair());
        let ((answers, answered), (say, mut said)) = (pair(), pair());
        let ((first, _), (second, _)) = (journal(), journal());
        let sender = Sender::new(vec![source(&from)]).run(answered, sent, first);
        let top = Top::Given(vec![Some(b"to".to_vec())]);
        let receiver = Receiver::new(base(&to), top, false).run(input, say, second);
        let passing = async move {
            let mut pieces = 0;
            while let Some(piece) = there.recv().await {
                pieces += 1;
                if pieces == 20 {
                    file.write_all(b"more").expect("room");
                    if in_front {
                        let file = fs::OpenOptions::new().write(true).open(&from);
                        let file = file.expect("it is there");
                        file.write_all_at(b"other", 1000).expect("room");
                    }
                }
                let _ = here.send(piece).await;
            }
        };
        let answering = async move {
            while let Some(piece) = said.recv().await {
                let _ = answers.send(piece).await;
            }
        };
        let (sent, received, (), ()) = tokio::join!(sender, receiver, passing, answering);
        let (sent, received) = (sent.expect("a copy"), received.expect("a copy"));
        assert_eq!(sent, received);
        assert_eq!(
            (sent.counts.files, sent.troubles),
            match in_front {
                true => (0, 1),
                false => (1, 0),
            }
        );
        assert_eq!(to.exists(), !in_front);
        if !in_front {
            assert!(fs::read(&to).expect("a file") == opened);
            // The next copy sees that there is more.
            let was = to.metadata().expect("it is there");
            assert_eq!(was.mtime(), 1_000_000_000);
        }
        assert_eq!(left(&at), [""; 0]);
    }
}

#[tokio::test]
async fn a_copy_that_is_told_to_end_keeps_what_it_has() {
    let (_dir, at) = dir();
    let (from, to) = (at.join("from"), at.join("to"));
    fs::create_dir(&from).expect("a directory");
    fs::create_dir(&to).expect("a directory");
    fs::write(from.join("large"), content(1)).expect("a file");
    let (journal, _) = journal();
    let (cancel, cancelled) = watch::channel(false);
    let sender = End::Here(Sender::new(vec![source(&from)]));
    let top = Top::Given(vec![Some(b"from".to_vec())]);
    let receiver = End::Here(Receiver::new(base(&to), top, false));
    let running = ask::run(sender, receiver, &journal, cancelled);
    let tally = std::sync::Arc::clone(&journal.tally);
    let telling = async {
        while tally.moved_bytes.load(std::sync::atomic::Ordering::Relaxed) < 2 * MIB as u64 {
            tokio::task::yield_now().await;
        }
        cancel.send_replace(true);
    };
    let (ended, ()) = tokio::join!(running, telling);
    assert_eq!(ended, Err(PipeError::Cancelled));
    assert!(!to.join("from/large").exists());
    let (summary, _) = copy(&from.join("."), &to.join("from")).await;
    assert!(summary.counts.kept >= MIB as u64);
}
