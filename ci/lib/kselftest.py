# SPDX-License-Identifier: GPL-2.0
"""Build selftests from build/linux, run them in the guest, judge the logs.

GUESTS guests share the programs.

kselftest.py build            for TARGETS
kselftest.py run              for TARGETS on KERNEL; the verdict is the status;
                              REPEAT times, until one fails
kselftest.py negative         fullfork on the unpatched kernel: nothing may pass
kselftest.py compare          TARGETS on base and on KERNEL, name by name
kselftest.py expected-tests   print the names of all tests of fullfork"""

import os
import re
import shlex
import sys
import tempfile
import threading

import judge
import kbuild
import vm
from common import JOBS, LOG, OUT, REPO, Failure, Results, locked, main, \
    number, run, say, timed

DIR = os.path.join(OUT, "kselftest")
STRICT = ("fullfork",)
# How often what ended worse than on base is run again on both.
AGAIN = 5
# How much longer than on a real machine a program may take.
FACTOR = {"kvm": 1, "tcg": 8}
DEBUG_FACTOR = 2
EXPECTED = os.path.join(
    REPO, "linux/files/tools/testing/selftests/fullfork/expected-tests.txt")


def targets():
    return (os.environ.get("TARGETS") or "fullfork").split()


def install_dir(names):
    return os.path.join(DIR, "install",
                        "+".join(n.replace("/", "-") for n in names))


def build(names, force=True):
    """force: that one of them cannot be built is an error."""
    os.makedirs(DIR, exist_ok=True)
    install = install_dir(names)
    with locked(os.path.join(DIR, "lock")), \
            timed("build selftests: " + " ".join(names)):
        common = ["ARCH=x86", "O=" + DIR, "-j%d" % JOBS]
        kbuild.watched(["make", "-C", kbuild.SRC, *common, "headers_install"],
                       os.path.join(LOG, "headers.log"), "headers_install")
        log = os.path.join(LOG, "build-selftests.log")
        kbuild.watched(
            ["make", "-C", kbuild.SRC + "/tools/testing/selftests", *common,
             "TARGETS=" + " ".join(names), "CC=ccache gcc",
             *(["FORCE_TARGETS=1"] if force else []),
             "KSFT_INSTALL_PATH=" + install, "install"], log, "selftests")
        for line in kbuild.warnings(log):
            say("   " + line)
    return programs(names)


def in_guest(path):
    """The guest has the repository at /repo only."""
    return os.path.join("/repo", os.path.relpath(path, REPO))


def programs(names):
    """target:program of everything that was installed."""
    path = os.path.join(install_dir(names), "kselftest-list.txt")
    with open(path, encoding="utf-8") as f:
        return [line.strip() for line in f if line.strip()]


def environment():
    """What the tests themselves ask for, see fail_nth_test.c; and how long one may
    take if that was said."""
    given = {"FULLFORK_FAULTS": "FAULTS", "FULLFORK_FAULTS_STEP": "FAULTS_STEP",
             "FULLFORK_ROUNDS": "ROUNDS",
             "KSFT_MOST": "TIMEOUT"}
    return "".join("export %s=%s\n" % (name, shlex.quote(os.environ[key]))
                   for name, key in given.items() if os.environ.get(key))


def wanted_programs(names):
    """Those of PROGRAMS, also such as are not run by default; else all."""
    items = programs(names)
    wanted = (os.environ.get("PROGRAMS") or "").split()
    if not wanted:
        return items
    found = [i for i in items if i.split(":")[1] in wanted]
    known = [i.split(":")[1] for i in found]
    for program in wanted:
        more = [n + ":" + program for n in names if program not in known and
                os.access(os.path.join(install_dir(names), n, program), os.X_OK)]
        if program not in known and not more:
            raise Failure("PROGRAMS: there is no %s" % program)
        found += more
    return found


def results_name(name, names):
    """Each set of programs that is run by itself has a file of its own."""
    wanted = (os.environ.get("PROGRAMS") or "").split()
    return "kselftest-%s-%s%s" % (
        name, "-".join(n.replace("/", "_") for n in names),
        "-" + wanted[0] if len(wanted) == 1 else "")


