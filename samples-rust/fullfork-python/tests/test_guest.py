# SPDX-License-Identifier: MIT OR Apache-2.0
"""On a kernel with full fork. Each test has a process of its own."""

import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import fullfork

SH = Path("/bin/sh")
HERE = Path(__file__).resolve().parent
SOON = 60


class OurError(Exception):
    pass


def wait_until(what, is_so):
    deadline = time.monotonic() + SOON
    while not is_so():
        assert time.monotonic() < deadline, "not so: " + what
        time.sleep(0.005)


def raises(kind, function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except kind as error:
        return error
    raise AssertionError("no %s" % kind.__name__)


def children():
    with open("/proc/thread-self/children", encoding="ascii") as f:
        return f.read().split()


def state(pid):
    with open("/proc/%d/stat" % pid, encoding="ascii", errors="replace") as f:
        return f.read().rpartition(")")[2].split()[0]


def threads(pid):
    return len(os.listdir("/proc/%d/task" % pid))


def exit_code(pid):
    """What os.waitpid() says of it."""
    waited, status = os.waitpid(pid, 0)
    assert waited == pid
    return os.waitstatus_to_exitcode(status)


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=SOON,
    )


def supported_knows_the_flags():
    supported = fullfork.supported()
    assert supported
    for name in (
        "CLONE_ALL_THREADS",
        "CLONE_SUBTREE",
        "CLONE_STOPPED",
        "CLONE_FROM_PIDFD",
        "CLONE_KEEP_TIDS",
        "CLONE_SFORK",
    ):
        assert name in supported, name


# ---- sfork


def sfork_exit_leaves_the_child():
    parent = os.getpid()
    with fullfork.sfork() as p:
        child = os.getpid()
        assert child != parent and os.getppid() == parent
        assert p.pid is None
        p.exit(0)
        assert os.getpid() == parent
    assert p.pid == child
    assert exit_code(p.pid) == 0
    with fullfork.sfork() as p:
        p.exit(7)
    assert exit_code(p.pid) == 7


def sfork_end_of_the_body_leaves_the_child():
    parent = os.getpid()
    with fullfork.sfork() as p:
        pass
    assert p.pid is not None and os.getpid() == parent
    assert exit_code(p.pid) == 0


def sfork_without_with():
    parent = os.getpid()
    p = fullfork.sfork()
    assert os.getpid() == parent and not children()
    assert p.__enter__() is p
    assert os.getpid() != parent
    p.exit(3)
    assert os.getpid() == parent
    assert p.__exit__(None, None, None) is False
    assert p.wait() == 3
    raises(RuntimeError, p.__enter__)


def sfork_exception_leaves_the_child():
    parent = os.getpid()
    for error in (OurError, KeyboardInterrupt, SystemExit, GeneratorExit):
        try:
            with fullfork.sfork() as p:
                raise error
        except error:
            assert os.getpid() == parent
        else:
            raise AssertionError("no exception")
        assert exit_code(p.pid) == 1
    assert not children()


def sfork_exception_leaves_nested_children():
    parent = os.getpid()
    try:
        with fullfork.sfork() as outer:
            with fullfork.sfork() as inner:
                raise OurError
    except OurError as error:
        assert os.getpid() == parent
        assert error.__traceback__ is not None
    assert outer.pid is not None and inner.pid is not None
    assert outer.pid != inner.pid
    assert exit_code(outer.pid) == 1


def sfork_nested_exit():
    parent = os.getpid()
    with fullfork.sfork() as outer:
        first = os.getpid()
        with fullfork.sfork() as inner:
            assert os.getppid() == first
            inner.exit(5)
        assert os.getpid() == first
        assert inner.wait() == 5
        outer.exit(6)
    assert os.getpid() == parent
    assert outer.pid == first and outer.wait() == 6


def sfork_exec():
    parent = os.getpid()
    with fullfork.sfork() as p:
        p.exec(SH, ["sh", "-c", "true"])
        assert os.getpid() == parent
    assert p.pid is not None and exit_code(p.pid) == 0


