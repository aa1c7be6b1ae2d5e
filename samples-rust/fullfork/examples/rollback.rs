// SPDX-License-Identifier: MIT OR Apache-2.0

//! A rollback loop.
//!
//! A program takes steps that may fail half-way and then leave its memory in no
//! useful state. Before each it keeps a stopped replica of itself, threads
//! included. If the step succeeds, the replica is killed. If it fails, the replica
//! goes on from before the step, and the process that failed only passes on how
//! that ended.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fullfork::{Builder, Child, Error, Flags, Fork, Scope, Signal, Support, exit_now};

const STEPS: u32 = 5;

/// A thread that goes on in every replica.
struct Meter {
    ticks: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Meter {
    fn start() -> Self {
        let (ticks, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stopped) = (Arc::clone(&ticks), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                count.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self { ticks, stop, thread }
    }

    /// It still runs if it ticks once more.
    fn wait_for_tick(&self) {
        let before = self.ticks.load(Ordering::Relaxed);
        while self.ticks.load(Ordering::Relaxed) == before {
            thread::yield_now();
        }
    }

    fn join(self) -> bool {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().is_ok()
    }
}

/// What the steps work on.
struct Work {
    results: Vec<u32>,
}

impl Work {
    /// Fails some times, after it has spoilt everything.
    fn step(&mut self, step: u32, attempt: u32) -> Result<(), ()> {
        self.results.fill(u32::MAX);
        if attempt < step % 3 {
            return Err(());
        }
        self.results = (0..=step).map(|n| n * n).collect();
        Ok(())
    }
}

/// A replica of this process, stopped. None in that replica, when it goes on.
fn keep() -> Result<Option<Child>, Error> {
    // SAFETY: the only other thread holds no lock, and files are only written to, in
    // whole lines.
    match unsafe { Builder::new(Scope::Process).stopped().fork() }? {
        Fork::Original(child) => Ok(Some(child)),
        Fork::Replica => Ok(None),
    }
}

/// Lets the replica take over, and passes on how it ends.
fn roll_back(kept: &Child) -> Result<(), Error> {
    kept.resume()?;
    let status = kept.wait()?;
    exit_now(status.code().unwrap_or(1))
}

fn run() -> Result<bool, Error> {
    let meter = Meter::start();
    let mut work = Work { results: Vec::new() };
    for step in 0..STEPS {
        let mut attempt = 0;
        loop {
            let Some(kept) = keep()? else {
                println!("step {step}: rolled back to before attempt {attempt}");
                attempt += 1;
                continue;
            };
            meter.wait_for_tick();
            if work.step(step, attempt).is_err() {
                println!("step {step}: attempt {attempt} fails");
                roll_back(&kept)?;
            }
            kept.signal(Signal::KILL)?;
            kept.wait()?;
            break;
        }
        println!("step {step}: done with attempt {attempt}");
    }
    let right = work.results == [0, 1, 4, 9, 16];
    println!("results: {:?}", work.results);
    Ok(right && meter.join())
}

fn main() -> ExitCode {
    if !Support::probe().has(Flags::ALL_THREADS | Flags::STOPPED) {
        eprintln!("rollback: this kernel has no full fork (CLONE_ALL_THREADS, CLONE_STOPPED)");
        return ExitCode::from(77);
    }
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("rollback: the results are wrong");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("rollback: {error}");
            ExitCode::FAILURE
        }
    }
}
