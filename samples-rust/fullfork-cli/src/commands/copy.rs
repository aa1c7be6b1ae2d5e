// SPDX-License-Identifier: MIT OR Apache-2.0

//! `fullfork copy`

use std::time::{Duration, Instant};

use fullfork::{Builder, Child, Flags, Scope, TidPair, Tids, open_pidfd};
use serde::Serialize;

use super::shell_status;
use crate::args;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Node, STRONG, count, duration, styled};
use crate::procfs::{Proc, Task};

#[derive(Debug, Serialize)]
struct Report {
    pid: u32,
    stopped: bool,
    took_ns: u64,
    processes: Vec<ProcessReport>,
}

#[derive(Debug, Serialize)]
struct ProcessReport {
    original: u32,
    replica: u32,
    /// PID of the replica's parent.
    parent: Option<u32>,
    name: String,
    threads: Vec<ThreadReport>,
}

#[derive(Debug, Serialize)]
struct ThreadReport {
    original: u32,
    replica: u32,
    name: String,
    /// TIDs of the replica in each PID namespace, from this one inwards.
    ns_tids: Vec<u32>,
}

pub(super) fn run(args: &args::Copy, context: &mut Context<'_>) -> Result<u8, Failure> {
    context.require(needed(args))?;
    let pidfd = open_pidfd(args.pid).map_err(Failure::of(format!("process {}", args.pid)))?;
    let before = Instant::now();
    let copy =
        builder(args, context).copy(pidfd).map_err(Failure::of(format!("process {}", args.pid)))?;
    let report = report(&copy, args, before.elapsed(), &context.proc);
    if context.json {
        context.write_json(&report)?;
    } else {
        context.write_line(&text(&report))?;
    }
    if args.wait {
        let status = copy.wait().map_err(Failure::of(format!("copy {}", copy.pid())))?;
        return Ok(shell_status(status));
    }
    Ok(0)
}

fn needed(args: &args::Copy) -> Flags {
    let mut flags = Flags::FROM_PIDFD;
    flags.set(Flags::SUBTREE, args.tree);
    flags.set(Flags::STOPPED, args.stopped);
    flags.set(Flags::KEEP_TIDS, args.keep_tids);
    flags.set(Flags::ISOLATE, args.isolate);
    flags
}

fn builder<'b>(args: &args::Copy, context: &Context<'b>) -> Builder<'b> {
    let mut builder =
        Builder::on(context.backend, scope(args.tree)).tids(tids(args.keep_tids)).tid_map();
    if args.stopped {
        builder = builder.stopped();
    }
    if args.isolate {
        builder = builder.isolated();
    }
    if args.no_new_privs {
        builder = builder.no_new_privs();
    }
    builder
}

/// What `--tree` means.
pub(super) const fn scope(tree: bool) -> Scope {
    if tree { Scope::Tree } else { Scope::Process }
}

/// What `--keep-tids` means.
pub(super) const fn tids(keep: bool) -> Tids {
    if keep { Tids::KeepInNewNamespace } else { Tids::New }
}

fn report(copy: &Child, args: &args::Copy, took: Duration, proc: &Proc) -> Report {
    Report {
        pid: copy.pid(),
        stopped: args.stopped,
        took_ns: u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
        processes: group(copy.tid_map().pairs(), proc),
    }
}

/// Sorts threads to their processes. What a replica was that has ended already, its
/// original tells; and if that is gone too, it is taken for a thread of the
/// process before, as leaders come before their threads.
fn group(pairs: &[TidPair], proc: &Proc) -> Vec<ProcessReport> {
    let mut processes: Vec<ProcessReport> = Vec::new();
    for pair in pairs {
        let replica = proc.task(pair.replica).ok();
        let task = replica.clone().or_else(|| proc.task(pair.original).ok());
        let name = task.as_ref().map_or_else(|| "?".to_owned(), |task| task.name.clone());
        let leads = task.as_ref().map_or(processes.is_empty(), |task| task.process == task.tid);
        if leads || processes.is_empty() {
            processes.push(ProcessReport {
                original: pair.original,
                replica: pair.replica,
                parent: replica.as_ref().map(|task| task.parent),
                name: name.clone(),
                threads: Vec::new(),
            });
        }
        let thread = thread_report(*pair, name, replica.as_ref());
        let place = processes.iter().rposition(|p| belongs(p, task.as_ref()));
        let place = place.unwrap_or(processes.len() - 1);
        processes[place].threads.push(thread);
    }
    // The kernel has the leader first, and the others in no order.
    for process in &mut processes {
        let leader = process.replica;
        process.threads.sort_by_key(|thread| (thread.replica != leader, thread.original));
    }
    processes
}

fn belongs(process: &ProcessReport, task: Option<&Task>) -> bool {
    task.is_some_and(|task| task.process == process.replica || task.process == process.original)
}

