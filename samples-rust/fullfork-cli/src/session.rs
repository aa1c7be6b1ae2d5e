// SPDX-License-Identifier: MIT OR Apache-2.0

//! Why commands that leave a copy behind leave their session first.
//!
//! When a parent exits, the kernel sends `SIGHUP` and `SIGCONT` to the process
//! group of a stopped child that is left without anybody in its session to
//! continue it. With job control a copy leads a process group of its own, and this
//! command is its parent: its exit would end or wake a stopped copy. A parent in
//! another session is not asked.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::setsid;

use crate::args;
use crate::commands::shell_status;
use crate::failure::Failure;

/// Does the command leave a copy behind?
pub(crate) const fn must_leave(command: &args::Command) -> bool {
    match command {
        args::Command::Copy(copy) => !copy.wait,
        args::Command::Spawn(spawn) => !spawn.wait,
        args::Command::Snapshot(_) => true,
        _ => false,
    }
}

/// Makes a session. Who leads a process group cannot: a child of it does all then,
/// and its exit status is returned.
pub(crate) fn leave() -> Result<Option<u8>, Failure> {
    if setsid().is_ok() {
        return Ok(None);
    }
    let status = Command::new("/proc/self/exe")
        .arg0("fullfork")
        .args(env::args_os().skip(1))
        .status()
        .map_err(Failure::io("/proc/self/exe"))?;
    Ok(Some(shell_status(status)))
}
