//! Names that are rotated, emptied and taken away, as the one that follows them sees it: against a model
//! that knows every line that was written.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;

use farpipe_proto::limits::TAIL_QUIET;
use farpipe_proto::wire::tail::TailWhat;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::tail::positions::Positions;

/// Everything is allowed.
#[derive(Debug)]
struct Open;

impl Gate for Open {
    fn open(&self, path: &Path) -> Result<Opened, Shut> {
        Ok(File::open(path)?.into())
    }

    fn may_list(&self, _: &Path) -> bool {
        true
    }
}

/// A directory with a log, who follows it, and what it has heard.
struct Scene {
    dir: TempDir,
    patterns: Vec<Pattern>,
    follower: Follower,
    positions: Positions,
    now: Instant,
    heard: BTreeMap<PathBuf, Vec<u8>>,
    news: Vec<TailNews>,
    next_line: u32,
    written: Vec<u8>,
}

impl Scene {
    fn new(patterns: &[&str], start: Start) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let real = dir.path().canonicalize().expect("it is there");
        let parse = |pattern: &&str| Pattern::parse(&real.join(pattern)).expect("a pattern");
        let patterns: Vec<Pattern> = patterns.iter().map(parse).collect();
        let wanted = Wanted {
            patterns: patterns.clone(),
            start,
            once: false,
            resumed: false,
            positions: Vec::new(),
        };
        Self {
            dir,
            follower: Follower::new(Box::new(Open), wanted),
            patterns,
            positions: Positions::default(),
            now: Instant::now(),
            heard: BTreeMap::new(),
            news: Vec::new(),
            next_line: 0,
            written: Vec::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir
            .path()
            .canonicalize()
            .expect("it is there")
            .join(name)
    }

    fn append(&mut self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        let file = OpenOptions::new().append(true).create(true).open(path);
        file.and_then(|mut file| file.write_all(bytes))
            .expect("written");
        self.written.extend_from_slice(bytes);
    }

    fn line(&mut self, name: &str) {
        self.next_line += 1;
        let line = format!("line {} of what is written to a log\n", self.next_line);
        self.append(name, line.as_bytes());
    }

    /// app.log becomes app.log.1, and that app.log.2.
    fn shift(&self, name: &str) {
        for n in (1..60).rev() {
            let from = self.path(&format!("{name}.{n}"));
            let _ = fs::rename(from, self.path(&format!("{name}.{}", n + 1)));
        }
    }

    fn rotate(&self, name: &str) {
        self.shift(name);
        let _ = fs::rename(self.path(name), self.path(&format!("{name}.1")));
    }

    fn copy_truncate(&self, name: &str) {
        self.shift(name);
        let path = self.path(name);
        if fs::copy(&path, self.path(&format!("{name}.1"))).is_ok() {
            let file = OpenOptions::new().write(true).open(path);
            file.and_then(|file| file.set_len(0)).expect("emptied");
        }
    }

    fn turn(&mut self, max: usize) -> bool {
        let events = self.follower.turn(max, self.now);
        for event in &events {
            self.positions.note(event).expect("bytes follow bytes");
            match &event.what {
                Some(TailWhat::Data(data)) => {
                    let end = data.offset + data.bytes.len() as u64;
                    let path = self.positions.next(event.file, end).expect("it was opened");
                    let path = PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()));
                    self.heard.entry(path).or_default().extend(&data.bytes);
                }
                Some(TailWhat::Notice(notice)) => {
                    self.news.extend(TailNews::from_wire(notice.news));
                }
                Some(TailWhat::Opened(_)) | None => {}
            }
        }
        !events.is_empty()
    }

    fn all(&mut self) {
        while self.turn(100_000) {}
    }

    fn wait(&mut self, span: Duration) {
        self.now += span;
    }

    /// Another session goes on where this one was.
    fn restart(&mut self) {
        self.positions.begin();
        let wanted = Wanted {
            patterns: self.patterns.clone(),
            start: Start::Last(10),
            once: false,
            resumed: self.positions.has_begun,
            positions: self.positions.all(),
        };
        self.follower = Follower::new(Box::new(Open), wanted);
    }

    fn heard(&self, name: &str) -> String {
        let bytes = self.heard.get(&self.path(name)).cloned();
        String::from_utf8(bytes.unwrap_or_default()).expect("text")
    }

    fn written(&self) -> String {
        String::from_utf8(self.written.clone()).expect("text")
    }
}

