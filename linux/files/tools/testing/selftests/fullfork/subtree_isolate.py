#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Programs that live from pipes, epoll, timers and shared memory are copied in
full flight, again and again.  Each replica goes on to its right end, and so does
the original, which loses nothing.

FULLFORK_ROUNDS says how often, of each program."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile

from fullfork_ksft import CLONE_ALL_THREADS, CLONE_KEEP_TIDS, CLONE_NEWPID, \
    CLONE_SUBTREE, DEADLINE, LIMIT, Tests, check, copy, end_everything, read, \
    wait_for

CLONE_ISOLATE = 1 << 57
FLAGS = CLONE_ALL_THREADS | CLONE_SUBTREE | CLONE_KEEP_TIDS | CLONE_NEWPID | \
    CLONE_ISOLATE
ROUNDS = int(os.environ.get("FULLFORK_ROUNDS", "5"))
HERE = os.path.dirname(os.path.realpath(__file__))
tests = Tests(max(LIMIT, DEADLINE * ROUNDS))

# The PID that /proc shows is another one in a replica, also where TIDs are kept.
PYTHON = r"""
import os, sys
directory = sys.argv[1]

# It is read without a position: until it is closed, a replica has the same one.
def stat():
    with open("/proc/self/stat") as f:
        return os.pread(f.fileno(), 4096, 0).decode().split()

def pid():
    return stat()[0]

def end(result):
    with open(directory + "/new." + pid(), "w") as f:
        f.write(result)
    os.rename(directory + "/new." + pid(), directory + "/result." + pid())

first, left = pid(), -1

def is_over(n, more=60):
    "True when more rounds are done since the copy, or since it was told to."
    global left
    if n == more:
        open(directory + "/ready", "w").close()
    if left < 0 and (pid() != first or os.path.exists(directory + "/stop")):
        left = more
    left -= left > 0
    return left == 0
"""

# Every number comes out of the queues once, whatever is in them at the instant.
# In what order is up to the scheduler, and how far one worker may get ahead.
QUEUES = PYTHON + r"""
import multiprocessing

def produce(todo, stop):
    n = 0
    while not stop.is_set():
        todo.put(n)
        n += 1
    for _ in range(2):
        todo.put(None)

def work(todo, done):
    while (number := todo.get()) is not None:
        done.put(number)
    done.put(None)

multiprocessing.set_start_method("fork")
todo, done = multiprocessing.Queue(7), multiprocessing.Queue(5)
stop = multiprocessing.Event()
children = [multiprocessing.Process(target=produce, args=(todo, stop), daemon=True)]
children += [multiprocessing.Process(target=work, args=(todo, done), daemon=True)
             for _ in range(2)]
for child in children:
    child.start()
low, ahead, result, n, working = 0, set(), "ok", 0, 2
while result == "ok" and working:
    if is_over(n):
        stop.set()
    number = done.get(timeout=400)
    n += 1
    if number is None:
        working -= 1
        continue
    if number < low or number in ahead:
        result = "%d came twice" % number
    ahead.add(number)
    while low in ahead:
        ahead.remove(low)
        low += 1
if result == "ok" and ahead:
    result = "%d was lost" % low
for child in children:
    child.join(50)
    if child.exitcode != 0 and result == "ok":
        result = "a process ended with %s" % child.exitcode
    child.kill()
end(result)
"""

LOOP = PYTHON + r"""
import asyncio, socket, time

async def echo(reader, writer):
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()

async def main():
    loop = asyncio.get_running_loop()
    ends = socket.socketpair()
    ours = await asyncio.open_unix_connection(sock=ends[0])
    theirs = await asyncio.open_unix_connection(sock=ends[1])
    task = loop.create_task(echo(*theirs))
    n = 0
    while not is_over(n):
        due = loop.time() + 0.005
        await asyncio.sleep(0.005)
        if loop.time() < due - 0.001:
            return "a timer was early"
        ours[1].write(b"%d\n" % n)
        line = await asyncio.wait_for(ours[0].readline(), 50)
        if line != b"%d\n" % n:
            return "%r in place of %d" % (line, n)
        # A thread that tells the loop by its self-pipe
        if await asyncio.wait_for(loop.run_in_executor(None, lambda: n + 1), 50) != n + 1:
            return "another thread's number"
        n += 1
    task.cancel()
    return "ok"

end(asyncio.run(main()))
"""

