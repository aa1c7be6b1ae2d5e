// SPDX-License-Identifier: MIT OR Apache-2.0

//! The command, on programs that nobody prepared.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::Test;
use crate::programs::Workers;
use crate::world::{
    Running, Scratch, binary, fullfork, is_gone, json, output, state, status, threads, wait_until,
};

pub(crate) const TESTS: &[Test] = &[
    ("command_check_knows_this_kernel", command_check_knows_this_kernel),
    ("command_tree_shows_threads", command_tree_shows_threads),
    ("command_tree_finds_what_stops_a_copy", command_tree_finds_what_stops_a_copy),
    ("command_copy_of_python", command_copy_of_python),
    ("command_copy_outlives_command_and_original", command_copy_outlives_command_and_original),
    ("command_copy_stopped_under_job_control", command_copy_stopped_under_job_control),
    ("command_copy_keeps_tids", command_copy_keeps_tids),
    ("command_copy_waits", command_copy_waits),
    ("command_copy_of_a_tree", command_copy_of_a_tree),
    ("command_copy_names_the_errno", command_copy_names_the_errno),
    ("command_copy_needs_the_right_to_trace", command_copy_needs_the_right_to_trace),
    ("command_run_makes_copies", command_run_makes_copies),
    (
        "command_run_without_a_rule_waits_until_the_program_sleeps",
        command_run_without_a_rule_waits_until_the_program_sleeps,
    ),
    ("command_run_tells_who_failed", command_run_tells_who_failed),
];

/// A python3 with three threads that wait for a file and then end.
const PYTHON: &str = "
import os, sys, threading, time
def wait(name):
    while not os.path.exists(sys.argv[1] + '/go'):
        time.sleep(0.05)
    with open(sys.argv[1] + '/lines', 'a') as f:
        f.write('%s\\n' % name)
threads = [threading.Thread(target=wait, args=(n,)) for n in 'abc']
for t in threads: t.start()
open(sys.argv[1] + '/up', 'w').close()
for t in threads: t.join()
";

fn python(scratch: &Scratch) -> Running {
    let mut command = Command::new("python3");
    command.args(["-c", PYTHON, scratch.text()]);
    let python = Running::start(command);
    wait_until("python3 is up", || scratch.path().join("up").exists());
    python
}

fn lines(scratch: &Scratch) -> usize {
    fs::read_to_string(scratch.path().join("lines")).unwrap_or_default().lines().count()
}

fn number(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

fn command_check_knows_this_kernel() {
    let report = json(fullfork(&["check", "--json"]));
    assert_eq!(report["full_fork"], true);
    assert_eq!(report["timeout_secs"].as_u64().map(|seconds| seconds > 0), Some(true));
    assert_eq!((&report["snapshot_device"], &report["tracepoints"]), (&true.into(), &true.into()));
    assert!(output(fullfork(&["check"])).contains("CLONE_ALL_THREADS"));
}

fn command_tree_shows_threads() {
    let scratch = Scratch::new();
    let python = python(&scratch);
    let report = json(fullfork(&["tree", "--json", &python.pid().to_string()]));
    assert_eq!(report["processes"][0]["threads"].as_array().unwrap().len(), 4);
    assert_eq!(report["stopped_by"], 0);
}

/// What the tree says fails, fails; and what it says nothing of, does not.
fn command_tree_finds_what_stops_a_copy() {
    let scratch = Scratch::new();
    let script = "
import mmap, sys, time
m = mmap.mmap(-1, 4096)
m.madvise(mmap.MADV_DONTFORK)
open(sys.argv[1] + '/up', 'w').close()
time.sleep(1000)
";
    let mut command = Command::new("python3");
    command.args(["-c", script, scratch.text()]);
    let python = Running::start(command);
    wait_until("python3 is up", || scratch.path().join("up").exists());
    let pid = python.pid().to_string();
    let report = json(fullfork(&["tree", "--json", &pid]));
    assert_eq!(report["processes"][0]["findings"][0]["reason"], "dontfork");
    let refused = fullfork(&["copy", &pid]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("EOPNOTSUPP"));
}

fn command_copy_of_python() {
    let scratch = Scratch::new();
    let python = python(&scratch);
    let report = json(fullfork(&["--json", "copy", &python.pid().to_string()]));
    let pid = number(&report["pid"]);
    let process = &report["processes"][0];
    assert_eq!((number(&process["original"]), number(&process["replica"])), (python.pid(), pid));
    assert_eq!(process["name"], "python3");
    let tids = process["threads"].as_array().unwrap().iter().map(|t| number(&t["replica"]));
    assert_eq!(tids.collect::<std::collections::BTreeSet<_>>(), threads(pid));
    fs::write(scratch.path().join("go"), "").unwrap();
    wait_until("both have ended", || lines(&scratch) == 6 && is_gone(pid));
    assert_eq!(python.code(), Some(0));
}

fn command_copy_outlives_command_and_original() {
    let scratch = Scratch::new();
    let python = python(&scratch);
    let report = json(fullfork(&["copy", "--json", "--stopped", &python.pid().to_string()]));
    let pid = number(&report["pid"]);
    drop(python);
    wait_until("the copy is stopped", || state(pid) == Some('T'));
    fs::write(scratch.path().join("go"), "").unwrap();
    kill(pid, Signal::CONT);
    wait_until("the copy has ended", || lines(&scratch) == 3 && is_gone(pid));
}

/// As a shell with job control has it: each in a process group of its own. The
/// kernel hangs up on stopped ones whose parent exits in their session.
fn command_copy_stopped_under_job_control() {
    let scratch = Scratch::new();
    let mut command = Command::new("python3");
    command.args(["-c", PYTHON, scratch.text()]).process_group(0);
    let python = Running::start(command);
    wait_until("python3 is up", || scratch.path().join("up").exists());
    let mut copy = fullfork(&["copy", "--json", "--stopped", &python.pid().to_string()]);
    copy.process_group(0);
    let pid = number(&json(copy)["pid"]);
    drop(python);
    wait_until("the copy is stopped", || state(pid) == Some('T'));
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(state(pid), Some('T'));
    fs::write(scratch.path().join("go"), "").unwrap();
    kill(pid, Signal::CONT);
    wait_until("the copy has ended", || lines(&scratch) == 3 && is_gone(pid));
}

fn command_copy_keeps_tids() {
    let scratch = Scratch::new();
    let python = python(&scratch);
    let report = json(fullfork(&["copy", "--json", "--keep-tids", &python.pid().to_string()]));
    for thread in report["processes"][0]["threads"].as_array().unwrap() {
        let (original, replica) = (number(&thread["original"]), number(&thread["replica"]));
        assert_eq!(thread["ns_tids"], serde_json::json!([replica, original]));
        assert_eq!(status(replica, "NSpid").unwrap(), format!("{replica}\t{original}"));
    }
    fs::write(scratch.path().join("go"), "").unwrap();
    wait_until("both have ended", || lines(&scratch) == 6);
}

fn command_copy_waits() {
    let scratch = Scratch::new();
    let python = python(&scratch);
    let mut copy = fullfork(&["copy", "--wait", &python.pid().to_string()]);
    copy.stdout(std::process::Stdio::null());
    let mut copy = Running::start(copy);
    wait_until("there is a copy", || !crate::world::children(copy.pid()).is_empty());
    assert_eq!(copy.0.try_wait().unwrap(), None);
    kill(crate::world::children(copy.pid())[0], Signal::TERM);
    assert_eq!(copy.code(), Some(128 + 15));
}

fn command_copy_of_a_tree() {
    let scratch = Scratch::new();
    let program = std::env::current_exe().unwrap();
    let (program, directory) = (program.display(), scratch.text());
    let script = format!("'{program}' --program workers '{directory}' 4; exit $?");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]);
    let workers = Workers::start_with(shell, &scratch, 4);
    let report = json(fullfork(&["copy", "--tree", "--json", &workers.pid().to_string()]));
    let processes = report["processes"].as_array().unwrap();
    assert_eq!(processes.len(), 2);
    assert_eq!(processes[0]["name"], "sh");
    assert_eq!(processes[1]["parent"], processes[0]["replica"]);
    assert_eq!(processes[1]["threads"].as_array().unwrap().len(), 5);
    workers.go();
    wait_until("all have written", || workers.lines() == 8);
}

