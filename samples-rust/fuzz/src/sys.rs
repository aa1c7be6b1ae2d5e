// SPDX-License-Identifier: MIT OR Apache-2.0

//! System calls as the threads of a tree make them: without a C library, whose
//! `errno` they share, as they have no thread-local storage of their own, and whose
//! locks a replica may find held.

use std::arch::asm;
use std::ffi::{CStr, c_void};
use std::ptr::{from_mut, from_ref, null_mut};

/// Makes a system call, and returns its result, or an error below zero.
///
/// # Safety
///
/// As the call needs it, of addresses and what they are good for.
pub(crate) unsafe fn syscall(nr: libc::c_long, args: [usize; 6]) -> isize {
    let ret: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the kernel changes these registers only; memory is as the caller says.
    unsafe {
        asm!("syscall", inlateout("rax") nr as isize => ret, in("rdi") args[0], in("rsi") args[1],
             in("rdx") args[2], in("r10") args[3], in("r8") args[4], in("r9") args[5],
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the same.
    unsafe {
        asm!("svc 0", in("x8") nr, inlateout("x0") args[0] as isize => ret, in("x1") args[1], in("x2") args[2],
             in("x3") args[3], in("x4") args[4], in("x5") args[5], options(nostack));
    }
    ret
}

/// The same, of a call that may return where another task made it: it then keeps no
/// register that a function may change.
///
/// # Safety
///
/// As [`syscall()`].
pub(crate) unsafe fn syscall_elsewhere(nr: libc::c_long, args: [usize; 6]) -> isize {
    let ret: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: all that may change is said to; memory is as the caller says.
    unsafe {
        asm!("syscall", inlateout("rax") nr as isize => ret, in("rdi") args[0],
             in("rsi") args[1], in("rdx") args[2], in("r10") args[3], in("r8") args[4],
             in("r9") args[5], clobber_abi("C"));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the same.
    unsafe {
        asm!("svc 0", in("x8") nr, inlateout("x0") args[0] as isize => ret, in("x1") args[1],
             in("x2") args[2], in("x3") args[3], in("x4") args[4], in("x5") args[5],
             clobber_abi("C"));
    }
    ret
}

/// Calls whose arguments are numbers, descriptors and PIDs.
macro_rules! numbers {
    ($($name:ident($($arg:ident),*) = $nr:ident;)*) => {$(
        pub(crate) fn $name($($arg: usize),*) -> isize {
            let mut args = [0; 6];
            let given: &[usize] = &[$($arg),*];
            args[..given.len()].copy_from_slice(given);
            // SAFETY: no argument is an address.
            unsafe { syscall(libc::$nr, args) }
        }
    )*};
}

numbers! {
    close(fd) = SYS_close;
    dup(fd) = SYS_dup;
    epoll_create1(flags) = SYS_epoll_create1;
    eventfd2(value, flags) = SYS_eventfd2;
    fcntl(fd, command, value) = SYS_fcntl;
    getpid() = SYS_getpid;
    inotify_init1(flags) = SYS_inotify_init1;
    kill(pid, signal) = SYS_kill;
    pidfd_open(pid, flags) = SYS_pidfd_open;
    prctl(option, a, b, c) = SYS_prctl;
    seize(request, tid, zero, options) = SYS_ptrace;
    setresgid(real, effective, saved) = SYS_setresgid;
    setresuid(real, effective, saved) = SYS_setresuid;
    setpgid(pid, group) = SYS_setpgid;
    setpriority(which, who, nice) = SYS_setpriority;
    setsid() = SYS_setsid;
    tgkill(pid, tid, signal) = SYS_tgkill;
    timerfd_create(clock, flags) = SYS_timerfd_create;
    umask(mask) = SYS_umask;
    unshare(flags) = SYS_unshare;
    userfaultfd(flags) = SYS_userfaultfd;
    yield_now() = SYS_sched_yield;
}

/// Ends the thread.
pub(crate) fn exit_thread(code: usize) -> ! {
    loop {
        // SAFETY: it does not return, and nobody uses the stack of this thread.
        unsafe { syscall(libc::SYS_exit, [code, 0, 0, 0, 0, 0]) };
    }
}

/// Ends the process.
pub(crate) fn exit_process(code: usize) -> ! {
    loop {
        // SAFETY: it does not return.
        unsafe { syscall(libc::SYS_exit_group, [code, 0, 0, 0, 0, 0]) };
    }
}

pub(crate) fn kill_pid(pid: u32, signal: i32) -> isize {
    // That would be the process group of who calls.
    if pid == 0 {
        return -(libc::ESRCH as isize);
    }
    kill(pid as usize, signal as usize)
}

/// Copies the calling process as `fork()` does; 0 in the child.
///
/// # Safety
///
/// The child uses nothing that depends on other threads.
pub(crate) unsafe fn fork() -> isize {
    // SAFETY: no address is passed; the rest is promised by the caller.
    unsafe { syscall(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0, 0, 0]) }
}

/// A child with other flags, on a copy of the stack.
///
/// # Safety
///
/// As [`fork()`]; `flags` does not share the memory.
pub(crate) unsafe fn fork_with(flags: usize) -> isize {
    // SAFETY: promised by the caller.
    unsafe { syscall(libc::SYS_clone, [flags | libc::SIGCHLD as usize, 0, 0, 0, 0, 0]) }
}

/// `clone3()` as the arguments are, whatever they are.
///
/// # Safety
///
/// A success is a full fork, which changes nothing here but what the arguments
/// name as places of results.
pub(crate) unsafe fn clone3(args: u64, size: u64) -> isize {
    // SAFETY: promised by the caller.
    unsafe { syscall(libc::SYS_clone3, [args as usize, size as usize, 0, 0, 0, 0]) }
}

/// Starts `entry(arg)` on another stack.
///
/// # Safety
///
/// `top` is the end of memory that nobody else uses as long as it runs; `entry`
/// does not return, and `cleared`, if not null, is the address of a `u32` that lives
/// as long as the memory.
pub(crate) unsafe fn clone_on(
    flags: i32,
    top: *mut c_void,
    entry: extern "C" fn(*mut c_void) -> i32,
    arg: usize,
    cleared: *mut u32,
) -> i32 {
    let none = null_mut::<c_void>();
    // SAFETY: promised by the caller.
    unsafe { libc::clone(entry, top, flags, arg as *mut c_void, none, none, cleared) }
}

pub(crate) const STACK_SIZE: usize = 64 << 10;

/// New memory that is private, or shared with the children; `None` where there is
/// none left.
pub(crate) fn map(size: usize, prot: i32, flags: i32) -> Option<usize> {
    let flags = flags | libc::MAP_ANONYMOUS;
    let args = [0, size, prot as usize, flags as usize, usize::MAX, 0];
    // SAFETY: new memory, of which nobody knows yet.
    let ret = unsafe { syscall(libc::SYS_mmap, args) };
    (ret > 0).then_some(ret as usize)
}

pub(crate) fn map_private(size: usize) -> Option<usize> {
    map(size, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE)
}

/// # Safety
///
/// Nobody uses that memory any more.
pub(crate) unsafe fn unmap(address: usize, size: usize) {
    // SAFETY: promised by the caller.
    unsafe { syscall(libc::SYS_munmap, [address, size, 0, 0, 0, 0]) };
}

/// `madvise()` with advice that only matters to children, and `mlock()` likewise,
/// and `mprotect()`.
///
/// # Safety
///
/// What that does to the memory is what its user expects.
pub(crate) unsafe fn advise(nr: libc::c_long, address: usize, size: usize, advice: i32) -> isize {
    // SAFETY: promised by the caller.
    unsafe { syscall(nr, [address, size, advice as usize, 0, 0, 0]) }
}

/// A call whose one address is that of a value that lives as long as it takes.
pub(crate) fn with<T>(nr: libc::c_long, value: &mut T, place: usize, args: [usize; 6]) -> isize {
    let mut args = args;
    args[place] = from_mut(value) as usize;
    // SAFETY: the kernel reads and writes `value`, of the type that belongs to the
    // call, and all else are numbers.
    unsafe { syscall(nr, args) }
}

fn timespec(ns: u64) -> libc::timespec {
    libc::timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 }
}

pub(crate) fn nap(ns: u64) -> isize {
    with(libc::SYS_nanosleep, &mut timespec(ns), 0, [0; 6])
}

pub(crate) fn poll_in(fd: i32, ns: u64) -> isize {
    let mut fds = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let timeout = timespec(ns);
    let timeout = from_ref(&timeout) as usize;
    with(libc::SYS_ppoll, &mut fds, 0, [0, 1, timeout, 0, 0, 0])
}

pub(crate) fn epoll_wait(fd: i32, ms: usize) -> isize {
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    with(libc::SYS_epoll_pwait, &mut event, 1, [fd as usize, 0, 1, ms, 0, 8])
}

/// Waits for a signal of `set`.
pub(crate) fn sigtimedwait(mut set: u64, ns: u64) -> isize {
    let timeout = timespec(ns);
    let timeout = from_ref(&timeout) as usize;
    with(libc::SYS_rt_sigtimedwait, &mut set, 0, [0, 0, timeout, 8, 0, 0])
}

pub(crate) fn block_signals(mut set: u64) -> isize {
    with(libc::SYS_rt_sigprocmask, &mut set, 1, [libc::SIG_BLOCK as usize, 0, 0, 8, 0, 0])
}

pub(crate) fn read_byte(fd: i32) -> isize {
    with(libc::SYS_read, &mut 0_u8, 1, [fd as usize, 0, 1, 0, 0, 0])
}

pub(crate) fn read_u64(fd: i32) -> isize {
    with(libc::SYS_read, &mut 0_u64, 1, [fd as usize, 0, 8, 0, 0, 0])
}

pub(crate) fn write_u64(fd: i32, mut value: u64, size: usize) -> isize {
    with(libc::SYS_write, &mut value, 1, [fd as usize, 0, size, 0, 0, 0])
}

/// Waits as long as the word is `value`; at most `ns`, unless that is 0.
pub(crate) fn futex_wait(word: &std::sync::atomic::AtomicU32, value: u32, ns: u64) -> isize {
    let timeout = timespec(ns);
    let timeout = if ns == 0 { 0 } else { from_ref(&timeout) as usize };
    let args = [word.as_ptr() as usize, libc::FUTEX_WAIT as usize, value as usize, timeout, 0, 0];
    // SAFETY: both live as long as the call.
    unsafe { syscall(libc::SYS_futex, args) }
}

pub(crate) fn futex_wake(word: &std::sync::atomic::AtomicU32) {
    let args = [word.as_ptr() as usize, libc::FUTEX_WAKE as usize, i32::MAX as usize, 0, 0, 0];
    // SAFETY: the word is not even read.
    unsafe { syscall(libc::SYS_futex, args) };
}

/// Waits for a child; 0 if none has an event.
pub(crate) fn wait_child(pid: isize, options: i32) -> (isize, i32) {
    let mut status = 0;
    let args = [pid as usize, 0, options as usize, 0, 0, 0];
    let ret = with(libc::SYS_wait4, &mut status, 1, args);
    (ret, status)
}

/// A call whose first or second argument is a path.
pub(crate) fn path(nr: libc::c_long, path: &CStr, place: usize, args: [usize; 6]) -> isize {
    let mut args = args;
    args[place] = path.as_ptr() as usize;
    // SAFETY: the path is only read, and the rest are numbers.
    unsafe { syscall(nr, args) }
}

/// The file that says where this thread meets a fault, if there is fault injection.
pub(crate) fn open_faults() -> isize {
    let at = [libc::AT_FDCWD as usize, 0, libc::O_WRONLY as usize, 0, 0, 0];
    path(libc::SYS_openat, c"/proc/thread-self/fail-nth", 1, at)
}

/// Lets the thread meet a fault at the point of this number, less than 100, or at none.
pub(crate) fn set_fault(fd: isize, nth: u64) {
    if fd >= 0 {
        let mut digits = [b'0' + (nth / 10 % 10) as u8, b'0' + (nth % 10) as u8];
        with(libc::SYS_write, &mut digits, 1, [fd as usize, 0, 2, 0, 0, 0]);
    }
}

/// How a thread that moved into a child lets that go: it ends, or becomes a program.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Exec(i32),
    Thread,
    Process,
}

