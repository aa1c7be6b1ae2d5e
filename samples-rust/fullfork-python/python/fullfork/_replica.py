# SPDX-License-Identifier: MIT OR Apache-2.0
"""Full forks, and the handle of what they make."""

from __future__ import annotations

import os
import select
import signal
from typing import Protocol

from ._fullfork import full_fork

_WALL = 0x40000000  # children with any exit signal


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


class Replica(int):
    """A copy of a process: its PID, as an int, with a pidfd of it.

    It can be given to whatever takes a PID. Forgetting it neither ends the copy nor
    waits for it.
    """

    tid_map: dict[int, int] | None
    """The TID of the replica of each original, if tid_map was asked for."""

    returncode: int | None
    """Its exit status, or minus the number of a signal, once it was waited for."""

    _pidfd: int
    _maker: int

    @classmethod
    def _make(cls, pid: int, pidfd: int, tid_map: dict[int, int] | None) -> Replica:
        self = cls(pid)
        self.tid_map = tid_map
        self.returncode = None
        self._pidfd = pidfd
        self._maker = os.getpid()
        return self

    @property
    def pid(self) -> int:
        """The PID, as its maker sees it."""
        return int(self)

    @property
    def pidfd(self) -> int:
        """A pidfd of it, to poll for its end. This object closes it."""
        if self._pidfd < 0:
            raise ValueError("the pidfd is closed")
        return self._pidfd

    def send_signal(self, number: int) -> None:
        """Sends it a signal, and nobody else, if it has ended."""
        signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        """Kills it."""
        self.send_signal(signal.SIGKILL)

    def resume(self) -> None:
        """Lets it go on, if it was made stopped."""
        self.send_signal(signal.SIGCONT)

    def poll(self) -> int | None:
        """The returncode if it has ended, which is reaped then; else None."""
        return self._reap(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int | None:
        """Waits until it ends, reaps it, and returns its returncode.

        None if it has not ended within timeout seconds.
        """
        if timeout is None or self.returncode is not None:
            return self._reap(0)
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        poll.poll(max(timeout, 0) * 1000)
        return self._reap(os.WNOHANG)

    def close(self) -> None:
        """Closes the pidfd. With kill_on_close that kills it."""
        # In another process, behind sfork() say, the number is another file.
        if self._pidfd >= 0 and self._maker == os.getpid():
            os.close(self._pidfd)
        self._pidfd = -1

    def _reap(self, options: int) -> int | None:
        if self.returncode is None:
            how = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | _WALL | options)
            if how is None:
                return None
            ended = how.si_code == os.CLD_EXITED
            self.returncode = how.si_status if ended else -how.si_status
        return self.returncode

    def __del__(self) -> None:
        if getattr(self, "_pidfd", -1) >= 0:
            self.close()

    def __repr__(self) -> str:
        return f"<fullfork.Replica {int(self)}>"


def _call(
    source: int | None,
    all_threads: bool,
    subtree: bool,
    stopped: bool,
    keep_tids: bool,
    new_pid_namespace: bool | None,
    no_new_privs: bool,
    exit_signal: int | None,
    autoreap: bool,
    kill_on_close: bool,
    sibling: bool,
    tid_map: bool,
) -> Replica | None:
    if sibling and (autoreap or kill_on_close):
        raise ValueError("sibling contradicts autoreap and kill_on_close")
    relation = "child"
    if kill_on_close:
        relation = "killed with pidfd"
    elif autoreap:
        relation = "autoreaped"
    elif sibling:
        relation = "sibling"
    if exit_signal is None:
        exit_signal = signal.SIGCHLD if relation == "child" else 0
    elif relation != "child":
        raise ValueError("exit_signal is for a child that is waited for")
    made = full_fork(
        {
            "all_threads": bool(all_threads),
            "subtree": bool(subtree),
            "stopped": bool(stopped),
            "keep_tids": bool(keep_tids),
            "new_pid_namespace": bool(
                keep_tids if new_pid_namespace is None else new_pid_namespace
            ),
            "no_new_privs": bool(no_new_privs),
            "tid_map": bool(tid_map),
            "relation": relation,
            "exit_signal": int(exit_signal),
        },
        source,
    )
    if made is None:
        return None
    pid, pidfd, tids = made
    return Replica._make(pid, pidfd, dict(tids) if tid_map else None)


