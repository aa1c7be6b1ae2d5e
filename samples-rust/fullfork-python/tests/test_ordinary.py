# SPDX-License-Identifier: MIT OR Apache-2.0
"""On an ordinary kernel there is one clear exception, and nothing else happens. And
what can be said of the package on any machine."""

import ast
import contextlib
import inspect
import os
import subprocess
import sys
import threading
from pathlib import Path

import fullfork
from fullfork import _fullfork

PACKAGE = Path(fullfork.__file__).parent


def children():
    with open("/proc/thread-self/children", encoding="ascii") as f:
        return f.read().split()


@contextlib.contextmanager
def raises(kind, text=""):
    """The body fails so, and makes no process."""
    pid, before = os.getpid(), children()
    try:
        yield
    except kind as error:
        assert text in str(error), str(error)
    else:
        raise AssertionError("no %s" % kind.__name__)
    assert (os.getpid(), children()) == (pid, before)


def this_is_an_ordinary_kernel():
    assert fullfork.supported() == frozenset(), "these tests are for an ordinary kernel"
    assert not fullfork.supported()


def sfork_is_refused():
    with raises(fullfork.UnsupportedError, "this kernel does not support CLONE_SFORK"):
        with fullfork.sfork():
            os._exit(9)


def a_refused_sfork_can_be_tried_again():
    p = fullfork.sfork()
    for _ in range(3):
        with raises(fullfork.UnsupportedError):
            p.__enter__()
    assert p.pid is None and p.returncode is None
    with raises(RuntimeError, "not entered"):
        p.exec("/bin/true")
    with raises(RuntimeError, "not entered"):
        p.exit(0)
    with raises(RuntimeError, "no child yet"):
        p.wait()
    with raises(RuntimeError, "no child yet"):
        p.poll()
    assert p.__exit__(None, None, None) is False


def fork_is_refused():
    with raises(fullfork.UnsupportedError, "this kernel does not support CLONE_ALL_THREADS"):
        fullfork.fork()
    with raises(fullfork.UnsupportedError, "CLONE_ALL_THREADS, CLONE_SUBTREE"):
        fullfork.fork(subtree=True)
    with raises(fullfork.UnsupportedError, "CLONE_SUBTREE"):
        fullfork.fork(all_threads=False, subtree=True)
    with raises(fullfork.UnsupportedError, "CLONE_KEEP_TIDS"):
        fullfork.fork(keep_tids=True, stopped=True, no_new_privs=True, tid_map=True)
    with raises(fullfork.UnsupportedError):
        fullfork.fork(autoreap=True)


def copy_is_refused():
    with raises(fullfork.UnsupportedError, "CLONE_FROM_PIDFD"):
        fullfork.copy(os.getpid())
    with raises(fullfork.UnsupportedError):
        fullfork.copy(os.getpid(), subtree=True, sibling=True)


def the_exception_is_an_oserror():
    assert issubclass(fullfork.UnsupportedError, OSError)
    try:
        fullfork.fork()
    except OSError as error:
        assert error.errno > 0 and error.strerror
    else:
        raise AssertionError("no exception")


