// SPDX-License-Identifier: MIT OR Apache-2.0

//! Snapshots, through the device of the sample driver.

use fullfork::{
    Child, Errno, Operation, Relation, Scope, SnapshotOptions, SnapshotStore, SpawnOptions, Tids,
    open_pidfd,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::Test;
use crate::programs::Workers;
use crate::world::{Scratch, is_gone, state, threads, wait_until};

pub(crate) const TESTS: &[Test] = &[
    ("snapshot_spawns_100_copies_that_work", snapshot_spawns_100_copies_that_work),
    ("snapshot_is_stopped_and_listed", snapshot_is_stopped_and_listed),
    ("snapshot_outlives_its_original", snapshot_outlives_its_original),
    ("snapshot_of_a_tree", snapshot_of_a_tree),
    ("dropped_snapshot_spawns_nothing", dropped_snapshot_spawns_nothing),
    ("closing_the_store_ends_its_snapshots", closing_the_store_ends_its_snapshots),
    ("copies_outlive_their_snapshot", copies_outlive_their_snapshot),
    ("killed_snapshot_is_told", killed_snapshot_is_told),
    ("stores_do_not_see_each_other", stores_do_not_see_each_other),
    ("snapshot_rejects_what_is_no_pidfd", snapshot_rejects_what_is_no_pidfd),
    ("spawn_rejects_a_relation_that_is_none", spawn_rejects_a_relation_that_is_none),
];

const NUMBER: usize = 8;

fn process() -> SnapshotOptions {
    SnapshotOptions::default()
}

fn spawn() -> SpawnOptions {
    SpawnOptions::default()
}

fn expect_success(copy: &Child) {
    assert_eq!(copy.wait().unwrap().code(), Some(0));
}

fn snapshot_spawns_100_copies_that_work() {
    const COPIES: usize = 100;
    let scratch = Scratch::new();
    let workers = Workers::start(&scratch, NUMBER);
    let store = SnapshotStore::open().unwrap();
    let snapshot = store.take(open_pidfd(workers.pid()).unwrap(), process()).unwrap();
    let copies: Vec<Child> = (0..COPIES).map(|_| snapshot.spawn(spawn()).unwrap()).collect();
    for copy in &copies {
        assert_eq!(threads(copy.pid()).len(), NUMBER + 1);
    }
    workers.go();
    copies.iter().for_each(expect_success);
    wait_until("the original is done", || workers.lines() == (COPIES + 1) * NUMBER);
}

fn snapshot_is_stopped_and_listed() {
    let scratch = Scratch::new();
    let workers = Workers::start(&scratch, NUMBER);
    let store = SnapshotStore::open().unwrap();
    let snapshot = store.take(open_pidfd(workers.pid()).unwrap(), process()).unwrap();
    let entry = *snapshot.entry();
    assert_eq!((entry.nr_processes, entry.nr_threads), (1, 1 + u32::try_from(NUMBER).unwrap()));
    wait_until("every thread of it is stopped", || {
        threads(entry.pid).iter().all(|tid| state(*tid) == Some('T'))
    });
    let listed = store.list().unwrap();
    assert_eq!((listed.len(), listed[0].id, listed[0].pid), (1, entry.id, entry.pid));
    let processes = snapshot.processes().unwrap();
    assert_eq!(processes.len(), 1);
    assert_eq!((processes[0].original, processes[0].pid), (workers.pid(), entry.pid));
    assert_eq!(processes[0].nr_threads, entry.nr_threads);
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", workers.pid())).unwrap();
    assert_eq!(processes[0].name(), comm.trim_end());
}

fn snapshot_outlives_its_original() {
    let scratch = Scratch::new();
    let mut workers = Workers::start(&scratch, NUMBER);
    let store = SnapshotStore::open().unwrap();
    let snapshot = store.take(open_pidfd(workers.pid()).unwrap(), process()).unwrap();
    workers.process.0.kill().unwrap();
    workers.process.0.wait().unwrap();
    let copy = snapshot.spawn(spawn()).unwrap();
    workers.go();
    expect_success(&copy);
    assert_eq!(workers.lines(), NUMBER);
}

fn snapshot_of_a_tree() {
    let scratch = Scratch::new();
    let program = std::env::current_exe().unwrap();
    let (program, directory) = (program.display(), scratch.text());
    let script = format!("'{program}' --program workers '{directory}' {NUMBER}; exit $?");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &script]);
    let workers = Workers::start_with(shell, &scratch, NUMBER);
    let store = SnapshotStore::open().unwrap();
    // A shell waits for the PID that it remembers.
    let tids = Tids::KeepInNewNamespace;
    let options = SnapshotOptions { scope: Scope::Tree, tids, ..process() };
    let snapshot = store.take(open_pidfd(workers.pid()).unwrap(), options).unwrap();
    assert_eq!(snapshot.entry().nr_processes, 2);
    assert_eq!(snapshot.processes().unwrap().len(), 2);
    let keep = SpawnOptions { tids, ..spawn() };
    let copies = [(); 3].map(|()| snapshot.spawn(keep).unwrap());
    workers.go();
    copies.iter().for_each(expect_success);
}

