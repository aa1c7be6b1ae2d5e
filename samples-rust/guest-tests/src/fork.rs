// SPDX-License-Identifier: MIT OR Apache-2.0

//! Probing, and copies from inside.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fullfork::{
    Answer, Builder, Child, Errno, Event, Flags, Fork, Operation, Relation, Scope, Support, Tids,
    exit_now,
};

use crate::Test;
use crate::world::{children, state, status, threads, wait_until};

pub(crate) const TESTS: &[Test] = &[
    ("probe_knows_the_flags", probe_knows_the_flags),
    ("probe_makes_no_process", probe_makes_no_process),
    ("fork_keeps_all_threads", fork_keeps_all_threads),
    ("fork_of_a_replica", fork_of_a_replica),
    ("fork_maps_tids", fork_maps_tids),
    ("fork_stopped_until_resumed", fork_stopped_until_resumed),
    ("fork_keeps_tids_in_a_namespace", fork_keeps_tids_in_a_namespace),
    ("fork_without_the_other_threads", fork_without_the_other_threads),
    ("autoreaped_replicas_need_no_wait", autoreaped_replicas_need_no_wait),
    ("closing_the_pidfd_kills", closing_the_pidfd_kills),
    ("rejects_keeping_tids_where_they_are", rejects_keeping_tids_where_they_are),
    ("rejects_a_small_tid_map", rejects_a_small_tid_map),
];

const THREADS: usize = 4;

/// Threads that wait in different ways until they are let go, and then say so. No
/// channel is among them: the first wait in one takes a lock of glibc's that records
/// its owner.
struct Crew {
    go: Arc<AtomicBool>,
    gate: Arc<(Mutex<bool>, Condvar)>,
    answered: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    fn start() -> Self {
        let mut crew = Self {
            go: Arc::default(),
            gate: Arc::default(),
            answered: Arc::default(),
            threads: Vec::new(),
        };
        let started = Arc::new(AtomicUsize::new(0));
        for index in 0..THREADS {
            crew.add(index, &started);
        }
        wait_until("the crew has started", || started.load(Ordering::SeqCst) == THREADS);
        crew
    }

    fn add(&mut self, index: usize, started: &Arc<AtomicUsize>) {
        let (go, gate) = (Arc::clone(&self.go), Arc::clone(&self.gate));
        let (answered, started) = (Arc::clone(&self.answered), Arc::clone(started));
        self.threads.push(thread::spawn(move || {
            started.fetch_add(1, Ordering::SeqCst);
            match index % 4 {
                // In user mode, in a sleep, and in two kinds of futex.
                0 => while !go.load(Ordering::SeqCst) {},
                1 => {
                    while !go.load(Ordering::SeqCst) {
                        thread::sleep(Duration::from_millis(1));
                    }
                }
                2 => {
                    while !go.load(Ordering::SeqCst) {
                        thread::park();
                    }
                }
                _ => {
                    let (is_open, changed) = &*gate;
                    let guard = changed.wait_while(is_open.lock().unwrap(), |open| !*open);
                    drop(guard.unwrap());
                }
            }
            answered.fetch_add(1, Ordering::SeqCst);
        }));
    }

    /// Lets all go on, joins them, and returns how many did.
    fn finish(self) -> usize {
        self.go.store(true, Ordering::SeqCst);
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
        self.threads.iter().for_each(|thread| thread.thread().unpark());
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.answered.load(Ordering::SeqCst)
    }
}

/// Ends a replica with a status that no failure has.
fn answer(number: usize) -> ! {
    exit_now(100 + i32::try_from(number).unwrap())
}

fn fork(builder: Builder<'_>) -> Option<Child> {
    // SAFETY: no thread holds a lock that records its owner, or reads a file.
    match unsafe { builder.fork() }.unwrap() {
        Fork::Replica => None,
        Fork::Original(child) => Some(child),
    }
}

fn expect_answer(child: &Child, number: usize) {
    assert_eq!(child.wait().unwrap().code(), Some(100 + i32::try_from(number).unwrap()));
}

fn probe_knows_the_flags() {
    let support = Support::probe();
    for flag in [
        Flags::ALL_THREADS,
        Flags::SUBTREE,
        Flags::STOPPED,
        Flags::FROM_PIDFD,
        Flags::KEEP_TIDS,
        Flags::ISOLATE,
    ] {
        assert_eq!(support.answer(flag), Answer::Known, "{flag:?}");
    }
    // These may come, but nobody but the kernel answers.
    for (flag, answer) in support.iter() {
        assert!(!matches!(answer, Answer::Undetermined(_)), "{flag:?}: {answer:?}");
    }
}

fn probe_makes_no_process() {
    let me = std::process::id();
    let before = (children(me), threads(me));
    for _ in 0..100 {
        assert!(Support::probe().full_fork());
    }
    assert_eq!((children(me), threads(me)), before);
}

fn fork_keeps_all_threads() {
    let crew = Crew::start();
    // Stopped, as its threads end one by one otherwise while they are counted.
    match fork(Builder::new(Scope::Process).stopped()) {
        None => answer(crew.finish()),
        Some(child) => {
            assert_eq!(threads(child.pid()).len(), THREADS + 1);
            child.resume().unwrap();
            expect_answer(&child, THREADS);
        }
    }
    assert_eq!(crew.finish(), THREADS);
}