/// Ends the child, and is back in its parent: the PID of the child.
///
/// # Safety
///
/// The calling thread has moved, or if it has not, is not needed any more.
pub(crate) unsafe fn end_elsewhere(end: End) -> isize {
    let none = [0_usize; 1];
    let none = none.as_ptr() as usize;
    let path = c"".as_ptr() as usize;
    let (nr, args) = match end {
        End::Exec(fd) => {
            (libc::SYS_execveat, [fd as usize, path, none, none, libc::AT_EMPTY_PATH as usize, 0])
        }
        End::Thread => (libc::SYS_exit, [0; 6]),
        End::Process => (libc::SYS_exit_group, [0; 6]),
    };
    // SAFETY: promised by the caller; the vectors and the path live as long.
    unsafe { syscall_elsewhere(nr, args) }
}

/// Becomes the program in a file, without arguments.
pub(crate) fn exec(fd: i32) -> isize {
    let none = [0_usize; 1];
    let none = none.as_ptr() as usize;
    let args = [fd as usize, 0, none, none, libc::AT_EMPTY_PATH as usize, 0];
    path(libc::SYS_execveat, c"", 1, args)
}

/// The TID of this thread as the procfs of the machine tells it, whatever the PID
/// namespace.
pub(crate) fn global_tid() -> u32 {
    let mut name = [0_u8; 64];
    let link = c"/proc/thread-self".as_ptr() as usize;
    let args = [libc::AT_FDCWD as usize, link, name.as_mut_ptr() as usize, name.len(), 0, 0];
    // SAFETY: the path is read, and no more is written to the buffer than fits.
    let n = unsafe { syscall(libc::SYS_readlinkat, args) };
    // "PID/task/TID"
    let text = name.get(..usize::try_from(n).unwrap_or(0)).unwrap_or(&[]);
    let digits = text.rsplit(|byte| *byte == b'/').next().unwrap_or(&[]);
    digits.iter().fold(0, |n: u32, digit| n.wrapping_mul(10).wrapping_add(u32::from(digit & 15)))
}
