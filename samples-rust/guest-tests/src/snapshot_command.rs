// SPDX-License-Identifier: MIT OR Apache-2.0

//! Snapshots by the command, and the process that holds them.

use std::process::Command;

use serde_json::Value;

use crate::Test;
use crate::programs::Workers;
use crate::world::{Scratch, fullfork, is_gone, json, output, state, wait_until};

pub(crate) const TESTS: &[Test] = &[
    ("command_snapshot_spawn_list_drop", command_snapshot_spawn_list_drop),
    ("command_snapshots_share_a_holder", command_snapshots_share_a_holder),
    ("command_spawn_waits_for_all", command_spawn_waits_for_all),
    ("command_spawn_without_a_holder", command_spawn_without_a_holder),
    ("command_snapshot_of_nobody_leaves_no_holder", command_snapshot_of_nobody_leaves_no_holder),
];

const NUMBER: usize = 8;

/// The command, with a holder of this test's own.
fn held(scratch: &Scratch, args: &[&str]) -> Command {
    let mut command = fullfork(args);
    command.env("FULLFORK_RUNTIME_DIR", scratch.path().join("runtime"));
    command
}

fn socket_is_there(scratch: &Scratch) -> bool {
    scratch.path().join("runtime/holder.sock").exists()
}

fn take(scratch: &Scratch, workers: &Workers) -> Value {
    json(held(scratch, &["--json", "snapshot", &workers.pid().to_string()]))
}

fn number(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

fn command_snapshot_spawn_list_drop() {
    let scratch = Scratch::new();
    let workers = Workers::start(&scratch, NUMBER);
    let snapshot = take(&scratch, &workers);
    let (id, pid) = (number(&snapshot["id"]).to_string(), number(&snapshot["pid"]));
    assert_eq!(number(&snapshot["nr_threads"]) as usize, workers.nr_threads());
    wait_until("it is stopped", || state(pid) == Some('T'));

    let listed = json(held(&scratch, &["--json", "list"]));
    assert_eq!((&listed["id"], &listed["pid"]), (&snapshot["id"], &snapshot["pid"]));
    assert_eq!(number(&listed["processes"][0]["original"]), workers.pid());

    let spawned = json(held(&scratch, &["--json", "spawn", &id, "--copies", "10"]));
    let copies: Vec<u32> = spawned["pids"].as_array().unwrap().iter().map(number).collect();
    assert_eq!(copies.len(), 10);
    output(held(&scratch, &["drop", &id]));
    wait_until("the snapshot is gone", || is_gone(pid));
    wait_until("the holder is gone", || !socket_is_there(&scratch));
    assert_eq!(output(held(&scratch, &["list"])), "");

    workers.go();
    wait_until("all copies worked", || workers.lines() == 11 * NUMBER);
    wait_until("all copies have ended", || copies.iter().all(|copy| is_gone(*copy)));
}

fn command_snapshots_share_a_holder() {
    let scratch = Scratch::new();
    let workers = Workers::start(&scratch, NUMBER);
    let (one, two) = (take(&scratch, &workers), take(&scratch, &workers));
    assert_ne!(one["id"], two["id"]);
    assert_eq!(output(held(&scratch, &["--json", "list"])).lines().count(), 2);
    output(held(&scratch, &["drop", &one["id"].to_string()]));
    assert!(socket_is_there(&scratch));
    output(held(&scratch, &["drop", "--all"]));
    wait_until("the holder is gone", || !socket_is_there(&scratch));
    assert!(is_gone(number(&two["pid"])));
}

fn command_spawn_waits_for_all() {
    let scratch = Scratch::new();
    let workers = Workers::start(&scratch, NUMBER);
    let id = take(&scratch, &workers)["id"].to_string();
    workers.go();
    output(held(&scratch, &["spawn", &id, "--copies", "5", "--wait"]));
    assert!(workers.lines() >= 5 * NUMBER);
    output(held(&scratch, &["drop", &id]));
}

fn command_spawn_without_a_holder() {
    let scratch = Scratch::new();
    let spawn = held(&scratch, &["spawn", "1"]).output().unwrap();
    assert_eq!(spawn.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&spawn.stderr).contains("no snapshots"), "{spawn:?}");
}

fn command_snapshot_of_nobody_leaves_no_holder() {
    let scratch = Scratch::new();
    let workers = Workers::start(&scratch, NUMBER);
    let refused = held(&scratch, &["snapshot", "2"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    wait_until("the holder is gone", || !socket_is_there(&scratch));
    let id = take(&scratch, &workers)["id"].to_string();
    output(held(&scratch, &["drop", &id]));
}