fn fork_of_a_replica() {
    let crew = Crew::start();
    let Some(child) = fork(Builder::new(Scope::Process)) else {
        let Some(grandchild) = fork(Builder::new(Scope::Process)) else { answer(crew.finish()) };
        expect_answer(&grandchild, THREADS);
        answer(crew.finish())
    };
    expect_answer(&child, THREADS);
    assert_eq!(crew.finish(), THREADS);
}

fn fork_maps_tids() {
    let crew = Crew::start();
    let me = std::process::id();
    let builder = Builder::new(Scope::Process).tid_map().stopped();
    let Some(child) = fork(builder) else { answer(crew.finish()) };
    let map = child.tid_map();
    let originals: BTreeSet<u32> = map.pairs().iter().map(|pair| pair.original).collect();
    let replicas: BTreeSet<u32> = map.pairs().iter().map(|pair| pair.replica).collect();
    assert_eq!(originals, threads(me));
    assert_eq!(replicas, threads(child.pid()));
    assert_eq!(map.pairs()[0].original, me);
    assert_eq!(map.replica_of(me), Some(child.pid()));
    child.resume().unwrap();
    expect_answer(&child, THREADS);
    assert_eq!(crew.finish(), THREADS);
}

fn fork_stopped_until_resumed() {
    let crew = Crew::start();
    let Some(child) = fork(Builder::new(Scope::Process).stopped()) else { answer(crew.finish()) };
    assert_eq!(child.wait_event().unwrap(), Event::Stopped(libc::SIGSTOP));
    wait_until("every thread is stopped", || {
        threads(child.pid()).iter().all(|tid| state(*tid) == Some('T'))
    });
    assert_eq!(child.try_wait().unwrap(), None);
    child.resume().unwrap();
    expect_answer(&child, THREADS);
    assert_eq!(crew.finish(), THREADS);
}

fn fork_keeps_tids_in_a_namespace() {
    let crew = Crew::start();
    let me = std::process::id();
    let builder = Builder::new(Scope::Process).tids(Tids::KeepInNewNamespace).tid_map();
    let Some(child) = fork(builder.stopped()) else {
        // It sees the PID of its original.
        answer(if std::process::id() == me { crew.finish() } else { 99 })
    };
    for pair in child.tid_map().pairs() {
        let tids = status(pair.replica, "NSpid").unwrap();
        assert_eq!(tids, format!("{}\t{}", pair.replica, pair.original));
    }
    child.resume().unwrap();
    expect_answer(&child, THREADS);
    assert_eq!(crew.finish(), THREADS);
}

fn fork_without_the_other_threads() {
    let crew = Crew::start();
    let me = std::process::id();
    let Some(child) = fork(Builder::new(Scope::ThreadAndDescendants).stopped()) else {
        exit_now(101)
    };
    assert_eq!(threads(child.pid()).len(), 1);
    assert_eq!(threads(me).len(), THREADS + 1);
    child.resume().unwrap();
    expect_answer(&child, 1);
    assert_eq!(crew.finish(), THREADS);
}

fn autoreaped_replicas_need_no_wait() {
    let crew = Crew::start();
    let builder = Builder::new(Scope::Process).relation(Relation::Autoreaped);
    let Some(child) = fork(builder) else { answer(crew.finish()) };
    wait_until("it is reaped", || state(child.pid()).is_none());
    let error = child.wait().unwrap_err();
    assert_eq!((error.operation(), error.errno()), (Operation::Wait, Errno::ECHILD));
    assert_eq!(crew.finish(), THREADS);
}

fn closing_the_pidfd_kills() {
    let crew = Crew::start();
    let relation = Relation::KilledWithPidfd;
    let Some(child) = fork(Builder::new(Scope::Process).relation(relation).stopped()) else {
        answer(crew.finish())
    };
    let pid = child.pid();
    wait_until("it is stopped", || state(pid) == Some('T'));
    drop(child);
    wait_until("it is gone", || state(pid).is_none());
    assert_eq!(crew.finish(), THREADS);
}

/// `EINVAL`: the caller's children are born where it is itself.
fn rejects_keeping_tids_where_they_are() {
    let builder = Builder::new(Scope::Process);
    // SAFETY: there is one thread.
    let error = unsafe { builder.tids(Tids::Keep).fork() }.unwrap_err();
    assert_eq!((error.operation(), error.errno()), (Operation::Fork, Errno::EINVAL));
    let control = fork(builder.tids(Tids::KeepInNewNamespace));
    let Some(child) = control else { answer(1) };
    expect_answer(&child, 1);
}

fn rejects_a_small_tid_map() {
    let crew = Crew::start();
    let builder = Builder::new(Scope::Process);
    // SAFETY: as in `fork()` above.
    let error = unsafe { builder.tid_map_with_room(THREADS).fork() }.unwrap_err();
    assert_eq!(error.errno(), Errno::E2BIG);
    let Some(child) = fork(builder.tid_map_with_room(THREADS + 1)) else { answer(crew.finish()) };
    assert_eq!(child.tid_map().pairs().len(), THREADS + 1);
    expect_answer(&child, THREADS);
    assert_eq!(crew.finish(), THREADS);
}
