#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""A server that has numpy loaded, with the threads of its OpenBLAS, and answers each job
in a full-fork copy of itself.

os.fork() would leave those threads behind, which is why servers that preload with it must
not import numpy first. Here the copy has them all, starts where the server is, and can do
what it likes to its memory. The program shows how long it takes until a copy is ready for
a job, and how long a fresh interpreter takes.

    preloaded_server.py [--jobs N]
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time

# Large enough for OpenBLAS to use its threads, and small enough for an emulated machine.
SIZE = 160


def load():
    """Does what takes the time: imports numpy, and has its threads compute, of which
    OpenBLAS makes one for each CPU."""
    import numpy

    a = numpy.ones((SIZE, SIZE))
    assert (a @ a)[0, 0] == SIZE
    return numpy


def compute(numpy, seed):
    """The answer to a job."""
    a = numpy.random.default_rng(seed).standard_normal((SIZE, SIZE))
    return {
        "trace": round(float(numpy.trace(a @ a)), 6),
        "pid": os.getpid(),
        "threads": len(os.listdir("/proc/self/task")),
    }


def answer(numpy, connection):
    """Says that it is ready, takes a job, and answers it."""
    with connection, connection.makefile("rw", encoding="utf-8") as lines:
        print("ready", file=lines, flush=True)
        print(json.dumps(compute(numpy, int(lines.readline()))), file=lines, flush=True)


def serve(listener):
    """Each connection is that of a replica. The server waits for the next."""
    import fullfork

    numpy = load()
    # A thread of Python's as well, which goes on in the replicas.
    beats = threading.Thread(target=threading.Event().wait, daemon=True)
    beats.start()
    print("up", flush=True)
    while True:
        connection, _ = listener.accept()
        if fullfork.fork(autoreap=True) == 0:
            listener.close()
            answer(numpy, connection)
            os._exit(0)
        connection.close()


def ask(connection, seed, start):
    """The answer, and after how many seconds the other side was ready."""
    with connection, connection.makefile("rw", encoding="utf-8") as lines:
        if lines.readline() != "ready\n":
            raise SystemExit("preloaded_server: no answer")
        ready = time.monotonic() - start
        print(seed, file=lines, flush=True)
        return json.loads(lines.readline()), ready


def this_program(*arguments, **how):
    return subprocess.Popen([sys.executable, __file__, *arguments], **how)


def fresh_interpreter(seed):
    ours, theirs = socket.socketpair()
    start = time.monotonic()
    process = this_program("--fresh", str(theirs.fileno()), pass_fds=[theirs.fileno()])
    theirs.close()
    result = ask(ours, seed, start)
    process.wait()
    return result


def replica(path, seed):
    start = time.monotonic()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return ask(connection, seed, start)


def show(who, seed, result, ready):
    print(
        "job %d answered by %s %d with %d threads: %f, ready after %.1f ms"
        % (seed, who, result["pid"], result["threads"], result["trace"], ready * 1000)
    )


def demonstrate(jobs):
    with tempfile.TemporaryDirectory() as directory:
        path = directory + "/socket"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        fd = listener.fileno()
        server = this_program("--serve", str(fd), pass_fds=[fd], stdout=subprocess.PIPE)
        listener.close()
        try:
            if server.stdout.readline() != b"up\n":
                raise SystemExit("preloaded_server: the server does not start")
            print("numpy is loaded in server %d" % server.pid)
            best = None
            for seed in range(jobs):
                fast, ready = replica(path, seed)
                show("replica", seed, fast, ready)
                best = ready if best is None else min(best, ready)
            slow, fresh = fresh_interpreter(jobs - 1)
            show("fresh interpreter", jobs - 1, slow, fresh)
        finally:
            server.kill()
            server.wait()
    if fast["trace"] != slow["trace"]:
        raise SystemExit("preloaded_server: the answers differ")
    print("a replica is ready %.1f times sooner than a fresh interpreter" % (fresh / best))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--jobs", type=int, default=5)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--fresh", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        serve(socket.socket(fileno=arguments.serve))
    elif arguments.fresh is not None:
        answer(load(), socket.socket(fileno=arguments.fresh))
    elif arguments.jobs < 1:
        parser.error("at least one job")
    else:
        import fullfork

        if "CLONE_ALL_THREADS" not in fullfork.supported():
            raise SystemExit("preloaded_server: this kernel has no full fork")
        demonstrate(arguments.jobs)


if __name__ == "__main__":
    main()
