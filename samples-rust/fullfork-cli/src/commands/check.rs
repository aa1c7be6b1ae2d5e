// SPDX-License-Identifier: MIT OR Apache-2.0

//! `fullfork check`

use fullfork::backend::DEVICE;
use fullfork::{Answer, Flags, Support};
use serde::Serialize;

use crate::context::{Context, name};
use crate::failure::{Failure, Missing};
use crate::output::{BAD, DOUBTFUL, GOOD, STRONG, styled};
use crate::trace;

/// What each flag is for, in few words.
const MEANINGS: [(Flags, &str); 7] = [
    (Flags::ALL_THREADS, "copy a process with all its threads"),
    (Flags::SUBTREE, "copy all processes below it too"),
    (Flags::STOPPED, "leave the copy stopped"),
    (Flags::FROM_PIDFD, "copy a process from outside"),
    (Flags::KEEP_TIDS, "keep the TIDs, in another PID namespace"),
    (Flags::ISOLATE, "copy pipes, shared memory and the like too"),
    (Flags::SFORK, "move the calling thread into the child"),
];

/// What is refused, as the documentation of the kernel lists it.
const REFUSED: [(&str, &str); 13] = [
    ("userfaultfd", "memory registered with userfaultfd"),
    ("dontfork", "memory with MADV_DONTFORK, and mappings of drivers like it"),
    ("io_uring", "a thread that uses an io_uring instance"),
    ("aio", "an AIO context"),
    ("kernel-worker", "kernel threads inside the process (vhost, io_uring workers)"),
    ("deadline-policy", "a thread with SCHED_DEADLINE"),
    ("threads", "CLONE_SUBTREE alone: another process has several threads"),
    ("pid-namespace", "CLONE_KEEP_TIDS: a process in a deeper PID namespace without its init"),
    ("arch-state", "x86: AMX in use; arm64: SVE or SME state in user mode, guarded control stacks"),
    ("loopback-tcp", "CLONE_ISOLATE: a TCP connection with both ends in what is copied"),
    ("loopback-udp", "CLONE_ISOLATE: UDP sockets in what is copied, connected with each other"),
    ("huge-pages", "CLONE_ISOLATE: shared memory of huge pages that nobody else has"),
    ("secret-memory", "CLONE_ISOLATE: memory of memfd_secret() that nobody else has"),
];

#[derive(Serialize)]
struct Report {
    full_fork: bool,
    flags: Vec<FlagReport>,
    timeout_secs: Option<u64>,
    snapshot_device: bool,
    tracepoints: bool,
    refused: Vec<Refusal>,
}

#[derive(Serialize)]
struct FlagReport {
    flag: String,
    /// None if something other than the kernel answered.
    known: Option<bool>,
    errno: Option<String>,
    meaning: &'static str,
}

#[derive(Serialize)]
struct Refusal {
    reason: &'static str,
    what: &'static str,
}

pub(super) fn run(context: &mut Context<'_>) -> Result<u8, Failure> {
    let support = context.support();
    let report = report(&support, context);
    if context.json {
        context.write_json(&report)?;
    } else if report.full_fork {
        context.write_line(&text(&report))?;
    }
    if report.full_fork {
        return Ok(0);
    }
    match support.answer(Flags::ALL_THREADS) {
        Answer::Undetermined(errno) => Err(Missing::Undetermined(errno).into()),
        _ => Err(Missing::FullFork.into()),
    }
}

fn report(support: &Support, context: &Context<'_>) -> Report {
    let timeout = context.proc.path("sys/kernel/fullfork_timeout_secs");
    Report {
        full_fork: support.full_fork(),
        flags: MEANINGS.iter().map(|entry| flag_report(support, *entry)).collect(),
        timeout_secs: std::fs::read_to_string(timeout).ok().and_then(|s| s.trim().parse().ok()),
        snapshot_device: std::fs::exists(DEVICE).unwrap_or(false),
        tracepoints: trace::directory().is_ok(),
        refused: REFUSED.iter().map(|&(reason, what)| Refusal { reason, what }).collect(),
    }
}

fn flag_report(support: &Support, (flag, meaning): (Flags, &'static str)) -> FlagReport {
    let (known, errno) = match support.answer(flag) {
        Answer::Known => (Some(true), None),
        Answer::Unknown => (Some(false), None),
        Answer::Undetermined(errno) => (None, Some(errno.to_string())),
    };
    FlagReport { flag: name(flag), known, errno, meaning }
}

fn text(report: &Report) -> String {
    let mut lines = vec!["This kernel has full fork.".to_owned(), String::new()];
    for flag in &report.flags {
        let (style, answer) = match flag.known {
            Some(true) => (GOOD, "yes"),
            Some(false) => (BAD, "no"),
            None => (DOUBTFUL, "?"),
        };
        let name = styled(STRONG, format!("{:<18}", flag.flag));
        let answer = styled(style, format!("{answer:<3}"));
        lines.push(format!("  {answer}  {name}  {}", flag.meaning));
    }
    lines.push(String::new());
    if let Some(seconds) = report.timeout_secs {
        lines.push(format!("Threads have {seconds} s to quiesce (kernel.fullfork_timeout_secs)."));
    }
    let there = |is_there| if is_there { "there" } else { "not there" };
    lines.push(format!("Snapshots ({DEVICE}): {}.", there(report.snapshot_device)));
    lines.push(format!("Tracepoints (fullfork watch): {}.", there(report.tracepoints)));
    lines.push(String::new());
    lines.push("Refused with EOPNOTSUPP, before anything is copied:".to_owned());
    for refusal in &report.refused {
        lines.push(format!("  {:<15}  {}", refusal.reason, refusal.what));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use fullfork::mock::Mock;

    use super::*;
    use crate::procfs::tests::FakeProc;

    fn check(mock: &Mock, json: bool) -> (Result<u8, Failure>, String) {
        let fake = FakeProc::new();
        let mut out = Vec::new();
        let mut context = Context { backend: mock, proc: fake.proc(), out: &mut out, json };
        let result = run(&mut context);
        (result, String::from_utf8(out).unwrap())
    }

    #[test]
    fn tells_what_is_on() {
        let (result, text) = check(&Mock::new(), false);
        assert_eq!(result.unwrap(), 0);
        assert!(text.contains("CLONE_ALL_THREADS") && text.contains("userfaultfd"));
    }

    #[test]
    fn an_ordinary_kernel_is_one_line_and_77() {
        let (result, text) = check(&Mock::ordinary_kernel(), false);
        assert_eq!(result.unwrap_err().exit_status(), 77);
        assert_eq!(text, "");
    }

    #[test]
    fn json_has_every_flag_on_any_kernel() {
        for mock in [Mock::new(), Mock::ordinary_kernel()] {
            let (_, text) = check(&mock, true);
            let report: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(report["flags"].as_array().unwrap().len(), MEANINGS.len());
            assert_eq!(report["flags"][0]["known"], report["full_fork"]);
        }
    }
}