def sfork_nested_exec():
    with fullfork.sfork() as outer:
        with fullfork.sfork() as inner:
            inner.exec(SH, ["sh", "-c", "exit 4"])
        assert inner.wait() == 4
        outer.exec(SH, ["sh", "-c", "exit 5"])
    assert inner.pid is not None and outer.wait() == 5


def sfork_failed_exec_stays_in_the_child():
    parent = os.getpid()
    with fullfork.sfork() as p:
        error = raises(FileNotFoundError, p.exec, "/no/such/program")
        assert error.filename == "/no/such/program"
        assert os.getpid() != parent and p.pid is None
        raises(PermissionError, p.exec, "/proc/version")
        assert os.getpid() != parent
        p.exec(SH, ["sh", "-c", "exit 3"])
    assert os.getpid() == parent and p.wait() == 3
    try:
        with fullfork.sfork() as p:
            p.exec("/no/such/program")
    except FileNotFoundError:
        pass
    assert os.getpid() == parent and exit_code(p.pid) == 1


def sfork_exec_takes_what_subprocess_takes():
    def run(*args, **kwargs):
        with fullfork.sfork() as p:
            p.exec(*args, **kwargs)
        return p.wait()

    assert run("/bin/true") == 0
    assert run(b"/bin/sh", (b"sh", "-c", Path("exit 2"))) == 2
    assert run("sh", ["x", "-c", '[ "$0" = x ] && exit 5'], search=True) == 5
    os.environ["SFORK_TEST"] = "6"
    assert run(SH, ["sh", "-c", "exit $SFORK_TEST"]) == 6
    assert run(SH, ["sh", "-c", "exit ${SFORK_TEST-8}"], {"A": "b"}) == 8
    assert run(SH, ["sh", "-c", "exit $A"], env={b"A": b"9"}) == 9
    raises(FileNotFoundError, run, "sh", ["sh", "-c", "exit 0"])
    assert run("sh", env={"PATH": "/bin"}, argv=["sh", "-c", "exit 4"], search=True) == 4
    # What Python ignores for itself the program does not.
    script = "[ $(( 0x$(sed -n 's/^SigIgn:.*\\(....\\)$/\\1/p' /proc/self/status) & 0x1000 )) = 0 ]"
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN
    assert run(SH, ["sh", "-c", script]) == 0


def sfork_rejects_what_cannot_be_run():
    parent = os.getpid()
    with fullfork.sfork() as p:
        raises(TypeError, p.exec, "/bin/sh", "sh")
        raises(TypeError, p.exec, "/bin/sh", b"sh")
        raises(TypeError, p.exec, 7)
        raises(TypeError, p.exec, "/bin/sh", ["sh", 7])
        raises(TypeError, p.exec, "/bin/sh", ["sh"], [])
        raises(ValueError, p.exec, "/bin/sh", ["sh", "a\0b"])
        raises(OSError, p.exec, "/bin/sh", ["sh"], {"A=": "b"})
        raises(FileNotFoundError, p.exec, "")
        raises(TypeError, p.exit, "1")
        assert os.getpid() != parent
        p.exit(4)
    assert p.wait() == 4


def sfork_sets_up_the_child_alone():
    here, limit = os.getcwd(), resource.getrlimit(resource.RLIMIT_NOFILE)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with tempfile.TemporaryDirectory() as directory:
        with open(directory + "/out", "wb") as out:
            with fullfork.sfork() as p:
                os.dup2(out.fileno(), 1)
                os.chdir(directory)
                os.umask(0o77)
                os.setpgid(0, 0)
                resource.setrlimit(resource.RLIMIT_NOFILE, (19, limit[1]))
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
                os.environ["SFORK_NAME"] = "value"
                p.exec(SH, ["sh", "-c", "pwd; umask; ulimit -n; echo $SFORK_NAME"])
        assert os.getpgid(p.pid) == p.pid
        assert p.wait() == 0
        with open(directory + "/out", encoding="ascii") as out:
            lines = out.read().splitlines()
        assert lines == [directory, "0077", "19", "value"], lines
    assert os.getcwd() == here
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limit
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == blocked
    assert os.umask(0o22) == 0o22
    # Memory is shared, and os.environ is memory.
    assert os.environ["SFORK_NAME"] == "value"