# Two processes that have a database open, and write to it when they are told to.
# While they wait they have read locks, by which the one that closes it does not
# take itself for the last one, which deletes the log.
DATABASE = PYTHON + r"""
import sqlite3, time

def touch(name):
    open(directory + "/" + name, "w").close()

def wait_for(name):
    while not os.path.exists(directory + "/" + name):
        time.sleep(0.01)

def side():
    "The PID of the one of both that is the parent."
    return stat()[0 if child else 3]

def connect():
    return sqlite3.connect(directory + "/database", timeout=400, isolation_level=None)

def write(n):
    for _ in range(n):
        database.execute("begin immediate")
        database.execute("insert into numbers values (?)", (side(),))
        database.execute("commit")

# Two that change the mode at once do not wait for each other: one fails.
database = connect()
database.execute("pragma journal_mode = wal")
database.execute("create table numbers (side)")
database.close()

child = os.fork()
database = connect()
write(10)
if child:
    wait_for("child")
touch("ready" if child else "child")
wait_for("go." + side())
write(50)
database.close()
if not child:
    os._exit(0)
end("ok" if os.waitpid(child, 0)[1] == 0 else "the child failed")
"""

# A server, which has threads, and a client, who has two connections: by one he asks,
# some questions ahead of the answers, by the other he waits for what that causes.
# The name of the server's socket is one for both sides, so nobody connects by it when
# there are copies.
SERVER = PYTHON + r"""
import socket, subprocess, threading, time

name = directory + "/socket"
server = subprocess.Popen(
    ["redis-server", "--port", "0", "--unixsocket", name, "--save", "",
     "--appendonly", "no", "--dir", directory])

def connect():
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(400)
    end = time.monotonic() + 400
    while True:
        try:
            connection.connect(name)
            return connection, connection.makefile("rb")
        except OSError:
            if time.monotonic() > end or server.poll() is not None:
                raise
            time.sleep(0.01)

def receive(file):
    line = file.readline()
    kind, rest = line[:1], line[1:-2]
    if kind == b"*":
        return [receive(file) for _ in range(int(rest))]
    return file.read(int(rest) + 2)[:-2] if kind == b"$" else rest

def listen(connection, file):
    n = 0
    while True:
        connection.sendall(b"BLPOP list 0\r\n")
        got = receive(file)
        if got == [b"list", b"end"]:
            return
        if got != [b"list", b"%d" % n]:
            wrong.append("%r in the list in place of %d" % (got, n))
            return
        n += 1

def ask(n):
    asking.sendall(b"INCR number\r\nRPUSH list %d\r\n" % n)

def expect_answer(n):
    got = receive(answers), receive(answers)
    if got[0] != b"%d" % (n + 1):
        wrong.append("%r in place of %d" % (got, n + 1))

wrong, n, ahead = [], 0, 3
asking, answers = connect()
listener = threading.Thread(target=listen, args=connect(), daemon=True)
listener.start()
for i in range(ahead):
    ask(i)
while not wrong and not is_over(n):
    ask(n + ahead)
    expect_answer(n)
    n += 1
for i in range(ahead):
    expect_answer(n + i)
asking.sendall(b"RPUSH list end\r\n")
listener.join(50)
if listener.is_alive():
    wrong.append("what is in the list does not come")
asking.sendall(b"SHUTDOWN NOSAVE\r\n")
if server.wait(50):
    wrong.append("the server ended with %s" % server.returncode)
end(wrong[0] if wrong else "ok")
"""

