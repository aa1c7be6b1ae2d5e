// SPDX-License-Identifier: MIT OR Apache-2.0

//! How a command gets the store of snapshots.

use std::io::{self, BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use fullfork::SnapshotStore;

use super::daemon::{READY, close_others_on_exec};
use super::directory::{RuntimeDirectory, VARIABLE};
use super::message;
use crate::failure::Failure;

/// The store, and what tells the holder that it is in use.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) store: SnapshotStore<'static>,
    _connection: UnixStream,
}

/// Finds the holder, if there is one; where there cannot be one, says why.
pub(crate) fn connect() -> Result<Option<Held>, Failure> {
    let held = connect_to(&RuntimeDirectory::prepare()?.socket())?;
    if held.is_none() {
        demand_device()?;
    }
    Ok(held)
}

/// Whoever may not open the device has no snapshots, but the machine lacks nothing.
fn demand_device() -> Result<(), Failure> {
    match SnapshotStore::open().map_err(Failure::of("snapshots")) {
        Err(missing @ Failure::Missing(_)) => Err(missing),
        _ => Ok(()),
    }
}

/// Finds the holder, or starts one.
pub(crate) fn connect_or_start() -> Result<Held, Failure> {
    let directory = RuntimeDirectory::prepare()?;
    directory.lock().map_err(Failure::io(directory.path().display().to_string()))?;
    if let Some(held) = connect_to(&directory.socket())? {
        return Ok(held);
    }
    // A device that is missing is better told by who is asked for it.
    SnapshotStore::open().map_err(Failure::of("snapshots"))?;
    start(&directory)?;
    connect_to(&directory.socket())?.ok_or_else(|| Failure::Holder("it has gone".into()))
}

fn connect_to(socket: &Path) -> Result<Option<Held>, Failure> {
    let fail = || Failure::io(socket.display().to_string());
    let connection = match UnixStream::connect(socket) {
        Ok(connection) => connection,
        Err(error) if is_nobody(&error) => return Ok(None),
        Err(error) => return Err(fail()(error)),
    };
    if !message::is_same_user(&connection).map_err(fail())? {
        return Err(Failure::Holder("it belongs to another user".into()));
    }
    let device = match message::receive(&connection) {
        Ok(device) => device,
        // It ended just now, as nothing was left to hold.
        Err(error) if is_nobody(&error) => None,
        Err(error) => return Err(fail()(error)),
    };
    let held = |device| Held { store: SnapshotStore::from_fd(device), _connection: connection };
    Ok(device.map(held))
}

fn is_nobody(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset)
}

/// Starts a holder, and returns when it can be connected to.
fn start(directory: &RuntimeDirectory) -> Result<(), Failure> {
    close_others_on_exec().map_err(Failure::io("starting the holder"))?;
    let mut holder = Command::new("/proc/self/exe")
        .arg0("fullfork")
        .arg("holder")
        .env(VARIABLE, directory.path())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(Failure::io("starting the holder"))?;
    let mut line = String::new();
    if let Some(output) = holder.stdout.take() {
        BufReader::new(output).read_line(&mut line).map_err(Failure::io("starting the holder"))?;
    }
    match line.trim_end() {
        READY => Ok(()),
        why => {
            let _ = holder.wait();
            Err(Failure::Holder(if why.is_empty() { "it did not start" } else { why }.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_socket_is_nobody() {
        let directory = tempfile::tempdir().unwrap();
        assert!(connect_to(&directory.path().join("s")).unwrap().is_none());
    }

    #[test]
    fn a_socket_that_a_killed_holder_left_is_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(connect_to(&path).unwrap().is_none());
    }
}
