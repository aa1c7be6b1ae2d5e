#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Judge the logs of a guest. Green is evidence seen: every program that was to
run ran and ended, its plan was kept, the end marker stands there once, the
kernel said nothing bad. Needs no kernel and no guest; ci/tests/ tests it."""

import re

# What the kernel says when something is wrong. The first that matches a line
# names the problem.
TROUBLE = [re.compile(p) for p in (
    r"\bBUG: ", r"\bKASAN: ", r"\bUBSAN: ", r"\bKCSAN: ", r"\bOops\b",
    r"\bkernel BUG at ", r"\bKernel panic\b", r"\bgeneral protection fault\b",
    r"\bUnable to handle kernel\b", r"\bWARNING: ", r"------------\[ cut here ",
    r"\bINFO: task .* blocked\b", r"\bINFO: lockdep\b",
    r"\bINFO: (rcu|trying to register)", r"\brcu: .*(stall|detected)",
    r"\bsoft lockup\b", r"\bhard LOCKUP\b", r"\bpossible (recursive|circular|irq)",
    r"\binconsistent lock state\b", r"\bsuspicious RCU usage\b",
    r"\bsleeping function called\b", r"\bscheduling while atomic\b",
    r"\bBad page (state|map)\b", r"\bbad: scheduling\b", r"\bCall Trace\b",
    r"\bkmemleak: \d+ new suspected", r"\bODEBUG: ", r"\blist_(add|del) corruption",
    r"\brefcount_t: ", r"\bstack-protector:", r"\bcorrupted stack end\b",
    r"\bOut of memory: ", r"\bworkqueue lockup\b", r"\bDEBUG_LOCKS_WARN_ON\b",
)]
# A cgroup that is at its limit kills one of its own: that a test makes it do so
# is no trouble, but the kernel shows the stack of who asked for memory.
OOM = re.compile(r"\binvoked oom-killer: ")
OOM_OF_A_CGROUP = re.compile(r"\boom-kill:constraint=CONSTRAINT_MEMCG,")
OOM_LINES = 400
# Whoever asks for memory by vmalloc() and gets none is shown, too. That test sees to it.
FAULT = re.compile(r"\bfail_nth_test: (vmalloc error|page allocation failure): ")
FAULT_LINES = 10
# Examples of upstream's documentation of Rust have a timer on a stack, which
# DEBUG_OBJECTS knows only of C.
ON_STACK = re.compile(r"\bODEBUG: object \S+ is on stack \S+, but NOT annotated")
ON_STACK_OF = re.compile(r"\brust_doctest_kernel_time_hrtimer_rs_\d+\+")
END_TRACE = re.compile(r"---\[ end trace ")
ON_STACK_LINES = 100
START = re.compile(r"fullfork-vm: start\b")
END = re.compile(r"fullfork-vm: end status=(\d+)")
REPLAY = "** replaying previous printk message **"
HANG = re.compile(r"fullfork-vm: hang\b")
MAX_TROUBLES = 5

BEGIN_PROGRAM = re.compile(r"fullfork-ksft: begin (\S+)$")
END_PROGRAM = re.compile(r"fullfork-ksft: end (\S+) exit=(-?\d+)( timeout)?")
LEFTOVER = re.compile(r"fullfork-ksft: leftover (.*)")
DONE = re.compile(r"fullfork-ksft: done programs=(\d+)")
PLAN = re.compile(r"1\.\.(\d+)(?:\s*#\s*(SKIP.*))?\s*$")
TEST = re.compile(r"(ok|not ok)\b\s*(\d*)\s*-?\s*(.*)$")
HARNESS = re.compile(r"#\s+(RUN|OK|FAIL|PASSED|FAILED|Starting|Totals)\b")
DIRECTIVE = re.compile(r"\s*#\s*(SKIP|TODO|XFAIL|XPASS|error)\b\s*(.*)$", re.I)


def oom_of_a_cgroup(lines, number):
    """Is that the report of an OOM kill inside a cgroup? The line that says so,
    or 0. One of another kind may begin before, of which we know nothing."""
    for n in range(number, min(number + OOM_LINES, len(lines))):
        if OOM.search(lines[n]):
            return 0
        if OOM_OF_A_CGROUP.search(lines[n]):
            return n + 1
    return 0


def example_on_stack(lines, number):
    """Is that the report of such an example? The line behind it, or 0."""
    known = False
    for n in range(number, min(number + ON_STACK_LINES, len(lines))):
        known = known or bool(ON_STACK_OF.search(lines[n]))
        if END_TRACE.search(lines[n]):
            return n + 2 if known else 0
        if ON_STACK.search(lines[n]):
            return 0
    return 0


def without_replays(text):
    """The lines of a console, where one that was written again is empty. Where
    somebody takes over from the kernel's printing thread, as the restart does
    right after the end marker, he says so and begins the line anew, however much
    of it was written before."""
    lines = text.splitlines()
    for n in range(1, len(lines) - 1):
        if lines[n] == REPLAY and lines[n + 1].startswith(lines[n - 1]):
            lines[n - 1] = ""
    return lines


def end_status(text):
    """What the job ended with; None where it did not tell, or not once."""
    ends = END.findall("\n".join(without_replays(text)))
    return int(ends[0]) if len(ends) == 1 else None


def judge_console(text):
    """What is wrong with the log of the kernel: a list of sentences."""
    found = []
    lines = without_replays(text)
    text = "\n".join(lines)
    stack_until = example_until = 0
    for number, line in enumerate(lines, 1):
        if ON_STACK.search(line):
            example_until = example_on_stack(lines, number)
        if number < example_until:
            continue
        if OOM.search(line):
            stack_until = oom_of_a_cgroup(lines, number)
        if FAULT.search(line):
            stack_until = max(stack_until, number + FAULT_LINES)
        if number < stack_until and "Call Trace" in line:
            continue
        if HANG.search(line):
            found.append("hang: " + line.split("fullfork-vm: ", 1)[1])
            break       # what follows are the stacks of all tasks, on purpose
        if any(p.search(line) for p in TROUBLE):
            found.append("console line %d: %s" % (number, line.strip()))
            if len(found) >= MAX_TROUBLES:
                found.append("and more")
                break
    starts, ends = len(START.findall(text)), len(END.findall(text))
    if starts != 1:
        found.append("start marker seen %d times, expected once" % starts)
    if ends != 1:
        found.append("end marker seen %d times, expected once%s" %
                     (ends, "" if ends else " (console cut?)"))
    return found


class Program:
    """One test program: what it planned, said, and how it ended."""

    def __init__(self, name):
        self.name = name
        self.planned = None
        self.skip_all = None
        self.tests = []         # (name, "ok" | "not ok" | "skip", detail)
        self.exit = None
        self.timeout = False
        self.leftover = []
        self.lines = []

    def take(self, line):
        line = line.rstrip()
        self.lines.append(line)
        m = LEFTOVER.search(line)
        if m:
            self.leftover.append(m.group(1))
            return
        m = PLAN.match(line)
        if m:
            self.planned = int(m.group(1))
            self.skip_all = m.group(2)
            return
        m = TEST.match(line)
        if not m:
            return
        verdict, _, name = m.groups()
        detail = ""
        directive = DIRECTIVE.search(name)
        if directive:
            name = name[:directive.start()]
            detail = directive.group(2)
            if directive.group(1).upper() == "SKIP":
                verdict = "skip"
            elif directive.group(1).upper() in ("XFAIL", "TODO"):
                verdict = "ok"
        self.tests.append((clean(name), verdict, detail))

    def problems(self):
        """Why the program as a whole failed, beside its tests."""
        found = []
        if self.timeout:
            found.append("did not end in time")
        elif self.exit is None:
            found.append("did not end")
        elif self.exit < 0:
            found.append("killed by signal %d" % -self.exit)
        failed = any(v == "not ok" for _, v, _ in self.tests)
        if self.exit not in (0, None, 4) and not failed and not self.timeout \
                and self.exit > 0:
            found.append("exit status %d without a failed test" % self.exit)
        if self.exit == 0 and failed:
            found.append("exit status 0 with a failed test")
        if self.planned is None:
            if self.exit != 4:
                found.append("no plan")
        elif self.planned != len(self.tests) and not self.skip_all:
            found.append("planned %d tests, ran %d" %
                         (self.planned, len(self.tests)))
        return found

    def reasons(self, most=3):
        """What it said just before each test that failed, without what the
        harness says of every test."""
        found, said = [], []
        for line in self.lines:
            m = TEST.match(line)
            if m:
                if m.group(1) == "not ok":
                    found += said[-most:] + [line]
                said = []
            elif line.startswith("# ") and not HARNESS.match(line):
                said.append(line)
        return found

    def twice(self):
        """Names that occur more than once; upstream's own tests do that."""
        names = [n for n, _, _ in self.tests]
        return sorted(set(n for n in names if names.count(n) > 1))


