// SPDX-License-Identifier: MIT OR Apache-2.0

//! One file per command.

mod check;
mod copy;
mod drop;
mod generate;
mod list;
mod run;
mod snapshot;
mod spawn;
mod tree;
mod watch;

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use crate::args::Command;
use crate::context::Context;
use crate::failure::Failure;
use crate::{holder, session};

/// Runs a command, and returns its exit status.
pub(crate) fn run(command: &Command, context: &mut Context<'_>) -> Result<u8, Failure> {
    if session::must_leave(command) {
        if let Some(status) = session::leave()? {
            return Ok(status);
        }
    }
    match command {
        Command::Check => check::run(context),
        Command::Tree(args) => tree::run(args, context),
        Command::Copy(args) => copy::run(args, context),
        Command::Run(args) => run::run(args, context),
        Command::Snapshot(args) => snapshot::run(args, context),
        Command::Spawn(args) => spawn::run(args, context),
        Command::Drop(args) => drop::run(args, context),
        Command::List => list::run(context),
        Command::Watch(args) => watch::run(args, context),
        Command::Generate(args) => generate::run(args),
        Command::Holder => holder::serve(),
    }
}

/// What a shell would say of a process that ended so.
pub(crate) fn shell_status(status: ExitStatus) -> u8 {
    let signal = status.signal().map(|signal| 128 + signal);
    let code = status.code().or(signal).unwrap_or(1);
    u8::try_from(code & 0xff).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_status_is_that_of_a_shell() {
        assert_eq!(shell_status(ExitStatus::from_raw(0x0300)), 3);
        assert_eq!(shell_status(ExitStatus::from_raw(9)), 137);
    }
}
