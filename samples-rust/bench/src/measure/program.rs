// SPDX-License-Identifier: MIT OR Apache-2.0

//! A program that knows nothing of being copied, for those who copy from outside.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use fullfork::{Builder, Scope, Signal, Tids, open_pidfd};

use super::subject::{Pages, Tree, become_threads, take_memory};
use super::{Fallible, Work, raw, work};
use crate::record::{Record, Size};

const READY: &[u8] = b"ready\n";
const INTERVAL: Duration = Duration::from_millis(20);
/// Where it counts instructions, the clock of the guest leaps while the host works.
const ATTEMPTS: u32 = 1_000_000;

/// Is it, until it is killed.
pub(super) fn wait(size: Size) -> Fallible<Vec<Record>> {
    rustix::process::setsid()?;
    take_memory(size.mb, Pages::Small)?;
    let tree = if size.processes > 1 {
        Some(Tree::grow(size.processes)?)
    } else {
        become_threads(size.threads)?;
        None
    };
    // What is copied has only this file open.
    rustix::io::write(rustix::stdio::stdout(), READY)?;
    loop {
        match &tree {
            Some(tree) => tree.wait(),
            None => raw::futex_wait(super::subject::never(), 0, true),
        }
    }
}

/// A running program, which ends with this value.
pub(super) struct Program {
    pub(super) child: Child,
    pub(super) size: Size,
}

impl Program {
    pub(super) fn start(size: Size) -> Fallible<Self> {
        let path = PathBuf::from("/tmp/fullfork-bench-output");
        let mut options = File::options();
        let output = options.read(true).write(true).create(true).truncate(true).open(&path)?;
        let child = Command::new(fs::read_link("/proc/self/exe")?)
            .args(["work", &serde_json::to_string(&Work::Wait { size })?])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .stdout(output.try_clone()?)
            .spawn()?;
        let mut program = Self { child, size };
        let mut said = [0; READY.len()];
        for _ in 0..ATTEMPTS {
            if output.read_at(&mut said, 0)? == READY.len() {
                return Ok(program);
            }
            if let Some(status) = program.child.try_wait()? {
                return Err(format!("a program of {size:?}: {status}").into());
            }
            sleep(INTERVAL);
        }
        Err(format!("a program of {size:?} does not begin to wait").into())
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn pidfd(&self) -> Fallible<OwnedFd> {
        Ok(open_pidfd(self.pid())?)
    }

    /// What a full fork of it takes, from outside.
    pub(super) fn full_fork(&self) -> Fallible<u64> {
        let scope = if self.size.processes > 1 { Scope::Tree } else { Scope::Process };
        let pidfd = self.pidfd()?;
        let builder = Builder::new(scope).tids(Tids::KeepInNewNamespace);
        let before = raw::ticks();
        let copy = builder.copy(pidfd)?;
        let took = raw::ticks() - before;
        copy.signal(Signal::KILL)?;
        copy.wait()?;
        work::settle_down()?;
        Ok(took)
    }

    /// Kills it, and waits until nothing is left of it.
    pub(super) fn end(mut self) -> Fallible<()> {
        self.kill()
    }

    fn kill(&mut self) -> Fallible<()> {
        self.child.kill()?;
        self.child.wait()?;
        work::settle_down()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
