// SPDX-License-Identifier: GPL-2.0

// Copyright (c) 2026 The full fork developers

//! A store of snapshots: copy a process once as a template, run copies of that often.
//!
//! An open file of `/dev/rust-fullfork` keeps templates: stopped copies of a process with all its
//! threads, or of a tree of processes. Closing it kills them. The ioctls are in `rust_fullfork.h`:
//!
//! - `RUST_FULLFORK_SNAPSHOT` makes a template of the process that a pidfd names,
//! - `RUST_FULLFORK_SPAWN` makes a running copy of a template, a child of the caller,
//! - `RUST_FULLFORK_LIST` and `RUST_FULLFORK_PROCESSES` tell what there is,
//! - `RUST_FULLFORK_DROP` kills a template.
//!
//! At each of them full fork decides whether the caller may copy that: who has got the file from
//! somebody else can spawn only what it could attach to with ptrace().
//!
//! What a template is to others:
//!
//! - A child of who made it. It causes no SIGCHLD, and nobody has to wait for it, but who waits for
//!   any child does not come to an end while it is there. When it is killed, those that were copied
//!   below its root are adopted, as when any parent dies.
//! - A member of the process groups and sessions of its originals, unless their leaders are copied
//!   too. It gets the signals that these get: SIGCONT lets it run.
//! - Somebody who has the files open that its originals have. If that of the store is among them,
//!   no other close is the last one: the template lives until it is dropped or killed.
//! - With `CLONE_KEEP_TIDS`, a process of a PID namespace of its own. Copies are made in there,
//!   with other TIDs, unless they are to keep the TIDs as well; and if one of the originals was the
//!   init of its namespace, such copies are killed with the template.
//!
//! # Example
//!
//! ```c
//! #include <fcntl.h>
//! #include <stdio.h>
//! #include <stdlib.h>
//! #include <sys/ioctl.h>
//! #include <sys/syscall.h>
//! #include <sys/wait.h>
//! #include <unistd.h>
//! #include <linux/sched.h>
//! #include "rust_fullfork.h"
//!
//! // Three more of process argv[1], each as it is now, one after the other.
//! int main(int argc, char **argv)
//! {
//!     struct rust_fullfork_snapshot snapshot = { .flags = CLONE_ALL_THREADS | CLONE_SUBTREE };
//!     struct rust_fullfork_spawn spawn = { .exit_signal = SIGCHLD };
//!     int store = open("/dev/rust-fullfork", O_RDWR | O_CLOEXEC);
//!
//!     snapshot.pidfd = syscall(SYS_pidfd_open, atoi(argv[1]), 0);
//!     if (ioctl(store, RUST_FULLFORK_SNAPSHOT, &snapshot)) {
//!         perror("snapshot");
//!         return 1;
//!     }
//!     spawn.id = snapshot.id;
//!     for (int i = 0; i < 3; i++) {
//!         if (ioctl(store, RUST_FULLFORK_SPAWN, &spawn)) {
//!             perror("spawn");
//!             return 1;
//!         }
//!         waitpid(spawn.pid, NULL, 0);
//!         close(spawn.pidfd);
//!     }
//!     return 0;
//! }
//! ```

use core::{
    marker::PhantomData,
    mem::{
        offset_of,
        size_of, //
    }, //
};
use kernel::{
    fs::File,
    fullfork::{
        Flag,
        Flags,
        Process,
        Replica,
        Request,
        Template,
        TASK_COMM_LEN, //
    },
    ioctl::{
        _IOW,
        _IOWR, //
    },
    miscdevice::{
        MiscDevice,
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    new_mutex,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        Arc,
        Mutex,
        UniqueArc, //
    },
    task::Pid,
    uaccess::{
        UserPtr,
        UserSlice,
        UserSliceReader,
        UserSliceWriter, //
    },
};

module! {
    type: RustFullforkModule,
    name: "rust_fullfork",
    authors: ["The full fork developers"],
    description: "Rust store of snapshots of processes",
    license: "GPL",
}