fn dropped_snapshot_spawns_nothing() {
    let scratch = Scratch::new();
    let workers = Workers::start(&scratch, NUMBER);
    let store = SnapshotStore::open().unwrap();
    let id = store.take(open_pidfd(workers.pid()).unwrap(), process()).unwrap().keep();
    let pid = store.list().unwrap()[0].pid;
    let copy = store.spawn(id, spawn()).unwrap();
    store.drop_snapshot(id).unwrap();
    wait_until("its processes are gone", || is_gone(pid));
    let error = store.spawn(id, spawn()).unwrap_err();
    assert_eq!((error.operation(), error.errno()), (Operation::Spawn, Errno::ENOENT));
    assert_eq!(store.drop_snapshot(id).unwrap_err().errno(), Errno::ENOENT);
    assert!(store.list().unwrap().is_empty());
    workers.go();
    expect_success(&copy);
}

fn closing_the_store_ends_its_snapshots() {
    let scratch = Scratch::new();
    let workers = Workers::start(&scratch, NUMBER);
    let store = SnapshotStore::open().unwrap();
    let _ = store.take(open_pidfd(workers.pid()).unwrap(), process()).unwrap().keep();
    let pid = store.list().unwrap()[0].pid;
    assert!(!is_gone(pid));
    drop(store);
    wait_until("its processes are gone", || is_gone(pid));
}

fn copies_outlive_their_snapshot() {
    let scratch = Scratch::new();
    let workers = Workers::start(&scratch, NUMBER);
    let store = SnapshotStore::open().unwrap();
    let snapshot = store.take(open_pidfd(workers.pid()).unwrap(), process()).unwrap();
    let copy = snapshot.spawn(spawn()).unwrap();
    drop(snapshot);
    drop(store);
    workers.go();
    expect_success(&copy);
}

fn killed_snapshot_is_told() {
    let scratch = Scratch::new();
    let workers = Workers::start(&scratch, NUMBER);
    let store = SnapshotStore::open().unwrap();
    let snapshot = store.take(open_pidfd(workers.pid()).unwrap(), process()).unwrap();
    let pid = snapshot.entry().pid;
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
    wait_until("it is gone", || is_gone(pid));
    let error = snapshot.spawn(spawn()).unwrap_err();
    assert_eq!((error.operation(), error.errno()), (Operation::Spawn, Errno::ESRCH));
}

fn stores_do_not_see_each_other() {
    let scratch = Scratch::new();
    let workers = Workers::start(&scratch, NUMBER);
    let (one, other) = (SnapshotStore::open().unwrap(), SnapshotStore::open().unwrap());
    let snapshot = one.take(open_pidfd(workers.pid()).unwrap(), process()).unwrap();
    assert!(other.list().unwrap().is_empty());
    assert_eq!(other.spawn(snapshot.id(), spawn()).unwrap_err().errno(), Errno::ENOENT);
    let copy = one.spawn(snapshot.id(), spawn()).unwrap();
    workers.go();
    expect_success(&copy);
}

fn snapshot_rejects_what_is_no_pidfd() {
    let scratch = Scratch::new();
    let workers = Workers::start(&scratch, NUMBER);
    let store = SnapshotStore::open().unwrap();
    let error = store.take(std::fs::File::open("/dev/null").unwrap(), process()).unwrap_err();
    assert_eq!((error.operation(), error.errno()), (Operation::Snapshot, Errno::EBADF));
    store.take(open_pidfd(workers.pid()).unwrap(), process()).unwrap();
}

fn spawn_rejects_a_relation_that_is_none() {
    let scratch = Scratch::new();
    let workers = Workers::start(&scratch, NUMBER);
    let store = SnapshotStore::open().unwrap();
    let snapshot = store.take(open_pidfd(workers.pid()).unwrap(), process()).unwrap();
    let sibling = SpawnOptions { relation: Relation::Sibling, ..spawn() };
    assert_eq!(snapshot.spawn(sibling).unwrap_err().errno(), Errno::EINVAL);
    let autoreaped = SpawnOptions { relation: Relation::Autoreaped, ..spawn() };
    let copy = snapshot.spawn(autoreaped).unwrap();
    workers.go();
    wait_until("it is reaped", || state(copy.pid()).is_none());
}
