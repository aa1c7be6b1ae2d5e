# SPDX-License-Identifier: GPL-2.0
"""Build, test and judge the Rust workspace samples-rust with Debian's cargo, and the
Python package in it.

user.py fetch    get the crates of Cargo.lock; nothing where they are there
user.py build    the command, the tests of the guest, the examples, the wheel
user.py test     the tests that need no kernel
user.py lint     format, clippy, documentation, man pages, completions
user.py guest    the tests of the guest on KERNEL; a skip is a failure"""

import glob
import os
import re
import shutil
import subprocess
import sys

import judge
import kbuild
import kselftest
import vm
from common import LOG, OUT, REPO, Failure, Results, locked, main, number, \
    run, say, timed

WORKSPACE = os.path.join(REPO, "samples-rust")
TARGET = os.path.join(OUT, "user")
HOME = os.path.join(OUT, "cargo")
BINARIES = os.path.join(TARGET, "debug")
TEST_PROGRAM = "fullfork-guest-tests"
PACKAGE = os.path.join(WORKSPACE, "fullfork-python")
# The wheel, and the package installed from it.
WHEELS = os.path.join(TARGET, "wheels")
PYTHON = os.path.join(TARGET, "python")
# For all tests of the guest; one may take FULLFORK_TEST_SECONDS.
TIMEOUT = {"kvm": 400, "tcg": 1500}
TAIL = 60


def environment(**more):
    env = dict(os.environ, CARGO_HOME=HOME, CARGO_TARGET_DIR=TARGET,
               CARGO_TERM_COLOR="never", NO_COLOR="1", **more)
    return env


def attempt(what, cmd, **env):
    """Run a command in the workspace; returns (status, its output), which is
    also kept in the log user-<what>."""
    with locked(os.path.join(OUT, "user.lock")), timed("user: " + what):
        p = subprocess.run(cmd, cwd=WORKSPACE, env=environment(**env),
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, check=False)
    text = p.stdout.decode(errors="replace")
    with open(log_path(what), "w", encoding="utf-8") as f:
        f.write(text)
    return p.returncode, text


def log_path(what):
    return os.path.join(LOG, "user-%s.log" % what.replace(" ", "-"))


def cargo(word, *args):
    """A cargo that fetches nothing, and changes no lock file."""
    return ["cargo", word, "--locked", "--offline", *args]


def tail(text):
    return "\n   " + "\n   ".join(text.strip().splitlines()[-TAIL:])


def demand(what, cmd, **env):
    status, text = attempt(what, cmd, **env)
    if status:
        raise Failure("%s: exit status %d%s" % (what, status, tail(text)))


def cmd_fetch():
    os.makedirs(HOME, exist_ok=True)
    there = run(cargo("fetch"), cwd=WORKSPACE, env=environment(), check=False)
    if there.returncode:
        demand("fetch", ["cargo", "fetch", "--locked"])
    return 0


def cmd_build():
    demand("build", cargo("build", "--workspace", "--bins", "--examples"))
    build_package()
    return 0


# ---- the Python package

def build_package():
    """The wheel, as maturin makes it, and the package as pip installs it."""
    for directory in (WHEELS, PYTHON):
        shutil.rmtree(directory, ignore_errors=True)
    demand("wheel", ["maturin", "build", "--locked", "--offline", "--quiet",
                     "--manifest-path", os.path.join(PACKAGE, "Cargo.toml"),
                     "--interpreter", "python3", "--auditwheel", "skip",
                     "--out", WHEELS])
    wheels = glob.glob(os.path.join(WHEELS, "fullfork-*-abi3-*.whl"))
    if len(wheels) != 1:
        raise Failure("maturin made no wheel for the stable ABI: %s" %
                      os.listdir(WHEELS))
    demand("package", [sys.executable, "-m", "pip", "install", "--no-index",
                       "--no-deps", "--quiet", "--target", PYTHON, wheels[0]])


def package_rows():
    """What the package does on an ordinary kernel, which this one has to be."""
    program = "package:ordinary"
    status, text = attempt("package test", [
        sys.executable, os.path.join(PACKAGE, "tests", "run.py"), "ordinary"],
        PYTHONPATH=PYTHON)
    if status:
        say(said_about_failures(text))
    return judged(program, text, status)


def judged(program, text, status):
    """Rows of what one program printed, with the marks that the judge looks for."""
    tap = judge.Tap("fullfork-ksft: begin %s\n%s\nfullfork-ksft: end %s "
                    "exit=%d%s\nfullfork-ksft: done programs=1\n" %
                    (program, text, program, status,
                     " timeout" if status == 124 else ""))
    collection = program.partition(":")[0]
    return judge.judge_tests(tap, (collection,), programs=[program])


# ---- tests that need no kernel

RUNNING = re.compile(r"\s+(?:Running (?:unittests )?(\S+) \(.*/(\w+)-[0-9a-f]+\)"
                     r"|Doc-tests (\S+))$")
TEST = re.compile(r"test (.+) \.\.\. (ok|FAILED|ignored)\b")
RESULT = re.compile(r"test result: \w+\. (\d+) passed; (\d+) failed; "
                    r"(\d+) ignored")


