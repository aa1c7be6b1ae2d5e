# SPDX-License-Identifier: GPL-2.0
"""No harm to the rest of the kernel: upstream's own selftests, name by name on
base and on ours, and stress-ng's stressors of what the branch touches.

noharm.py build      the selftests, those that can be built here
noharm.py tests      run them on base and on KERNEL
noharm.py stress     the stressors on base and on KERNELS, STRESS_SECONDS each"""

import os
import re
import shlex
import sys

import kbuild
import kselftest
import vm
from common import LOG, REPO, Failure, Results, main, say, timed

TARGETS = ("clone3 pidfd pid_namespace ptrace signal futex rseq seccomp landlock "
           "cgroup exec timers mqueue membarrier core proc kcmp user_events "
           "uevent").split()
STRESSORS = ("clone fork vfork pthread mmapfork schedpolicy sigchld zombie "
             "cgroup").split()
SECONDS = 60
WORKERS = 2
# What only takes time there: minutes of arithmetic, a suspended machine, and
# thousands of parameters.
LEFT_OUT = {
    "rseq": {"run_param_test.sh", "run_syscall_errors_test.sh"},
    "timers": {"inconsistency-check", "nsleep-lat", "raw_skew", "rtcpie",
               "set-timer-lat", "freq-step", "valid-adjtimex", "adjtick",
               "alarmtimer-suspend", "change_skew", "clocksource-switch",
               "leap-a-day", "leapcrash", "set-2038", "set-tai", "skew_consistency"},
    "pid_namespace": set(),
}


def targets():
    return (os.environ.get("TARGETS") or " ".join(TARGETS)).split()


def cmd_build():
    names = targets()
    items = kselftest.build(names, force=False)
    built = {i.split(":")[0] for i in items}
    for name in sorted(set(names) - built):
        say("   %s: cannot be built here" % name)
    return 0 if items else 1


def chosen(names):
    return [i for i in kselftest.programs(names)
            if i.split(":")[1] not in LEFT_OUT.get(i.split(":")[0], ())]


def cmd_tests():
    """One target per boot, so that one that hangs takes no other along, and a
    run that was interrupted goes on with the next one."""
    name = kbuild.kernel()
    results = Results("no-harm")
    missing = []
    compared = 0
    for target in targets():
        items = [i for i in chosen(targets()) if i.startswith(target + ":")]
        if not items:
            missing.append(target)
            continue
        runs = [kselftest.run_guests(k, targets(), "no-harm", False, items)
                for k in ("base", name)]
        rows = kselftest.compared(name, targets(), items, runs[0][1], runs[1][1])
        compared += len(rows)
        results.extend(rows)
        for problem in new_problems(runs[0][0], runs[1][0]):
            results.add("%s: the kernel" % target, False, problem)
        for _, tap, _ in runs[1:]:
            for problem in tap.problems(items):
                results.add("%s: every program ran" % target, False, problem)
    say("no-harm: %d tests of %d targets compared; not built: %s" %
        (compared, len(targets()) - len(missing), " ".join(missing) or "none"))
    return results.write()


def normal(problem):
    """A problem of the console without what changes from run to run."""
    problem = re.sub(r"^console line \d+: ", "", problem)
    problem = re.sub(r"\[ *\d+\.\d+\](\[ *[TC]\d+\])? ", "", problem)
    return re.sub(r"0x[0-9a-f]+|\d+", "N", problem)


def new_problems(base, ours):
    """Of guests with our kernel, what none with the base has."""
    known = {normal(p) for guest in base for p in guest.problems()}
    return [p for guest in ours for p in guest.problems()
            if normal(p) not in known]


SCRIPT = """cd /tmp
for s in %s; do
    echo "no-harm: begin $s"
    stress-ng --"$s" %d --timeout %d --metrics-brief --temp-path /tmp 2>&1
    echo "no-harm: end $s status=$?"
done
exit 0
"""
END = re.compile(r"no-harm: end (\S+) status=(\d+)")
# bogo ops, real time, usr time, sys time, ...
OPS = re.compile(r"metrc:.*\] (\S+) +(\d+) +[\d.]+")


def stress(name, stressors, seconds):
    """(vm.Run, stressor -> (status, operations))."""
    with timed("stress-ng on " + name, "%d s each" % seconds):
        # A stressor under emulation may need a while to stop.
        result = vm.boot(name, SCRIPT % (shlex.join(stressors), WORKERS, seconds),
                         len(stressors) * (seconds * 2 + 120), label="stress")
    text = result.output.decode(errors="replace")
    with open(result.console.replace(".console", ".txt"), "w",
              encoding="utf-8") as f:
        f.write(text)
    found, ops = {}, 0
    for line in text.splitlines():
        m = OPS.search(line)
        if m:
            ops = int(m.group(2))
        m = END.search(line)
        if m:
            found[m.group(1)] = (int(m.group(2)), ops)
            ops = 0
    say("   log %s" % os.path.relpath(result.console, REPO))
    return result, found


def cmd_stress():
    seconds = int(os.environ.get("STRESS_SECONDS") or SECONDS)
    stressors = (os.environ.get("STRESSORS") or " ".join(STRESSORS)).split()
    kernels = (os.environ.get("KERNELS") or "fast debug").split()
    results = Results("no-harm-stress")
    base, before = stress("base", stressors, seconds)
    for name in kernels:
        result, found = stress(name, stressors, seconds)
        for s in stressors:
            was, now = before.get(s, (None, 0)), found.get(s, (None, 0))
            ok = now[0] is not None and (now[0] == 0 or now[0] == was[0])
            results.add("%s on %s" % (s, name), ok, "status %s, %s on base" %
                        (now[0], was[0]))
            say("   %-12s %-6s %9d operations, %9d on base" %
                (s, name, now[1], was[1]))
        problems = new_problems([base], [result])
        results.add("the kernel " + name, not problems, "; ".join(problems))
    return results.write()


def command(argv):
    commands = {"build": cmd_build, "tests": cmd_tests, "stress": cmd_stress}
    if len(argv) != 1 or argv[0] not in commands:
        raise Failure("usage: noharm.py " + "|".join(commands))
    os.makedirs(LOG, exist_ok=True)
    return commands[argv[0]]()


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main(command)