#[test]
fn the_last_lines_come_first_and_then_what_is_new() {
    let mut scene = Scene::new(&["app.log"], Start::Last(2));
    scene.append("app.log", b"1\n2\n3\n");
    scene.all();
    assert_eq!(scene.heard("app.log"), "2\n3\n");
    scene.append("app.log", b"4\n");
    scene.all();
    assert_eq!(scene.heard("app.log"), "2\n3\n4\n");
}

#[test]
fn what_is_missing_is_waited_for() {
    let mut scene = Scene::new(&["app.log"], Start::Last(0));
    scene.all();
    assert_eq!(scene.news, [TailNews::Missing, TailNews::Begun]);
    scene.line("app.log");
    scene.all();
    assert_eq!(scene.heard("app.log"), scene.written());
}

#[test]
fn a_pattern_that_nothing_fits_is_said_once() {
    let mut scene = Scene::new(&["*.log", "none/*", "a*"], Start::Line(1));
    scene.append("another", b"");
    scene.all();
    let expected = [TailNews::Missing, TailNews::Missing, TailNews::Begun];
    assert_eq!(scene.news, expected);
    scene.restart();
    scene.wait(FIND_EVERY);
    scene.all();
    assert_eq!(scene.news[expected.len()..], [TailNews::Begun]);
    scene.line("app.log");
    scene.wait(FIND_EVERY);
    scene.all();
    assert_eq!(scene.heard("app.log"), scene.written());
}

#[test]
fn every_line_comes_once_however_often_a_name_is_rotated_between_two_looks() {
    let mut scene = Scene::new(&["app.log"], Start::Line(1));
    scene.line("app.log");
    scene.all();
    for _ in 0..30 {
        scene.rotate("app.log");
        scene.line("app.log");
        scene.line("app.log");
    }
    scene.all();
    assert_eq!(scene.heard("app.log"), scene.written());
}

/// As [`Open`], but what it opens first is rotated twice at once, and written to between.
#[derive(Debug)]
struct Busy(std::sync::atomic::AtomicBool);

impl Gate for Busy {
    fn open(&self, path: &Path) -> Result<Opened, Shut> {
        let file = File::open(path)?;
        if !self.0.swap(true, std::sync::atomic::Ordering::Relaxed) {
            let beside = |n: u8| path.with_extension(format!("log.{n}"));
            // The clock of the file system has gone on.
            let born = |path: &Path| identity::at(path).map(|seen| seen.file.born_ns);
            let first = born(path)?;
            fs::rename(path, beside(1))?;
            while {
                fs::write(path, "second\n")?;
                let is_old = born(path)? == first && first != 0;
                is_old && fs::remove_file(path).is_ok()
            } {}
            fs::rename(beside(1), beside(2))?;
            fs::rename(path, beside(1))?;
            fs::write(path, "third\n")?;
        }
        Ok(file.into())
    }

    fn may_list(&self, _: &Path) -> bool {
        true
    }
}

#[test]
fn what_is_rotated_while_it_is_first_opened_is_not_taken_for_older() {
    let mut scene = Scene::new(&["app.log"], Start::Line(1));
    scene.append("app.log", b"first\n");
    scene.follower.gate = Box::new(Busy(false.into()));
    scene.all();
    assert_eq!(scene.heard("app.log"), "first\nsecond\nthird\n");
}

