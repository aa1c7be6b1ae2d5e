// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the holder does: it hands out the device, and looks whether a snapshot is
//! left when a command has ended.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};

use fullfork::SnapshotStore;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::message;

/// Who started the holder has so long to connect to it.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

pub(super) struct Server<'b> {
    listener: UnixListener,
    store: SnapshotStore<'b>,
    /// Commands that work with the store.
    clients: Vec<UnixStream>,
}

impl<'b> Server<'b> {
    pub(super) fn new(listener: UnixListener, store: SnapshotStore<'b>) -> Self {
        Self { listener, store, clients: Vec::new() }
    }

    /// Serves until nobody works with the store and nothing is in it. Who comes
    /// while it ends sees no socket after `disappear`, or a closed connection.
    pub(super) fn run(mut self, disappear: impl FnOnce()) -> io::Result<()> {
        while self.wait()? {
            if self.clients.is_empty() && self.is_empty() {
                break;
            }
        }
        disappear();
        Ok(())
    }

    /// Waits for somebody to come or go; false if nobody does and nothing is held.
    fn wait(&mut self) -> io::Result<bool> {
        let idle = self.clients.is_empty() && self.is_empty();
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN)];
        // Clients send nothing, so that something to read is their end.
        fds.extend(self.clients.iter().map(|client| PollFd::new(client, PollFlags::IN)));
        let answer = poll(&mut fds, idle.then_some(&PATIENCE));
        let events: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        match answer {
            Err(rustix::io::Errno::INTR) => return Ok(true),
            Err(errno) => return Err(errno.into()),
            Ok(0) => return Ok(false),
            Ok(_) => {}
        }
        let mut gone = events[1..].iter();
        self.clients.retain(|_| gone.next() == Some(&false));
        if events[0] {
            self.accept();
        }
        Ok(true)
    }

    /// What fails here is the matter of who has come.
    fn accept(&mut self) {
        let Ok((client, _)) = self.listener.accept() else { return };
        let served = message::is_same_user(&client)
            .is_ok_and(|same| same && message::send(&client, self.store.as_fd()).is_ok());
        if served {
            self.clients.push(client);
        }
    }

    /// If in doubt it is not: to end would drop what is there.
    fn is_empty(&self) -> bool {
        self.store.list().is_ok_and(|snapshots| snapshots.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::thread::{JoinHandle, spawn};

    use fullfork::SnapshotOptions;
    use fullfork::mock::Mock;

    use super::*;

    /// A server whose store has a snapshot, or none.
    fn serve(path: PathBuf, with_snapshot: bool) -> JoinHandle<()> {
        let listener = UnixListener::bind(&path).unwrap();
        spawn(move || {
            let mock = Mock::new();
            let store = SnapshotStore::open_on(&mock).unwrap();
            if with_snapshot {
                let _ = store.take(&listener, SnapshotOptions::default()).unwrap().keep();
            }
            let remove = || std::fs::remove_file(path).unwrap();
            Server::new(listener, store).run(remove).unwrap();
        })
    }

    #[test]
    fn ends_when_nothing_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let server = serve(path.clone(), false);
        let one = UnixStream::connect(&path).unwrap();
        let other = UnixStream::connect(&path).unwrap();
        assert!(message::receive(&one).unwrap().is_some());
        assert!(message::receive(&other).unwrap().is_some());
        drop(one);
        assert!(path.exists());
        drop(other);
        server.join().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn goes_on_while_there_is_a_snapshot() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let server = serve(path.clone(), true);
        for _ in 0..3 {
            let client = UnixStream::connect(&path).unwrap();
            assert!(message::receive(&client).unwrap().is_some());
        }
        assert!(!server.is_finished());
    }
}