def a_program_that_does_not_catch_it_shows_one_line():
    code = "import fullfork\nwith fullfork.sfork():\n    pass\n"
    done = subprocess.run(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("fullfork.UnsupportedError: [Errno ") and "CLONE_SFORK" in last


def refusals_leave_no_files_open():
    def number():
        return len(os.listdir("/proc/self/fd"))

    before = number()
    for _ in range(10):
        with raises(fullfork.UnsupportedError):
            fullfork.copy(os.getpid())
        with raises(fullfork.UnsupportedError):
            fullfork.fork()
    assert number() == before


def other_threads_run_on():
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    with raises(fullfork.UnsupportedError):
        fullfork.fork()
    go.set()
    thread.join(10)
    assert not thread.is_alive()


def contradictions_are_value_errors():
    for arguments in (
        {"all_threads": False},
        {"new_pid_namespace": True},
        {"sibling": True, "autoreap": True},
        {"sibling": True, "kill_on_close": True},
        {"autoreap": True, "exit_signal": 10},
        {"exit_signal": 4711},
        {"exit_signal": -1},
    ):
        with raises(ValueError):
            fullfork.fork(**arguments)
        with raises(ValueError):
            fullfork.copy(os.getpid(), **arguments)
    for arguments in ({"exit_signal": -1}, {"namespaces": 1}, {"cgroup": -1}):
        with raises(ValueError):
            fullfork.sfork(**arguments)


def one_thread_of_several_is_refused():
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    with raises(RuntimeError, "several threads"):
        fullfork.fork(all_threads=False, subtree=True)
    go.set()
    thread.join()


def wrong_types_and_processes_are_named():
    with raises(TypeError, "neither a PID nor a pidfd"):
        fullfork.copy("1")
    with raises(ProcessLookupError):
        fullfork.copy(0x3FFFFFFF)
    with raises(TypeError):
        fullfork.sfork(True)
    with raises(TypeError):
        fullfork.fork(True, False, True)
    with raises(TypeError):
        fullfork.Subprocess()


def a_replica_is_an_int():
    pidfd = os.pidfd_open(os.getpid())
    replica = fullfork.Replica._make(os.getpid(), pidfd, {1: 2})
    assert replica == replica.pid == os.getpid() and replica.pidfd == pidfd
    assert replica.tid_map == {1: 2} and repr(replica).startswith("<fullfork.Replica ")
    assert replica.returncode is None
    with raises(ChildProcessError):
        replica.poll()
    replica.close()
    replica.close()
    with raises(ValueError):
        replica.pidfd
    with raises(OSError):
        os.fstat(pidfd)


def a_replica_closes_no_file_of_another_process():
    pidfd = os.pidfd_open(os.getpid())
    replica = fullfork.Replica._make(os.getpid(), pidfd, None)
    replica._maker += 1
    del replica
    os.close(pidfd)


def everything_public_is_documented():
    assert fullfork.__doc__
    for name in fullfork.__all__:
        value = getattr(fullfork, name)
        assert value.__doc__, name
        if inspect.isclass(value):
            for word, method in vars(value).items():
                if not word.startswith("_") and word not in ("tid_map", "returncode"):
                    assert method.__doc__, "%s.%s" % (name, word)


def stubs():
    """Name and parameters of each function and method of the stub, and their kinds."""
    with open(PACKAGE / "_fullfork.pyi", encoding="utf-8") as f:
        tree = ast.parse(f.read())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            yield node.name, None
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    yield "%s.%s" % (node.name, method.name), method


def find(name):
    value = _fullfork
    for word in name.split("."):
        value = getattr(value, word)
    return value


def stubs_are_those_of_the_module():
    named = set()
    for name, node in stubs():
        value = find(name)
        named.add(name)
        if node is None or node.decorator_list:
            continue
        arguments = node.args
        stub = [a.arg for a in arguments.posonlyargs + arguments.args + arguments.kwonlyargs]
        there = list(inspect.signature(value).parameters)
        assert stub == there, (name, stub, there)
        kinds = [p.kind for p in inspect.signature(value).parameters.values()]
        assert kinds.count(inspect.Parameter.KEYWORD_ONLY) == len(arguments.kwonlyargs), name
    public = {n for n in vars(_fullfork) if not n.startswith("_")}
    assert public <= named, public - named
    methods = {"Subprocess." + n for n in vars(_fullfork.Subprocess) if not n.startswith("_")}
    assert methods <= named, methods - named


def the_package_is_typed_and_for_any_python():
    assert (PACKAGE / "py.typed").is_file()
    assert _fullfork.__file__.endswith("_fullfork.abi3.so"), _fullfork.__file__
    for path in PACKAGE.glob("*.py"):
        with open(path, encoding="utf-8") as f:
            for node in ast.walk(ast.parse(f.read())):
                if isinstance(node, ast.FunctionDef):
                    assert node.returns is not None, "%s: %s" % (path.name, node.name)


TESTS = [
    this_is_an_ordinary_kernel,
    sfork_is_refused,
    a_refused_sfork_can_be_tried_again,
    fork_is_refused,
    copy_is_refused,
    the_exception_is_an_oserror,
    a_program_that_does_not_catch_it_shows_one_line,
    refusals_leave_no_files_open,
    other_threads_run_on,
    contradictions_are_value_errors,
    one_thread_of_several_is_refused,
    wrong_types_and_processes_are_named,
    a_replica_is_an_int,
    a_replica_closes_no_file_of_another_process,
    everything_public_is_documented,
    stubs_are_those_of_the_module,
    the_package_is_typed_and_for_any_python,
]
