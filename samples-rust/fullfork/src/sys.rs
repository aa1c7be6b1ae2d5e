// SPDX-License-Identifier: MIT OR Apache-2.0

//! What crosses into the kernel: `clone3()` and `ioctl()`, and the layouts of what
//! they are given. No other file calls the kernel but through safe wrappers.

use std::ffi::{CStr, CString};
use std::marker::PhantomData;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::{Errno, Flags};

/// `struct clone_args` with the fields of full fork.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CloneArgs {
    pub(crate) flags: u64,
    pub(crate) pidfd: u64,
    pub(crate) child_tid: u64,
    pub(crate) parent_tid: u64,
    pub(crate) exit_signal: u64,
    pub(crate) stack: u64,
    pub(crate) stack_size: u64,
    pub(crate) tls: u64,
    pub(crate) set_tid: u64,
    pub(crate) set_tid_size: u64,
    pub(crate) cgroup: u64,
    pub(crate) source_pidfd: u64,
    pub(crate) tid_map: u64,
    pub(crate) tid_map_size: u64,
}

const _: () = {
    const CLONE_ARGS_SIZE_VER2: usize = 88;
    const CLONE_ARGS_SIZE_VER3: usize = 112;
    assert!(size_of::<CloneArgs>() == CLONE_ARGS_SIZE_VER3);
    assert!(offset_of!(CloneArgs, flags) == 0);
    assert!(offset_of!(CloneArgs, pidfd) == 8);
    assert!(offset_of!(CloneArgs, child_tid) == 16);
    assert!(offset_of!(CloneArgs, parent_tid) == 24);
    assert!(offset_of!(CloneArgs, exit_signal) == 32);
    assert!(offset_of!(CloneArgs, stack) == 40);
    assert!(offset_of!(CloneArgs, stack_size) == 48);
    assert!(offset_of!(CloneArgs, tls) == 56);
    assert!(offset_of!(CloneArgs, set_tid) == 64);
    assert!(offset_of!(CloneArgs, set_tid_size) == 72);
    assert!(offset_of!(CloneArgs, cgroup) == 80);
    assert!(offset_of!(CloneArgs, source_pidfd) == CLONE_ARGS_SIZE_VER2);
    assert!(offset_of!(CloneArgs, tid_map) == 96);
    assert!(offset_of!(CloneArgs, tid_map_size) == 104);
};

/// One thread that was copied: `struct clone_tid_map`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TidPair {
    /// TID of the original, as the caller sees it.
    pub original: u32,
    /// TID of its replica, as the caller sees it.
    pub replica: u32,
}

const _: () = {
    assert!(size_of::<TidPair>() == 8);
    assert!(offset_of!(TidPair, replica) == 4);
};

/// A result address that no kernel can write to, wherever memory is mapped.
pub(crate) const BAD_ADDRESS: u64 = u64::MAX;

/// Calls `clone3()`, and returns the PID of the copy, or 0 in it.
///
/// # Safety
///
/// The addresses in `args` are those of live memory of the right size that the
/// caller may write, or of none. If the call can copy the calling process, the
/// caller is one of [`Builder::fork`](crate::Builder::fork).
pub(crate) unsafe fn clone3(args: &CloneArgs) -> Result<u32, Errno> {
    let size = size_of::<CloneArgs>();
    // SAFETY: `args` is readable for `size` bytes; the rest is promised by the
    // caller.
    let ret = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_ref(args), size) };
    u32::try_from(ret).map_err(|_| Errno::last())
}

const SFORK: u64 = Flags::SFORK.bits() | (libc::CLONE_VM | libc::CLONE_VFORK).unsigned_abs() as u64;

/// Moves the calling thread into a child, and returns there, once.
///
/// # Safety
///
/// What [`Options::start`](crate::sfork::Options::start) demands.
pub(crate) unsafe fn sfork(flags: u64, exit_signal: u32, cgroup: u64) -> Result<(), Errno> {
    let exit_signal = u64::from(exit_signal);
    let args = CloneArgs { flags: flags | SFORK, exit_signal, cgroup, ..CloneArgs::default() };
    // SAFETY: it has no address. A kernel that does not know the flag makes no
    // process, and one that knows it returns in the child alone. The rest is promised
    // by the caller.
    match unsafe { clone3(&args) }? {
        0 => Ok(()),
        // It would be a vfork() whose child has used this very stack.
        _ => std::process::abort(),
    }
}

