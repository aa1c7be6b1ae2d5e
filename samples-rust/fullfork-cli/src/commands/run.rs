// SPDX-License-Identifier: MIT OR Apache-2.0

//! `fullfork run`

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{self, ExitStatus, Stdio};
use std::time::Instant;

use fullfork::{Builder, Child, Flags, Signal, open_pidfd};
use serde::Serialize;

use super::copy::{scope, tids};
use crate::args;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Progress, count, duration};
use crate::ready::{Lines, Rule};

#[derive(Serialize)]
struct Report {
    program: Ended,
    copies: Vec<Ended>,
}

#[derive(Serialize)]
struct Ended {
    pid: u32,
    /// None if a signal killed it.
    code: Option<i32>,
    signal: Option<i32>,
    /// How long it took to make it; nothing for the program itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    took_ns: Option<u64>,
}

struct Copied {
    child: Child,
    took_ns: u64,
}

pub(super) fn run(args: &args::Run, context: &mut Context<'_>) -> Result<u8, Failure> {
    context.require(needed(args))?;
    let name = args.command[0].to_string_lossy().into_owned();
    let rule = Rule::new(&args.ready);
    let mut program = start(args, &rule).map_err(Failure::io(&name))?;
    let lines = read_lines(&mut program, &rule);

    let mut copies = Vec::new();
    let result = rule
        .wait(&mut program, lines.as_ref(), args.ready_timeout)
        .map_err(|why| Failure::NotReady { program: name.clone(), why })
        .and_then(|()| copy_all(args, &program, &mut copies, context));
    if let Err(failure) = result {
        end_all(&mut program, &copies);
        return Err(failure);
    }
    if !context.json {
        announce(&name, &program, &copies);
    }

    let report = wait_all(&mut program, &copies)?;
    if let Some(lines) = lines {
        lines.join().map_err(Failure::output)?;
    }
    tell(&report, context)?;
    let succeeded = |ended: &Ended| ended.code == Some(0);
    let all = succeeded(&report.program) && report.copies.iter().all(succeeded);
    Ok(u8::from(!all))
}

/// While they run, which may be long.
fn announce(name: &str, program: &process::Child, copies: &[Copied]) {
    let number = count(copies.len(), "copy");
    let total = duration(copies.iter().map(|copy| copy.took_ns).sum());
    eprintln!("fullfork: {number} of {name} ({}) made in {total}", program.id());
}

fn needed(args: &args::Run) -> Flags {
    let mut flags = Flags::FROM_PIDFD;
    flags.set(Flags::SUBTREE, args.tree);
    flags.set(Flags::KEEP_TIDS, args.keep_tids);
    flags.set(Flags::ISOLATE, args.isolate);
    flags
}

fn start(args: &args::Run, rule: &Rule) -> io::Result<process::Child> {
    let output = if rule.reads_output() { Stdio::piped() } else { Stdio::inherit() };
    process::Command::new(&args.command[0]).args(&args.command[1..]).stdout(output).spawn()
}

fn read_lines(program: &mut process::Child, rule: &Rule) -> Option<Lines> {
    match rule {
        Rule::Line(regex) => {
            let output = program.stdout.take()?;
            Some(Lines::pass_on(output, io::stdout(), regex.clone()))
        }
        _ => None,
    }
}

fn copy_all(
    args: &args::Run,
    program: &process::Child,
    copies: &mut Vec<Copied>,
    context: &Context<'_>,
) -> Result<(), Failure> {
    let what = || format!("process {}", program.id());
    let pidfd = open_pidfd(program.id()).map_err(Failure::of(what()))?;
    let mut builder = Builder::on(context.backend, scope(args.tree)).tids(tids(args.keep_tids));
    if args.isolate {
        builder = builder.isolated();
    }
    let progress = Progress::new();
    while copies.len() < args.copies {
        progress.show(&format!("copy {} of {}", copies.len() + 1, args.copies));
        let before = Instant::now();
        let child = builder.copy(&pidfd).map_err(Failure::of(what()))?;
        let took_ns = u64::try_from(before.elapsed().as_nanos()).unwrap_or(u64::MAX);
        copies.push(Copied { child, took_ns });
    }
    Ok(())
}