def clean(name):
    """A test's name without what changes from run to run."""
    name = re.sub(r"\[\d+\]", "[pid]", name)
    name = re.sub(r"0x[0-9a-f]+", "0x", name)
    return re.sub(r"\s+", " ", name).strip()


class Tap:
    """The log that ci/guest_kselftest.py wrote, or those of several guests that
    shared the programs."""

    def __init__(self, *texts):
        self.programs = []
        self.stray = []
        for text in texts:
            self.read(text)

    def read(self, text):
        done, before = [], len(self.programs)
        current = None
        for line in text.splitlines():
            line = line.rstrip("\r")
            m = BEGIN_PROGRAM.search(line)
            if m:
                current = Program(m.group(1))
                self.programs.append(current)
                continue
            m = END_PROGRAM.search(line)
            if m:
                if current is None or current.name != m.group(1):
                    self.stray.append("end of %s without its begin" %
                                      m.group(1))
                else:
                    current.exit = int(m.group(2))
                    current.timeout = bool(m.group(3))
                current = None
                continue
            m = DONE.search(line)
            if m:
                done.append(int(m.group(1)))
                continue
            if current is not None:
                current.take(line)
        count = len(self.programs) - before
        if len(done) != 1:
            self.stray.append("end of all programs seen %d times, expected "
                              "once" % len(done))
        elif done[0] != count:
            self.stray.append("%d programs to run, %d ran" % (done[0], count))

    def problems(self, programs=None):
        found = list(self.stray)
        names = [p.name for p in self.programs]
        if programs is not None and sorted(names) != sorted(programs):
            found.append("programs built and programs run differ: %s" %
                         ", ".join(sorted(set(names) ^ set(programs))))
        return found

    def verdicts(self):
        """program/test -> ok, not ok or skip; a program without tests of its
        own is one test."""
        result = {}
        for p in self.programs:
            for index, (name, verdict, _) in enumerate(p.tests):
                key = "%s/%s" % (p.name, name or index)
                while key in result:
                    key += "'"
                result[key] = verdict
            if not p.tests:
                result[p.name] = "skip" if p.exit == 4 or p.skip_all \
                    else "ok" if p.exit == 0 else "not ok"
        return result


