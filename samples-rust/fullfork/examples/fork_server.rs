// SPDX-License-Identifier: MIT OR Apache-2.0

//! A fork server for a program with threads.
//!
//! Fuzzers start a program once and then fork it for every input. With `fork()`
//! that must be done before the program starts threads. Here the target's threads
//! are up, and every input gets a replica of all of them.
//!
//!     fork_server [INPUT]...

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use std::sync::{Arc, Barrier, Condvar, Mutex, PoisonError};
use std::thread;

use fullfork::{Builder, Error, Fork, Scope, Support, exit_now};

/// Inputs for a run without arguments, with how each must end.
const INPUTS: [(&str, Verdict); 5] = [
    ("1 2 +", Verdict::Exit(0)),
    ("2 3 4 * +", Verdict::Exit(0)),
    ("1 +", Verdict::Exit(1)),
    ("1 0 /", Verdict::Signal(libc::SIGABRT)),
    ("6 3 /", Verdict::Exit(0)),
];

/// How a run of the target ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Exit(i32),
    Signal(i32),
}

impl From<ExitStatus> for Verdict {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Exit(code),
            (None, signal) => Self::Signal(signal.unwrap_or(0)),
        }
    }
}

/// A queue. The first wait in a channel of std has glibc note a destructor, under a
/// lock that records its owner; this one takes no such lock.
struct Queue<T> {
    items: Mutex<VecDeque<T>>,
    changed: Condvar,
}

impl<T> Queue<T> {
    fn new() -> Arc<Self> {
        Arc::new(Self { items: Mutex::default(), changed: Condvar::new() })
    }

    fn push(&self, item: T) {
        self.items.lock().unwrap_or_else(PoisonError::into_inner).push_back(item);
        self.changed.notify_one();
    }

    fn pop(&self) -> T {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match items.pop_front() {
                Some(item) => return item,
                None => items = self.changed.wait(items).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// The target: a calculator with a thread that reads and one that computes.
struct Target {
    inputs: Arc<Queue<String>>,
    results: Arc<Queue<Option<i64>>>,
}

impl Target {
    /// Returns when its threads have started: glibc takes locks of its own until then.
    fn start() -> Self {
        let (inputs, words, results) = (Queue::new(), Queue::new(), Queue::new());
        let started = Arc::new(Barrier::new(3));
        let reader = (Arc::clone(&inputs), Arc::clone(&words), Arc::clone(&started));
        thread::spawn(move || {
            let (inputs, words, started) = reader;
            started.wait();
            loop {
                let line: String = inputs.pop();
                words.push(line.split_whitespace().map(str::to_owned).collect());
            }
        });
        let computer = (words, Arc::clone(&results), Arc::clone(&started));
        thread::spawn(move || {
            let (words, results, started) = computer;
            started.wait();
            loop {
                let line: Vec<String> = words.pop();
                results.push(compute(&line));
            }
        });
        started.wait();
        Self { inputs, results }
    }

    fn run(&self, input: &str) -> Option<i64> {
        self.inputs.push(input.to_owned());
        self.results.pop()
    }
}

/// Reverse Polish notation, with a bug.
fn compute(words: &[String]) -> Option<i64> {
    let mut stack: Vec<i64> = Vec::new();
    for word in words {
        if let Ok(number) = word.parse() {
            stack.push(number);
            continue;
        }
        let (right, left) = (stack.pop()?, stack.pop()?);
        stack.push(match word.as_str() {
            "+" => left + right,
            "*" => left * right,
            "/" if right == 0 => std::process::abort(),
            "/" => left / right,
            _ => return None,
        });
    }
    stack.pop()
}

/// Runs the target on one input, in a replica.
fn try_input(target: &Target, input: &str) -> Result<Verdict, Error> {
    // SAFETY: the threads of the target have started and wait for queues, whose locks
    // record no owner; no file is read, and a replica ends without its exit handlers.
    match unsafe { Builder::new(Scope::Process).fork() }? {
        Fork::Replica => exit_now(i32::from(target.run(input).is_none())),
        Fork::Original(child) => Ok(child.wait()?.into()),
    }
}

fn run() -> Result<bool, Error> {
    let target = Target::start();
    let given: Vec<String> = std::env::args().skip(1).collect();
    let mut right = true;
    for input in &given {
        println!("{input}: {:?}", try_input(&target, input)?);
    }
    if given.is_empty() {
        for (input, expected) in INPUTS {
            let verdict = try_input(&target, input)?;
            println!("{input}: {verdict:?}");
            right &= verdict == expected;
        }
    }
    Ok(right)
}

fn main() -> ExitCode {
    if !Support::probe().full_fork() {
        eprintln!("fork_server: this kernel has no full fork (CLONE_ALL_THREADS)");
        return ExitCode::from(77);
    }
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("fork_server: a replica ended in another way than it should");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("fork_server: {error}");
            ExitCode::FAILURE
        }
    }
}
