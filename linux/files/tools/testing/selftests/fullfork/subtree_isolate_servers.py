#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Servers of several processes, which share memory, are copied in full flight
together with a client that is in the midst of his work with them."""

import atexit
import functools
import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile

from fullfork_ksft import DEADLINE, LIMIT, Tests, check, copy, descendants, \
    end_everything, read, wait_for
from fullfork_programs import FLAGS, PYTHON, ROUNDS, Program

# Not in PATH
POSTGRES_PROGRAM = (glob.glob("/usr/lib/postgresql/*/bin/postgres") or ["postgres"])[-1]
tests = Tests(max(2 * LIMIT, 2 * DEADLINE * ROUNDS))

# A web server with a master, two workers, and counters in memory that they share; and its
# client, who asks on several connections, some questions ahead of the answers.
WEB = PYTHON + r"""
import socket, subprocess, time

place = directory + "/nginx"
CONFIGURATION = '''
daemon off;
user root;
worker_processes 2;
pid %s/pid;
events { worker_connections 32; }
http {
    access_log off;
    keepalive_timeout 1h;
    keepalive_requests 1000000;
    client_body_temp_path %s/body;
    proxy_temp_path %s/proxy;
    fastcgi_temp_path %s/fastcgi;
    uwsgi_temp_path %s/uwsgi;
    scgi_temp_path %s/scgi;
    server {
        listen unix:%s/socket;
        location /number { return 200 "$pid $connection_requests"; }
        location /all { stub_status; }
    }
}
'''

