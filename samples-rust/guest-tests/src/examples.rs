// SPDX-License-Identifier: MIT OR Apache-2.0

//! The examples of the crate work.

use std::process::Command;

use crate::Test;
use crate::world::{binary, output};

pub(crate) const TESTS: &[Test] = &[
    ("example_worker_pool", example_worker_pool),
    ("example_rollback", example_rollback),
    ("example_fork_server", example_fork_server),
];

fn run(name: &str) -> String {
    output(Command::new(binary(&format!("examples/{name}"))))
}

fn example_worker_pool() {
    let text = run("worker_pool");
    assert_eq!(text.lines().count(), 12);
    assert!(text.contains("prime 1000 is 7927"));
}

fn example_rollback() {
    let text = run("rollback");
    assert_eq!(text.matches("rolled back").count(), 4);
    assert!(text.contains("results: [0, 1, 4, 9, 16]"));
}

fn example_fork_server() {
    let text = run("fork_server");
    assert!(text.contains("1 0 /: Signal(6)"));
    assert_eq!(text.lines().count(), 5);
}
