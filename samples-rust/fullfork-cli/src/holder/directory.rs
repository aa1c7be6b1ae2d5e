// SPDX-License-Identifier: MIT OR Apache-2.0

//! Where the socket of the holder is: a directory that nobody else can enter.

use std::env;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, Stat, flock, fstat, open};
use rustix::process::geteuid;

use crate::failure::Failure;

/// Names the directory, before all others.
pub(super) const VARIABLE: &str = "FULLFORK_RUNTIME_DIR";

/// The directory, open: what was checked is what is used.
#[derive(Debug)]
pub(super) struct RuntimeDirectory {
    path: PathBuf,
    fd: OwnedFd,
}

impl RuntimeDirectory {
    /// Makes the directory if it is missing, and checks whose it is.
    pub(super) fn prepare() -> Result<Self, Failure> {
        let path = choose(|name| env::var_os(name), geteuid().as_raw());
        let path = std::path::absolute(&path).map_err(Failure::io(path.display().to_string()))?;
        Self::at(path)
    }

    fn at(path: PathBuf) -> Result<Self, Failure> {
        let name = path.display().to_string();
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(Failure::io(&name))?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = open(&path, flags, Mode::empty());
        let fd = opened.map_err(|errno| Failure::io(&name)(errno.into()))?;
        let stat = fstat(&fd).map_err(|errno| Failure::io(&name)(errno.into()))?;
        match complain(&stat, geteuid().as_raw()) {
            None => Ok(Self { path, fd }),
            Some(why) => Err(Failure::RuntimeDirectory { path, why }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.path.join("holder.sock")
    }

    /// Waits until no other command starts a holder; until this value is dropped.
    pub(super) fn lock(&self) -> io::Result<()> {
        Ok(flock(&self.fd, FlockOperation::LockExclusive)?)
    }
}

fn choose(variable: impl Fn(&str) -> Option<OsString>, uid: u32) -> PathBuf {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = set(VARIABLE) {
        path
    } else if let Some(path) = set("XDG_RUNTIME_DIR") {
        path.join("fullfork")
    } else if uid == 0 {
        "/run/fullfork".into()
    } else {
        format!("/tmp/fullfork-{uid}").into()
    }
}

fn complain(stat: &Stat, uid: u32) -> Option<&'static str> {
    if stat.st_uid != uid {
        Some("belongs to another user")
    } else if stat.st_mode & 0o077 != 0 {
        Some("is open to other users (chmod 700)")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn chosen(variables: &[(&str, &str)], uid: u32) -> String {
        let find = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        };
        choose(find, uid).display().to_string()
    }

    #[test]
    fn the_first_that_is_set_is_taken() {
        let all = [(VARIABLE, "/a"), ("XDG_RUNTIME_DIR", "/b")];
        assert_eq!(chosen(&all, 0), "/a");
        assert_eq!(chosen(&all[1..], 0), "/b/fullfork");
        assert_eq!(chosen(&[(VARIABLE, "")], 0), "/run/fullfork");
        assert_eq!(chosen(&[], 7), "/tmp/fullfork-7");
    }

    #[test]
    fn makes_a_directory_that_others_cannot_enter() {
        let parent = tempfile::tempdir().unwrap();
        let directory = RuntimeDirectory::at(parent.path().join("x")).unwrap();
        let mode = fs::metadata(directory.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn rejects_a_directory_that_others_can_enter() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        RuntimeDirectory::at(path.clone()).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o750)).unwrap();
        let failure = RuntimeDirectory::at(path).unwrap_err();
        assert!(matches!(failure, Failure::RuntimeDirectory { .. }));
    }

    #[test]
    fn rejects_a_symbolic_link() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        assert!(matches!(RuntimeDirectory::at(link), Err(Failure::Io { .. })));
    }

    #[test]
    fn another_user_is_noticed() {
        let stat = rustix::fs::stat("/").unwrap();
        assert_eq!(complain(&stat, stat.st_uid + 1), Some("belongs to another user"));
    }
}
