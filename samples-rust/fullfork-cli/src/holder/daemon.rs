// SPDX-License-Identifier: MIT OR Apache-2.0

//! The process in the background.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use fullfork::SnapshotStore;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::setsid;
use rustix::stdio::dup2_stdout;

use super::directory::RuntimeDirectory;
use super::server::Server;
use crate::failure::Failure;

/// What the holder tells who started it.
pub(super) const READY: &str = "ready";

/// Holds the device until its last snapshot is dropped. The starter reads one line
/// from standard output: that it is ready, or why not.
pub(crate) fn serve() -> Result<u8, Failure> {
    match prepare() {
        Ok((server, directory)) => {
            tell(READY).map_err(Failure::output)?;
            let result = server.run(|| remove(&directory.socket()));
            result.map_err(Failure::io("holding snapshots"))?;
            Ok(0)
        }
        Err(failure) => {
            tell(&failure.to_string()).map_err(Failure::output)?;
            Ok(failure.exit_status())
        }
    }
}

fn prepare() -> Result<(Server<'static>, RuntimeDirectory), Failure> {
    // Away from the terminal and its signals.
    setsid().map_err(|errno| Failure::io("setsid()")(errno.into()))?;
    let directory = RuntimeDirectory::prepare()?;
    let store = SnapshotStore::open().map_err(Failure::of("snapshots"))?;
    let socket = directory.socket();
    // The starter has found that nobody listens there, and has the lock.
    remove(&socket);
    let listener =
        UnixListener::bind(&socket).map_err(Failure::io(socket.display().to_string()))?;
    Ok((Server::new(listener, store), directory))
}

fn remove(socket: &Path) {
    // It may not be there, which is as good.
    let _ = fs::remove_file(socket);
}

/// Says one line, and leaves standard output for good.
fn tell(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")?;
    let null = File::options().write(true).open("/dev/null")?;
    dup2_stdout(&null)?;
    Ok(())
}

/// Has a program that this process starts begin with standard input and output
/// only: a pipe that the holder kept open would keep its reader waiting.
pub(super) fn close_others_on_exec() -> io::Result<()> {
    const STDERR: i32 = 2;
    for entry in fs::read_dir("/proc/self/fd")? {
        let Some(fd) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if fd > STDERR {
            // SAFETY: it was open just now, and this thread is the only one. All
            // that is done with it is a flag that Rust's own files have anyway.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            fcntl_setfd(fd, FdFlags::CLOEXEC)?;
        }
    }
    Ok(())
}
