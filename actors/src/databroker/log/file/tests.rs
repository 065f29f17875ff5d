//! The file log and the memory log keep the contract, and what only a file can suffer.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt;
use rusqlite::Connection;
use tempfile::TempDir;

use super::super::contract::{Ground, append_each, contract, event, fault, next_head, next_record, session};
use super::*;

struct Disk {
    dir: TempDir,
    log: Option<Arc<FileLog>>,
}

impl Disk {
    fn sqlite(&self) -> Connection {
        Connection::open(self.dir.path().join(FILE)).unwrap()
    }
}

/// The files as `kill -9` at this moment would leave them: what the process has written, and nothing that it does when
/// it ends in order.
fn copy_as_it_is(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

impl Ground for Disk {
    async fn fresh() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Some(Arc::new(FileLog::open(dir.path()).unwrap()));
        Self { dir, log }
    }

    fn log(&self) -> Arc<dyn Log> {
        self.log.clone().unwrap()
    }

    async fn another_handle(&self) -> Arc<dyn Log> {
        Arc::new(FileLog::open_for_reading(self.dir.path()).unwrap())
    }

    async fn crash(&mut self) {
        let left = copy_as_it_is(self.dir.path());
        self.log = None;
        self.log = Some(Arc::new(FileLog::open(left.path()).unwrap()));
        self.dir = left;
    }
}

mod file {
    use super::*;

    contract!(Disk);
}

struct Memory {
    scratch: Arc<Scratch>,
    log: Arc<FileLog>,
}

impl Ground for Memory {
    async fn fresh() -> Self {
        let scratch = Arc::new(Scratch::new().unwrap());
        Self { log: Arc::new(FileLog::temporary(&scratch).unwrap()), scratch }
    }

    fn log(&self) -> Arc<dyn Log> {
        self.log.clone()
    }

    async fn another_handle(&self) -> Arc<dyn Log> {
        Arc::new(FileLog::open_for_reading(self.scratch.path()).unwrap())
    }

    async fn crash(&mut self) {
        panic!("a log in memory does not survive its process");
    }
}

mod memory {
    use super::*;

    contract!(Memory:
        an_empty_log_says_so_at_once,
        sequences_begin_at_one_and_have_no_holes,
        of_many_appends_with_one_expectation_one_wins,
        the_same_event_is_stored_once_however_often_it_is_appended,
        a_thousand_appends_at_once_are_tailed_in_order,
        records_of_another_handle_arrive,
    );

    #[test]
    fn it_leaves_nothing_behind() {
        let scratch = Arc::new(Scratch::new().unwrap());
        let dir = scratch.path().to_owned();
        let log = FileLog::temporary(&scratch).unwrap();
        drop(scratch);
        assert!(dir.join(FILE).is_file());
        drop(log);
        assert!(!dir.exists());
    }
}

#[actix::test]
async fn a_second_gateway_on_the_same_directory_is_refused() {
    let ground = Disk::fresh().await;
    let second = FileLog::open(ground.dir.path()).unwrap_err();
    assert!(matches!(second, FileError::InUse(_)), "{second}");
    assert!(second.to_string().contains("another gateway runs on this directory"));
    let dir = ground.dir;
    drop(ground.log);
    FileLog::open(dir.path()).unwrap();
}

#[actix::test]
async fn a_reader_takes_nothing_and_makes_nothing() {
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(FileLog::open_for_reading(empty.path()), Err(FileError::Absent(_))));
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);

    let ground = Disk::fresh().await;
    append_each(&*ground.log(), 1..=1).await;
    let Disk { dir, log } = ground;
    drop(log);
    let reader = FileLog::open_for_reading(dir.path()).unwrap();
    assert_eq!(reader.head().await.unwrap().last, 1);
    let refused = reader.append(event(session(2), Expected::NoStream, "no")).await;
    assert!(matches!(refused, Err(AppendError::Refused(_))), "{refused:?}");
    FileLog::open(dir.path()).unwrap();
}

