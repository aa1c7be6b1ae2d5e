// SPDX-License-Identifier: MIT OR Apache-2.0

//! The Python package. Its tests are written in Python, and named here, so that none
//! is lost.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Test;
use crate::world::{binary, output};

macro_rules! tests {
    ($($name:ident)*) => {
        pub(crate) const TESTS: &[Test] = &[
            ("python_every_test_is_named", every_test_is_named),
            $((concat!("python_", stringify!($name)), || run(stringify!($name))),)*
        ];

        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

tests! {
    supported_knows_the_flags
    sfork_exit_leaves_the_child
    sfork_end_of_the_body_leaves_the_child
    sfork_without_with
    sfork_exception_leaves_the_child
    sfork_exception_leaves_nested_children
    sfork_nested_exit
    sfork_exec
    sfork_nested_exec
    sfork_failed_exec_stays_in_the_child
    sfork_exec_takes_what_subprocess_takes
    sfork_rejects_what_cannot_be_run
    sfork_sets_up_the_child_alone
    sfork_shares_memory
    sfork_out_of_order
    sfork_left_twice
    sfork_outer_body_ends_first
    sfork_in_another_thread
    sfork_other_threads_run_on
    sfork_waits_for_locks_of_other_threads
    sfork_of_many_threads
    sfork_fork_and_subprocess_in_the_child
    sfork_left_by_execv
    sfork_keyboard_interrupt
    sfork_namespaces
    sfork_shared_files
    sfork_wait_and_poll
    sfork_killed_child
    sfork_with_numpy_threads
    fork_copies_all_threads
    fork_keeps_numpy_threads
    fork_stopped_until_resumed
    fork_maps_tids
    fork_keeps_tids
    fork_of_a_tree
    fork_of_one_thread_with_its_tree
    fork_refuses_to_lose_threads
    fork_autoreaped_and_killed_on_close
    fork_exit_signal_and_wait
    copy_by_pid_and_by_pidfd
    copy_of_itself
    copy_of_nothing
    preloaded_server
}

/// Where the package is installed, and where its tests are.
fn directory(variable: &str, default: PathBuf) -> PathBuf {
    let path = env::var_os(variable).map_or(default, PathBuf::from);
    assert!(path.is_dir(), "{variable}: there is no {}", path.display());
    path
}

fn tests() -> Command {
    let installed = binary("fullfork").join("../../python");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fullfork-python/tests");
    let sources = directory("FULLFORK_PYTHON_TESTS", sources);
    let mut command = Command::new("python3");
    command
        .args(["-X", "faulthandler"])
        .arg(sources.join("run.py"))
        .arg("guest")
        .env("PYTHONPATH", directory("FULLFORK_PYTHON", installed));
    command
}

fn run(name: &str) {
    let mut command = tests();
    command.arg(name);
    output(command);
}

fn every_test_is_named() {
    let mut command = tests();
    command.arg("--list");
    let listed = output(command);
    assert_eq!(listed.lines().collect::<Vec<_>>(), NAMES);
}
