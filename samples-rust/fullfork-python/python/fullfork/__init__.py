# SPDX-License-Identifier: MIT OR Apache-2.0
"""Full fork: copies of processes with all their threads, and a fork that returns once.

supported()    which flags of full fork this kernel knows; false if none
fork()         copy this process with all its threads
copy()         copy another process, or a tree of them
sfork()        start a program: this thread moves into the child, and back
Replica        a copy, as its maker holds it
Subprocess     a child that sfork() made

On a kernel, or behind a filter, that does not know what is asked for, each of the
three raises UnsupportedError. All other failures of the kernel are OSErrors, with a
sentence on what the number means there.


sfork
=====

    with fullfork.sfork() as p:                 # in the parent, then in the child
        os.chdir(directory)                     # in the child
        os.dup2(log, 1)
        p.exec("/bin/make", ["make", "all"])    # in the child, then in the parent
    print(p.pid, p.wait())                      # in the parent

fork() returns twice and vfork() too. sfork() returns once: the thread itself moves into
the child, and comes back from exec() or exit() with the child's PID. There is one flow of
control, and so an exception that is raised in the child, by exec() say because there is
no such program, comes out of the `with` in the parent. The child has then exited with 1.
A body that ends by itself has the child exit with 0. Children nest.

Memory is shared with the parent: what the body assigns is assigned. PID, file
descriptors, working directory, limits, credentials, namespaces and signal mask are
the child's own. That has consequences:

* A file object that the body opens is to be closed in it: in the parent its number
  is another file, or none. One that the body closes stays open in the parent.
* exec() and exit() of p are the ways out. os.execv() comes back with a wrong exception,
  os._exit() ends the parent too, by a signal. SystemExit comes out like any exception.
* Other threads are the parent's. They run on in the parent whenever they get the lock of
  the interpreter, which this thread gives up in the child as anywhere else: every few
  milliseconds if one of them waits for it, and while it waits for something itself.
  While exec() reads the program they wait, as with the module subprocess.
* os.register_at_fork() and exit handlers are not called.
* threading.get_ident() stays, threading.get_native_id() is the child's.
* Ctrl-C on a terminal reaches both, the parent when the thread is back.


Full fork
=========

    pid = fullfork.fork()
    if pid == 0:
        os._exit(work())        # the replica, with all threads
    print(pid.wait())           # pid is an int, and more

os.fork() copies one thread, and what the others hold stays locked in the child. fork()
copies all, each goes on where it was. The documentation of the kernel says what is
copied. Some of it matters in Python:

* Open files and shared memory are shared, as after os.fork(). A thread that reads from a
  pipe or a socket goes on to do so in the replica, and takes what its original waits for.
* What is unique is there twice: the state of random among it. Seed it in the replica.
* os.register_at_fork() is not called, as nothing is lost that it could mend.
* TIDs are new, unless keep_tids is asked for: see fork().
* A replica that is to end ends by os._exit(), or buffers are written a second time.
"""

from ._fullfork import Subprocess, UnsupportedError, sfork, supported
from ._replica import Replica, copy, fork

__all__ = [
    "Replica",
    "Subprocess",
    "UnsupportedError",
    "copy",
    "fork",
    "sfork",
    "supported",
]