#[test]
fn another_session_goes_on_behind_what_this_one_had() {
    let mut scene = Scene::new(&["app.log"], Start::Line(1));
    scene.line("app.log");
    scene.line("app.log");
    scene.all();
    scene.line("app.log");
    for _ in 0..30 {
        scene.rotate("app.log");
        scene.line("app.log");
    }
    scene.restart();
    scene.all();
    assert_eq!(scene.heard("app.log"), scene.written());
    assert!(!scene.news.contains(&TailNews::Lost), "{:?}", scene.news);
}

#[test]
fn what_is_lost_is_said() {
    let mut scene = Scene::new(&["app.log"], Start::Line(1));
    scene.line("app.log");
    scene.all();
    fs::remove_file(scene.path("app.log")).expect("it was there");
    scene.restart();
    scene.all();
    assert!(scene.news.contains(&TailNews::Lost), "{:?}", scene.news);
    scene.line("app.log");
    scene.all();
    assert_eq!(scene.heard("app.log"), scene.written());
}

#[test]
fn a_writer_may_go_on_in_the_old_file_for_a_while() {
    let mut scene = Scene::new(&["app.log"], Start::Line(1));
    scene.line("app.log");
    scene.all();
    scene.rotate("app.log");
    scene.append("app.log", b"");
    scene.all();
    scene.line("app.log.1");
    scene.all();
    scene.wait(TAIL_QUIET - Duration::from_millis(1));
    scene.line("app.log.1");
    scene.all();
    scene.line("app.log");
    scene.all();
    assert_eq!(scene.heard("app.log"), scene.written());
    assert!(!scene.news.contains(&TailNews::Closed));
    scene.wait(TAIL_QUIET);
    scene.all();
    assert!(scene.news.contains(&TailNews::Closed));
}

#[test]
fn a_file_that_is_put_back_is_read_on() {
    let mut scene = Scene::new(&["app.log"], Start::Line(1));
    scene.line("app.log");
    scene.all();
    scene.rotate("app.log");
    scene.line("app.log");
    scene.all();
    scene.wait(TAIL_QUIET);
    scene.all();
    assert!(scene.news.contains(&TailNews::Closed));
    fs::rename(scene.path("app.log.1"), scene.path("app.log")).expect("it is there");
    scene.line("app.log");
    scene.all();
    assert_eq!(scene.heard("app.log"), scene.written());
}

#[test]
fn an_emptied_file_is_read_from_its_start_and_its_copy_from_where_it_was() {
    let mut scene = Scene::new(&["app.log"], Start::Line(1));
    scene.line("app.log");
    scene.all();
    scene.line("app.log");
    scene.copy_truncate("app.log");
    for _ in 0..9 {
        scene.line("app.log");
    }
    scene.all();
    assert_eq!(scene.heard("app.log"), scene.written());
    assert!(scene.news.contains(&TailNews::Truncated));
}

#[test]
fn a_pattern_finds_what_comes_later_and_no_file_twice() {
    let mut scene = Scene::new(&["*.log*"], Start::Line(1));
    scene.append("a.log", b"a1\n");
    scene.all();
    scene.rotate("a.log");
    scene.append("a.log", b"a2\n");
    scene.append("b.log", b"b1\n");
    for _ in 0..40 {
        scene.wait(FIND_EVERY);
        scene.all();
    }
    scene.rotate("a.log");
    scene.append("a.log", b"a3\n");
    for _ in 0..40 {
        scene.wait(FIND_EVERY);
        scene.all();
    }
    assert_eq!(scene.heard("a.log"), "a1\na2\na3\n");
    assert_eq!(scene.heard("b.log"), "b1\n");
    assert_eq!(scene.heard.len(), 2, "{:?}", scene.heard);
}

#[test]
fn lines_of_two_files_stay_whole() {
    let mut scene = Scene::new(&["a.log", "b.log"], Start::Line(1));
    scene.append("a.log", b"");
    scene.append("b.log", b"");
    scene.all();
    scene.append("a.log", b"half");
    scene.append("b.log", b"whole\n");
    scene.all();
    assert_eq!(scene.heard("a.log"), "");
    assert_eq!(scene.heard("b.log"), "whole\n");
    scene.append("a.log", b" and half\n");
    scene.all();
    assert_eq!(scene.heard("a.log"), "half and half\n");
}

