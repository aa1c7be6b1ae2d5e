// SPDX-License-Identifier: MIT OR Apache-2.0

//! What `CLONE_ISOLATE` adds: to find out what is internal, and to copy it.

use std::io;
use std::process::{Child, Command};
use std::ptr::null_mut;

use super::Fallible;
use super::raw;
use super::subject::run_before_others;
use super::work::{repeat, settle_down};
use crate::record::{Figure, Held, Record, Size};

/// What each of these processes has, and nobody else: ten descriptors.
const PIPES: u32 = 5;
/// Descriptors of others, up to a thousand in all.
const DESCRIPTORS: u32 = 990;
/// How many objects of a kind are copied.
pub(crate) const OBJECTS: u32 = 100;
const MEGABYTES: usize = 100;

pub(super) fn measure(held: Held, samples: usize) -> Fallible<Vec<Record>> {
    take(Held::Pipes, PIPES)?;
    let other = hold(held)?;
    run_before_others()?;
    let of = |flags| {
        repeat(samples, || {
            let copy = raw::full_fork(flags)?;
            raw::reap()?;
            settle_down()?;
            Ok(copy.ticks)
        })
    };
    let size = Size::threads(1);
    let records = vec![
        Record::new(Figure::NotIsolated(held), size, of(0)?),
        Record::new(Figure::Isolated(held), size, of(raw::CLONE_ISOLATE)?),
    ];
    if let Some(mut other) = other {
        other.kill()?;
        other.wait()?;
    }
    Ok(records)
}

/// Takes it; there may be another process that has it too.
fn hold(held: Held) -> Fallible<Option<Child>> {
    match held {
        Held::Nothing => {}
        Held::Devices => take(held, DESCRIPTORS)?,
        Held::OthersEventfds => {
            take(Held::Eventfds, DESCRIPTORS)?;
            return Ok(Some(Command::new("sleep").arg("infinity").spawn()?));
        }
        Held::Memory => take_shared_memory()?,
        _ => take(held, OBJECTS)?,
    }
    Ok(None)
}

/// They stay open until the process ends, and through `execve()`.
fn take(held: Held, count: u32) -> io::Result<()> {
    for _ in 0..count {
        let mut pair = [0; 2];
        // SAFETY: `pair` has room for two descriptors, and the path ends with 0.
        let ret = unsafe {
            match held {
                Held::Devices => libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY),
                Held::Pipes => libc::pipe(pair.as_mut_ptr()),
                Held::Sockets => {
                    libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr())
                }
                Held::Timerfds => libc::timerfd_create(libc::CLOCK_MONOTONIC, 0),
                Held::Epolls => libc::epoll_create1(0),
                _ => libc::eventfd(0, 0),
            }
        };
        if ret < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn take_shared_memory() -> io::Result<()> {
    let (size, flags) = (MEGABYTES << 20, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: new memory at an address that the kernel chooses.
    let area =
        unsafe { libc::mmap(null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if area == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    for page in (0..size).step_by(4096) {
        // SAFETY: this memory was just mapped, and nobody else knows of it.
        unsafe { area.cast::<u8>().add(page).write_volatile(1) };
    }
    Ok(())
}
