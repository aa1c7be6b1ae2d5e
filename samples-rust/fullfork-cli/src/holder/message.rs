// SPDX-License-Identifier: MIT OR Apache-2.0

//! How the device goes from the holder to a command: one byte with one file
//! descriptor. Both look at who the other one is.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt,
};
use rustix::process::geteuid;

/// Sends one file descriptor.
pub(super) fn send(stream: &UnixStream, fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(stream, &[IoSlice::new(b"D")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one file descriptor; none if the other side has gone.
pub(super) fn receive(stream: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let buffers = &mut [IoSliceMut::new(&mut byte)];
    recvmsg(stream, buffers, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok(fds.next().and_then(|mut fds| fds.next()))
}

/// Is the other side the same user?
pub(super) fn is_same_user(stream: &UnixStream) -> io::Result<bool> {
    Ok(sockopt::socket_peercred(stream)?.uid == geteuid())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_file_descriptor_goes_over() {
        let (a, b) = UnixStream::pair().unwrap();
        let file = File::open("/proc/self/comm").unwrap();
        send(&a, file.as_fd()).unwrap();
        drop(file);
        let mut text = String::new();
        File::from(receive(&b).unwrap().unwrap()).read_to_string(&mut text).unwrap();
        assert!(!text.is_empty());
        assert!(is_same_user(&a).unwrap());
    }

    #[test]
    fn the_end_is_none() {
        let (a, b) = UnixStream::pair().unwrap();
        drop(a);
        assert!(receive(&b).unwrap().is_none());
    }
}