class Connection:
    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(400)
        until = time.monotonic() + 400
        while self.socket.connect_ex(place + "/socket"):
            if time.monotonic() > until or server.poll() is not None:
                raise OSError("no server")
            time.sleep(0.01)
        self.file = self.socket.makefile("rb")
        self.asked = self.answered = 0

    def ask(self, what):
        self.socket.sendall(b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n" % what)
        self.asked += 1

    def answer(self):
        size = 0
        while (line := self.file.readline()) != b"\r\n":
            if not line:
                raise OSError("the connection has ended")
            if line.lower().startswith(b"content-length:"):
                size = int(line.split(b":")[1])
        self.answered += 1
        return self.file.read(size).split()

    def number(self):
        worker, number = self.answer()
        if int(number) != self.answered:
            wrong.append("%d in place of %d" % (int(number), self.answered))
        return worker

def count_all(connections):
    connections[0].ask(b"all")
    words = connections[0].answer()
    seen = int(words[2]), int(words[9])
    expected = len(connections), sum(c.asked for c in connections)
    if seen != expected:
        wrong.append("connections and questions: %r in place of %r" % (seen, expected))

os.mkdir(place)
with open(place + "/conf", "w") as f:
    f.write(CONFIGURATION % ((place,) * 7))
server = subprocess.Popen(["nginx", "-p", place, "-e", place + "/error", "-c", place + "/conf"])
wrong, n, connections, workers = [], 0, [], set()
# By both of the workers.
while len(connections) < 3 or len(workers) < 2 and len(connections) < 30:
    connections.append(Connection())
    connections[-1].ask(b"number")
    workers.add(connections[-1].number())
while not wrong and not is_over(n):
    for _ in range(3):
        for c in connections:
            c.ask(b"number")
    for c in connections:
        for _ in range(3):
            c.number()
    count_all(connections)
    n += 1
if len(workers) < 2:
    wrong.append("one worker does everything")
for c in connections:
    c.file.close()
    c.socket.close()
# It tells its workers by socketpairs.
server.send_signal(3)
if server.wait(50):
    wrong.append("the server ended with %s" % server.returncode)
end(wrong[0] if wrong else "ok")
"""

# postgres has a process for each connection, and all of them share memory: here that of
# System V, in a namespace of its own.
POSTGRES = PYTHON + r"""
import hashlib, pwd, random, signal, socket, struct, subprocess, threading, time

USER = pwd.getpwnam("postgres").pw_uid
SETTINGS = {
    "listen_addresses": "", "unix_socket_directories": directory,
    "shared_memory_type": "sysv", "dynamic_shared_memory_type": "sysv",
    "shared_buffers": "8MB", "max_connections": "12", "autovacuum": "off",
    "fsync": "off", "wal_level": "minimal", "max_wal_senders": "0", "jit": "off",
    "checkpoint_timeout": "1d", "bgwriter_lru_maxpages": "0",
}
data = directory + "/data"
wrong, done, changed = [], False, threading.Condition()

def run_server():
    words = [word for pair in SETTINGS.items() for word in ("-c", "%s=%s" % pair)]
    with open(directory + "/log", "ab") as log:
        return subprocess.Popen([os.environ["POSTGRES"], "-D", data, *words], stderr=log,
                                user=USER, group=USER, extra_groups=[], cwd=directory)

def stop_server(server):
    server.send_signal(signal.SIGINT)
    if server.wait(50):
        wrong.append("the server ended with %s" % server.returncode)

class Connection:
    def __init__(self):
        until = time.monotonic() + 400
        while not self.connect():
            if time.monotonic() > until or server.poll() is not None:
                raise OSError("no server")
            time.sleep(0.05)

    def connect(self):
        "False where it is not there, or starts."
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(400)
        self.file = self.socket.makefile("rb")
        text = b"\0\3\0\0user\0postgres\0database\0postgres\0\0"
        try:
            self.socket.connect(directory + "/.s.PGSQL.5432")
            self.socket.sendall(struct.pack("!I", len(text) + 4) + text)
            self.answer()
            return True
        except OSError:
            return False

    def send(self, text):
        text = text.encode() + b"\0"
        self.socket.sendall(b"Q" + struct.pack("!I", len(text) + 4) + text)

    def message(self):
        head = self.file.read(5)
        if len(head) < 5:
            raise OSError("the connection has ended")
        return head[:1], self.file.read(struct.unpack("!I", head[1:])[0] - 4)

    def answer(self):
        "The rows of all statements, when it is ready for more."
        rows, error = [], None
        while True:
            kind, text = self.message()
            if kind == b"D":
                rows.append(self.row(text))
            elif kind == b"E":
                error = text.replace(b"\0", b" ").decode()
            elif kind == b"Z" and not error:
                return rows
            if error and (kind == b"Z" or b"SFATAL" in text):
                raise OSError(error)

    def row(self, text):
        values, at = [], 2
        for _ in range(struct.unpack("!H", text[:2])[0]):
            size = struct.unpack("!i", text[at:at + 4])[0]
            values.append(text[at + 4:at + 4 + size].decode() if size >= 0 else None)
            at += 4 + max(size, 0)
        return values

    def ask(self, text):
        self.send(text)
        return self.answer()

    def expect(self, text, rows):
        got = self.ask(text)
        if got != rows:
            wrong.append("%s: %r in place of %r" % (text, got, rows))

def start(function, *arguments):
    "In a thread; what goes wrong there, all are told."
    def run():
        try:
            function(*arguments)
        except Exception as e:
            with changed:
                wrong.append("%s: %s" % (type(e).__name__, e))
                changed.notify_all()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread

def count_one(k):
    with changed:
        counts[k] += 1
        changed.notify_all()

def wait_for_counts(n):
    "False if something is wrong."
    with changed:
        if not changed.wait_for(lambda: wrong or min(counts) >= n, 400):
            wrong.append("stuck: %r" % counts)
    return not wrong

def finish(threads):
    global done
    done = True
    for thread in threads:
        thread.join(50)
        if thread.is_alive():
            wrong.append("a thread does not end")

os.unshare(os.CLONE_NEWIPC)
os.chown(directory, USER, USER)
subprocess.run(["cp", "-a", os.environ["POSTGRES_DATA"], data], check=True)
server = run_server()
"""

# Its files are those of both sides, so that nothing is written to them: what goes on is in
# the memory of its processes, and in that which they share.  Three connections wait for
# each other's lock, one is in the midst of a query.  In the end the server of a replica
# is killed: its processes see that by a pipe, which is a copy, and end.
DATABASE_IN_MEMORY = POSTGRES + r"""
def take_turns(k):
    "The lock is in the memory of the server.  Who has it is alone."
    global inside
    while not done:
        connections[k].ask("select pg_advisory_lock(1)")
        inside += 1
        time.sleep(0.001)
        if inside != 1:
            wrong.append("%d have the lock" % inside)
        inside -= 1
        count_one(k)
        connections[k].expect("select pg_advisory_unlock(1)", [["t"]])

def read(k):
    "A transaction that began before the copy goes on after it."
    connections[k].ask("begin; declare a cursor for select n, md5(n::text) from "
                       "(select generate_series(1, 100000000) as n) as numbers")
    n = 0
    while not done:
        rows = [[str(i), hashlib.md5(b"%d" % i).hexdigest()] for i in range(n + 1, n + 8)]
        connections[k].expect("fetch 7 from a", rows)
        n += 7
        count_one(k)
        time.sleep(0.001)

inside, connections = 0, [Connection() for _ in range(4)]
counts, n = [0] * 4, 0
threads = [start(take_turns, k) for k in range(3)] + [start(read, 3)]
while not is_over(n) and wait_for_counts(n):
    n += 1
finish(threads)
if pid() == first:
    stop_server(server)
else:
    server.kill()
    for c in connections:
        while c.file.read(4096):
            pass
end(wrong[0] if wrong else "ok")
"""

# It writes to its files, and only one side goes on, a copy which finds the files as they
# were at the instant: money is moved from one account to another, and none is lost.
DATABASE_ON_DISK = POSTGRES + r"""
ACCOUNTS, MOVERS = 5, 3

def move(k):
    "Two wait for each other wherever they want the same account."
    n = 0
    while not done:
        one, other = sorted(random.sample(range(ACCOUNTS), 2))
        connections[k].ask("begin; update accounts set money = money + %d where id = %d; "
                           "insert into moves values (%d, %d)" % (n, one, k, n))
        connections[k].ask("update accounts set money = money - %d where id = %d; "
                           "commit" % (n, other))
        n += 1
        count_one(k)

def look(k):
    while not done:
        connections[k].expect("select sum(money), count(*) from accounts",
                              [["0", str(ACCOUNTS)]])
        count_one(k)
        time.sleep(0.005)

def expect_moves(connection):
    connection.expect("select who, count(*), max(n) from moves group by who order by who",
                      [[str(k), str(counts[k]), str(counts[k] - 1)] for k in range(MOVERS)])
    connection.expect("select sum(money) from accounts", [["0"]])

connections = [Connection() for _ in range(MOVERS + 1)]
connections[0].ask("create table accounts (id int primary key, money bigint); "
                   "insert into accounts select n, 0 from generate_series(0, %d) as n; "
                   "create table moves (who int, n int)" % (ACCOUNTS - 1))
counts, n, last = [0] * (MOVERS + 1), 0, None
threads = [start(move, k) for k in range(MOVERS)] + [start(look, MOVERS)]
while not os.path.exists(directory + "/stop"):
    n += 1
    if not wait_for_counts(n):
        break
    # The one that has taken over has done something.
    if pid() != last:
        last, begun = pid(), n
    if n == begun + 20:
        open(directory + "/works." + pid(), "w").close()
        open(directory + "/ready", "w").close()
finish(threads)
if not wrong:
    expect_moves(connections[0])
stop_server(server)
server = run_server()
if not wrong:
    expect_moves(Connection())
stop_server(server)
end(wrong[0] if wrong else "ok")
"""


@functools.cache
def new_database():
    """A directory as postgres makes it once, which takes long."""
    path = tempfile.mkdtemp(prefix="fullfork.")
    shutil.chown(path, "postgres", "postgres")
    made = subprocess.run(
        [os.path.join(os.path.dirname(POSTGRES_PROGRAM), "initdb"), "-D", path + "/data", "-U",
         "postgres", "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8", "--wal-segsize=1"],
        user="postgres", group="postgres", extra_groups=[], cwd=path, check=False,
        stdout=subprocess.DEVNULL)
    check(made.returncode == 0, "initdb ended with %d" % made.returncode)
    atexit.register(shutil.rmtree, path)
    return path + "/data"


def start_database(source):
    os.environ["POSTGRES"] = POSTGRES_PROGRAM
    os.environ["POSTGRES_DATA"] = new_database()
    return Program([sys.executable, "-c", source])


class Group:
    """A control group in which programs can be frozen."""

    def __init__(self, name):
        self.path = os.path.join("/sys/fs/cgroup", name)
        os.mkdir(self.path)

    def write(self, name, text):
        with open(os.path.join(self.path, name), "w", encoding="utf-8") as f:
            f.write(text)

    def add(self, pids):
        for pid in pids:
            self.write("cgroup.procs", str(pid))

    def freeze(self):
        self.write("cgroup.freeze", "1")
        wait_for(lambda: "frozen 1" in read(os.path.join(self.path, "cgroup.events")),
                 "all are frozen")

    def thaw(self):
        self.write("cgroup.freeze", "0")

    def remove(self):
        os.rmdir(self.path)


def kill_all(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass    # a thread


def take_over(group, pid):
    """Let the copy go on in place of the process and all below it: its PID."""
    group.freeze()
    replica, tids = copy(pid, FLAGS)
    kill_all(tids)
    group.thaw()
    os.waitpid(pid, 0)
    return replica


@tests.add
def isolate__database_server_at_work_in_memory():
    start_database(DATABASE_IN_MEMORY).run()


@tests.add
def isolate__database_server_whose_copy_takes_over():
    program = start_database(DATABASE_ON_DISK)
    group = Group("fullfork.%d" % os.getpid())
    try:
        pid = program.process.pid
        group.add(descendants())
        for _ in range(ROUNDS):
            pid = take_over(group, pid)
            wait_for(lambda: os.path.exists(program.path("works.%d" % pid)) or
                     program.result(pid), "the copy works")
        program.touch("stop")
        program.wait_for_replica(pid)
    finally:
        group.thaw()
        program.clean_up()
        group.remove()


@tests.add
def isolate__web_server_with_workers():
    Program([sys.executable, "-c", WEB]).run()


if __name__ == "__main__":
    try:
        tests.run(["nginx", POSTGRES_PROGRAM])
    finally:
        end_everything()
