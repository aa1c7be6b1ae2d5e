// SPDX-License-Identifier: MIT OR Apache-2.0

//! What every program does, and what must cost what it costs without full fork.

use super::raw::{self, ticks};
use super::subject::SmallStack;
use super::{Fallible, elf};
use crate::record::{Figure, Record, Size};

extern "C" fn return_at_once(argument: *mut libc::c_void) -> *mut libc::c_void {
    argument
}

extern "C" fn handler(_: libc::c_int) {}

/// How many calls one sample of the cheap ones adds up.
const CALLS: u64 = 100;

pub(crate) fn measure(samples: usize) -> Fallible<Vec<Record>> {
    let figure = |figure, once: &mut dyn FnMut() -> Fallible<u64>| {
        // The first ones fill caches.
        let all: Fallible<Vec<u64>> = (0..samples + 10).map(|_| once()).skip(10).collect();
        Ok::<_, Box<dyn std::error::Error>>(Record::new(figure, Size::threads(1), all?))
    };
    let attr = SmallStack::new()?;
    set_handler()?;
    let program = Program::new()?;
    Ok(vec![
        figure(Figure::Fork, &mut || reaped(&raw::fork()?))?,
        figure(Figure::Vfork, &mut || reaped(&raw::vfork()?))?,
        figure(Figure::Execve, &mut || program.run())?,
        figure(Figure::NullSyscall, &mut || Ok(null_syscalls()))?,
        figure(Figure::Signal, &mut || Ok(signals()))?,
        // Last: a process that had threads is another one to fork().
        figure(Figure::PthreadCreate, &mut || create_thread(&attr))?,
    ])
}

fn reaped(child: &raw::Timed) -> Fallible<u64> {
    raw::reap()?;
    Ok(child.ticks)
}

fn create_thread(attr: &SmallStack) -> Fallible<u64> {
    let before = ticks();
    let thread = attr.create(return_at_once)?;
    let after = ticks();
    // SAFETY: the thread exists, is joined once, and its value is not asked for.
    unsafe { libc::pthread_join(thread, std::ptr::null_mut()) };
    Ok(after - before)
}

fn null_syscalls() -> u64 {
    let before = ticks();
    for _ in 0..CALLS {
        // SAFETY: it touches no memory.
        unsafe { libc::syscall(libc::SYS_getppid) };
    }
    ticks() - before
}

fn set_handler() -> Fallible<()> {
    // SAFETY: all zeros is an action with no flags and an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    // SAFETY: `action` is readable, and the handler does nothing.
    match unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

fn signals() -> u64 {
    // SAFETY: neither touches memory.
    let (pid, tid) = unsafe { (libc::getpid(), libc::gettid()) };
    let before = ticks();
    for _ in 0..CALLS {
        // SAFETY: the handler of this signal does nothing.
        unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, libc::SIGUSR1) };
    }
    ticks() - before
}

/// A program that writes the clock as it starts to its standard output, and ends.
struct Program {
    path: std::ffi::CString,
}

/// x86-64: `rdtsc`, all of it on the stack, `write(1, it, 8)`, `exit(0)`.
const CODE: &[u8] = &[
    0x0f, 0x31, // rdtsc
    0x48, 0xc1, 0xe2, 0x20, // shl rdx, 32
    0x48, 0x09, 0xd0, // or rax, rdx
    0x50, // push rax
    0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, write
    0xbf, 0x01, 0x00, 0x00, 0x00, // mov edi, 1
    0x48, 0x89, 0xe6, // mov rsi, rsp
    0xba, 0x08, 0x00, 0x00, 0x00, // mov edx, 8
    0x0f, 0x05, // syscall
    0xb8, 0x3c, 0x00, 0x00, 0x00, // mov eax, exit
    0x31, 0xff, // xor edi, edi
    0x0f, 0x05, // syscall
];

impl Program {
    fn new() -> Fallible<Self> {
        Ok(Self { path: elf::write("clock", CODE)? })
    }

    /// From `execve()` to the first instruction of the program.
    fn run(&self) -> Fallible<u64> {
        let mut ends = [0; 2];
        // SAFETY: `ends` has room for two.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        let argv = [self.path.as_ptr(), std::ptr::null()];
        // SAFETY: this process has one thread, and its child only makes calls.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: `argv` and the path are strings that end.
            unsafe {
                libc::dup2(ends[1], 1);
                let before = ticks().to_ne_bytes();
                libc::write(1, before.as_ptr().cast(), before.len());
                let before = ticks().to_ne_bytes();
                libc::write(1, before.as_ptr().cast(), before.len());
                libc::execve(self.path.as_ptr(), argv.as_ptr(), argv[1..].as_ptr());
                libc::_exit(1);
            }
        }
        raw::reap()?;
        let mut clocks = [0_u64; 3];
        // SAFETY: `clocks` is writable for its size; both ends are ours to close.
        let got = unsafe {
            let got = libc::read(ends[0], clocks.as_mut_ptr().cast(), size_of_val(&clocks));
            libc::close(ends[0]);
            libc::close(ends[1]);
            got
        };
        if usize::try_from(got) != Ok(size_of_val(&clocks)) {
            return Err("the program that is executed does not say when it started".into());
        }
        // What writing the clock took is not of execve().
        let writing = clocks[1] - clocks[0];
        Ok((clocks[2] - clocks[1]).saturating_sub(writing))
    }
}
