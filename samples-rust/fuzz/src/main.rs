// SPDX-License-Identifier: MIT OR Apache-2.0

//! Fuzzer of full fork.
//!
//! A step is a tree of processes with random threads, states and relations, random
//! things that happen to it, and random calls. After each of them is checked what the
//! contract says; at the end of the step all are killed, and none may be left.
//!
//! What a step does depends on the seed and its number alone. How its threads
//! interleave does not: a failure may need several tries to be seen again.
//!
//! Needs root, a cgroup v2 hierarchy at `/sys/fs/cgroup`, and a kernel with full
//! fork. The summary on standard output is one object of JSON.

// Numbers go to the kernel and come from it, as they are.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_lossless
)]

mod args;
mod check;
mod generate;
mod minimise;
mod model;
mod procfs;
mod program;
mod rng;
mod run;
mod shared;
mod summary;
mod supervise;
mod sys;
mod worker;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;

use crate::program::Program;
use crate::shared::Shared;
use crate::summary::{Summary, Trace};
use crate::supervise::Pulse;
use crate::world::World;

/// Random trees of processes, random calls, and what has to be true
/// afterwards.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// What all programs are made from; else the clock
    #[arg(long)]
    seed: Option<u64>,
    /// So many steps
    #[arg(long)]
    steps: Option<u64>,
    /// So long
    #[arg(long, default_value_t = 180)]
    seconds: u64,
    /// The first step
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Run one step again: SEED:STEP, or a file with its program
    #[arg(long, value_name = "STEP")]
    replay: Option<String>,
    /// How often a step that is replayed is run, until it fails
    #[arg(long, default_value_t = 1)]
    tries: u32,
    /// Make a step that failed smaller, and print it
    #[arg(long)]
    minimise: bool,
    /// Print the programs and run nothing
    #[arg(long)]
    print: bool,
    /// Do not end with the first failure
    #[arg(long)]
    keep_going: bool,
    /// Seconds that anything may take that has to happen
    #[arg(long, default_value_t = 60)]
    patience: u64,
}

/// The steps of a run.
struct Steps {
    seed: u64,
    replayed: Option<(u64, Program)>,
}

impl Steps {
    fn of(options: &Options) -> Result<Self, String> {
        let clock = || {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            now.map_or(0, |now| u64::from(now.subsec_nanos()) ^ now.as_secs())
        };
        let mut seed = options.seed.unwrap_or_else(clock);
        let Some(what) = &options.replay else {
            return Ok(Self { seed, replayed: None });
        };
        let number = |text: &str| text.parse::<u64>().ok();
        let numbers = what.split_once(':').and_then(|(a, b)| number(a).zip(number(b)));
        let (step, program) = if let Some((of, step)) = numbers {
            seed = of;
            (step, generate::generate(seed, step))
        } else {
            let path = PathBuf::from(what);
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{what}: {e}"))?;
            (0, serde_json::from_str(&text).map_err(|e| format!("{what}: {e}"))?)
        };
        program.check()?;
        Ok(Self { seed, replayed: Some((step, program)) })
    }

    fn program(&self, step: u64) -> Program {
        match &self.replayed {
            Some((_, program)) => program.clone(),
            None => generate::generate(self.seed, step),
        }
    }

    fn range(&self, options: &Options) -> (u64, u64) {
        match &self.replayed {
            Some((step, _)) => (*step, step.saturating_add(u64::from(options.tries))),
            None => {
                (options.first, options.first.saturating_add(options.steps.unwrap_or(u64::MAX)))
            }
        }
    }
}

fn to_json(program: &Program) -> String {
    serde_json::to_string(program).unwrap_or_default()
}

fn print_programs(options: &Options, steps: &Steps) {
    let (first, end) = steps.range(options);
    let end = if end == u64::MAX { first + 1 } else { end };
    for step in first..end {
        println!("{}", to_json(&steps.program(step)));
    }
}

