// SPDX-License-Identifier: MIT OR Apache-2.0

//! Copies from outside.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::process::Command;

use fullfork::{Builder, Errno, Event, Operation, Relation, Scope, Tids, open_pidfd};

use crate::Test;
use crate::programs::Workers;
use crate::world::{Running, Scratch, children, state, status, threads, wait_until};

pub(crate) const TESTS: &[Test] = &[
    ("copy_goes_on_with_all_threads", copy_goes_on_with_all_threads),
    ("copy_stopped_until_resumed", copy_stopped_until_resumed),
    ("copy_maps_tids", copy_maps_tids),
    ("copy_of_a_tree_has_its_shape", copy_of_a_tree_has_its_shape),
    ("copy_keeps_tids_in_a_namespace", copy_keeps_tids_in_a_namespace),
    ("copy_as_a_sibling", copy_as_a_sibling),
    ("copy_outlives_its_original", copy_outlives_its_original),
    ("copy_of_the_caller_ends_in_the_replica", copy_of_the_caller_ends_in_the_replica),
    ("rejects_what_is_no_pidfd", rejects_what_is_no_pidfd),
    ("rejects_a_process_that_has_ended", rejects_a_process_that_has_ended),
    ("rejects_too_little_room", rejects_too_little_room),
];

const NUMBER: usize = 4;

fn copy_goes_on_with_all_threads() {
    let scratch = Scratch::new();
    let workers = Workers::start(&scratch, NUMBER);
    let copy = Builder::new(Scope::Process).copy(open_pidfd(workers.pid()).unwrap()).unwrap();
    assert_eq!(threads(copy.pid()).len(), NUMBER + 1);
    workers.go();
    assert_eq!(copy.wait().unwrap().code(), Some(0));
    wait_until("all workers have written", || workers.lines() == 2 * NUMBER);
    assert_eq!(workers.process.code(), Some(0));
}

fn copy_stopped_until_resumed() {
    let scratch = Scratch::new();
    let workers = Workers::start(&scratch, NUMBER);
    let pidfd = open_pidfd(workers.pid()).unwrap();
    let copy = Builder::new(Scope::Process).stopped().copy(pidfd).unwrap();
    assert_eq!(copy.wait_event().unwrap(), Event::Stopped(libc::SIGSTOP));
    workers.go();
    wait_until("the original is done", || workers.lines() == NUMBER);
    wait_until("it is still stopped", || state(copy.pid()) == Some('T'));
    copy.resume().unwrap();
    assert_eq!(copy.wait().unwrap().code(), Some(0));
    assert_eq!(workers.lines(), 2 * NUMBER);
}

fn copy_maps_tids() {
    let scratch = Scratch::new();
    let workers = Workers::start(&scratch, NUMBER);
    let pidfd = open_pidfd(workers.pid()).unwrap();
    let copy = Builder::new(Scope::Process).tid_map().copy(pidfd).unwrap();
    let pairs = copy.tid_map().pairs();
    let originals: BTreeSet<u32> = pairs.iter().map(|pair| pair.original).collect();
    assert_eq!(originals, threads(workers.pid()));
    assert_eq!(pairs[0].replica, copy.pid());
    for pair in pairs {
        assert_eq!(status(pair.replica, "Tgid").unwrap(), copy.pid().to_string());
    }
    workers.go();
    assert_eq!(copy.wait().unwrap().code(), Some(0));
}

fn copy_of_a_tree_has_its_shape() {
    let scratch = Scratch::new();
    let program = std::env::current_exe().unwrap();
    let script =
        format!("'{}' --program workers '{}' {NUMBER}; exit $?", program.display(), scratch.text());
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]);
    let workers = Workers::start_with(shell, &scratch, NUMBER);

    let pidfd = open_pidfd(workers.pid()).unwrap();
    // A shell waits for the PID that it remembers.
    let builder = Builder::new(Scope::Tree).tids(Tids::KeepInNewNamespace).tid_map();
    let copy = builder.copy(pidfd).unwrap();
    assert_eq!(copy.tid_map().pairs().len(), 1 + NUMBER + 1);
    let below = children(copy.pid());
    assert_eq!(below.len(), 1);
    assert_eq!(threads(below[0]).len(), NUMBER + 1);
    workers.go();
    assert_eq!(copy.wait().unwrap().code(), Some(0));
    assert_eq!(workers.process.code(), Some(0));
}