def overall_timeout(names, items, factor):
    if number("TIMEOUT"):
        return number("TIMEOUT")
    total = 0
    for item in items:
        settings = os.path.join(install_dir(names), item.split(":")[0],
                                "settings")
        value = 45
        if os.path.exists(settings):
            with open(settings, encoding="utf-8") as f:
                m = re.search(r"^timeout=(\d+)", f.read(), re.M)
                value = int(m.group(1)) if m else value
        total += value * factor
    return total + 60


def number_of_guests(name):
    """As many as have all their CPUs for themselves, if memory allows: one waits for
    the other wherever the host does not run it, and more guests need longer."""
    if number("GUESTS"):
        return number("GUESTS")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(JOBS // vm.cpus(), 4, total * 3 // 4 // vm.memory_size(name)))


def show_progress(show_failed):
    def progress(line):
        m = judge.END_PROGRAM.search(line)
        if m:
            say("   %s: exit %s%s%s" % (m.group(1), m.group(2),
                                        m.group(3) or "",
                                        line[m.end():]))
        elif line.startswith("not ok") and show_failed:
            say("   " + line)
    return progress


def at_once(calls):
    """What each of these returns, where none waits for another."""
    results = [None] * len(calls)
    errors = []

    def call(i):
        try:
            results[i] = calls[i]()
        except (Failure, OSError) as e:
            errors.append(e)
    threads = [threading.Thread(target=call, args=(i,)) for i in range(len(calls))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]
    return results


def run_guests(name, names, label, show_failed=True, items=None):
    """Boot kernel name, run all programs, or items; returns (list of vm.Run,
    judge.Tap, the programs)."""
    items = items or wanted_programs(names)
    accel = vm.choose_accel(name)
    count = min(number_of_guests(name), len(items) or 1)
    factor = FACTOR[accel] * (DEBUG_FACTOR if name in kbuild.CHECKED else 1)
    script = "export KSFT_FULLFORK_EXPECT=1\n%sexec python3 " \
        "/repo/ci/guest_kselftest.py %s\n" % (environment(), shlex.join(
            [in_guest(install_dir(names)), str(factor)] + items))
    with timed("%s on %s (%d programs, %d guests)" %
               (" ".join(names), name, len(items), count)), \
            tempfile.TemporaryDirectory(dir=OUT) as shared:
        results = at_once(count * [lambda: vm.boot(
            name, script, overall_timeout(names, items, factor),
            accel=accel, progress=show_progress(show_failed), label=label,
            shared=shared if count > 1 else None)])
    texts = []
    for result in results:
        texts.append(result.output.decode(errors="replace"))
        path = result.console.replace(".console", ".tap")
        with open(path, "w", encoding="utf-8") as f:
            f.write(texts[-1])
        say("   log %s and .console (%s, booted in %.1f s)" %
            (os.path.relpath(path, REPO), result.accel, result.boot_seconds))
    return results, judge.Tap(*texts), items


def expected_names():
    if not os.path.exists(EXPECTED):
        raise Failure("there is no %s: make expected-tests" %
                      os.path.relpath(EXPECTED, REPO))
    with open(EXPECTED, encoding="utf-8") as f:
        return [line.rstrip("\n") for line in f
                if line.strip() and not line.startswith("#")]


def machine_rows(name, results):
    rows = []
    for i, result in enumerate(results, 1):
        problems = result.problems()
        if result.status != 0:
            problems.append("the guest's job ended with %s" % result.status)
        rows.append(("kernel %s, guest %d: console, end marker, memory" %
                     (name, i), not problems, "; ".join(problems)))
    return rows


def show_failures(results, tap):
    """The lines around the failures, so that nobody has to open the log."""
    for p in tap.programs:
        if any(v == "not ok" for _, v, _ in p.tests) or p.problems():
            for line in p.reasons()[:20]:
                say("   %s: %s" % (p.name, line))
    for result in results:
        for name in sorted(os.listdir(result.directory)):
            if name.startswith("hang"):
                say("   stacks of what hung: %s" % os.path.relpath(
                    os.path.join(result.directory, name), REPO))


def run_once(results, name, names, prefix=""):
    """Add the rows of one run to results."""
    expected = {"fullfork": expected_names()} if "fullfork" in names and \
        not os.environ.get("PROGRAMS") else None
    guests, tap, items = run_guests(name, names, "kselftest")
    rows = judge.judge_tests(tap, STRICT, expected, items) + \
        machine_rows(name, guests)
    results.extend((prefix + row, ok, detail) for row, ok, detail in rows)
    if not all(ok for _, ok, _ in rows):
        show_failures(guests, tap)


def cmd_run():
    name, names = kbuild.kernel(), targets()
    times = number("REPEAT", 1)
    results = Results(results_name(name, names))
    for i in range(1, times + 1):
        run_once(results, name, names, "run %d: " % i if times > 1 else "")
        if times > 1:
            say("== run %d of %d: %s" % (i, times, "failed" if
                                         results.failed() else "passed"))
        if results.failed():
            break
    return results.write()


def cmd_negative():
    results = Results("negative-control")
    guests, tap, _ = run_guests("base", ["fullfork"], "negative", False)
    results.extend(judge.judge_negative(tap, "fullfork", expected_names()))
    results.extend(machine_rows("base", guests))
    return results.write()


def compared(name, names, items, base_tap, tap):
    """Rows of what ran on base and on name; what ended worse runs again."""
    rows = judge.judge_compare(base_tap, tap)
    worse = sorted({row.partition("/")[0] for row, ok, _ in rows if not ok} &
                   set(items))
    rounds = [[run_guests(k, names, "again", items=worse)[1]
               for k in ("base", name)] for _ in range(AGAIN if worse else 0)]
    judged = judge.judge_again(rows, rounds)
    for (row, before, _), (_, after, detail) in zip(rows, judged):
        if after and not before:
            say("   %s: %s: it races on any kernel" % (row, detail))
    return judged


def cmd_compare():
    name, names = kbuild.kernel(), targets()
    results = Results("upstream-%s" % name)
    vm.choose_accel(name)  # and remember it
    # Most of their time is that of tests with one thread.
    (base_guests, base_tap, items), (guests, tap, _) = at_once(
        [lambda k=k: run_guests(k, names, "upstream") for k in ("base", name)])
    results.extend(compared(name, names, items, base_tap, tap))
    for problem in tap.problems(items) + base_tap.problems(items):
        results.add("every program ran", False, problem)
    results.extend(machine_rows("base", base_guests))
    results.extend(machine_rows(name, guests))
    return results.write()


def parse_list(text):
    """fixture.variant.test names out of what a program prints for -l. Columns
    of 20, 25 and the rest; each of the three lists runs down on its own."""
    names = []
    for block in re.split(r"^-{20,}$", text, flags=re.M):
        fixture, variants, tests = "", [], []
        for line in block.splitlines():
            if not line.strip() or line.startswith("# FIXTURE"):
                continue
            words = [(m.start(), m.group()) for m in re.finditer(r"\S+", line)]
            if not fixture:
                fixture = words.pop(0)[1]
                shift = max(0, len(fixture) - 20)
            else:
                shift = 0
            for column, word in words:
                if column < 46 + shift and not (len(words) == 2 and
                                                word is words[1][1]):
                    variants.append(word)
                else:
                    tests.append(word)
        for v in variants or [""]:
            names += ["%s%s.%s" % (fixture, "." + v if v else "", t)
                      for t in tests]
    return names


def cmd_expected_tests():
    rows = []
    for item in build(["fullfork"]):
        program = item.split(":")[1]
        p = run(["./" + program, "-l"], check=False,
                cwd=os.path.join(install_dir(["fullfork"]), "fullfork"))
        rows += ["%s %s" % (program, n) for n in parse_list(p.stderr)]
    path = os.path.join(OUT, "expected-tests.txt")
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(row + "\n" for row in sorted(rows))
    say("%d tests" % len(rows))


def command(argv):
    commands = {"build": lambda: bool(not build(targets())), "run": cmd_run,
                "negative": cmd_negative, "compare": cmd_compare,
                "expected-tests": cmd_expected_tests}
    if len(argv) != 1 or argv[0] not in commands:
        raise Failure("usage: kselftest.py " + "|".join(commands))
    return commands[argv[0]]()


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main(command)
