// SPDX-License-Identifier: MIT OR Apache-2.0

//! What tests see and use of the machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long something may take that is about to happen.
const SOON: Duration = Duration::from_secs(60);

/// Waits until something is so.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "not so: {what}");
        sleep(Duration::from_millis(5));
    }
}

fn numbers(path: &str) -> BTreeSet<u32> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The TIDs of a process.
pub(crate) fn threads(pid: u32) -> BTreeSet<u32> {
    numbers(&format!("/proc/{pid}/task"))
}

/// A field of `/proc/TID/status`.
pub(crate) fn status(tid: u32, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.map(|text| text.trim().to_owned())
}

/// `R`, `S`, `T`, ... ; none if it is gone.
pub(crate) fn state(tid: u32) -> Option<char> {
    status(tid, "State")?.chars().next()
}

/// Neither running nor stopped any more.
pub(crate) fn is_gone(pid: u32) -> bool {
    matches!(state(pid), None | Some('Z' | 'X'))
}

/// The children of a process.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let parent = pid.to_string();
    let is_child = |child: &u32| status(*child, "PPid").as_deref() == Some(&*parent);
    numbers("/proc").into_iter().filter(is_child).collect()
}

/// A directory of this test.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("fullfork-test-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn directory() -> PathBuf {
    std::env::var_os("FULLFORK_BIN_DIR").map_or_else(
        || std::env::current_exe().unwrap().parent().unwrap().to_owned(),
        PathBuf::from,
    )
}

/// A program of this workspace.
pub(crate) fn binary(name: &str) -> PathBuf {
    let path = directory().join(name);
    assert!(path.exists(), "{} was not built", path.display());
    path
}

/// The command.
pub(crate) fn fullfork(args: &[&str]) -> Command {
    let mut command = Command::new(binary("fullfork"));
    command.args(args);
    command
}

/// Runs a command that is to succeed, and returns its standard output.
pub(crate) fn output(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let error = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {status}: {error}");
    String::from_utf8(stdout).unwrap()
}

/// The same, of one that prints an object of JSON.
pub(crate) fn json(command: Command) -> serde_json::Value {
    serde_json::from_str(output(command).trim()).unwrap()
}

/// A process that ends with this value.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        Self(command.spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn code(mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
