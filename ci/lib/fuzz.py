# SPDX-License-Identifier: GPL-2.0
"""Run the fuzzer of samples-rust/fuzz in the guest, on KERNEL, and judge it.

fuzz.py build   the fuzzer alone
fuzz.py run

FUZZ_SECONDS  how long (default 180)
SEED          what the programs are made from (default: the clock; it is printed)
REPLAY        SEED:STEP of one step, which is run TRIES times; the output tells
MINIMISE=1    make a step that failed smaller"""

import json
import os
import sys

import kbuild
import kselftest
import user
import vm
from common import LOG, REPO, Failure, Results, main, say, timed

PROGRAM = "fullfork-fuzz"
# Of what has no summary.
LAST_LINES = 40
SECONDS = 180
# For what begins before the time is over, on a machine that is loaded.
GRACE = 240
# What so many steps reach by far; less means that they did next to nothing. On a loaded
# machine there are fewer, of which one of each is demanded.
MANY_STEPS = 30
MIN_SHAPES = 3
MIN_ERRORS = 3


def options():
    args = ["--seconds", os.environ.get("FUZZ_SECONDS") or str(SECONDS)]
    for name in ("SEED", "REPLAY", "TRIES"):
        if os.environ.get(name):
            args += ["--" + name.lower(), os.environ[name]]
    if os.environ.get("MINIMISE"):
        args.append("--minimise")
    return args


def check_number(name, default):
    value = os.environ.get(name) or str(default)
    if not value.isdigit():
        raise Failure("%s is not a number: %s" % (name, value))
    return int(value)


def summary_of(text):
    """The object of JSON that the fuzzer printed last, or None."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                found = json.loads(line)
            except ValueError:
                return None
            return found if isinstance(found, dict) and "seed" in found else None
    return None


def judge_run(summary, status, replayed=False):
    """Rows (name, passed, detail)."""
    if summary is None:
        return [("the fuzzer came to its end", False, "no summary")]
    failures = ["step %s: %s" % (f["step"], f["why"]) for f in summary["failures"]]
    rows = [
        ("the fuzzer came to its end", status == (1 if failures else 0),
         "exit status %s" % status),
        ("%d steps with %d calls, seed %d" %
         (summary["steps"], summary["operations"], summary["seed"]),
         not failures and not summary["hangs"] and not summary["leaks"],
         "; ".join(failures)),
    ]
    if not replayed:
        many = summary["steps"] >= MANY_STEPS
        rows.append(("it copied, and was refused, in many ways",
                     summary["shapes"] >= (MIN_SHAPES if many else 1) and
                     len(summary["errors"]) >= (MIN_ERRORS if many else 1),
                     "%d copies compared, errors %s" %
                     (summary["shapes"], " ".join(sorted(summary["errors"])))))
    return rows


def table(summary):
    """What there is to know of a run, for people."""
    errors = "  ".join("%s %d" % item for item in sorted(summary["errors"].items()))
    reasons = "  ".join("%s %d" % item for item in sorted(summary["reasons"].items()))
    return "\n".join([
        "   seed %d: %d steps in %.0f s" %
        (summary["seed"], summary["steps"], summary["seconds"]),
        "   calls %d: %d succeeded, %d of them compared task by task; %d "
        "callers were killed" % (summary["operations"], summary["succeeded"],
                                 summary["shapes"], summary["killed"]),
        "   errors: " + errors,
        "   reasons: " + reasons,
        "   longest stand-still %.1f ms, longest call %.1f ms" %
        (summary["longest_stand_still_ns"] / 1e6, summary["longest_call_ns"] / 1e6),
        "   hangs %d, leaks %d, failures %d" %
        (summary["hangs"], summary["leaks"], len(summary["failures"]))])


def cmd_run():
    seconds = check_number("FUZZ_SECONDS", SECONDS)
    check_number("SEED", 0)
    name = kbuild.kernel()
    seed = os.environ.get("SEED")
    results = Results("fuzz-" + name + ("-seed-" + seed if seed else ""))
    timeout = int(os.environ.get("TIMEOUT") or seconds + GRACE)

    def progress(line):
        if line.startswith("fuzz: "):
            say("   " + line)
    script = "exec %s/%s %s\n" % (kselftest.in_guest(user.BINARIES), PROGRAM,
                                  " ".join(options()))
    with timed("fuzz on %s for %d s" % (name, seconds)):
        result = vm.boot(name, script, timeout, progress=progress, label="fuzz")
    text = result.output.decode(errors="replace")
    path = result.console.replace(".console", ".log")
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    say("   log %s and .console (%s, booted in %.1f s)" %
        (os.path.relpath(path, REPO), result.accel, result.boot_seconds))
    summary = summary_of(text)
    if summary is None:
        say("exit status %s; the last that it printed:" % result.status)
        say("\n".join(text.splitlines()[-LAST_LINES:]))
    results.extend(judge_run(summary, result.status, bool(os.environ.get("REPLAY"))))
    problems = result.problems()
    results.add("kernel %s: console, end marker, memory" % name, not problems,
                "; ".join(problems))
    status = results.write()
    if summary:
        say(table(summary))
        summary["kernel"] = name
        summary["problems"] = problems
        with open(os.path.join(LOG, "fuzz-%s.json" % name), "w",
                  encoding="utf-8") as f:
            json.dump(summary, f)
        # The last line, for programs.
        say(json.dumps(summary))
    return status


def cmd_build():
    user.demand("build fuzz", user.cargo("build", "-p", PROGRAM))
    return 0


def command(argv):
    commands = {"build": cmd_build, "run": cmd_run}
    if len(argv) != 1 or argv[0] not in commands:
        raise Failure("usage: fuzz.py " + "|".join(commands))
    return commands[argv[0]]()


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main(command)