def short(program):
    """fullfork:threads_test -> threads_test, as expected-tests.txt has it."""
    return program.partition(":")[2] or program


def test_names(tap, target):
    """The names of a target's tests, as expected-tests.txt lists them."""
    return sorted("%s %s" % (short(p.name), name) for p in tap.programs
                  if p.name.startswith(target + ":")
                  for name, _, _ in p.tests)


def judge_tests(tap, strict, expected=None, programs=None):
    """Rows (name, passed, detail). strict: targets where a skip is a failure.
    expected: target -> the list of its test names."""
    rows = []
    for p in tap.programs:
        target = p.name.partition(":")[0]
        for name, verdict, detail in p.tests:
            passed = verdict == "ok" or (verdict == "skip" and
                                         target not in strict)
            rows.append(("%s/%s" % (p.name, name), passed,
                         "skipped: " + detail if verdict == "skip" else detail))
        if p.skip_all or p.exit == 4:
            rows.append((p.name, target not in strict, "skipped as a whole"))
        problems = p.problems()
        if target not in strict:
            # pidfd_poll_test of upstream is no TAP program.
            problems = [x for x in problems if x != "no plan"]
        if target in strict:
            problems += ["test %s ran twice" % n for n in p.twice()]
        if target in strict and p.leftover:
            problems.append("left processes behind: " + ", ".join(p.leftover))
        rows.append((p.name + " ends well", not problems,
                     "; ".join(problems)))
    for target, names in (expected or {}).items():
        seen = test_names(tap, target)
        missing = sorted(set(names) - set(seen))
        extra = sorted(set(seen) - set(names))
        detail = ""
        if missing:
            detail += "missing: %s. " % ", ".join(missing)
        if extra:
            detail += "not expected: %s" % ", ".join(extra)
        rows.append(("%s runs the tests of expected-tests.txt" % target,
                     not detail, detail))
    problems = tap.problems(programs)
    rows.append(("every program ran", not problems, "; ".join(problems)))
    return rows


def judge_negative(tap, target, expected):
    """The negative control: on a kernel without the feature no test of the
    target may pass."""
    rows = []
    seen = {}
    for p in tap.programs:
        if p.name.startswith(target + ":"):
            for name, verdict, _ in p.tests:
                seen["%s %s" % (short(p.name), name)] = verdict
    for name in expected:
        verdict = seen.get(name, "did not run")
        rows.append((name + " fails without the feature", verdict == "not ok",
                     verdict))
    if not expected:
        rows.append(("there are tests to control", False, "none expected"))
    return rows


def judge_compare(base, ours):
    """No test of upstream's may end worse than on the unpatched kernel."""
    rank = {"not ok": 0, "skip": 1, "ok": 2}
    rows = []
    before, after = base.verdicts(), ours.verdicts()
    for name in sorted(set(before) | set(after)):
        was, now = before.get(name), after.get(name)
        if was is None:
            rows.append((name, now != "not ok", "new, and it fails"))
        elif now is None:
            rows.append((name, False, "ran on base only (%s)" % was))
        else:
            rows.append((name, rank[now] >= rank[was],
                         "%s on base, %s here" % (was, now)))
    return rows


def judge_again(rows, rounds):
    """rows of judge_compare(), where what failed ran again: rounds are pairs of
    Tap, of base and of ours. A test of upstream's that races fails now and then,
    on any kernel; it is worse here if it fails again, and more often than there."""
    def failed(name, side):
        return sum(r[side].verdicts().get(name) != "ok" for r in rounds)

    judged = []
    for name, ok, detail in rows:
        if not ok and rounds:
            there, here = failed(name, 0), failed(name, 1)
            ok = here <= there and here < len(rounds)
            detail += "; then, of %d, %d failed on base, %d here" % (
                len(rounds), there, here)
        judged.append((name, ok, detail))
    return judged