/// `execve()`, which returns a PID behind `sfork()`, in the parent.
///
/// This and `exit_group()` are calls of a function and not inline assembly for a
/// reason: the thread comes back with the vector registers that the parent had, and
/// the compiler knows of a function that it may clobber them.
pub(crate) fn execve(
    path: &CStr,
    arguments: &[CString],
    environment: &[CString],
) -> Result<u32, Errno> {
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    let (argv, envp) = (arguments.as_ptr(), environment.as_ptr());
    // SAFETY: all are strings with a zero at the end, and arrays of them with a null
    // at the end, which live until the call returns.
    let ret = unsafe { libc::syscall(libc::SYS_execve, path.as_ptr(), argv, envp) };
    u32::try_from(ret).map_err(|_| Errno::last())
}

/// Sets a signal to its default action if it is ignored, and tells whether it was.
pub(crate) fn unignore(signal: i32) -> bool {
    // SAFETY: the first call only writes to `action`, which has the right size and for
    // which zeros are a value; the default action is no code of this program.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(signal, std::ptr::null(), &raw mut action) != 0
            || action.sa_sigaction != libc::SIG_IGN
        {
            return false;
        }
        libc::signal(signal, libc::SIG_DFL) != libc::SIG_ERR
    }
}

/// Ignores a signal.
pub(crate) fn ignore(signal: i32) {
    // SAFETY: it is no code of this program.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    let end = std::iter::once(std::ptr::null());
    strings.iter().map(|string| string.as_ptr()).chain(end).collect()
}

/// `exit_group()`, which returns a PID behind `sfork()`, in the parent.
///
/// The C library's `_exit()` does not expect that it returns, and stops the
/// parent by an instruction that faults.
pub(crate) fn exit_group(status: i32) -> u32 {
    // SAFETY: it takes no address.
    let ret = unsafe { libc::syscall(libc::SYS_exit_group, libc::c_long::from(status)) };
    u32::try_from(ret).unwrap_or(0)
}

/// Ends the calling process at once: no handler runs, no buffer is written.
///
/// This is how a replica ends that is not to do what its original's `atexit()`
/// handlers and buffers would do a second time.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit() touches no memory of this process.
    unsafe { libc::_exit(status) }
}

/// Takes what the kernel returned as a new file descriptor.
///
/// # Safety
///
/// `fd` is open, and nobody else owns it.
pub(crate) unsafe fn own_fd(fd: RawFd) -> OwnedFd {
    // SAFETY: promised by the caller.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// What an ioctl of the snapshot device takes.
///
/// # Safety
///
/// With `REQUEST` the driver reads and writes `Self`, and memory at the addresses
/// in it, which are those of live memory of the size that goes with them.
unsafe trait Argument {
    const REQUEST: u32;
}

fn ioctl<A: Argument>(device: BorrowedFd<'_>, argument: &mut A) -> Result<(), Errno> {
    let address = std::ptr::from_mut(argument);
    // The C libraries disagree on the type of a request.
    #[allow(clippy::cast_lossless)]
    // SAFETY: by the contract of `Argument`.
    let ret = unsafe { libc::ioctl(device.as_raw_fd(), A::REQUEST as _, address) };
    if ret < 0 { Err(Errno::last()) } else { Ok(()) }
}

const WRITE: u32 = 1;
const READ_WRITE: u32 = 3;

/// `_IOC()` with the type of the device.
const fn request<A>(direction: u32, number: u32) -> u32 {
    let size = size_of::<A>();
    assert!(size < 1 << 14);
    #[allow(clippy::cast_possible_truncation)]
    let size = size as u32;
    (direction << 30) | (size << 16) | ((b'|' as u32) << 8) | number
}

/// `struct rust_fullfork_snapshot`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SnapshotArgs {
    /// Flags of `clone3()`.
    pub flags: u64,
    /// The process that is copied.
    pub pidfd: i32,
    /// Out: what names the snapshot.
    pub id: u32,
    /// Out: the root of the template, in the caller's PID namespace.
    pub pid: u32,
    /// Out
    pub nr_processes: u32,
    /// Out
    pub nr_threads: u32,
    pub(crate) reserved: u32,
}

// SAFETY: the layout is that of the driver, and it has no address.
unsafe impl Argument for SnapshotArgs {
    const REQUEST: u32 = request::<Self>(READ_WRITE, 0xa0);
}

/// `struct rust_fullfork_spawn`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SpawnArgs {
    /// Flags of `clone3()`.
    pub flags: u64,
    /// The snapshot.
    pub id: u32,
    /// What tells the caller of the end of the copy.
    pub exit_signal: u32,
    /// Out
    pub pidfd: i32,
    /// Out
    pub pid: u32,
}

// SAFETY: the layout is that of the driver, and it has no address.
unsafe impl Argument for SpawnArgs {
    const REQUEST: u32 = request::<Self>(READ_WRITE, 0xa1);
}

/// A snapshot in the store: `struct rust_fullfork_template`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// Flags that it was taken with.
    pub flags: u64,
    /// What names the snapshot.
    pub id: u32,
    /// The root of the template.
    pub pid: u32,
    /// How many processes it holds.
    pub nr_processes: u32,
    /// How many threads they have.
    pub nr_threads: u32,
}