/// What may happen to a log.
#[derive(Debug, Clone, Copy)]
enum Happens {
    Lines(u8),
    Part,
    Rotated,
    Renamed,
    CopiedAndEmptied,
    Deleted,
    Emptied,
    Looked,
    Read(u16),
    Waited(u16),
    Restarted,
}

fn both() -> BoxedStrategy<Happens> {
    prop_oneof![
        6 => (1..5_u8).prop_map(Happens::Lines),
        2 => Just(Happens::Part),
        1 => Just(Happens::Deleted),
        1 => Just(Happens::Emptied),
        3 => Just(Happens::Looked),
        3 => (1..500_u16).prop_map(Happens::Read),
        2 => (1..7000_u16).prop_map(Happens::Waited),
        2 => Just(Happens::Restarted),
    ]
    .boxed()
}

/// Rotated by one of the two ways; a log that is rotated by both leaves files whose order nothing tells.
fn happens() -> impl Strategy<Value = Vec<Happens>> {
    let renamed = prop_oneof![
        5 => both(),
        1 => Just(Happens::Rotated),
        1 => Just(Happens::Renamed),
    ];
    let copied = prop_oneof![8 => both(), 1 => Just(Happens::CopiedAndEmptied)];
    prop_oneof![
        2 => proptest::collection::vec(renamed, 1..40),
        1 => proptest::collection::vec(copied, 1..40),
    ]
}

fn play(story: &[Happens]) {
    let mut scene = Scene::new(&["app.log"], Start::Line(1));
    scene.line("app.log");
    scene.all();
    for one in story {
        match *one {
            Happens::Lines(count) => (0..count).for_each(|_| scene.line("app.log")),
            Happens::Part => {
                scene.next_line += 1;
                let part = format!("part {} and ", scene.next_line);
                scene.append("app.log", part.as_bytes());
            }
            Happens::Rotated => {
                scene.rotate("app.log");
                scene.append("app.log", b"");
            }
            Happens::Renamed => scene.rotate("app.log"),
            // What was written since the last read of such a file is in its copy, if that is read in
            // time; two kinds of rotation at once have no order.
            Happens::CopiedAndEmptied => {
                scene.all();
                scene.line("app.log");
                scene.all();
                scene.line("app.log");
                scene.copy_truncate("app.log");
                scene.all();
            }
            Happens::Deleted => {
                scene.all();
                // With all that was called so: of a file that nothing is left of, its copies look new.
                for entry in scene.dir.path().read_dir().expect("it is there") {
                    let _ = fs::remove_file(entry.expect("an entry").path());
                }
                scene.all();
            }
            Happens::Emptied => {
                scene.all();
                let path = scene.path("app.log");
                if let Ok(file) = OpenOptions::new().write(true).open(path) {
                    file.set_len(0).expect("emptied");
                }
                scene.all();
            }
            Happens::Looked => scene.follower.look(scene.now),
            Happens::Read(max) => drop(scene.turn(max.into())),
            Happens::Waited(millis) => scene.wait(Duration::from_millis(millis.into())),
            Happens::Restarted => {
                // Who has no file has nothing that could tell what came since.
                let has_none = scene.positions.all().is_empty();
                if has_none {
                    scene.all();
                }
                scene.restart();
                if has_none {
                    scene.all();
                }
            }
        }
    }
    scene.line("app.log");
    scene.all();
    scene.wait(TAIL_HOLD_AND_MORE);
    scene.all();
    assert_eq!(scene.heard("app.log"), scene.written(), "{:?}", scene.news);
}

const TAIL_HOLD_AND_MORE: Duration = Duration::from_secs(2);

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_comes_once_and_in_order(story in happens()) {
        play(&story);
    }
}
