// SPDX-License-Identifier: MIT OR Apache-2.0

//! What full fork costs.
//!
//!     fullfork-bench measure --out FILE --kernel NAME SUITE...   # in the guest
//!     fullfork-bench report DIRECTORY                            # of such files
//!
//! The guest has one CPU, and its clock counts instructions (`make bench` boots it
//! so): a figure is the number of instructions of one run, and a ratio of two
//! figures of one run can be told to 1 %.

mod measure;
mod record;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use measure::{Fallible, Suite};
use record::Measurements;

/// Measures full fork.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, in a guest
    Measure {
        /// Where to put what was measured
        #[arg(long)]
        out: PathBuf,
        /// The name of this kernel
        #[arg(long)]
        kernel: String,
        /// Measure little: for a check, not for plots
        #[arg(long)]
        short: bool,
        /// What to measure
        #[arg(required = true)]
        suites: Vec<Suite>,
    },
    /// Print a table of what was measured; fails if a goal is not met
    Report {
        /// Where the files of `measure` are
        directory: PathBuf,
        /// Leave the table and plots there too, as Markdown, SVG and PNG
        #[arg(long)]
        draw: bool,
    },
    /// What a process does that this program made to be copied
    #[command(hide = true)]
    Work {
        /// As JSON
        order: String,
    },
}

fn measure(out: PathBuf, kernel: String, short: bool, suites: Vec<Suite>) -> Fallible<()> {
    let mut records = vec![];
    for suite in suites {
        eprintln!("fullfork-bench: {suite:?}");
        records.extend(measure::run(suite, short)?);
    }
    let cpus = u32::try_from(std::thread::available_parallelism()?.get())?;
    let all = Measurements { kernel, cpus, records };
    fs::write(out, serde_json::to_string_pretty(&all)?)?;
    Ok(())
}

fn report(directory: &Path, draw: bool) -> Fallible<()> {
    if report::report(directory, draw)? { Ok(()) } else { Err("not every goal is met".into()) }
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Report { directory, draw } => report(&directory, draw),
        Command::Measure { out, kernel, short, suites } => measure(out, kernel, short, suites),
        Command::Work { order } => measure::work(&order),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fullfork-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