def sfork_shares_memory():
    numbers = []
    with fullfork.sfork():
        numbers.extend(range(100000))
        text = "".join(map(str, numbers))
        ident = threading.get_ident()
        native = threading.get_native_id()
    assert len(numbers) == 100000 and len(text) == 488890
    assert ident == threading.get_ident() and native != threading.get_native_id()


def sfork_out_of_order():
    parent = os.getpid()
    with fullfork.sfork() as outer:
        with fullfork.sfork() as inner:
            raises(RuntimeError, outer.exit, 0)
            raises(RuntimeError, outer.exec, SH)
            raises(RuntimeError, outer.wait)
            inner.exit(2)
        assert inner.wait() == 2
        outer.exit(3)
    assert os.getpid() == parent and outer.wait() == 3


def sfork_left_twice():
    with fullfork.sfork() as p:
        p.exit(2)
        raises(RuntimeError, p.exit, 0)
        raises(RuntimeError, p.exec, SH)
    assert p.wait() == 2 and p.wait() == 2 and p.returncode == 2
    raises(RuntimeError, p.exit, 0)


def sfork_outer_body_ends_first():
    parent = os.getpid()
    with fullfork.sfork() as outer:
        inner = fullfork.sfork()
        inner.__enter__()
    assert os.getpid() == parent
    assert inner.pid is not None and outer.wait() == 0
    raises(RuntimeError, inner.exit, 0)
    assert os.getpid() == parent


def in_thread(function):
    """What a function returns, or raises, in another thread."""
    result = []

    def run():
        try:
            result.append(function())
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(SOON)
    assert result, "the thread does not end"
    return result[0]


def sfork_in_another_thread():
    parent = os.getpid()

    def run():
        with fullfork.sfork() as p:
            p.exec(SH, ["sh", "-c", "exit 4"])
        return os.getpid(), p.wait()

    assert in_thread(run) == (parent, 4)
    # The child of a thread is nobody else's.
    go, done = threading.Event(), threading.Event()
    entered = []

    def stay():
        with fullfork.sfork() as p:
            entered.append(p)
            go.wait(SOON)
            p.exit(5)
        done.set()

    thread = threading.Thread(target=stay)
    thread.start()
    wait_until("the other thread is in its child", lambda: entered)
    assert os.getpid() == parent
    raises(RuntimeError, entered[0].exit, 0)
    raises(RuntimeError, entered[0].__exit__, None, None, None)
    assert os.getpid() == parent
    go.set()
    assert done.wait(SOON)
    thread.join()
    assert entered[0].wait() == 5


def sfork_other_threads_run_on():
    parent, pids, stop = os.getpid(), set(), threading.Event()
    rounds = [0]

    def count():
        while not stop.is_set():
            pids.add(os.getpid())
            rounds[0] += 1

    thread = threading.Thread(target=count)
    thread.start()
    with fullfork.sfork() as p:
        before = rounds[0]
        # This loop gives up the lock of the interpreter, in the child.
        wait_until("the other thread runs", lambda: rounds[0] > before + 1000)
        assert os.getpid() != parent
        p.exit(0)
    stop.set()
    thread.join()
    assert pids == {parent} and p.wait() == 0


def sfork_waits_for_locks_of_other_threads():
    lock, held, asked = threading.Lock(), threading.Event(), threading.Event()
    order = []

    def hold():
        with lock:
            held.set()
            asked.wait(SOON)
            order.append(os.getpid())

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(SOON)
    parent = os.getpid()
    with fullfork.sfork() as p:
        asked.set()
        with lock:
            order.append(os.getpid())
    thread.join()
    assert order == [parent, p.pid], order


