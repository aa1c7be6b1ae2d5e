// SPDX-License-Identifier: MIT OR Apache-2.0

//! Runs each test in a process of its own, and says how it went in TAP.

use std::env;
use std::fs;
use std::process::{Child, Command, ExitCode};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, setsid, wait,
};

use crate::Test;
use crate::world::{children, threads};

const INTERVAL: Duration = Duration::from_millis(20);

/// A test has so long. Emulated machines are slow.
fn limit() -> Duration {
    let seconds = env::var("FULLFORK_TEST_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(240))
}

/// Runs the tests of these names, or all.
pub(crate) fn run_all(tests: &[Test], names: &[&str]) -> ExitCode {
    if let Some(unknown) = names.iter().find(|name| !tests.iter().any(|(test, _)| test == *name)) {
        eprintln!("fullfork-guest-tests: there is no test {unknown}");
        return ExitCode::from(2);
    }
    // Copies that a test leaves behind come here.
    set_child_subreaper(Some(getpid())).unwrap();
    let wanted = |name: &str| names.is_empty() || names.contains(&name);
    let tests: Vec<_> = tests.iter().filter(|(name, _)| wanted(name)).collect();
    println!("TAP version 13\n1..{}", tests.len());
    let mut failed = 0;
    for (i, (name, _)) in tests.iter().enumerate() {
        let start = Instant::now();
        let answer = run_apart(name);
        end_children();
        let word = match answer {
            Ok(()) => "ok",
            Err(why) => {
                println!("# {name}: {why}");
                failed += 1;
                "not ok"
            }
        };
        println!("{word} {} {name}", i + 1);
        println!("# {name} took {} ms", start.elapsed().as_millis());
    }
    println!("# passed {} failed {failed} skipped 0", tests.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_apart(name: &str) -> Result<(), String> {
    let mut test = Command::new("/proc/self/exe").args(["--run", name]).spawn().unwrap();
    let deadline = Instant::now() + limit();
    loop {
        match test.try_wait().unwrap() {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(status.to_string()),
            None if Instant::now() > deadline => return Err(end(&mut test)),
            None => sleep(INTERVAL),
        }
    }
}

fn end(test: &mut Child) -> String {
    describe(test.id());
    // Replicas whose parent has ended came here.
    children(std::process::id()).into_iter().filter(|pid| *pid != test.id()).for_each(describe);
    let _ = test.kill();
    let _ = test.wait();
    "it did not end in time".into()
}

/// Where each thread of a process, and of all below it, is.
fn describe(pid: u32) {
    for tid in threads(pid) {
        let read = |name| fs::read_to_string(format!("/proc/{tid}/{name}")).unwrap_or_default();
        println!("# {pid} {tid} {} syscall {}", read("comm").trim(), read("syscall").trim());
        for line in read("stack").lines() {
            println!("#    {line}");
        }
    }
    children(pid).into_iter().for_each(describe);
}

/// What a test leaves: its children, then theirs, which come here as well.
fn end_children() {
    loop {
        for pid in children(std::process::id()) {
            // It may have ended by itself.
            let _ = kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL);
        }
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => sleep(INTERVAL),
            Err(_) => return,
        }
    }
}

/// Runs one test in this process. A panic is its failure. It has a session of its
/// own, so that who is left to the harness has nobody there to continue it.
pub(crate) fn run_one(tests: &[Test], name: &str) -> ExitCode {
    match tests.iter().find(|(test, _)| *test == name) {
        Some((_, test)) => {
            setsid().unwrap();
            test();
            ExitCode::SUCCESS
        }
        None => ExitCode::from(2),
    }
}