def judge_cargo(text):
    """Rows (name, passed, detail) of what cargo test prints. What is ignored
    is a failure, and so is a binary of which not every test was seen."""
    rows = []
    program, tests = "", []
    for line in text.splitlines():
        m = RUNNING.match(line)
        if m:
            source, binary, doc = m.groups()
            program = "doc " + doc if doc else "%s %s" % (binary, source)
            continue
        m = TEST.match(line)
        if m:
            name, verdict = m.groups()
            tests.append(("%s: %s" % (program, name), verdict == "ok", verdict))
            continue
        m = RESULT.match(line)
        if m:
            said = sum(int(n) for n in m.groups())
            if said != len(tests):
                rows.append(("%s: every test was seen" % program, False,
                             "%d of %d" % (len(tests), said)))
            rows += tests
            tests = []
    if tests:
        rows.append(("%s came to its end" % program, False, "no result"))
    return rows


def cmd_test():
    results = Results("user-test")
    status, text = attempt("test", cargo("test", "--no-fail-fast"))
    rows = judge_cargo(text)
    results.extend(rows)
    failed = any(not ok for _, ok, _ in rows)
    if status and not failed:
        results.add("cargo test", False, tail(text))
    elif failed:
        say(text[text.find("failures:"):][:8000])
    build_package()
    results.extend(package_rows())
    return results.write()


# ---- what can be said without running them

def generated(results, what, names):
    """The command writes these files, and none is empty."""
    directory = os.path.join(TARGET, what)
    status, text = attempt(what, [os.path.join(BINARIES, "fullfork"),
                                  "generate", what, directory])
    missing = [n for n in names
               if not os.path.isfile(os.path.join(directory, n)) or
               not os.path.getsize(os.path.join(directory, n))]
    results.add("generate " + what, status == 0 and not missing,
                "exit status %d, missing: %s%s" %
                (status, ", ".join(missing), tail(text)))
    return directory


def cmd_lint():
    results = Results("user-lint")
    for what, cmd, env in (
            ("format", ["cargo", "fmt", "--all", "--check"], {}),
            ("clippy", cargo("clippy", "--workspace", "--all-targets", "--",
                             "-D", "warnings"), {}),
            ("doc", cargo("doc", "--workspace", "--no-deps",
                          "--document-private-items"),
             {"RUSTDOCFLAGS": "-D warnings"}),
            ("lint build", cargo("build", "-p", "fullfork-cli"), {})):
        status, text = attempt(what, cmd, **env)
        results.add(what, status == 0, tail(text))
    generated(results, "man", ["fullfork.1"] + [
        "fullfork-%s.1" % word for word in (
            "check", "tree", "copy", "run", "snapshot", "spawn", "drop",
            "list", "watch")])
    completions = generated(results, "completions", [
        "fullfork.bash", "_fullfork", "fullfork.fish"])
    p = run(["bash", "-n", os.path.join(completions, "fullfork.bash")],
            check=False)
    results.add("the completions of bash are a script", p.returncode == 0,
                p.stderr.strip())
    return results.write()


# ---- the tests of the guest

def cmd_guest():
    name = kbuild.kernel()
    results = Results("user-guest")
    program = "user:" + TEST_PROGRAM
    accel = vm.choose_accel(name)
    timeout = number("TIMEOUT", TIMEOUT[accel])
    only = os.environ.get("PROGRAMS") or ""

    def progress(line):
        if line.startswith("not ok"):
            say("   " + line)
    with timed("guest tests of samples-rust on " + name):
        result = vm.boot(
            name, "export FULLFORK_PYTHON=%s FULLFORK_PYTHON_TESTS=%s\n"
            "exec %s/%s %s\n" % (
                kselftest.in_guest(PYTHON),
                kselftest.in_guest(os.path.join(PACKAGE, "tests")),
                kselftest.in_guest(BINARIES), TEST_PROGRAM, only), timeout,
            accel=accel, progress=progress, label="user")
    text = result.output.decode(errors="replace")
    path = result.console.replace(".console", ".tap")
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    say("   log %s and .console (%s, booted in %.1f s)" %
        (os.path.relpath(path, REPO), result.accel, result.boot_seconds))
    exit_status = -9 if result.status is None else result.status
    results.extend(judged(program, text, exit_status))
    problems = result.problems()
    results.add("kernel %s: console, end marker, memory" % name, not problems,
                "; ".join(problems))
    if results.failed():
        say(said_about_failures(text))
    return results.write()


def said_about_failures(text):
    """Where the tests that failed failed."""
    lines = [line for line in text.splitlines()
             if not re.match(r"ok |# \S+ took \d+ ms$|TAP |1\.\.", line)]
    return "\n".join("   " + line for line in lines[:TAIL])


def command(argv):
    commands = {"fetch": cmd_fetch, "build": cmd_build, "test": cmd_test,
                "lint": cmd_lint, "guest": cmd_guest}
    if len(argv) != 1 or argv[0] not in commands:
        raise Failure("usage: user.py " + "|".join(commands))
    return commands[argv[0]]()


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main(command)