fn copy_keeps_tids_in_a_namespace() {
    let scratch = Scratch::new();
    let workers = Workers::start(&scratch, NUMBER);
    let builder = Builder::new(Scope::Process).tids(Tids::KeepInNewNamespace).tid_map();
    // Two at once: each has a namespace of its own.
    let copies = [(); 2].map(|()| builder.copy(open_pidfd(workers.pid()).unwrap()).unwrap());
    for pair in copies.iter().flat_map(|copy| copy.tid_map().pairs()) {
        let tids = status(pair.replica, "NSpid").unwrap();
        assert_eq!(tids, format!("{}\t{}", pair.replica, pair.original));
    }
    workers.go();
    for copy in copies {
        assert_eq!(copy.wait().unwrap().code(), Some(0));
    }
}

fn copy_as_a_sibling() {
    let scratch = Scratch::new();
    let workers = Workers::start(&scratch, NUMBER);
    let builder = Builder::new(Scope::Process).relation(Relation::Sibling);
    // The root's parent is this process, so that it may wait.
    let copy = builder.copy(open_pidfd(workers.pid()).unwrap()).unwrap();
    assert_eq!(status(copy.pid(), "PPid").unwrap(), std::process::id().to_string());
    workers.go();
    assert_eq!(copy.wait().unwrap().code(), Some(0));
}

fn copy_outlives_its_original() {
    let scratch = Scratch::new();
    let mut workers = Workers::start(&scratch, NUMBER);
    let copy = Builder::new(Scope::Process).copy(open_pidfd(workers.pid()).unwrap()).unwrap();
    workers.process.0.kill().unwrap();
    workers.process.0.wait().unwrap();
    workers.go();
    assert_eq!(copy.wait().unwrap().code(), Some(0));
    assert_eq!(workers.lines(), NUMBER);
}

/// The caller is itself copied, and its replica returns nowhere: what comes behind
/// the call happens once.
fn copy_of_the_caller_ends_in_the_replica() {
    let scratch = Scratch::new();
    let path = scratch.path().join("lines");
    let child = Running::start(sleeper());
    let me = open_pidfd(std::process::id()).unwrap();
    let copy = Builder::new(Scope::Tree).copy(me).unwrap();
    let file = OpenOptions::new().append(true).create(true).open(&path);
    file.unwrap().write_all(b"returned\n").unwrap();
    assert_eq!(copy.wait().unwrap().code(), Some(0));
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
    drop(child);
}

fn sleeper() -> Command {
    let mut command = Command::new("sleep");
    command.arg("1000");
    command
}

fn rejects_what_is_no_pidfd() {
    let scratch = Scratch::new();
    let workers = Workers::start(&scratch, NUMBER);
    let builder = Builder::new(Scope::Process);
    let error = builder.copy(File::open("/dev/null").unwrap()).unwrap_err();
    assert_eq!((error.operation(), error.errno()), (Operation::Copy, Errno::EBADF));
    let copy = builder.copy(open_pidfd(workers.pid()).unwrap()).unwrap();
    workers.go();
    assert_eq!(copy.wait().unwrap().code(), Some(0));
}

fn rejects_a_process_that_has_ended() {
    let scratch = Scratch::new();
    let mut ended = Running::start(Command::new("true"));
    let pidfd = open_pidfd(ended.pid()).unwrap();
    ended.0.wait().unwrap();
    let builder = Builder::new(Scope::Process);
    assert_eq!(builder.copy(pidfd).unwrap_err().errno(), Errno::ESRCH);

    let workers = Workers::start(&scratch, NUMBER);
    let copy = builder.copy(open_pidfd(workers.pid()).unwrap()).unwrap();
    workers.go();
    assert_eq!(copy.wait().unwrap().code(), Some(0));
}

fn rejects_too_little_room() {
    let scratch = Scratch::new();
    let workers = Workers::start(&scratch, NUMBER);
    let pidfd = open_pidfd(workers.pid()).unwrap();
    let builder = Builder::new(Scope::Process);
    let error = builder.tid_map_with_room(NUMBER).copy(&pidfd).unwrap_err();
    assert_eq!(error.errno(), Errno::E2BIG);
    assert!(children(std::process::id()) == [workers.pid()]);
    let copy = builder.tid_map_with_room(NUMBER + 1).copy(&pidfd).unwrap();
    workers.go();
    assert_eq!(copy.wait().unwrap().code(), Some(0));
}
