// SPDX-License-Identifier: MIT OR Apache-2.0

//! The command line. Comments on what is parsed are the text of the help, and
//! names of fields those of the options.

#![allow(clippy::doc_markdown, clippy::struct_excessive_bools, clippy::struct_field_names)]

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use regex_lite::Regex;

const EXIT_STATUS: &str = "\
Exit status:
  0   done
  1   an operation failed; standard error says which, with its errno
  2   the command line was not understood
  77  this kernel, or this machine, lacks what is needed; one line says what

  With --wait, `copy` and `spawn` pass on the exit status of the copy, 128 + N if
  signal N killed it. `run` ends with 1 if any program did not end with 0.";

const EXAMPLES: &str = "\
Examples:
  fullfork check                        can this kernel do it?
  fullfork tree 4711                    what would be copied, and what stops it?
  fullfork copy 4711 --tree             copy a running process and all below it
  fullfork copy 4711 --keep-tids        the same TIDs, in a PID namespace (root)
  fullfork run --copies 3 --ready-port 6379 -- redis-server
  id=$(fullfork --json snapshot 4711 | jq .id); fullfork spawn $id --copies 100
  fullfork watch                        who copies what, and how long it takes";

/// Copies running processes with all their threads, and trees of them.
///
/// Each thread of a copy goes on exactly where its original was, in user mode or
/// inside a system call. Open files and shared memory are shared between the
/// two, as after fork(). It needs a kernel with full fork; `fullfork check` tells.
#[derive(Debug, Parser)]
#[command(name = "fullfork", version, after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_STATUS}"))]
pub(crate) struct Args {
    /// Print JSON on standard output: one object per line.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Tell whether this kernel has full fork, which flags it knows, and what is
    /// refused.
    Check,
    /// Show a process and all below it, and what would stop a copy of each.
    ///
    /// What is found is what /proc tells at that moment. Nothing is disturbed. On a
    /// kernel without full fork the tree is shown, and the exit status is 77.
    Tree(Tree),
    /// Copy a running process from outside, and print old and new TIDs.
    ///
    /// It needs the right to attach to it with ptrace(2). The copy is a child of this
    /// command and lives on when it exits.
    Copy(Copy),
    /// Start a program, wait until it is ready, and make copies of it.
    ///
    /// Waits for the program and all copies. The report goes to standard error, as
    /// the program has standard output; with --json it goes to standard output.
    Run(Run),
    /// Take a snapshot: a stopped copy of which `spawn` makes running ones.
    ///
    /// It needs the driver rust_fullfork. A small process in the background holds the
    /// snapshots, and ends when the last one is dropped. It is reached through
    /// $FULLFORK_RUNTIME_DIR, else $XDG_RUNTIME_DIR/fullfork, else /run/fullfork for
    /// root and /tmp/fullfork-UID for others.
    Snapshot(Snapshot),
    /// Make running copies of a snapshot.
    Spawn(Spawn),
    /// Drop snapshots. Copies that were made of them go on.
    Drop(Drop),
    /// List the snapshots and their processes.
    List,
    /// Show full forks as they happen, from the tracepoints of the kernel.
    ///
    /// Who copied, how many tasks, how long the originals stood still, or why it
    /// failed. PIDs are those of the system's own PID namespace. It needs root.
    Watch(Watch),
    /// Write man pages or shell completions into a directory.
    #[command(hide = true)]
    Generate(Generate),
    /// Hold the snapshot device open.
    #[command(hide = true)]
    Holder,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Tree {
    /// The process at the top.
    #[arg(value_parser = pid())]
    pub(crate) pid: u32,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Copy {
    /// The process to copy.
    #[arg(value_parser = pid())]
    pub(crate) pid: u32,
    /// Copy all processes below it too, at the same instant.
    #[arg(long)]
    pub(crate) tree: bool,
    /// Leave the copy stopped, until `kill -CONT`.
    #[arg(long)]
    pub(crate) stopped: bool,
    /// Keep the TIDs, in a new PID namespace.
    ///
    /// Use this for programs that you do not know: without it, a lock that
    /// records its owner's TID and is held at that instant has no owner in the copy,
    /// and a shell in a tree does not know the copies of its children, as they have
    /// other PIDs. It needs CAP_SYS_ADMIN.
    #[arg(long)]
    pub(crate) keep_tids: bool,
    /// Copy pipes, shared memory and the like too, where nobody else has them.
    ///
    /// Without it they are shared: a byte that the copy reads from a pipe is lost to
    /// the program.
    #[arg(long)]
    pub(crate) isolate: bool,
    /// Give the copy no_new_privs.
    #[arg(long)]
    pub(crate) no_new_privs: bool,
    /// Wait for the copy, and pass on its exit status.
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Run {
    /// How many copies to make.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) copies: usize,
    /// Copy all processes below the program too.
    #[arg(long)]
    pub(crate) tree: bool,
    /// Keep the TIDs, each copy in a PID namespace of its own.
    #[arg(long)]
    pub(crate) keep_tids: bool,
    /// Copy pipes, shared memory and the like too, where nobody else has them.
    #[arg(long)]
    pub(crate) isolate: bool,
    #[command(flatten)]
    pub(crate) ready: Ready,
    /// Give up if the program is not ready by then.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub(crate) ready_timeout: Duration,
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<std::ffi::OsString>,
}

#[derive(Debug, ClapArgs)]
#[group(multiple = false)]
pub(crate) struct Ready {
    /// It is ready after this time: 500ms, 2s, 1m.
    ///
    /// Without any rule a program is ready when all its threads have slept for
    /// 300 ms, as one does that waits for work.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) ready_after: Option<Duration>,
    /// It is ready when it has written a line like this to standard output.
    #[arg(long, value_name = "REGEX")]
    pub(crate) ready_line: Option<Regex>,
    /// It is ready when this file exists.
    #[arg(long, value_name = "PATH")]
    pub(crate) ready_file: Option<PathBuf>,
    /// It is ready when this TCP port of 127.0.0.1 can be connected to.
    #[arg(long, value_name = "PORT")]
    pub(crate) ready_port: Option<u16>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Snapshot {
    /// The process to copy.
    #[arg(value_parser = pid())]
    pub(crate) pid: u32,
    /// Copy all processes below it too, at the same instant.
    #[arg(long)]
    pub(crate) tree: bool,
    /// Keep the TIDs, in a new PID namespace.
    #[arg(long)]
    pub(crate) keep_tids: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Spawn {
    /// The snapshot, as `snapshot` and `list` show it.
    pub(crate) id: u32,
    /// How many copies to make.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) copies: usize,
    /// Keep the TIDs, each copy in a PID namespace of its own.
    #[arg(long)]
    pub(crate) keep_tids: bool,
    /// Leave the copies stopped, until `kill -CONT`.
    #[arg(long)]
    pub(crate) stopped: bool,
    /// Wait for the copies; the exit status is that of the last one that failed.
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Drop {
    /// The snapshots.
    #[arg(required_unless_present = "all")]
    pub(crate) ids: Vec<u32>,
    /// Drop all snapshots.
    #[arg(long, conflicts_with = "ids")]
    pub(crate) all: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Watch {
    /// End after so many full forks.
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Generate {
    pub(crate) what: Generated,
    pub(crate) directory: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Generated {
    Man,
    Completions,
}

fn pid() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..)
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err("expected a number with ms, s or m, such as 500ms".into()),
    };
    let number: u64 = number.parse().map_err(|_| "expected a number first".to_owned())?;
    Ok(Duration::from_millis(number.saturating_mul(milliseconds)))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn fails(line: &str) -> ErrorKind {
        Args::try_parse_from(line.split(' ')).unwrap_err().kind()
    }

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "5", "s", "1h", "-1s", "1.5s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn json_may_stand_anywhere() {
        for line in ["fullfork --json copy 1", "fullfork copy 1 --json"] {
            assert!(Args::try_parse_from(line.split(' ')).unwrap().json);
        }
    }

    #[test]
    fn run_takes_one_rule_for_readiness_or_none() {
        let both = "fullfork run --ready-after 1s --ready-port 1 -- x";
        assert_eq!(fails(both), ErrorKind::ArgumentConflict);
        for line in ["fullfork run -- x", "fullfork run --ready-after 1s -- x"] {
            assert!(Args::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }

    #[test]
    fn rejects_what_is_no_pid() {
        assert_eq!(fails("fullfork copy 0"), ErrorKind::ValueValidation);
        assert_eq!(fails("fullfork copy x"), ErrorKind::ValueValidation);
        assert_eq!(fails("fullfork tree -1"), ErrorKind::UnknownArgument);
    }

    #[test]
    fn drop_takes_ids_or_all() {
        assert_eq!(fails("fullfork drop"), ErrorKind::MissingRequiredArgument);
        assert_eq!(fails("fullfork drop 1 --all"), ErrorKind::ArgumentConflict);
        assert!(Args::try_parse_from(["fullfork", "drop", "--all"]).is_ok());
    }
}