def sfork_of_many_threads():
    parent, answers = os.getpid(), []

    def run(number):
        for round in range(5):
            with fullfork.sfork() as p:
                if round % 2:
                    p.exit(number)
                else:
                    p.exec(SH, ["sh", "-c", "exit %d" % number])
            assert os.getpid() == parent
            assert p.wait() == number
        return True

    workers = [
        threading.Thread(target=lambda n=n: answers.append(run(n))) for n in range(6)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert answers == [True] * 6
    assert not children()


def sfork_fork_and_subprocess_in_the_child():
    parent = os.getpid()
    with fullfork.sfork() as p:
        child = os.getpid()
        done = subprocess.run(["sh", "-c", "echo $PPID"], stdout=subprocess.PIPE, check=True)
        pid = os.fork()
        if pid == 0:
            os._exit(8)
        code = exit_code(pid)
    assert os.getpid() == parent and p.wait() == 0
    assert (int(done.stdout), code) == (child, 8)
    # A process that was forked in the body leaves it on its own.
    with fullfork.sfork() as p:
        pid = os.fork()
        if pid != 0:
            code = exit_code(pid)
            p.exit(code)
    if os.getpid() != parent:
        os._exit(13)
    assert p.wait() == 13


def sfork_left_by_execv():
    parent = os.getpid()
    try:
        with fullfork.sfork() as p:
            child = os.getpid()
            os.execv(SH, ["sh", "-c", "exit 6"])
    except OSError:
        pass
    assert os.getpid() == parent and p.pid == child
    assert exit_code(child) == 6


def sfork_keyboard_interrupt():
    # The shell that runs this in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parent = os.getpid()
    try:
        with fullfork.sfork() as p:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(SOON)
    except KeyboardInterrupt:
        assert os.getpid() == parent
    else:
        raise AssertionError("no KeyboardInterrupt")
    assert p.wait() == 1


def sfork_namespaces():
    with fullfork.sfork(namespaces=os.CLONE_NEWUTS | os.CLONE_NEWPID) as p:
        assert os.getpid() == 1
        socket.sethostname("sfork")
        p.exec(SH, ["sh", "-c", "[ $$ = 1 ] && [ $(uname -n) = sfork ]"])
    assert p.pid != 1 and p.wait() == 0
    assert socket.gethostname() != "sfork"


def sfork_shared_files():
    with fullfork.sfork(share_files=True, share_fs=True) as p:
        ours = os.open("/dev/null", os.O_RDONLY)
        os.chdir("/proc")
    os.fstat(ours)
    assert os.getcwd() == "/proc" and p.wait() == 0
    os.close(ours)
    with fullfork.sfork() as p:
        theirs = os.open("/dev/null", os.O_RDONLY)
        os.chdir("/dev")
    raises(OSError, os.fstat, theirs)
    assert os.getcwd() == "/proc" and p.wait() == 0


def sfork_wait_and_poll():
    with fullfork.sfork(exit_signal=0) as p:
        p.exec("/bin/sleep", ["sleep", "1000"])
    assert p.poll() is None and p.returncode is None
    os.kill(p.pid, signal.SIGTERM)
    assert p.wait() == -signal.SIGTERM == p.poll() == p.returncode
    raises(ChildProcessError, os.waitpid, p.pid, 0)
    got = []
    signal.signal(signal.SIGUSR1, lambda *_: got.append(1))
    with fullfork.sfork(exit_signal=signal.SIGUSR1) as p:
        p.exit(0)
    wait_until("the exit signal has come", lambda: got)
    assert p.wait() == 0
    assert "%d, ended with 0" % p.pid in repr(p)


def sfork_killed_child():
    done = python(
        "import fullfork, os, signal\n"
        "with fullfork.sfork():\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "print('survived')\n"
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, ""), done


def sfork_with_numpy_threads():
    numpy = with_numpy()
    a = numpy.ones((160, 160))
    with fullfork.sfork() as p:
        # OpenBLAS has its threads compute, which are in the parent.
        inside = (a @ a)[0, 0]
        p.exec(SH, ["sh", "-c", "exit 2"])
    assert inside == 160 == (a @ a)[0, 0]
    assert p.wait() == 2


# ---- full fork


def with_numpy():
    """numpy whose OpenBLAS has threads, started and waiting."""
    import numpy

    a = numpy.ones((160, 160))
    assert (a @ a)[0, 0] == 160
    # It makes no more of them than there are CPUs.
    assert threads(os.getpid()) >= min(os.cpu_count(), 2)
    return numpy


class Crew:
    """Threads of Python that wait in different ways, until they are let go."""

    def __init__(self):
        self.go, self.lock, self.answers = threading.Event(), threading.Lock(), []
        self.started = []
        self.threads = [
            threading.Thread(target=self.work, args=(way,), daemon=True)
            for way in (self.event, self.sleep, self.spin)
        ]
        for thread in self.threads:
            thread.start()
        wait_until("the crew has started", lambda: len(self.started) == len(self.threads))

    def work(self, way):
        self.started.append(way)
        way()
        with self.lock:
            self.answers.append(way.__name__)

    def event(self):
        self.go.wait()

    def sleep(self):
        while not self.go.is_set():
            time.sleep(0.002)

    def spin(self):
        while not self.go.is_set():
            pass

    def finish(self):
        self.go.set()
        for thread in self.threads:
            thread.join(SOON)
        return sorted(self.answers) == ["event", "sleep", "spin"]


def ends_with(check):
    """Ends a replica, with 0 if a check holds."""
    try:
        os._exit(0 if check() else 3)
    except BaseException:
        os._exit(4)


def fork_copies_all_threads():
    crew, parent = Crew(), os.getpid()
    replica = fullfork.fork()
    if replica == 0:
        ends_with(lambda: os.getppid() == parent and threads(os.getpid()) == 4 and crew.finish())
    assert isinstance(replica, fullfork.Replica) and replica.pid == replica > 0
    assert exit_code(replica) == 0
    assert crew.finish()


def fork_keeps_numpy_threads():
    numpy = with_numpy()
    a = numpy.arange(160.0 * 160).reshape(160, 160) / 1000
    expected, number = (a @ a).sum(), threads(os.getpid())
    replicas = []
    for _ in range(3):
        replica = fullfork.fork()
        if replica == 0:
            ends_with(lambda: (a @ a).sum() == expected and threads(os.getpid()) == number)
        replicas.append(replica)
    assert (a @ a).sum() == expected
    assert [replica.wait() for replica in replicas] == [0, 0, 0]


def fork_stopped_until_resumed():
    replica = fullfork.fork(stopped=True)
    if replica == 0:
        os._exit(5)
    wait_until("it is stopped", lambda: state(replica) == "T")
    assert replica.wait(timeout=0.05) is None and replica.poll() is None
    replica.resume()
    assert replica.wait(timeout=SOON) == 5


def fork_maps_tids():
    crew = Crew()
    own = {int(tid) for tid in os.listdir("/proc/self/task")}
    replica = fullfork.fork(tid_map=True, stopped=True)
    if replica == 0:
        os._exit(0)
    theirs = {int(tid) for tid in os.listdir("/proc/%d/task" % replica)}
    assert set(replica.tid_map) == own and set(replica.tid_map.values()) == theirs
    assert replica.tid_map[os.getpid()] == replica
    replica.kill()
    assert replica.wait() == -signal.SIGKILL
    assert crew.finish()


def fork_keeps_tids():
    crew, pid = Crew(), os.getpid()
    native = [thread.native_id for thread in crew.threads]
    replica = fullfork.fork(keep_tids=True)
    if replica == 0:
        ends_with(
            lambda: os.getpid() == pid
            and in_thread(threading.get_native_id) not in native
            and crew.finish()
        )
    assert replica != pid and replica.wait() == 0
    assert crew.finish()


def fork_of_a_tree():
    below = subprocess.Popen(["sleep", "1000"])
    replica = fullfork.fork(subtree=True, tid_map=True)
    if replica == 0:
        # The copy of the child is a child here, with a PID of its own.
        ends_with(lambda: len(children()) == 1 and int(children()[0]) != below.pid)
    copied = replica.tid_map[below.pid]
    assert replica.wait() == 0
    os.kill(copied, signal.SIGKILL)
    below.kill()
    assert below.wait() == -signal.SIGKILL


def fork_of_one_thread_with_its_tree():
    called = []
    os.register_at_fork(after_in_child=lambda: called.append(1))
    below = subprocess.Popen(["sleep", "1000"])
    replica = fullfork.fork(False, True, tid_map=True)
    if replica == 0:
        ends_with(
            lambda: called == [1]
            and len(children()) == 1
            and in_thread(threading.get_ident) != threading.get_ident()
        )
    os.kill(replica.tid_map[below.pid], signal.SIGKILL)
    assert replica.wait() == 0 and not called
    below.kill()
    below.wait()


def fork_refuses_to_lose_threads():
    crew = Crew()
    raises(RuntimeError, fullfork.fork, all_threads=False, subtree=True)
    raises(ValueError, fullfork.fork, all_threads=False)
    assert not children()
    assert crew.finish()


def fork_autoreaped_and_killed_on_close():
    replica = fullfork.fork(autoreap=True)
    if replica == 0:
        os._exit(0)
    # A pidfd of a process that was reaped can be read.
    assert select.select([replica.pidfd], [], [], SOON)[0]
    raises(ChildProcessError, replica.wait)
    replica = fullfork.fork(kill_on_close=True)
    if replica == 0:
        time.sleep(1000)
        os._exit(0)
    pidfd = os.dup(replica.pidfd)
    replica.close()
    os.close(pidfd)
    wait_until("it is gone", lambda: not os.path.exists("/proc/%d" % replica))


def fork_exit_signal_and_wait():
    got = []
    signal.signal(signal.SIGUSR2, lambda *_: got.append(1))
    replica = fullfork.fork(exit_signal=signal.SIGUSR2)
    if replica == 0:
        os._exit(6)
    wait_until("the exit signal has come", lambda: got)
    assert replica.wait() == 6 == replica.returncode == replica.poll()
    silent = fullfork.fork(exit_signal=0, no_new_privs=True)
    if silent == 0:
        with open("/proc/self/status", encoding="utf-8") as f:
            ends_with(lambda: "NoNewPrivs:\t1" in f.read())
    assert silent.wait() == 0
    sibling = fullfork.fork(sibling=True)
    if sibling == 0:
        os._exit(0)
    raises(ChildProcessError, sibling.wait)


COUNTER = """
import os, sys, threading, time
def work():
    while not os.path.exists(sys.argv[1] + "/go"):
        time.sleep(0.01)
thread = threading.Thread(target=work)
thread.start()
open(sys.argv[1] + "/up", "w").close()
thread.join()
os._exit(9)
"""


def copy_by_pid_and_by_pidfd():
    with tempfile.TemporaryDirectory() as directory:
        original = subprocess.Popen([sys.executable, "-c", COUNTER, directory])
        wait_until("it is up", lambda: os.path.exists(directory + "/up"))
        first = fullfork.copy(original.pid, keep_tids=True, tid_map=True)
        assert len(first.tid_map) == 2
        second = fullfork.copy(original.pid, stopped=True)
        # A Replica is a pidfd.
        third = fullfork.copy(second)
        open(directory + "/go", "w").close()
        second.resume()
        third.resume()
        codes = [r.wait(SOON) for r in (first, second, third)]
        assert codes == [9, 9, 9], codes
        assert original.wait(SOON) == 9


def copy_of_itself():
    parent = os.getpid()
    replica = fullfork.copy(os.getpid())
    assert os.getpid() == parent
    assert replica.wait() == 0


def copy_of_nothing():
    pid = subprocess.Popen(["true"]).pid
    exit_code(pid)
    raises(ProcessLookupError, fullfork.copy, pid)
    with open("/dev/null", "rb") as f:
        error = raises(OSError, fullfork.copy, f)
        assert not isinstance(error, fullfork.UnsupportedError)
    raises(OSError, fullfork.copy, 2)  # a kernel thread
    assert not children()


def preloaded_server():
    program = HERE.parent / "examples" / "preloaded_server.py"
    done = subprocess.run(
        [sys.executable, program, "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=4 * SOON,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("answered by replica") == 2
    times = float(done.stdout.split("ready ")[-1].split(" times sooner")[0])
    assert times > 3, times


TESTS = [
    value
    for name, value in list(globals().items())
    if name.startswith(("supported_", "sfork_", "fork_", "copy_", "preloaded_"))
    and callable(value)
]
