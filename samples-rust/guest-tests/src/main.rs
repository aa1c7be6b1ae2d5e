// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests that need a kernel with full fork. There is no skip: what is missing is a
//! failure.
//!
//!     fullfork-guest-tests [--list] [NAME]...
//!
//! Prints TAP, and exits with 1 if a test fails. Each test has a process of its
//! own, and what it leaves behind is killed. The command and the examples are
//! looked for where this program is, or in `$FULLFORK_BIN_DIR`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod command;
mod copy;
mod examples;
mod fork;
mod harness;
mod programs;
mod python;
mod redis;
mod sfork;
mod snapshot;
mod snapshot_command;
mod watch;
mod world;

use std::env;
use std::process::ExitCode;

/// A test: it fails by a panic.
type Test = (&'static str, fn());

fn tests() -> Vec<Test> {
    [
        fork::TESTS,
        copy::TESTS,
        snapshot::TESTS,
        command::TESTS,
        redis::TESTS,
        snapshot_command::TESTS,
        watch::TESTS,
        examples::TESTS,
        sfork::TESTS,
        python::TESTS,
    ]
    .concat()
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["--program", name, args @ ..] => programs::run(name, args),
        ["--run", name] => harness::run_one(&tests(), name),
        ["--list"] => {
            for (name, _) in tests() {
                println!("{name}");
            }
            ExitCode::SUCCESS
        }
        names => harness::run_all(&tests(), names),
    }
}
