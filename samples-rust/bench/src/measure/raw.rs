// SPDX-License-Identifier: MIT OR Apache-2.0

//! System calls with the clock read right before and right after them, and
//! children that end, or sleep, before any of Rust runs in them.

use std::arch::asm;
use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::ptr::{null, null_mut};
use std::sync::atomic::AtomicU32;

pub(crate) const CLONE_ALL_THREADS: u64 = 1 << 62;
pub(crate) const CLONE_SUBTREE: u64 = 1 << 61;
pub(crate) const CLONE_STOPPED: u64 = 1 << 60;
pub(crate) const CLONE_ISOLATE: u64 = 1 << 57;
const CLONE_SFORK: u64 = 1 << 56;

/// What each thread of a process is made with, but for what names it.
const THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM) as u64;

/// `struct clone_args` up to version 2, which has all that is needed here.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const _: () = assert!(size_of::<CloneArgs>() == 88);

/// The time-stamp counter: instructions, where the guest's clock counts those.
pub(crate) fn ticks() -> u64 {
    // SAFETY: every x86-64 has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// A call that made somebody, and what it took.
pub(crate) struct Timed {
    pub(crate) pid: i32,
    pub(crate) ticks: u64,
}

fn timed(ret: i64, ticks: u64) -> io::Result<Timed> {
    match i32::try_from(ret) {
        Ok(pid) if pid > 0 => Ok(Timed { pid, ticks }),
        Ok(errno) => Err(io::Error::from_raw_os_error(-errno)),
        Err(_) => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

/// `clone3()` with these flags. The child, or replica of the caller, exits at once.
fn clone_that_exits(flags: u64) -> io::Result<Timed> {
    clone_that_only(libc::SYS_exit_group, flags)
}

/// `clone3()` with these flags. All that the child, or replica of the caller, does is
/// this system call, with 0.
fn clone_that_only(call: libc::c_long, flags: u64) -> io::Result<Timed> {
    let args = CloneArgs { flags, exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
    let (ret, ticks): (i64, u64);
    // SAFETY: `args` is readable for its size. What returns 0 touches no memory, and
    // ends or sleeps for good, so that it may share the stack of the caller.
    unsafe {
        asm!(
            "rdtsc",
            "shl rdx, 32",
            "or rax, rdx",
            "mov r12, rax",
            "mov eax, {clone3}",
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor edi, edi",
            "mov rax, r14",
            "syscall",
            "ud2",
            "2:",
            "mov r13, rax",
            "rdtsc",
            "shl rdx, 32",
            "or rax, rdx",
            "sub rax, r12",
            clone3 = const libc::SYS_clone3,
            in("rdi") &raw const args,
            in("rsi") size_of::<CloneArgs>(),
            in("r14") call,
            out("rax") ticks,
            out("rdx") _,
            out("rcx") _,
            out("r11") _,
            out("r12") _,
            out("r13") ret,
        );
    }
    timed(ret, ticks)
}

/// A plain fork whose child exits at once.
pub(crate) fn fork() -> io::Result<Timed> {
    clone_that_exits(0)
}

/// A plain fork whose child sleeps until it is killed.
pub(crate) fn fork_that_lives() -> io::Result<Timed> {
    clone_that_only(libc::SYS_pause, 0)
}

/// A fork that shares the memory, and waits for its child to exit.
pub(crate) fn vfork() -> io::Result<Timed> {
    clone_that_exits((libc::CLONE_VM | libc::CLONE_VFORK) as u64)
}

/// How a child is made that only exits, or that becomes another program.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    Fork,
    Vfork,
    Sfork,
}

impl Way {
    fn flags(self) -> u64 {
        let vfork = (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
        match self {
            Self::Fork => 0,
            Self::Vfork => vfork,
            Self::Sfork => vfork | CLONE_SFORK,
        }
    }
}

/// From the call that makes a child, which executes this program or exits, until
/// it was waited for. Fails unless the child ends with 0.
pub(crate) fn spawn_and_wait(way: Way, program: Option<&CStr>) -> io::Result<u64> {
    let exit_signal = libc::SIGCHLD as u64;
    let args = CloneArgs { flags: way.flags(), exit_signal, ..CloneArgs::default() };
    let path = program.map_or(null(), CStr::as_ptr);
    let argv = [path, null()];
    let mut status: libc::c_int = 0;
    let (pid, waited, ticks): (i64, i64, u64);
    // SAFETY: `args`, the path and `argv` are readable, `status` is writable. What
    // returns 0 touches no memory, and ends; with sfork it returns from its end
    // with these registers, which is to the line below it.
    unsafe {
        asm!(
            "rdtsc",
            "shl rdx, 32",
            "or rax, rdx",
            "mov r12, rax",
            "mov eax, {clone3}",
            "syscall",
            "test rax, rax",
            "jnz 3f",
            "test r14, r14",
            "jz 2f",
            "mov rdi, r14",
            "mov rsi, r15",
            "lea rdx, [r15 + 8]",
            "mov eax, {execve}",
            "syscall",
            "test rax, rax",
            "jg 3f",
            "2:",
            "xor edi, edi",
            "test r14, r14",
            "setnz dil",
            "mov eax, {exit_group}",
            "syscall",
            "3:",
            "mov r14, rax",
            "mov rdi, rax",
            "mov rsi, r13",
            "xor edx, edx",
            "xor r10d, r10d",
            "mov eax, {wait4}",
            "syscall",
            "mov r13, rax",
            "rdtsc",
            "shl rdx, 32",
            "or rax, rdx",
            "sub rax, r12",
            clone3 = const libc::SYS_clone3,
            execve = const libc::SYS_execve,
            exit_group = const libc::SYS_exit_group,
            wait4 = const libc::SYS_wait4,
            inout("rdi") &raw const args => _,
            inout("rsi") size_of::<CloneArgs>() => _,
            in("r15") argv.as_ptr(),
            out("rax") ticks,
            out("rdx") _,
            out("rcx") _,
            out("r10") _,
            out("r11") _,
            out("r12") _,
            inout("r13") &raw mut status => waited,
            inout("r14") path => pid,
        );
    }
    timed(pid, ticks)?;
    match (waited == pid, status) {
        (true, 0) => Ok(ticks),
        _ => Err(io::Error::other(format!("{way:?}: the child ends with {status:#x}"))),
    }
}

/// A full fork. The replica of the caller, and so its process, exits at once.
pub(crate) fn full_fork(flags: u64) -> io::Result<Timed> {
    clone_that_exits(CLONE_ALL_THREADS | flags)
}

/// A full fork of the calling thread only, of a process without children.
pub(crate) fn full_fork_of_caller(flags: u64) -> io::Result<Timed> {
    clone_that_exits(CLONE_SUBTREE | flags)
}

/// A thread that waits as long as `word` is 0.
pub(crate) fn thread(word: &'static AtomicU32) -> io::Result<Timed> {
    let args = CloneArgs { flags: THREAD, ..CloneArgs::default() };
    let (ret, ticks): (i64, u64);
    // SAFETY: `args` is readable for its size. The thread reads `word`, which
    // lives for ever, touches no other memory, and ends, so that it may share the
    // stack of the caller.
    unsafe {
        asm!(
            "rdtsc",
            "shl rdx, 32",
            "or rax, rdx",
            "mov r12, rax",
            "mov eax, {clone3}",
            "syscall",
            "test rax, rax",
            "jnz 4f",
            "2:",
            "cmp dword ptr [r14], 0",
            "jne 3f",
            "mov rdi, r14",
            "mov esi, {wait}",
            "xor edx, edx",
            "xor r10d, r10d",
            "mov eax, {futex}",
            "syscall",
            "jmp 2b",
            "3:",
            "xor edi, edi",
            "mov eax, {exit}",
            "syscall",
            "ud2",
            "4:",
            "mov r13, rax",
            "rdtsc",
            "shl rdx, 32",
            "or rax, rdx",
            "sub rax, r12",
            clone3 = const libc::SYS_clone3,
            futex = const libc::SYS_futex,
            wait = const libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            exit = const libc::SYS_exit,
            in("rdi") &raw const args,
            in("rsi") size_of::<CloneArgs>(),
            in("r14") word.as_ptr(),
            out("rax") ticks,
            out("rdx") _,
            out("rcx") _,
            out("r11") _,
            out("r12") _,
            out("r13") ret,
        );
    }
    timed(ret, ticks)
}

/// Sleeps as long as `word` has this value, or wakes for no reason.
pub(crate) fn futex_wait(word: &AtomicU32, value: u32, private: bool) {
    let private = if private { libc::FUTEX_PRIVATE_FLAG } else { 0 };
    // SAFETY: the kernel reads `word`, which is borrowed for the call.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | private,
            value,
            null::<libc::timespec>(),
        );
    }
}

/// Wakes one who sleeps on `word`, in any process.
pub(crate) fn futex_wake(word: &AtomicU32) {
    // SAFETY: the kernel uses the address of `word` only as a name.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1);
    }
}

/// Waits for the end of any child.
pub(crate) fn reap() -> io::Result<()> {
    loop {
        // SAFETY: no status is asked for.
        if unsafe { libc::wait4(-1, null_mut(), 0, null_mut()) } > 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Reaps a child that has ended, if there is one.
pub(crate) fn reap_one_that_ended() -> io::Result<bool> {
    // SAFETY: no status is asked for.
    match unsafe { libc::waitpid(-1, null_mut(), libc::WNOHANG) } {
        -1 => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ECHILD) => Ok(false),
            error => Err(error),
        },
        pid => Ok(pid > 0),
    }
}