fn thread_report(pair: TidPair, name: String, replica: Option<&Task>) -> ThreadReport {
    ThreadReport {
        original: pair.original,
        replica: pair.replica,
        name,
        ns_tids: replica.map_or_else(|| vec![pair.replica], |task| task.ns_tids.clone()),
    }
}

fn text(report: &Report) -> String {
    let threads = report.processes.iter().map(|process| process.threads.len()).sum();
    let summary = format!(
        "{} with {} copied in {}{}",
        count(report.processes.len(), "process"),
        count(threads, "thread"),
        duration(report.took_ns),
        if report.stopped { ", stopped" } else { "" },
    );
    let mut root = Node::new(summary);
    // Processes whose parent is not a replica are at the top.
    for process in &report.processes {
        let is_top = !report.processes.iter().any(|other| process.parent == Some(other.replica));
        if is_top {
            root.children.push(draw(process, report));
        }
    }
    root.render()
}

fn draw(process: &ProcessReport, report: &Report) -> Node {
    let mut node = Node::default();
    for thread in &process.threads {
        let inside = match thread.ns_tids.as_slice() {
            [_, inner @ ..] if !inner.is_empty() => {
                let inner: Vec<_> = inner.iter().map(u32::to_string).collect();
                format!(", inside {}", inner.join(" "))
            }
            _ => String::new(),
        };
        let tids = format!("{} -> {}{inside}", thread.original, thread.replica);
        if thread.replica == process.replica {
            node.label = format!("{} {tids}", styled(STRONG, &thread.name));
        } else {
            node.children.push(Node::new(format!("{{{}}} {tids}", thread.name)));
        }
    }
    for child in &report.processes {
        if child.parent == Some(process.replica) && child.replica != process.replica {
            node.children.push(draw(child, report));
        }
    }
    node
}

#[cfg(test)]
mod tests {
    use fullfork::mock::Mock;

    use super::*;
    use crate::procfs::tests::FakeProc;

    fn args() -> args::Copy {
        args::Copy {
            pid: std::process::id(),
            tree: false,
            stopped: false,
            keep_tids: false,
            isolate: false,
            no_new_privs: false,
            wait: false,
        }
    }

    fn copy(args: &args::Copy, mock: &Mock, json: bool) -> (Result<u8, Failure>, String) {
        let fake = FakeProc::new();
        fake.add(1000, 5, "server", &[1001]);
        // Threads are found by their number alone.
        std::fs::rename(
            fake.directory.path().join("1000/task/1001"),
            fake.directory.path().join("1001"),
        )
        .unwrap();
        let mut out = Vec::new();
        let mut context = Context { backend: mock, proc: fake.proc(), out: &mut out, json };
        let result = run(args, &mut context);
        let out = anstream::adapter::strip_bytes(&out).into_vec();
        (result, String::from_utf8(out).unwrap())
    }

    #[test]
    fn shows_old_and_new_tids() {
        let (result, text) = copy(&args(), &Mock::new().threads(2), false);
        assert_eq!(result.unwrap(), 0);
        let (summary, tree) = text.split_once('\n').unwrap();
        assert!(summary.starts_with("1 process with 2 threads copied in "));
        assert_eq!(tree, "└─ server 100 -> 1000\n   └─ {server} 101 -> 1001\n");
    }

    #[test]
    fn json_has_threads_by_process() {
        let (_, text) = copy(&args(), &Mock::new().threads(2), true);
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(report["pid"], 1000);
        assert_eq!(report["processes"][0]["threads"][1]["replica"], 1001);
        assert_eq!(report["processes"][0]["threads"][1]["ns_tids"][0], 1001);
    }

    #[test]
    fn asks_for_what_the_options_say() {
        let mock = Mock::new();
        let all =
            args::Copy { tree: true, stopped: true, keep_tids: true, isolate: true, ..args() };
        copy(&all, &mock, false).0.unwrap();
        let expected = Flags::ALL_THREADS
            | Flags::SUBTREE
            | Flags::STOPPED
            | Flags::KEEP_TIDS
            | Flags::NEWPID
            | Flags::ISOLATE;
        assert_eq!(mock.calls()[0].flags, expected);
    }

    #[test]
    fn nothing_is_tried_on_an_ordinary_kernel() {
        let mock = Mock::ordinary_kernel();
        assert_eq!(copy(&args(), &mock, false).0.unwrap_err().exit_status(), 77);
        assert!(mock.calls().is_empty());
    }

    #[test]
    fn replicas_that_are_gone_are_shown_by_number() {
        let pairs = [TidPair { original: 7, replica: 8 }, TidPair { original: 9, replica: 10 }];
        let processes = group(&pairs, &FakeProc::new().proc());
        assert_eq!(processes.len(), 1);
        assert_eq!(processes[0].threads.len(), 2);
    }
}