#[actix::test]
async fn a_file_of_another_program_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    Connection::open(dir.path().join(FILE)).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let error = FileLog::open(dir.path()).unwrap_err();
    assert!(matches!(error, FileError::Unusable { .. }), "{error}");
    fs::write(dir.path().join(FILE), "not a database, and long enough to be looked at").unwrap();
    assert!(matches!(FileLog::open(dir.path()), Err(FileError::Unusable { .. })));
}

#[actix::test]
async fn only_the_owner_can_read_the_files() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("state");
    let log = FileLog::open(&dir).unwrap();
    append_each(&log, 1..=1).await;
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
    }
}

#[actix::test]
async fn a_missing_record_is_a_hole() {
    let ground = Disk::fresh().await;
    append_each(&*ground.log(), 1..=5).await;
    ground.sqlite().execute("DELETE FROM event WHERE seq = 3", []).unwrap();
    let mut tail = ground.log().tail(0);
    assert_eq!(next_record(&mut tail).await.seq, 1);
    assert_eq!(next_record(&mut tail).await.seq, 2);
    assert_eq!(fault(&mut tail).await, TailFault::Hole { missing: 3 });
}

#[actix::test]
async fn a_log_cut_short_behind_a_tail_went_backwards() {
    let ground = Disk::fresh().await;
    append_each(&*ground.log(), 1..=3).await;
    let mut tail = ground.log().tail(0);
    while next_record(&mut tail).await.seq < 3 {}
    ground.sqlite().execute("DELETE FROM event WHERE seq > 1", []).unwrap();
    assert_eq!(fault(&mut tail).await, TailFault::Backwards { last: 1, seen: 3 });
}

#[actix::test]
async fn a_record_that_becomes_another_is_another_log() {
    let ground = Disk::fresh().await;
    append_each(&*ground.log(), 1..=3).await;
    let mut tail = ground.log().tail(0);
    while next_record(&mut tail).await.seq < 3 {}
    ground.sqlite().execute("UPDATE event SET id = 'another' WHERE seq = 3", []).unwrap();
    let fault = fault(&mut tail).await;
    assert!(matches!(fault, TailFault::Replaced(_)), "{fault}");
}

#[actix::test]
async fn a_deleted_file_ends_the_tail_and_takes_no_append() {
    let ground = Disk::fresh().await;
    append_each(&*ground.log(), 1..=1).await;
    let mut tail = ground.log().tail(0);
    assert_eq!(next_head(&mut tail).await.last, 1);
    fs::remove_file(ground.dir.path().join(FILE)).unwrap();
    let lost = ground.log().append(event(session(2), Expected::NoStream, "lost")).await;
    assert!(matches!(lost, Err(AppendError::Unavailable(_))), "{lost:?}");
    let fault = fault(&mut tail).await;
    assert!(matches!(fault, TailFault::Replaced(_)), "{fault}");
}

#[actix::test]
async fn another_file_in_its_place_ends_the_tail() {
    let (ground, other) = (Disk::fresh().await, Disk::fresh().await);
    append_each(&*ground.log(), 1..=1).await;
    let mut tail = ground.log().tail(0);
    assert_eq!(next_head(&mut tail).await.last, 1);
    fs::rename(other.dir.path().join(FILE), ground.dir.path().join(FILE)).unwrap();
    let fault = fault(&mut tail).await;
    assert!(matches!(fault, TailFault::Replaced(_)), "{fault}");
}

#[actix::test]
async fn a_closed_log_has_ended_its_thread_and_given_up_its_lock() {
    let ground = Disk::fresh().await;
    let mut tail = ground.log().tail(0);
    assert_eq!(next_head(&mut tail).await.last, 0);
    let Disk { dir, log } = ground;
    drop(log);
    let again = FileLog::open(dir.path()).unwrap();
    append_each(&again, 1..=1).await;
    // a tail outlives the handle it came from
    assert_eq!(next_record(&mut tail).await.seq, 1);
    drop(tail.next());
}
