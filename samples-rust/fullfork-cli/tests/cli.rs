// SPDX-License-Identifier: MIT OR Apache-2.0

//! The command as it is called, on whatever kernel this is.

#![allow(missing_docs, clippy::unwrap_used)]

use std::process::{Command, Output};

use fullfork::Support;

fn fullfork(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fullfork"))
        .args(args)
        .env("FULLFORK_RUNTIME_DIR", "/nowhere/fullfork")
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn usage_is_2() {
    for args in [&["copy"][..], &["copy", "x"], &["nonsense"], &[], &["run", "--"]] {
        assert_eq!(fullfork(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn help_teaches_the_exit_status() {
    let output = fullfork(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("Exit status:") && text.contains("Examples:"));
}

#[test]
fn check_agrees_with_the_probe() {
    let expected = if Support::probe().full_fork() { 0 } else { 77 };
    assert_eq!(fullfork(&["check"]).status.code(), Some(expected));
    let json = fullfork(&["--json", "check"]);
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(report["full_fork"], expected == 0);
}

#[test]
fn an_ordinary_kernel_is_told_in_one_line() {
    if Support::probe().full_fork() {
        // The tests for the guest are for such a kernel.
        return;
    }
    let me = std::process::id().to_string();
    for args in [
        &["check"][..],
        &["tree", &me],
        &["copy", &me],
        &["copy", &me, "--tree", "--stopped", "--keep-tids", "--isolate", "--wait"],
        &["run", "--copies", "2", "--", "true"],
        &["snapshot", &me],
        &["spawn", "1"],
        &["drop", "1"],
        &["list"],
        &["watch"],
    ] {
        let output = fullfork(args);
        assert_eq!(output.status.code(), Some(77), "{args:?}");
        assert_eq!(stderr(&output).lines().count(), 1, "{args:?}");
    }
}

#[test]
fn output_that_is_no_terminal_has_no_colours() {
    let output = fullfork(&["tree", &std::process::id().to_string()]);
    assert!(!output.stdout.contains(&0x1b));
}