# Numbers of a pipeline come in order, and all of them.
PIPELINE = r"""
dir=$1
read -r first _ </proc/self/stat
export dir first

seq 1 100000000 | cat | cat | {
	n=0 left=-1 result=ok
	while read -r line; do
		n=$((n + 1))
		[ "$line" = "$n" ] || { result="$line in place of $n"; break; }
		[ $n != 60 ] || : >"$dir/ready"
		if [ $left -lt 0 ]; then
			read -r _ _ _ parent _ </proc/self/stat
			# Nothing is left to read if a replica has read it.
			parent=${parent:-$first}
			if [ "$parent" != "$first" ] || [ -e "$dir/stop" ]; then
				left=60
			fi
		fi
		[ $left != 0 ] || break
		[ $left -lt 0 ] || left=$((left - 1))
	done
	[ $left = 0 ] || [ "$result" != ok ] || result="it has ended after $n lines"
	read -r _ _ _ parent _ </proc/self/stat
	echo "$result" >"$dir/new.$parent"
	mv "$dir/new.$parent" "$dir/result.$parent"
	[ "$result" = ok ]
}
"""


class Program:
    """One that runs until it is told to stop, or finds that it is a replica."""

    def __init__(self, command):
        self.directory = tempfile.mkdtemp(prefix="fullfork.")
        self.process = subprocess.Popen(
            command + [self.directory], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, start_new_session=True)
        wait_for(lambda: os.path.exists(self.path("ready")) or
                 self.process.poll() is not None, "the program is ready")
        self.expect_alive()

    def path(self, name):
        return os.path.join(self.directory, name)

    def result(self, pid):
        return read(self.path("result.%d" % pid)).strip()

    def expect_alive(self):
        check(self.process.poll() is None, "it has ended: " +
              self.result(self.process.pid))

    def copy_and_wait(self):
        pid, _ = copy(self.process.pid, FLAGS)
        self.wait_for_replica(pid)

    def wait_for_replica(self, pid):
        status = []

        def has_ended():
            found, value = os.waitpid(pid, os.WNOHANG)
            if found:
                status.append(value)
            return found

        wait_for(has_ended, "the replica has ended")
        check(self.result(pid) == "ok" and status == [0],
              "the replica ended with status 0x%x: %s" % (
                  status[0], self.result(pid) or "no result"))

    def touch(self, name):
        with open(self.path(name), "w", encoding="utf-8"):
            pass

    def stop(self):
        self.expect_alive()
        self.touch("stop")
        self.expect_end()

    def expect_end(self):
        self.process.wait(DEADLINE)
        check(self.result(self.process.pid) == "ok" and not self.process.returncode,
              "the original ended with %d: %s" % (
                  self.process.returncode, self.result(self.process.pid) or "no result"))

    def run(self):
        try:
            for _ in range(ROUNDS):
                self.copy_and_wait()
                self.expect_alive()
            self.stop()
        finally:
            self.clean_up()

    def clean_up(self):
        end_everything()
        shutil.rmtree(self.directory, ignore_errors=True)


@tests.add
def isolate__queues_of_processes():
    Program([sys.executable, "-c", QUEUES]).run()


@tests.add
def isolate__event_loop_with_timers_and_threads():
    Program([sys.executable, "-c", LOOP]).run()


@tests.add
def isolate__shell_pipeline():
    Program(["bash", "-c", PIPELINE, "bash"]).run()


@tests.add
def isolate__go_runtime():
    Program([os.path.join(HERE, "isolate_go_worker")]).run()


@tests.add
def isolate__server_and_client():
    Program([sys.executable, "-c", SERVER]).run()


def use_database():
    program = Program([sys.executable, "-c", DATABASE])
    try:
        pid, _ = copy(program.process.pid, FLAGS)
        program.touch("go.%d" % program.process.pid)
        program.expect_end()
        # Both originals have closed it.
        program.touch("go.%d" % pid)
        program.wait_for_replica(pid)
        database = sqlite3.connect(program.path("database"))
        check(database.execute("pragma integrity_check").fetchall() == [("ok",)],
              "the database is whole")
        sides = database.execute("select count(*) from numbers group by side").fetchall()
        check(sorted(sides) == [(100,), (120,)], "rows of the sides: %r" % sides)
        database.close()
    finally:
        program.clean_up()


@tests.add
def isolate__database_with_readers_and_writers():
    for _ in range(ROUNDS):
        use_database()


if __name__ == "__main__":
    try:
        tests.run(["bash", "redis-server", "seq", os.path.join(HERE, "isolate_go_worker")])
    finally:
        end_everything()