fn command_copy_names_the_errno() {
    let refused = fullfork(&["copy", "2"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("EPERM"), "{refused:?}");
    let nobody = fullfork(&["copy", "4194304"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("ESRCH"), "{nobody:?}");
}

/// Nobody may not copy what is root's, and is told so before; but what is nobody's.
fn command_copy_needs_the_right_to_trace() {
    const NOBODY: u32 = 65534;
    let scratch = Scratch::new();
    // Nobody may not be able to go where it was built.
    let program = scratch.path().join("fullfork");
    fs::copy(binary("fullfork"), &program).unwrap();
    let as_nobody = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.args(args).uid(NOBODY).gid(NOBODY);
        command
    };
    let python = python(&scratch);
    let pid = python.pid().to_string();
    let report = json(as_nobody(&["tree", "--json", &pid]));
    assert_eq!(report["processes"][0]["findings"][0]["reason"], "rights");
    let refused = as_nobody(&["copy", &pid]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("EPERM"), "{refused:?}");

    let mut sleeper = Command::new("sleep");
    sleeper.arg("1000").uid(NOBODY).gid(NOBODY);
    let sleeper = Running::start(sleeper);
    let copy = json(as_nobody(&["copy", "--json", &sleeper.pid().to_string()]));
    assert_eq!(copy["processes"][0]["name"], "sleep");
}

fn command_run_makes_copies() {
    let script =
        "print('Ready.', flush=True); import time; time.sleep(5); print('Done.', flush=True)";
    let text = output(fullfork(&[
        "run",
        "--copies",
        "3",
        "--ready-line",
        "^Ready",
        "--json",
        "--",
        "python3",
        "-c",
        script,
    ]));
    assert_eq!(text.matches("Ready.").count(), 1);
    assert_eq!(text.matches("Done.").count(), 4);
    let report: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let copies = report["copies"].as_array().unwrap();
    assert_eq!(copies.len(), 3);
    assert!(copies.iter().all(|copy| copy["code"] == 0));
}

fn command_run_without_a_rule_waits_until_the_program_sleeps() {
    let text = output(fullfork(&["run", "--copies", "2", "--json", "--", "sleep", "4"]));
    let report: Value = serde_json::from_str(text.trim()).unwrap();
    let copies = report["copies"].as_array().unwrap();
    assert_eq!(copies.len(), 2);
    assert!(copies.iter().all(|copy| copy["code"] == 0));
}

fn command_run_tells_who_failed() {
    let script = "
import os, time
me = os.getpid()
print('up', flush=True)
time.sleep(5)
os._exit(3 * (me != os.getpid()))
";
    let args = ["run", "--ready-line", "up", "--json", "--", "python3", "-c", script];
    let run = fullfork(&args).output().unwrap();
    assert_eq!(run.status.code(), Some(1));
    let text = String::from_utf8(run.stdout).unwrap();
    let report: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&report["program"]["code"], &report["copies"][0]["code"]), (&0.into(), &3.into()));
}
