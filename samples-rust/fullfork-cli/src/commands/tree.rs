// SPDX-License-Identifier: MIT OR Apache-2.0

//! `fullfork tree`

use std::collections::HashMap;

use fullfork::Flags;
use serde::Serialize;

use crate::args;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{BAD, DOUBTFUL, GOOD, Node, STRONG, count, styled};
use crate::procfs::{Certainty, Finding, Inspector, Proc, Process, is_gone};

#[derive(Serialize)]
struct Report {
    processes: Vec<ProcessReport>,
    /// Whether something was found that makes a copy fail.
    stopped_by: usize,
}

#[derive(Serialize)]
struct ProcessReport {
    pid: u32,
    parent: u32,
    name: String,
    state: char,
    threads: Vec<ThreadReport>,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct ThreadReport {
    tid: u32,
    name: String,
    state: char,
}

pub(super) fn run(args: &args::Tree, context: &mut Context<'_>) -> Result<u8, Failure> {
    let report = report(args.pid, &context.proc)?;
    if context.json {
        context.write_json(&report)?;
    } else {
        let tree = draw(&report, args.pid).render();
        context.write_line(&tree)?;
        context.write_line(&conclusion(&report))?;
    }
    context.require(Flags::SUBTREE | Flags::FROM_PIDFD)?;
    Ok(0)
}

fn report(root: u32, proc: &Proc) -> Result<Report, Failure> {
    let tree = proc.tree(root).map_err(|error| match error {
        error if is_gone(&error) => Failure::NoProcess(root),
        error => Failure::io(format!("process {root}"))(error),
    })?;
    let caller = proc.task(std::process::id()).map_err(Failure::io("/proc"))?;
    let inspector = Inspector::new(proc, caller, &tree);
    let processes: Vec<_> =
        tree.iter().map(|process| process_report(process, &inspector)).collect();
    let fails = |finding: &&Finding| finding.certainty == Certainty::Fails;
    let stopped_by = processes.iter().flat_map(|p| &p.findings).filter(fails).count();
    Ok(Report { processes, stopped_by })
}

fn process_report(process: &Process, inspector: &Inspector<'_>) -> ProcessReport {
    let leader = &process.leader;
    let thread = |thread: &crate::procfs::Task| ThreadReport {
        tid: thread.tid,
        name: thread.name.clone(),
        state: thread.state,
    };
    ProcessReport {
        pid: leader.tid,
        parent: leader.parent,
        name: leader.name.clone(),
        state: leader.state,
        threads: process.threads.iter().map(thread).collect(),
        findings: inspector.inspect(process),
    }
}

/// What all findings come to.
fn conclusion(report: &Report) -> String {
    let threads = report.processes.iter().map(|process| process.threads.len()).sum();
    let all =
        format!("{} with {}", count(report.processes.len(), "process"), count(threads, "thread"));
    let findings: usize = report.processes.iter().map(|process| process.findings.len()).sum();
    let verdict = match (report.stopped_by, findings) {
        (0, 0) => styled(GOOD, "nothing found that would stop a copy"),
        (0, _) => styled(DOUBTFUL, "a copy may fail"),
        _ => styled(BAD, "a copy fails"),
    };
    format!("{all}: {verdict}")
}

fn draw(report: &Report, root: u32) -> Node {
    let mut children: HashMap<u32, Vec<&ProcessReport>> = HashMap::new();
    let mut top = Node::default();
    for process in &report.processes {
        if process.pid != root {
            children.entry(process.parent).or_default().push(process);
        }
    }
    if let Some(process) = report.processes.iter().find(|process| process.pid == root) {
        top = draw_process(process, &children);
    }
    top
}

fn draw_process(process: &ProcessReport, below: &HashMap<u32, Vec<&ProcessReport>>) -> Node {
    let name = styled(STRONG, &process.name);
    let mut node = Node::new(format!("{name} {} {}", process.pid, process.state));
    for finding in &process.findings {
        let (style, word) = match finding.certainty {
            Certainty::Fails => (BAD, "fails"),
            Certainty::MayFail => (DOUBTFUL, "may fail"),
        };
        let verdict = styled(style, format!("{word}: {} {}", finding.errno, finding.reason));
        node.children.push(Node::new(format!("{verdict}: {}", finding.detail)));
    }
    for thread in process.threads.iter().filter(|thread| thread.tid != process.pid) {
        node.children
            .push(Node::new(format!("{{{}}} {} {}", thread.name, thread.tid, thread.state)));
    }
    for child in below.get(&process.pid).into_iter().flatten() {
        node.children.push(draw_process(child, below));
    }
    node
}

#[cfg(test)]
mod tests {
    use fullfork::mock::Mock;

    use super::*;
    use crate::procfs::tests::FakeProc;

    fn fake() -> FakeProc {
        let fake = FakeProc::new();
        fake.add(std::process::id(), 1, "fullfork", &[]);
        fake.add(10, 1, "sh", &[]);
        fake.add(20, 10, "server", &[21]);
        fake.write(20, "smaps", "10-20 rw-p 0 0 0\nVmFlags: dc\n");
        fake
    }

    fn tree(mock: &Mock, json: bool) -> (Result<u8, Failure>, String) {
        let fake = fake();
        let mut out = Vec::new();
        let mut context = Context { backend: mock, proc: fake.proc(), out: &mut out, json };
        let result = run(&args::Tree { pid: 10 }, &mut context);
        let out = anstream::adapter::strip_bytes(&out).into_vec();
        (result, String::from_utf8(out).unwrap())
    }

    #[test]
    fn shows_threads_and_what_stops_a_copy() {
        let (result, text) = tree(&Mock::new(), false);
        assert_eq!(result.unwrap(), 0);
        let expected = "sh 10 S\n└─ server 20 S\n   ├─ fails: EOPNOTSUPP dontfork: memory with \
                        MADV_DONTFORK, or of a driver: 10-20\n   └─ {server} 21 S\n\
                        2 processes with 3 threads: a copy fails\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn json_has_findings_by_process() {
        let (_, text) = tree(&Mock::new(), true);
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(report["stopped_by"], 1);
        assert_eq!(report["processes"][1]["findings"][0]["certainty"], "fails");
        assert_eq!(report["processes"][1]["threads"][1]["tid"], 21);
    }

    #[test]
    fn an_ordinary_kernel_shows_it_and_is_77() {
        let (result, text) = tree(&Mock::ordinary_kernel(), false);
        assert!(text.contains("server"));
        assert_eq!(result.unwrap_err().exit_status(), 77);
    }
}