/// What was started is ended if not all of it could be.
fn end_all(program: &mut process::Child, copies: &[Copied]) {
    // Those that have ended by themselves are as good.
    let _ = program.kill();
    let _ = program.wait();
    for copy in copies {
        let _ = copy.child.signal(Signal::KILL);
        let _ = copy.child.wait();
    }
}

fn wait_all(program: &mut process::Child, copies: &[Copied]) -> Result<Report, Failure> {
    let status = program.wait().map_err(Failure::io("waiting for the program"))?;
    let program = ended(program.id(), status, None);
    let copies = copies.iter().map(|copy| {
        let pid = copy.child.pid();
        let status = copy.child.wait().map_err(Failure::of(format!("copy {pid}")))?;
        Ok(ended(pid, status, Some(copy.took_ns)))
    });
    Ok(Report { program, copies: copies.collect::<Result<_, Failure>>()? })
}

fn ended(pid: u32, status: ExitStatus, took_ns: Option<u64>) -> Ended {
    Ended { pid, code: status.code(), signal: status.signal(), took_ns }
}

fn tell(report: &Report, context: &mut Context<'_>) -> Result<(), Failure> {
    if context.json {
        return context.write_json(report);
    }
    let describe = |what: &str, ended: &Ended| match (ended.code, ended.signal) {
        (Some(code), _) => format!("fullfork: {what} {}: exit status {code}", ended.pid),
        (_, signal) => format!("fullfork: {what} {}: signal {}", ended.pid, signal.unwrap_or(0)),
    };
    eprintln!("{}", describe("program", &report.program));
    for copy in &report.copies {
        eprintln!("{}", describe("copy", copy));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fullfork::mock::Mock;

    use super::*;
    use crate::procfs::Proc;

    fn args(script: &str) -> args::Run {
        args::Run {
            copies: 2,
            tree: false,
            keep_tids: false,
            isolate: false,
            ready: args::Ready {
                ready_after: Some(Duration::ZERO),
                ready_line: None,
                ready_file: None,
                ready_port: None,
            },
            ready_timeout: Duration::from_secs(20),
            command: ["sh", "-c", script].map(Into::into).to_vec(),
        }
    }

    fn run_it(args: &args::Run, mock: &Mock) -> Result<u8, Failure> {
        let mut out = Vec::new();
        let mut context =
            Context { backend: mock, proc: Proc::system(), out: &mut out, json: true };
        run(args, &mut context)
    }

    #[test]
    fn an_ordinary_kernel_starts_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("started");
        let args = args(&format!("touch {}", file.display()));
        let failure = run_it(&args, &Mock::ordinary_kernel()).unwrap_err();
        assert_eq!(failure.exit_status(), 77);
        assert!(!file.exists());
    }

    #[test]
    fn makes_as_many_copies_as_asked_for() {
        let mock = Mock::new();
        // The copies of the mock cannot be waited for.
        assert!(run_it(&args("sleep 0.1"), &mock).is_err());
        assert_eq!(mock.calls().len(), 2);
        assert!(mock.calls().iter().all(|call| call.from_pidfd));
    }

    #[test]
    fn without_copies_it_is_the_program_alone() {
        let args = args::Run { copies: 0, ..args("exit 3") };
        assert_eq!(run_it(&args, &Mock::new()).unwrap(), 1);
        let args = args::Run { command: vec!["true".into()], ..args };
        assert_eq!(run_it(&args, &Mock::new()).unwrap(), 0);
    }

    #[test]
    fn a_program_that_cannot_be_started_is_named() {
        let args = args::Run { command: vec!["/nowhere/x".into()], ..args("") };
        assert!(run_it(&args, &Mock::new()).unwrap_err().to_string().starts_with("/nowhere/x:"));
    }
}
