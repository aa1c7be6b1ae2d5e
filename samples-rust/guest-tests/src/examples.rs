// SPDX-License-Identifier: MIT OR Apache-2.0

//! The examples of the crate work.

use std::process::Command;

use crate::Test;
use crate::world::{binary, output};

pub(crate) const TESTS: &[Test] = &[
    ("example_worker_pool", example_worker_pool),
    ("example_rollback", example_rollback),
    ("example_fork_server", example_fork_server),
    ("example_pipeline", example_pipeline),
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

fn example_pipeline() {
    let text = run("pipeline");
    assert!(text.contains("      3 sfork\n      2 fork\n      1 vfork\n"), "{text}");
    assert!(text.contains("step 2: No such file or directory"), "{text}");
    assert!(text.contains("step 2: no-such-program: exec: ENOENT"), "{text}");
    assert!(text.matches("ended: exit status: 0").count() >= 3, "{text}");
    assert_eq!(text.matches("ended: ").count(), 5, "{text}");
}