/// A process of a snapshot: `struct rust_fullfork_process`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessEntry {
    /// The stopped replica.
    pub pid: u32,
    /// What its original's PID was.
    pub original: u32,
    /// How many threads it has.
    pub nr_threads: u32,
    /// [`ProcessEntry::WAS_STOPPED`], [`ProcessEntry::IS_GONE`]
    pub flags: u32,
    /// Its name, padded with zeros.
    pub comm: [u8; 16],
}

/// `struct rust_fullfork_list`, whose entries are borrowed for the call.
#[repr(C)]
struct List<'a, const NUMBER: u32, T> {
    entries: u64,
    nr: u32,
    id: u32,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: the layout is that of the driver. `list()` alone makes one, with the
// address and size of a slice that is borrowed for its life.
unsafe impl<const NUMBER: u32, T> Argument for List<'_, NUMBER, T> {
    const REQUEST: u32 = request::<Self>(READ_WRITE, NUMBER);
}

fn list<const NUMBER: u32, T>(
    device: BorrowedFd<'_>,
    id: u32,
    entries: &mut [T],
) -> Result<u32, Errno> {
    let mut list = List::<NUMBER, T> {
        entries: entries.as_mut_ptr() as u64,
        nr: u32::try_from(entries.len()).unwrap_or(u32::MAX),
        id,
        borrowed: PhantomData,
    };
    ioctl(device, &mut list)?;
    Ok(list.nr)
}

/// Writes the snapshots that fit, and returns how many there are.
pub(crate) fn list_snapshots(
    device: BorrowedFd<'_>,
    entries: &mut [SnapshotEntry],
) -> Result<u32, Errno> {
    list::<0xa2, _>(device, 0, entries)
}

/// Writes the processes that fit, and returns how many there are.
pub(crate) fn list_processes(
    device: BorrowedFd<'_>,
    id: u32,
    entries: &mut [ProcessEntry],
) -> Result<u32, Errno> {
    list::<0xa3, _>(device, id, entries)
}

pub(crate) fn snapshot(device: BorrowedFd<'_>, args: &mut SnapshotArgs) -> Result<(), Errno> {
    ioctl(device, args)
}

pub(crate) fn spawn(device: BorrowedFd<'_>, args: &mut SpawnArgs) -> Result<(), Errno> {
    ioctl(device, args)
}

#[repr(transparent)]
struct Id(u32);

// SAFETY: the layout is that of the driver, and it has no address.
unsafe impl Argument for Id {
    const REQUEST: u32 = request::<Self>(WRITE, 0xa4);
}

pub(crate) fn drop_snapshot(device: BorrowedFd<'_>, id: u32) -> Result<(), Errno> {
    ioctl(device, &mut Id(id))
}

const _: () = {
    assert!(size_of::<SnapshotArgs>() == 32);
    assert!(offset_of!(SnapshotArgs, pidfd) == 8);
    assert!(offset_of!(SnapshotArgs, id) == 12);
    assert!(offset_of!(SnapshotArgs, reserved) == 28);
    assert!(size_of::<SpawnArgs>() == 24);
    assert!(offset_of!(SpawnArgs, id) == 8);
    assert!(offset_of!(SpawnArgs, pidfd) == 16);
    assert!(offset_of!(SpawnArgs, pid) == 20);
    assert!(size_of::<SnapshotEntry>() == 24);
    assert!(offset_of!(SnapshotEntry, id) == 8);
    assert!(size_of::<ProcessEntry>() == 32);
    assert!(offset_of!(ProcessEntry, comm) == 16);
    assert!(size_of::<List<'_, 0xa2, SnapshotEntry>>() == 16);
    assert!(offset_of!(List<'_, 0xa2, SnapshotEntry>, nr) == 8);
    assert!(offset_of!(List<'_, 0xa2, SnapshotEntry>, id) == 12);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_request_numbers_of_the_driver() {
        assert_eq!(SnapshotArgs::REQUEST, 0xc020_7ca0);
        assert_eq!(SpawnArgs::REQUEST, 0xc018_7ca1);
        assert_eq!(List::<0xa2, SnapshotEntry>::REQUEST, 0xc010_7ca2);
        assert_eq!(List::<0xa3, ProcessEntry>::REQUEST, 0xc010_7ca3);
        assert_eq!(Id::REQUEST, 0x4004_7ca4);
    }

    #[test]
    fn an_ioctl_on_another_file_is_an_error() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let answer = list_snapshots(std::os::fd::AsFd::as_fd(&file), &mut []);
        assert_eq!(answer, Err(Errno::ENOTTY));
    }
}
