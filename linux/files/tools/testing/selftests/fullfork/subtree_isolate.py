#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Programs that live from pipes, epoll, timers and shared memory are copied in
full flight, again and again.  Each replica goes on to its right end, and so does
the original, which loses nothing."""

import os
import sqlite3
import sys

from fullfork_ksft import DEADLINE, LIMIT, Tests, check, copy, end_everything
from fullfork_programs import FLAGS, PYTHON, ROUNDS, Program

HERE = os.path.dirname(os.path.realpath(__file__))
tests = Tests(max(LIMIT, DEADLINE * ROUNDS))

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

# Two processes that both write to a database all the time.  Its files are in memory, and
# have no name any more, so that replicas get their own, with the locks that each has.
DATABASE_WITHOUT_NAMES = PYTHON + r"""
import shutil, sqlite3, tempfile, time

def side():
    "The PID of the one of both that is the parent."
    return int(stat()[0 if child else 3])

def connect():
    return sqlite3.connect(place + "/database", timeout=400, isolation_level=None)

def get(what):
    return database.execute("select " + what).fetchone()[0]

def write():
    "What others have written was whole, and by this side once a replica has begun."
    database.execute("begin immediate")
    number, me = get("max(number) from numbers"), side()
    if get("count(*) from numbers") != number + 1:
        wrong.append("rows were lost")
    if get("count(distinct side) from numbers where side not in (%d, %d)" % (first_side, me)):
        wrong.append("rows of another side")
    if me != first_side and get("count(*) from numbers where side = %d and number > "
                                "(select min(number) from numbers where side = %d)" %
                                (first_side, me)):
        wrong.append("rows of the original in the replica")
    database.execute("insert into numbers values (?, ?, ?)", (number + 1, me, "x" * 500))
    database.execute("commit")

def look():
    "A reader sees one state, whatever is written meanwhile."
    database.execute("begin")
    before = get("count(*) from numbers")
    time.sleep(0.002)
    if get("max(number) from numbers") != before - 1:
        wrong.append("what is read changes")
    database.execute("commit")

place = tempfile.mkdtemp(dir="/dev/shm")
database = connect()
database.execute("pragma journal_mode = wal")
database.execute("create table numbers (number integer primary key, side, what)")
database.close()
ends = os.pipe(), os.pipe()
child = os.fork()
if not child:
    first = pid()
first_side, wrong = side(), []
database = connect()
# The log begins anew now and then.
database.execute("pragma wal_autocheckpoint = 30")
if child:
    database.execute("insert into numbers values (0, ?, '')", (first_side,))
    os.write(ends[0][1], b"x")
    os.read(ends[1][0], 1)
    shutil.rmtree(place)
    os.write(ends[0][1], b"x")
else:
    os.read(ends[0][0], 1)
    get("count(*) from numbers")
    os.write(ends[1][1], b"x")
    os.read(ends[0][0], 1)
n = 0
while not wrong and not is_over(n):
    write()
    look()
    n += 1
if not child:
    if wrong:
        end(wrong[0])
    os._exit(1 if wrong else 0)
if os.waitpid(child, 0)[1] != 0:
    wrong.append("the child failed")
if get("* from pragma_integrity_check") != "ok":
    wrong.append("it is not whole")
end(wrong[0] if wrong else "ok")
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

# A program that has a shell do its work in a terminal.  Every now and then it lets a job go
# on, which answers, interrupts it, and stops it again.  No program is started later: one
# that loads its libraries at the instant of a copy may share the position in them with its
# replica, where the file system does not let them be opened once more.
TERMINAL = PYTHON + r"""
import pty, select, signal

# It cannot be that it reads and does not see that it was interrupted before.
JOB = '''
import os, select, signal
interrupts = os.pipe2(os.O_NONBLOCK)
signal.signal(signal.SIGINT, lambda number, frame: None)
signal.set_wakeup_fd(interrupts[1])
while True:
    ready = select.select([0, interrupts[0]], [], [])[0]
    if interrupts[0] in ready:
        os.read(interrupts[0], 1)
        os.write(1, b"interrupted")
    elif line := os.read(0, 4096):
        os.write(1, b"the answer to " + line)
    else:
        break
'''

# Who starts this may have made it ignore them, as a shell does with what is to run in
# the background; programs that the shell here starts would then ignore them too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
with open(directory + "/job", "w") as f:
    f.write(JOB)
shell, terminal = pty.fork()
if not shell:
    os.environ.update(PS1="> ", TERM="dumb", HISTFILE="")
    os.execvp("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"])

got, wrong = b"", []

def expect(*texts):
    "All of them, in any order: what a key does may be seen before the key."
    global got
    while not wrong and not all(text in got for text in texts):
        if not select.select([terminal], [], [], 400)[0]:
            wrong.append("%r in place of %r" % (got, texts))
        else:
            got += os.read(terminal, 4096)
    got = got[max(got.find(text) + len(text) for text in texts):]

def type_in(text, *texts):
    if not wrong:
        os.write(terminal, text)
        expect(*texts)

def ask_job(n):
    type_in(b"%d\n" % n, b"the answer to %d\r\n" % n)

def stop_job():
    type_in(b"\x1a", b"^Z", b"Stopped", b"> ")

command = b"%s %s/job" % (sys.executable.encode(), directory.encode())
n = 0
expect(b"> ")
type_in(command + b"\n", command + b"\r\n")
ask_job(n)
stop_job()
while not wrong and not is_over(n):
    if n % 4 == 2:
        # What it is to get is typed when the shell has said that it goes on.
        type_in(b"fg\n", b"fg\r\n" + command + b"\r\n")
        ask_job(n)
        type_in(b"\x03", b"^C", b"interrupted")
        ask_job(n)
        stop_job()
    type_in(b"echo number $((%d + 1)) of $$\n" % n, b"\nnumber %d of %d\r\n> " % (n + 1, shell))
    n += 1
type_in(b"fg\n", b"fg\r\n" + command + b"\r\n")
ask_job(n)
type_in(b"\x04", b"> ")
if not wrong:
    os.write(terminal, b"exit 7\n")
    status = os.waitstatus_to_exitcode(os.waitpid(shell, 0)[1])
    if status != 7:
        wrong.append("the shell ended with %d" % status)
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


@tests.add
def isolate__shell_in_a_terminal():
    Program([sys.executable, "-c", TERMINAL]).run()


@tests.add
def isolate__database_in_the_midst_of_transactions():
    Program([sys.executable, "-c", DATABASE_WITHOUT_NAMES]).run()


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
