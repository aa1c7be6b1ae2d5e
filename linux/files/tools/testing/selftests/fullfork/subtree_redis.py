#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A redis-server with io-threads is copied under load, and left stopped.  The
original serves on as if nothing had happened.  When it has ended, the replica
is continued, and has the keys of the instant that it was copied at."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

from fullfork_ksft import CLONE_ALL_THREADS, CLONE_STOPPED, CLONE_SUBTREE, \
    DEADLINE, Failure, Tests, check, copy, end_everything, read, state, \
    threads, wait_for

THREADS = 4
# Connections of each thread: io-threads are used when there are enough.
CONNECTIONS = 4
# Seconds after which a reply is late; a slow machine needs some.
LATE = 20
tests = Tests()


class Connection:
    """One connection to the server, and the replies that it owes."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), LATE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def send(self, *words):
        data = b"*%d\r\n" % len(words)
        for word in words:
            word = word.encode()
            data += b"$%d\r\n%s\r\n" % (len(word), word)
        self.socket.sendall(data)

    def receive(self):
        line = self.file.readline()
        check(line.endswith(b"\r\n"), "connection closed by the server")
        kind, rest = line[:1], line[1:-2].decode()
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else self.file.read(size + 2)[:-2].decode()
        check(kind in b"+:", "the server says %r" % line)
        return int(rest) if kind == b":" else rest

    def ask(self, *words):
        self.send(*words)
        return self.receive()

    def close(self):
        self.file.close()
        self.socket.close()


def key(thread, number):
    return "key:%d:%d" % (thread, number)


def value(thread, number):
    return "value %d of thread %d " % (number, thread) + "x" * (number % 97)


class Load(threading.Thread):
    """Sets one key after the other, and reads what it has set before."""

    def __init__(self, port, number):
        super().__init__(daemon=True)
        self.number = number
        self.connections = [Connection(port) for _ in range(CONNECTIONS)]
        self.sent = self.done = 0
        self.slowest = 0.0
        self.ends = False
        self.error = None

    def one_round(self):
        first = self.sent
        start = time.monotonic()
        for c in self.connections:
            # Counted before, as it may arrive at any time from then on.
            self.sent += 1
            c.send("SET", key(self.number, self.sent),
                   value(self.number, self.sent))
            old = 1 + self.sent * 7 % max(self.done, 1)
            c.send("GET", key(self.number, old))
        for i, c in enumerate(self.connections):
            check(c.receive() == "OK", "SET was not acknowledged")
            old = 1 + (first + i + 1) * 7 % max(first, 1)
            reply = c.receive()
            # In the first round there is no key that is certainly there.
            check(reply == value(self.number, old) or
                  (not first and reply is None),
                  "key %d of thread %d is %r" % (old, self.number, reply))
        self.done = self.sent
        self.slowest = max(self.slowest, time.monotonic() - start)

    def run(self):
        try:
            while not self.ends:
                self.one_round()
        except (Failure, OSError, ValueError) as e:
            self.error = e

    def finish(self):
        self.ends = True
        self.join(DEADLINE)
        for c in self.connections:
            c.close()


class World:
    """What the tests share, as each goes on from the one before."""
    server = replica = None
    port = 0
    directory = ""
    load = []
    least = most = ()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers(port):
    try:
        c = Connection(port)
        try:
            return c.ask("PING") == "PONG"
        finally:
            c.close()
    except (OSError, Failure):
        return False


def expect_load(rounds):
    """Every thread of the load gets on, and got all replies in time."""
    goal = [t.done + rounds * CONNECTIONS for t in World.load]
    wait_for(lambda: all(t.done >= g or t.error
                         for t, g in zip(World.load, goal)),
             "the load goes on")
    for t in World.load:
        check(not t.error, "thread %d: %s" % (t.number, t.error))
        check(t.slowest < LATE, "a reply took %.1f s" % t.slowest)


@tests.add
def redis__serves_a_load_with_io_threads():
    World.directory = tempfile.mkdtemp(prefix="fullfork.")
    World.port = free_port()
    World.server = subprocess.Popen(
        ["redis-server", "--port", str(World.port), "--bind", "127.0.0.1",
         "--io-threads", str(THREADS), "--save", "", "--appendonly", "no",
         "--dir", World.directory, "--logfile",
         os.path.join(World.directory, "log")], stdin=subprocess.DEVNULL)
    wait_for(lambda: answers(World.port) or World.server.poll() is not None,
             "redis-server answers")
    check(World.server.poll() is None, "redis-server ended: " +
          read(os.path.join(World.directory, "log"))[-300:])
    check(len(threads(World.server.pid)) >= THREADS, "it has no io-threads")
    World.load = [Load(World.port, i) for i in range(THREADS)]
    for t in World.load:
        t.start()
    expect_load(20)


@tests.add
def redis__is_copied_again_and_again_under_load():
    flags = CLONE_ALL_THREADS | CLONE_STOPPED
    for i in range(5):
        pid, table = copy(World.server.pid,
                          flags | (CLONE_SUBTREE if i & 1 else 0))
        wait_for(lambda p=pid: state(p) == "T", "the replica is stopped")
        check(len(threads(pid)) == len(table) == len(threads(
            World.server.pid)), "the replica has other threads")
        # A stopped replica does not read what is meant for the original.
        expect_load(5)
        os.kill(pid, signal.SIGKILL)
        check(os.waitpid(pid, 0)[0] == pid, "no status of the replica")
        expect_load(5)


@tests.add
def redis__serves_on_without_a_lost_or_late_reply():
    # What is certainly there, and what may be, at the instant of the copy.
    World.least = [t.done for t in World.load]
    World.replica, _ = copy(World.server.pid,
                            CLONE_ALL_THREADS | CLONE_STOPPED)
    World.most = [t.sent for t in World.load]
    expect_load(50)
    check(World.server.poll() is None, "the original has ended")
    check(state(World.replica) == "T", "the replica runs")
    for t in World.load:
        t.finish()
        check(not t.is_alive() and not t.error, "the load has not ended: %s" %
              t.error)
    print("# %d keys set, the slowest reply took %.3f s" % (
        sum(t.done for t in World.load), max(t.slowest for t in World.load)))
    c = Connection(World.port)
    check(c.ask("DBSIZE") == sum(t.done for t in World.load),
          "the original lacks keys")
    c.close()


@tests.add
def redis__replica_answers_when_the_original_has_ended():
    World.server.kill()
    World.server.wait(DEADLINE)
    check(state(World.replica) == "T", "the replica runs")
    os.kill(World.replica, signal.SIGCONT)
    wait_for(lambda: answers(World.port), "the replica answers")


@tests.add
def redis__replica_has_the_keys_of_one_instant():
    c = Connection(World.port)
    total = 0
    for t in World.load:
        there = []
        for number in range(1, t.sent + 1):
            reply = c.ask("GET", key(t.number, number))
            if reply is None:
                continue
            check(reply == value(t.number, number), "key %d of thread %d is "
                  "%r" % (number, t.number, reply))
            there.append(number)
        least, most = World.least[t.number], World.most[t.number]
        last = max(there, default=0)
        check(least <= last <= most, "the last key of thread %d is %d, not "
              "%d to %d" % (t.number, last, least, most))
        # The keys of one round may overtake each other, and only those.
        whole = (last - 1) // CONNECTIONS * CONNECTIONS
        check(there[:whole] == list(range(1, whole + 1)),
              "thread %d has keys that are later than lost ones" % t.number)
        total += len(there)
    check(c.ask("DBSIZE") == total, "there are other keys")
    c.close()


@tests.add
def redis__replica_takes_new_keys_and_ends_as_it_is_told():
    for t in World.load:
        t.connections = [Connection(World.port) for _ in range(CONNECTIONS)]
        for i, c in enumerate(t.connections):
            check(c.ask("SET", "new:%d:%d" % (t.number, i), "yes") == "OK",
                  "no new key")
        for i, c in enumerate(t.connections):
            check(c.ask("GET", "new:%d:%d" % (t.number, i)) == "yes",
                  "the new key is lost")
            c.close()
    c = Connection(World.port)
    c.send("SHUTDOWN", "NOSAVE")
    c.close()
    wait_for(lambda: state(World.replica) in ("Z", ""), "the replica ends")
    pid, status = os.waitpid(World.replica, 0)
    check(pid == World.replica and status == 0, "it ended with status 0x%x" %
          status)


if __name__ == "__main__":
    try:
        tests.run(["redis-server"])
    finally:
        end_everything()
        shutil.rmtree(World.directory or "/nonexistent", ignore_errors=True)