def fork(
    all_threads: bool = True,
    subtree: bool = False,
    *,
    stopped: bool = False,
    keep_tids: bool = False,
    new_pid_namespace: bool | None = None,
    no_new_privs: bool = False,
    exit_signal: int | None = None,
    autoreap: bool = False,
    kill_on_close: bool = False,
    sibling: bool = False,
    tid_map: bool = False,
) -> Replica | int:
    """Copies this process, and returns the Replica, or 0 in it.

    all_threads: with all its threads. False, which needs subtree, is for a process
        that has one.
    subtree: with all processes below it, at the same instant.
    stopped: stopped, as by SIGSTOP, until Replica.resume().
    keep_tids: with the same TIDs, in another PID namespace, which needs a capability.
        Without it, a lock that records its owner's TID, and is held at that instant, has
        no owner in the replica. Python's own locks record none, but the C library takes
        such a lock while it starts a thread or loads a library.
    new_pid_namespace: False for the namespace that os.unshare() or os.setns() set for
        children; by default keep_tids makes a new one.
    no_new_privs: with no_new_privs.
    exit_signal: what tells the end to the parent; SIGCHLD by default, 0 for nothing.
    autoreap: needs no wait().
    kill_on_close: autoreap, and it is killed when Replica.close() is called, or the
        Replica forgotten. Needs a capability or no_new_privs.
    sibling: a child of the parent of this process, which alone can wait for it.
    tid_map: have Replica.tid_map.

    Raises UnsupportedError where the kernel does not know a flag, and OSError for its
    other answers: EBUSY where a thread could not be quiesced, EOPNOTSUPP where the
    process holds what cannot be copied, and more. Then nothing was copied. The replica
    of a thread that was in this call too, while another one copied the process, gets
    BlockingIOError (EAGAIN).
    """
    if not all_threads and subtree and len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("this process has several threads: all_threads=True")
    replica = _call(
        None,
        all_threads,
        subtree,
        stopped,
        keep_tids,
        new_pid_namespace,
        no_new_privs,
        exit_signal,
        autoreap,
        kill_on_close,
        sibling,
        tid_map,
    )
    return 0 if replica is None else replica


def copy(
    pid: int | Replica | _HasFileno,
    all_threads: bool = True,
    subtree: bool = False,
    *,
    stopped: bool = False,
    keep_tids: bool = False,
    new_pid_namespace: bool | None = None,
    no_new_privs: bool = False,
    exit_signal: int | None = None,
    autoreap: bool = False,
    kill_on_close: bool = False,
    sibling: bool = False,
    tid_map: bool = False,
) -> Replica:
    """Copies a running process, which this one may trace, and returns the Replica.

    pid: its PID; or a Replica; or what has a fileno() that is a pidfd.

    The others are those of fork(), but that keep_tids is the better choice for a
    program that one does not know. A copy of this process, or of one above it, ends
    in the copy with status 0; only this one returns.
    """
    opened = -1
    if isinstance(pid, Replica):
        source = pid.pidfd
    elif isinstance(pid, int):
        source = opened = os.pidfd_open(pid)
    elif hasattr(pid, "fileno"):
        source = pid.fileno()
    else:
        raise TypeError(f"neither a PID nor a pidfd: {pid!r}")
    try:
        replica = _call(
            source,
            all_threads,
            subtree,
            stopped,
            keep_tids,
            new_pid_namespace,
            no_new_privs,
            exit_signal,
            autoreap,
            kill_on_close,
            sibling,
            tid_map,
        )
    finally:
        if opened >= 0:
            os.close(opened)
    assert replica is not None  # the replica of a caller ends in the call
    return replica