/// A struct that is shared with user space.
trait UserData: Sized {
    fn read(reader: &mut UserSliceReader) -> Result<Self>;
    fn write(&self, writer: &mut UserSliceWriter) -> Result;
}

/// Declares structs of `rust_fullfork.h`. They are read and written field by field, which is all of
/// them: there is no padding.
macro_rules! user_data {
    ($(
        $(#[$attr:meta])*
        struct $name:ident {
            $( $field:ident: $type:ty, )*
        }
    )*) => {$(
        $(#[$attr])*
        #[repr(C)]
        struct $name {
            $( $field: $type, )*
        }

        const _: () = assert!(size_of::<$name>() == 0 $( + size_of::<$type>() )*);

        impl UserData for $name {
            fn read(reader: &mut UserSliceReader) -> Result<Self> {
                Ok(Self { $( $field: reader.read()?, )* })
            }

            fn write(&self, writer: &mut UserSliceWriter) -> Result {
                $( writer.write(&self.$field)?; )*
                Ok(())
            }
        }
    )*};
}

user_data! {
    /// `struct rust_fullfork_snapshot`
    struct SnapshotArgs {
        flags: u64,
        pidfd: i32,
        id: u32,
        pid: u32,
        nr_processes: u32,
        nr_threads: u32,
        reserved: u32,
    }

    /// `struct rust_fullfork_spawn`
    struct SpawnArgs {
        flags: u64,
        id: u32,
        exit_signal: u32,
        pidfd: i32,
        pid: u32,
    }

    /// `struct rust_fullfork_list`
    struct ListArgs {
        entries: u64,
        nr: u32,
        id: u32,
    }

    /// `struct rust_fullfork_template`
    struct TemplateEntry {
        flags: u64,
        id: u32,
        pid: u32,
        nr_processes: u32,
        nr_threads: u32,
    }

    /// `struct rust_fullfork_process`
    struct ProcessEntry {
        pid: u32,
        original: u32,
        nr_threads: u32,
        flags: u32,
        comm: [u8; TASK_COMM_LEN],
    }

    /// The `__u32` that `RUST_FULLFORK_DROP` takes
    struct DropArgs {
        id: u32,
    }
}

const SNAPSHOT: u32 = _IOWR::<SnapshotArgs>('|' as u32, 0xa0);
const SPAWN: u32 = _IOWR::<SpawnArgs>('|' as u32, 0xa1);
const LIST: u32 = _IOWR::<ListArgs>('|' as u32, 0xa2);
const PROCESSES: u32 = _IOWR::<ListArgs>('|' as u32, 0xa3);
const DROP: u32 = _IOW::<DropArgs>('|' as u32, 0xa4);

const PROCESS_STOPPED: u32 = 0x1;
const PROCESS_GONE: u32 = 0x2;

/// `CLONE_STOPPED`, which is no flag of a request: there are two ways to make it.
const CLONE_STOPPED: u64 = 1 << 60;

/// An address in user space where `T` is, or an array of them.
struct UserAddr<T> {
    at: UserPtr,
    _data: PhantomData<T>,
}

impl<T: UserData> UserAddr<T> {
    fn new(addr: usize) -> Self {
        Self {
            at: UserPtr::from_addr(addr),
            _data: PhantomData,
        }
    }

    /// The address of a field, or of an entry of an array.
    fn offset(&self, bytes: usize) -> UserPtr {
        self.at.wrapping_byte_add(bytes)
    }

    fn read(&self) -> Result<T> {
        T::read(&mut UserSlice::new(self.at, size_of::<T>()).reader())
    }

    fn write(&self, data: &T) -> Result {
        self.write_entry(0, data)
    }

    fn write_entry(&self, index: u32, data: &T) -> Result {
        let at = self.offset(index as usize * size_of::<T>());

        data.write(&mut UserSlice::new(at, size_of::<T>()).writer())
    }
}

impl ListArgs {
    /// Writes those of `entries` that fit, and says how many there are.
    fn write_list<T: UserData>(
        mut self,
        arg: &UserAddr<Self>,
        entries: impl Iterator<Item = T>,
    ) -> Result {
        let array = UserAddr::new(usize::try_from(self.entries).map_err(|_| EFAULT)?);
        let mut nr = 0;

        for entry in entries {
            if nr < self.nr {
                array.write_entry(nr, &entry)?;
            }
            nr += 1;
        }
        self.nr = nr;
        arg.write(&self)
    }
}

impl TemplateEntry {
    fn new(id: u32, template: &Template) -> Self {
        Self {
            flags: (template.flags() & snapshot_flags()).into(),
            id,
            pid: user_pid(template.root().pid_vnr()),
            nr_processes: template.processes().len() as u32,
            nr_threads: template.nr_threads(),
        }
    }
}

impl ProcessEntry {
    fn new(process: &Replica) -> Self {
        let mut flags = 0;

        if process.was_stopped() {
            flags |= PROCESS_STOPPED;
        }
        if process.is_gone() {
            flags |= PROCESS_GONE;
        }
        Self {
            pid: user_pid(process.pid_vnr()),
            original: user_pid(process.original_vnr()),
            nr_threads: process.nr_threads(),
            flags,
            comm: process.comm(),
        }
    }
}

/// A PID, which is never negative.
fn user_pid(pid: Pid) -> u32 {
    pid as u32
}

/// What may be asked of a snapshot.
fn snapshot_flags() -> Flags {
    Flag::AllThreads | Flag::Subtree | Flag::KeepTids | Flag::NewPid | Flag::NoNewPrivs
}

/// What may be asked of a copy of a template, beside `CLONE_STOPPED`.
fn spawn_flags() -> Flags {
    Flag::KeepTids | Flag::NewPid | Flag::NoNewPrivs | Flag::AutoReap
}

/// `EINVAL` unless all bits are in `allowed`.
fn parse_flags(bits: u64, allowed: Flags) -> Result<Flags> {
    let flags = Flags::try_from(bits)?;

    if !allowed.contains_all(flags) {
        return Err(EINVAL);
    }
    Ok(flags)
}

/// What an open file keeps, by numbers of which none is used twice: somebody who still has that of
/// something that was dropped does not get something else.
struct Store<T> {
    last_id: u32,
    kept: RBTree<u32, Arc<T>>,
}

impl<T> Store<T> {
    fn new() -> Self {
        Self {
            last_id: 0,
            kept: RBTree::new(),
        }
    }

    /// Returns a number that was not used yet; never 0.
    fn new_id(&mut self) -> Result<u32> {
        self.last_id = self.last_id.checked_add(1).ok_or(ENOSPC)?;
        Ok(self.last_id)
    }

    fn insert(&mut self, id: u32, kept: Arc<T>, node: RBTreeNodeReservation<u32, Arc<T>>) {
        self.kept.insert(node.into_node(id, kept));
    }

    fn get(&self, id: u32) -> Result<Arc<T>> {
        self.kept.get(&id).cloned().ok_or(ENOENT)
    }

    /// The first one whose number is above `id`.
    fn next(&self, id: u32) -> Option<(u32, Arc<T>)> {
        let cursor = self.kept.cursor_lower_bound(&id.checked_add(1)?)?;
        let (id, kept) = cursor.current();

        Some((*id, kept.clone()))
    }

    fn remove(&mut self, id: u32) -> Result<Arc<T>> {
        self.kept.remove(&id).ok_or(ENOENT)
    }
}

/// An open file.
///
/// The lock is held for a look at the store and no longer: neither across a copy, which waits for
/// others, nor across an access to user memory, nor when a template is killed. Who uses a template
/// meanwhile has a reference to it.
#[pin_data]
struct RustFullfork {
    #[pin]
    store: Mutex<Store<Template>>,
}

impl RustFullfork {
    fn snapshot(&self, arg: UserAddr<SnapshotArgs>) -> Result {
        let mut args = arg.read()?;

        if args.reserved != 0 {
            return Err(EINVAL);
        }
        let flags = parse_flags(args.flags, snapshot_flags())?;
        let source = Process::from_pidfd(args.pidfd.try_into().map_err(|_| EBADF)?)?;

        // What can fail, fails here. The results should find the same memory.
        arg.write(&args)?;
        let slot = UniqueArc::new_uninit(GFP_KERNEL_ACCOUNT)?;
        let node = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
        let id = self.store.lock().new_id()?;

        // The caller is not bothered with a child, which it did not ask for.
        let request = Request::new(&source, flags | Flag::AutoReap);
        let template: Arc<Template> = slot.write(request.copy_stopped()?).into();

        args.id = id;
        args.pid = user_pid(template.root().pid_vnr());
        args.nr_processes = template.processes().len() as u32;
        args.nr_threads = template.nr_threads();
        arg.write(&args)?;

        self.store.lock().insert(id, template, node);
        Ok(())
    }

    fn spawn(&self, arg: UserAddr<SpawnArgs>) -> Result {
        let args = arg.read()?;
        let flags = parse_flags(args.flags & !CLONE_STOPPED, spawn_flags())?;
        let exit_signal = args.exit_signal.try_into().map_err(|_| EINVAL)?;
        let template = self.get(args.id)?;

        let request = template
            .request(flags)
            .exit_signal(exit_signal)
            .pidfd(arg.offset(offset_of!(SpawnArgs, pidfd)))
            .parent_tid(arg.offset(offset_of!(SpawnArgs, pid)));
        if args.flags & CLONE_STOPPED != 0 {
            request.copy_stopped()?.leave_stopped();
        } else {
            request.copy()?;
        }
        Ok(())
    }

    fn list(&self, arg: UserAddr<ListArgs>) -> Result {
        let args = arg.read()?;
        let mut last = 0;

        if args.id != 0 {
            return Err(EINVAL);
        }
        let templates = core::iter::from_fn(|| {
            let (id, template) = self.store.lock().next(last)?;

            last = id;
            Some(TemplateEntry::new(id, &template))
        });
        args.write_list(&arg, templates)
    }

    fn processes(&self, arg: UserAddr<ListArgs>) -> Result {
        let args = arg.read()?;
        let template = self.get(args.id)?;

        args.write_list(&arg, template.processes().iter().map(ProcessEntry::new))
    }

    fn drop_template(&self, arg: UserAddr<DropArgs>) -> Result {
        let id = arg.read()?.id;
        let template = self.store.lock().remove(id)?;

        // Whoever copies it just now still has it.
        drop(template);
        Ok(())
    }

    fn get(&self, id: u32) -> Result<Arc<Template>> {
        self.store.lock().get(id)
    }
}

#[vtable]
impl MiscDevice for RustFullfork {
    type Ptr = Pin<KBox<Self>>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Pin<KBox<Self>>> {
        KBox::pin_init(
            pin_init!(Self {
                store <- new_mutex!(Store::new()),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    fn ioctl(me: Pin<&Self>, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            SNAPSHOT => me.snapshot(UserAddr::new(arg))?,
            SPAWN => me.spawn(UserAddr::new(arg))?,
            LIST => me.list(UserAddr::new(arg))?,
            PROCESSES => me.processes(UserAddr::new(arg))?,
            DROP => me.drop_template(UserAddr::new(arg))?,
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }
}

#[pin_data]
struct RustFullforkModule {
    #[pin]
    _miscdev: MiscDeviceRegistration<RustFullfork>,
}

impl kernel::InPlaceModule for RustFullforkModule {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        let options = MiscDeviceOptions {
            name: c"rust-fullfork",
        };

        try_pin_init!(Self {
            _miscdev <- MiscDeviceRegistration::register(options),
        })
    }
}

#[kunit_tests(rust_fullfork)]
mod tests {
    use super::*;

    fn keep(store: &mut Store<u32>, value: u32) -> Result<u32> {
        let node = RBTreeNodeReservation::new(GFP_KERNEL)?;
        let id = store.new_id()?;

        store.insert(id, Arc::new(value, GFP_KERNEL)?, node);
        Ok(id)
    }

    fn get(store: &Store<u32>, id: u32) -> Option<u32> {
        store.get(id).ok().map(|kept| *kept)
    }

    #[test]
    fn ioctls_are_those_of_the_header() {
        assert_eq!(SNAPSHOT, 0xc020_7ca0);
        assert_eq!(SPAWN, 0xc018_7ca1);
        assert_eq!(LIST, 0xc010_7ca2);
        assert_eq!(PROCESSES, 0xc010_7ca3);
        assert_eq!(DROP, 0x4004_7ca4);
    }

    #[test]
    fn entries_have_the_sizes_of_the_header() {
        assert_eq!(size_of::<TemplateEntry>(), 24);
        assert_eq!(size_of::<ProcessEntry>(), 32);
    }

    #[test]
    fn results_of_spawn_are_where_the_header_has_them() {
        assert_eq!(offset_of!(SpawnArgs, pidfd), 16);
        assert_eq!(offset_of!(SpawnArgs, pid), 20);
    }

    #[test]
    fn snapshot_takes_its_flags() {
        let whole_tree = Flag::AllThreads | Flag::Subtree;

        assert!(parse_flags(u64::from(whole_tree), snapshot_flags()) == Ok(whole_tree));
        for flags in [whole_tree | Flag::AutoReap, whole_tree | Flag::Parent] {
            assert!(parse_flags(u64::from(flags), snapshot_flags()) == Err(EINVAL));
        }
    }

    #[test]
    fn spawn_takes_its_flags() {
        assert!(parse_flags(0, spawn_flags()) == Ok(Flags::empty()));
        for flag in [Flag::AllThreads, Flag::Subtree, Flag::Parent] {
            let bits = u64::from(Flags::from(flag));

            assert!(parse_flags(bits, spawn_flags()) == Err(EINVAL));
        }
    }

    #[test]
    fn unknown_flags_are_refused() {
        for bit in [1, 1 << 8, CLONE_STOPPED, 1 << 63] {
            assert!(parse_flags(bit, snapshot_flags()) == Err(EINVAL));
            assert!(parse_flags(bit, spawn_flags()) == Err(EINVAL));
        }
    }

    #[test]
    fn store_returns_what_it_keeps() -> Result {
        let mut store = Store::new();
        let first = keep(&mut store, 10)?;
        let second = keep(&mut store, 20)?;

        assert!(first != 0 && second != 0 && first != second);
        assert_eq!(get(&store, first), Some(10));
        assert_eq!(get(&store, second), Some(20));
        assert_eq!(get(&store, 0), None);
        assert_eq!(get(&store, second + 1), None);
        Ok(())
    }

    #[test]
    fn store_uses_no_id_again() -> Result {
        let mut store = Store::new();
        let first = keep(&mut store, 10)?;

        assert_eq!(*store.remove(first)?, 10);
        assert!(store.remove(first).err() == Some(ENOENT));
        assert!(keep(&mut store, 20)? != first);
        assert_eq!(get(&store, first), None);
        Ok(())
    }

    #[test]
    fn store_ends_with_the_last_id() -> Result {
        let mut store = Store::new();

        store.last_id = u32::MAX - 1;
        assert_eq!(keep(&mut store, 10)?, u32::MAX);
        assert!(keep(&mut store, 20) == Err(ENOSPC));
        assert_eq!(get(&store, u32::MAX), Some(10));
        assert!(store.next(u32::MAX).is_none());
        Ok(())
    }

    #[test]
    fn store_is_walked_in_order() -> Result {
        let mut store = Store::new();

        for value in 10..20 {
            keep(&mut store, value)?;
        }
        store.remove(1)?;
        store.remove(5)?;
        store.remove(10)?;

        let mut seen = KVec::new();
        let mut last = 0;
        while let Some((id, value)) = store.next(last) {
            assert_eq!(*value, id + 9);
            seen.push(id, GFP_KERNEL)?;
            last = id;
        }
        assert!(seen.as_slice() == [2, 3, 4, 6, 7, 8, 9]);
        Ok(())
    }

    #[test]
    fn what_is_dropped_lives_while_it_is_used() -> Result {
        let mut store = Store::new();
        let id = keep(&mut store, 10)?;
        let used = store.get(id)?;

        drop(store.remove(id)?);
        assert_eq!(get(&store, id), None);
        assert_eq!(*used, 10);
        Ok(())
    }
}