/// All steps, in the process that has the tree below it.
fn work(options: &Options, steps: &Steps, pulse: &'static Pulse) -> Result<Summary, String> {
    const INTERVAL: Duration = Duration::from_secs(15);
    let patience = Duration::from_secs(options.patience);
    let shared = Shared::new().map_err(|e| e.to_string())?;
    let mut world = World::new(shared, pulse).map_err(|e| e.to_string())?;
    let mut trace = Trace::start();
    let mut summary = Summary { seed: steps.seed, ..Summary::default() };
    let start = Instant::now();
    let mut told = start;
    let (first, end) = steps.range(options);
    for step in first..end {
        if start.elapsed() > Duration::from_secs(options.seconds) {
            break;
        }
        pulse.step(step);
        let program = steps.program(step);
        let outcome = run::run(&program, &mut world, &mut summary, patience);
        summary.steps += 1;
        if let Some(trace) = &mut trace {
            trace.read(&mut summary);
        }
        if told.elapsed() > INTERVAL {
            told = Instant::now();
            eprintln!("fuzz: {} steps, {} calls", summary.steps, summary.operations);
        }
        let Err(why) = outcome else { continue };
        eprintln!("fuzz: step {step} failed: {why}");
        eprintln!("fuzz: program {}", to_json(&program));
        eprintln!("fuzz: again with --replay {}:{step}", steps.seed);
        summary.failed(step, &why);
        if options.minimise && world.charged() == 0 {
            let small = minimise::minimise(&program, |program| {
                let mut ignored = Summary::default();
                (0..3).any(|_| run::run(program, &mut world, &mut ignored, patience).is_err())
            });
            eprintln!("fuzz: smallest that fails {}", to_json(&small));
        }
        if !options.keep_going || world.charged() != 0 {
            break;
        }
    }
    summary.seconds = start.elapsed().as_secs_f64();
    Ok(summary)
}

fn print(summary: &Summary) -> ExitCode {
    match serde_json::to_string(summary) {
        Ok(text) => println!("{text}"),
        Err(e) => eprintln!("fuzz: {e}"),
    }
    if summary.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let steps = match Steps::of(&options) {
        Ok(steps) => steps,
        Err(why) => {
            eprintln!("fuzz: {why}");
            return ExitCode::from(2);
        }
    };
    if options.print {
        print_programs(&options, &steps);
        return ExitCode::SUCCESS;
    }
    eprintln!("fuzz: seed {}", steps.seed);
    let watched = supervise::watched(|pulse| match work(&options, &steps, pulse) {
        Ok(summary) => print(&summary),
        Err(why) => {
            eprintln!("fuzz: {why}");
            ExitCode::from(2)
        }
    });
    watched.unwrap_or_else(|(step, why)| {
        eprintln!("fuzz: step {step}: {why}");
        let mut summary = Summary { seed: steps.seed, hangs: 1, ..Summary::default() };
        summary.failed(step, &why);
        print(&summary)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(args: &[&str]) -> Options {
        Options::try_parse_from([&["fuzz"], args].concat()).unwrap()
    }

    #[test]
    fn a_step_is_found_again() {
        let steps = Steps::of(&options(&["--replay", "7:33"])).unwrap();
        assert_eq!(steps.seed, 7);
        assert_eq!(steps.program(33), generate::generate(7, 33));
        assert_eq!(steps.range(&options(&["--tries", "5"])), (33, 38));
    }

    #[test]
    fn a_program_is_read_from_a_file() {
        let path = std::env::temp_dir().join(format!("fuzz-{}.json", std::process::id()));
        let program = generate::generate(1, 2);
        std::fs::write(&path, to_json(&program)).unwrap();
        let steps = Steps::of(&options(&["--replay", path.to_str().unwrap()])).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(steps.program(0), program);
    }

    #[test]
    fn what_cannot_be_replayed_is_said() {
        assert!(Steps::of(&options(&["--replay", "/no/such/file"])).is_err());
        assert!(Options::try_parse_from(["fuzz", "--seed", "x"]).is_err());
    }
}
