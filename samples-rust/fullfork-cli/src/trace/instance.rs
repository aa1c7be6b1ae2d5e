// SPDX-License-Identifier: MIT OR Apache-2.0

//! A buffer of our own in tracefs, so that nobody else's tracing is changed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Missing};

const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
const EVENTS: &str = "events/fullfork";
const PREFIX: &str = "fullfork-";

/// The mount point of a tracefs that has the events of full fork.
pub(crate) fn directory() -> Result<PathBuf, Failure> {
    for root in TRACEFS.map(PathBuf::from) {
        let events = root.join(EVENTS);
        match fs::metadata(&events) {
            Ok(_) => return Ok(root),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::io(events.display().to_string())(error)),
        }
    }
    Err(Missing::Tracepoints(Path::new(TRACEFS[0]).join(EVENTS)).into())
}

/// An instance with the events of full fork switched on; it is removed with this
/// value.
#[derive(Debug)]
pub(crate) struct Instance {
    path: PathBuf,
    /// None when it is being removed, which needs it closed.
    pipe: Option<File>,
    unread: Vec<u8>,
}

impl Instance {
    pub(crate) fn create() -> Result<Self, Failure> {
        let instances = directory()?.join("instances");
        remove_abandoned(&instances);
        let path = instances.join(format!("{PREFIX}{}", std::process::id()));
        let fail = || Failure::io(path.display().to_string());
        fs::create_dir(&path).map_err(fail())?;
        let mut instance = Self { path: path.clone(), pipe: None, unread: Vec::new() };
        instance.pipe = Some(open_pipe(&path).map_err(fail())?);
        instance.switch(b"1").map_err(fail())?;
        Ok(instance)
    }

    /// The lines that have come since the last time, whole ones only.
    pub(crate) fn read(&mut self) -> io::Result<Vec<String>> {
        let mut buffer = [0; 4096];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(size) => self.unread.extend_from_slice(&buffer[..size]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(take_lines(&mut self.unread))
    }

    fn switch(&self, on: &[u8]) -> io::Result<()> {
        let path = self.path.join(EVENTS).join("enable");
        OpenOptions::new().write(true).open(path)?.write_all(on)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.pipe = None;
        // There is nobody to tell, and the next watch removes what is left.
        let _ = self.switch(b"0");
        let _ = fs::remove_dir(&self.path);
    }
}

fn open_pipe(instance: &Path) -> io::Result<File> {
    #[allow(clippy::cast_possible_wrap)]
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    OpenOptions::new().read(true).custom_flags(nonblocking).open(instance.join("trace_pipe"))
}

/// What a watch left that was killed. One that lives has its pipe open, so that
/// its instance cannot be removed.
fn remove_abandoned(instances: &Path) {
    for entry in fs::read_dir(instances).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn take_lines(unread: &mut Vec<u8>) -> Vec<String> {
    let end = unread.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    let whole: Vec<u8> = unread.drain(..end).collect();
    String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_waits_for_the_rest() {
        let mut unread = b"one\ntwo\nthr".to_vec();
        assert_eq!(take_lines(&mut unread), ["one", "two"]);
        assert!(take_lines(&mut unread).is_empty());
        unread.extend_from_slice(b"ee\n");
        assert_eq!(take_lines(&mut unread), ["three"]);
        assert!(unread.is_empty());
    }
}
