#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A bash with stopped jobs is copied, and the jobs are continued in the
replica: by the manager where TIDs are new, by the replica of the shell itself
where it has kept them, as a shell remembers the PIDs of its jobs."""

import os
import shutil
import signal
import subprocess
import tempfile

from fullfork_ksft import CLONE_ALL_THREADS, CLONE_KEEP_TIDS, CLONE_NEWPID, \
    CLONE_STOPPED, CLONE_SUBTREE, Tests, check, copy, descendants, \
    end_everything, parent, read, state, wait_for

WHOLE_TREE = CLONE_ALL_THREADS | CLONE_SUBTREE

# The PID is that which /proc shows, also in a PID namespace below.  The shell
# waits by builtins, as other children would have PIDs that it remembers.
SHELL = r"""
set -m
dir=$1
exec 9<>"$dir/never"
nap() { read -rt 0.1 -u 9; }

(
	kill -STOP "$BASHPID"
	read -r pid _ </proc/self/stat
	echo "continued" >"$dir/job.$pid"
	exit 7
) &
sleep 1000 &
kill -STOP %2
while jobs -s >"$dir/jobs"; [ "$(wc -l <"$dir/jobs")" != 2 ]; do nap; done
echo "$!" >"$dir/sleep"
jobs -p >"$dir/pids"
echo >"$dir/ready"

until read -r pid _ </proc/self/stat; [ -e "$dir/go.$pid" ]; do nap; done
fg %1 >"$dir/fg.$pid"
echo "$?" >"$dir/first.$pid"
kill -TERM %2
kill -CONT %2
wait %2
echo "$?" >"$dir/second.$pid"
jobs >"$dir/left.$pid"
"""
tests = Tests()


class World:
    """What the tests share, as each goes on from the one before."""
    directory = ""
    shell = None
    job = sleep = 0
    replica = {}


def path(name):
    return os.path.join(World.directory, name)


def text(name):
    return read(path(name)).strip()


def expect_original_untouched():
    check(World.shell.poll() is None, "the shell has ended")
    check(state(World.job) == "T" and state(World.sleep) == "T",
          "the original's jobs are not stopped any more")
    check(not text("job.%d" % World.job), "the original's job went on")
    check(parent(World.job) == parent(World.sleep) == World.shell.pid,
          "the jobs have another parent")


def copy_shell(flags):
    """The PIDs of the replicas of the shell, the job, and the sleep."""
    World.replica = {}
    pid, table = copy(World.shell.pid, flags)
    for original in World.shell.pid, World.job, World.sleep:
        check(original in table, "%d is not in the table" % original)
    check(table[World.shell.pid] == pid, "the table has another root")
    check(parent(pid) == os.getpid(), "the replica is no child of ours")
    check(parent(table[World.job]) == parent(table[World.sleep]) == pid,
          "the jobs' replicas are no children of the shell's")
    World.replica = table
    return pid, table[World.job], table[World.sleep]


def end_replica(pid):
    """The shell's replica and its jobs; the original is spared."""
    spare = {World.shell.pid, World.job, World.sleep}
    if pid:
        os.kill(pid, signal.SIGKILL)
    end_everything(spare=spare)
    check(descendants() == spare, "the original tree is another")


@tests.add
def shell__has_two_stopped_jobs():
    World.directory = tempfile.mkdtemp(prefix="fullfork.")
    os.mkfifo(path("never"))
    World.shell = subprocess.Popen(
        ["bash", "-c", SHELL, "bash", World.directory],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for(lambda: os.path.exists(path("ready")) or
             World.shell.poll() is not None, "the shell is ready")
    check(World.shell.poll() is None, "the shell has ended")
    pids = [int(word) for word in text("pids").split()]
    check(len(pids) == 2, "there are %d jobs" % len(pids))
    World.job, World.sleep = pids
    check(World.sleep == int(text("sleep")), "the sleep is another")
    wait_for(lambda: descendants() == {World.shell.pid, *pids},
             "there are three processes")
    expect_original_untouched()


@tests.add
def replica__has_the_jobs_stopped_in_their_own_groups():
    shell, job, sleep = copy_shell(WHOLE_TREE)
    wait_for(lambda: state(job) == "T" and state(sleep) == "T",
             "the replicas of the jobs are stopped")
    wait_for(lambda: state(shell) == "S", "the shell's replica goes on")
    # Leaders are members, so each group and the session has a copy.
    check(os.getpgid(job) == job and os.getpgid(sleep) == sleep,
          "a job does not lead its group")
    check(os.getsid(shell) == os.getsid(job) == os.getsid(sleep) == shell,
          "the session is not led by the shell's replica")
    check(os.getpgid(World.job) == World.job, "the original's group is another")
    expect_original_untouched()
    end_replica(shell)


@tests.add
def replica__has_a_job_that_the_manager_continues():
    shell, job, sleep = copy_shell(WHOLE_TREE)
    wait_for(lambda: state(job) == "T", "the replica of the job is stopped")
    os.killpg(job, signal.SIGCONT)
    wait_for(lambda: text("job.%d" % job) == "continued", "the job goes on")
    os.killpg(sleep, signal.SIGCONT)
    wait_for(lambda: state(sleep) == "S", "the sleep goes on")
    expect_original_untouched()
    end_replica(shell)


@tests.add
def replica__stays_stopped_with_its_jobs_until_sigcont():
    pids = copy_shell(WHOLE_TREE | CLONE_STOPPED)
    wait_for(lambda: all(state(pid) == "T" for pid in pids),
             "all replicas are stopped")
    os.kill(pids[0], signal.SIGCONT)
    wait_for(lambda: state(pids[0]) == "S", "the shell's replica goes on")
    check(state(pids[1]) == state(pids[2]) == "T", "a job goes on by itself")
    expect_original_untouched()
    end_replica(pids[0])


@tests.add
def shell__continues_its_jobs_in_the_replica_with_kept_tids():
    shell, job, _ = copy_shell(WHOLE_TREE | CLONE_KEEP_TIDS | CLONE_NEWPID)
    with open(path("go.%d" % shell), "w", encoding="utf-8"):
        pass
    # fg and wait tell what became of the jobs.
    wait_for(lambda: text("second.%d" % shell), "the replica of the shell "
             "is through")
    check(text("job.%d" % job) == "continued", "the job did not go on")
    check(text("first.%d" % shell) == "7", "fg ended with %s" %
          text("first.%d" % shell))
    check(text("second.%d" % shell) == "143", "sleep ended with %s" %
          text("second.%d" % shell))
    pid, status = os.waitpid(shell, 0)
    check(pid == shell and status == 0, "the replica of the shell ended with "
          "status 0x%x" % status)
    expect_original_untouched()
    end_replica(0)


@tests.add
def shell__continues_its_jobs_in_the_original():
    pid = World.shell.pid
    with open(path("go.%d" % pid), "w", encoding="utf-8"):
        pass
    check(World.shell.wait(60) == 0, "the shell ended with %s" %
          World.shell.returncode)
    check(text("job.%d" % World.job) == "continued", "the job did not go on")
    check(text("first.%d" % pid) == "7", "fg ended with %s" %
          text("first.%d" % pid))
    check(text("second.%d" % pid) == "143", "sleep ended with %s" %
          text("second.%d" % pid))
    check(not text("left.%d" % pid), "jobs are left")
    wait_for(lambda: not descendants(), "nothing is left")


if __name__ == "__main__":
    try:
        tests.run(["bash", "sleep", "wc"])
    finally:
        end_everything()
        shutil.rmtree(World.directory or "/nonexistent", ignore_errors=True)
