// SPDX-License-Identifier: MIT OR Apache-2.0

//! The command `fullfork`: copies running processes and trees of them.

mod args;
mod commands;
mod context;
mod failure;
mod holder;
mod output;
mod procfs;
mod ready;
mod session;
mod trace;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;
use crate::context::Context;

fn main() -> ExitCode {
    let args = Args::parse();
    let mut out = anstream::stdout();
    let mut context = Context::system(&mut out, args.json);
    match commands::run(&args.command, &mut context) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            if !failure.is_broken_pipe() {
                anstream::eprintln!("fullfork: {failure}");
            }
            ExitCode::from(failure.exit_status())
        }
    }
}
