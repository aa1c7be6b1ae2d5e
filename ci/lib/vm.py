# SPDX-License-Identifier: GPL-2.0
"""Boot a built kernel in QEMU and run a job in it as root.

The guest's root is the container's own Debian over 9p under a throw-away
overlay (virtiofs corrupts code pages under TCG), the repository is at /repo.
KVM is used where a trial boot works, else TCG."""

import json
import os
import platform
import re
import select
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

import judge
import kbuild
from common import LOG, OUT, REPO, Failure, locked, main, note, number

# Seconds that the guest may need beside its job: boot, hang dump, kmemleak.
GRACE = {"kvm": 60, "tcg": 120}
GRACE_DEBUG = 300
TRIAL = 25
MEMORY = {"debug": "4G"}
# Every iteration of a string instruction would count as an instruction.
COUNTING_CPU = "max,-erms,-fsrm,-fsrs,-fzrm,-fsrc"
# Of the guest's time, which leaps while the machine waits for the host.
NEVER = 10 ** 8


def memory(name):
    """What a guest gets, as QEMU takes it."""
    return os.environ.get("MEM") or MEMORY.get(name, "2G")


def memory_size(name):
    m = re.fullmatch(r"(\d+)([MG]?)", memory(name))
    if not m:
        raise Failure("MEM=%s: a number of megabytes, or with G of gigabytes" %
                      memory(name))
    return int(m.group(1)) << (30 if m.group(2) == "G" else 20)


class Run:
    """What came out of one boot."""

    def __init__(self):
        self.status = None      # of the job; None where it did not tell
        self.output = b""
        self.console = ""       # path
        self.directory = ""     # /results of the guest
        self.accel = ""
        self.killed = False
        self.seconds = 0.0
        self.boot_seconds = 0.0

    def problems(self):
        """What the judge finds wrong with the console."""
        with open(self.console, encoding="utf-8", errors="replace") as f:
            found = judge.judge_console(f.read())
        if self.killed:
            found.append("the machine did not end by itself and was killed")
        leaks = os.path.join(self.directory, "kmemleak.txt")
        if os.path.exists(leaks) and os.path.getsize(leaks):
            with open(leaks, encoding="utf-8", errors="replace") as f:
                found.append("kmemleak: " + f.readline().strip())
        return found


def counts():
    """Does the guest's clock count instructions (ICOUNT=1)?"""
    return os.environ.get("ICOUNT") == "1"


def cpus():
    return number("CPUS", 1 if counts() else 2)


def tsc_frequency():
    """What to tell the guest of its TSC, which it would measure wrong on a
    loaded host: its clock would be too fast or too slow."""
    if platform.machine() != "x86_64":
        return []
    source, program = os.path.join(REPO, "ci/tsc.c"), os.path.join(OUT, "tsc")
    with locked(program + ".lock"):
        if not os.path.exists(program) or \
                os.path.getmtime(program) < os.path.getmtime(source):
            subprocess.run(["gcc", "-O2", "-o", program, source], check=True)
    p = subprocess.run([program], check=True, capture_output=True, text=True)
    return ["tsc_early_khz=" + p.stdout.strip()]


def qemu(name, accel, directory, console, interactive, memory, nr_cpus,
         shared):
    append = ["console=ttyS0", "root=container", "rootfstype=9p", "ro",
              "rootflags=trans=virtio,version=9p2000.L,cache=loose,msize=262144",
              "init=/repo/ci/guest-init", "panic=-1", "oops=panic",
              # A loaded host stops the guest's CPUs for longer than the 21 s
              # that count as a stall by default.
              "rcupdate.rcu_cpu_stall_timeout=300", "random.trust_cpu=on",
              "TERM=%s" % os.environ.get("TERM", "linux")]
    if accel == "tcg":
        # The TSC of TCG is that of one clock; all others cost an access to a
        # device.
        append += ["tsc=reliable", "clocksource=tsc"]
        if not counts():
            append += tsc_frequency()
    if name in kbuild.CHECKED:
        # An interrupt while the boot CPU is identified, when LA57 is not known
        # for a moment, is taken by KASAN for a wild access.
        append += ["no5lvl"]
    if counts():
        # A task that waits for the host seems to hang for hours.
        append += ["sysctl.kernel.hung_task_timeout_secs=0"]
    cmd = ["qemu-system-x86_64", "-nodefaults", "-no-user-config",
           "-machine", "q35,hpet=off", "-display", "none", "-no-reboot",
           # Without ACPI the kernel finds one CPU in each socket.
           "-smp", "%d,sockets=%d" % (nr_cpus, nr_cpus), "-m", memory,
           "-kernel", kbuild.image(name), "-append", " ".join(append),
           "-serial", "file:" + console,
           "-device", "virtio-rng-pci",
           "-fsdev", "local,id=fs0,path=/,security_model=none,readonly=on,"
           "multidevs=remap",
           "-device", "virtio-9p-pci,fsdev=fs0,mount_tag=container",
           "-fsdev", "local,id=fs1,path=%s,security_model=none" % directory,
           "-device", "virtio-9p-pci,fsdev=fs1,mount_tag=results",
           "-device", "virtio-serial-pci",
           "-chardev", "stdio,id=job,signal=off"]
    if shared:
        cmd += ["-fsdev", "local,id=fs2,path=%s,security_model=none" % shared,
                "-device", "virtio-9p-pci,fsdev=fs2,mount_tag=shared"]
    if interactive:
        cmd += ["-device", "virtconsole,chardev=job"]
    else:
        cmd += ["-device", "virtserialport,chardev=job,name=output"]
    if accel == "kvm":
        cmd += ["-accel", "kvm", "-cpu", "host"]
    elif counts():
        # 1 ns of the guest is one instruction; where all sleep, its clock leaps.
        cmd += ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off",
                "-cpu", COUNTING_CPU]
    else:
        cmd += ["-accel", "tcg,thread=multi", "-cpu", "max"]
    return cmd


def write_job(directory, script, timeout, interactive):
    with open(os.path.join(directory, "job.sh"), "w", encoding="utf-8") as f:
        f.write(script)
    with open(os.path.join(directory, "job.env"), "w", encoding="utf-8") as f:
        f.write("TIMEOUT=%d\nINTERACTIVE=%d\n" % (timeout, interactive))


def collect(process, deadline, progress, show):
    """Read the job's output to the end; False where it took too long."""
    chunks, line = [], b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            process.kill()
            process.wait()
            return b"".join(chunks), False
        ready, _, _ = select.select([process.stdout], [], [], min(left, 1.0))
        if not ready:
            continue
        data = os.read(process.stdout.fileno(), 65536)
        if not data:
            process.wait()
            return b"".join(chunks), True
        chunks.append(data)
        if show:
            sys.stdout.buffer.write(data)
            sys.stdout.flush()
        if progress:
            *lines, line = (line + data).split(b"\n")
            for text in lines:
                progress(text.decode(errors="replace"))


def boot(name, script, timeout, accel=None, interactive=False, show=False,
         progress=None, label="vm", shared=None):
    """Run script as root in a fresh guest of kernel name. A directory that it
    shares with other guests is at /shared."""
    if not os.path.exists(kbuild.image(name)):
        raise Failure("kernel %s is not built: make build KERNEL=%s" %
                      (name, name))
    result = Run()
    result.accel = accel or choose_accel(name)
    base = os.path.join(OUT, "vm")
    os.makedirs(base, exist_ok=True)
    result.directory = tempfile.mkdtemp(prefix=label + "-", dir=base)
    result.console = os.path.join(LOG, "%s-%s-%s.console" % (
        label, name, result.directory.rsplit("-", 1)[1]))
    if counts() and cpus() != 1:
        raise Failure("ICOUNT=1 is for one CPU, not CPUS=%d" % cpus())
    write_job(result.directory, script, NEVER if counts() else timeout,
              interactive)
    cmd = qemu(name, result.accel, result.directory, result.console,
               interactive,
               memory(name), cpus(), shared)
    start = time.monotonic()
    if interactive:
        subprocess.run(cmd, check=False)
    else:
        grace = GRACE_DEBUG if name in kbuild.CHECKED else GRACE[result.accel]
        # An stdin at its end would count as a closed port, and block the guest.
        process = subprocess.Popen(cmd, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE)
        result.output, ended = collect(process, start + timeout + grace,
                                       progress, show)
        result.killed = not ended
    result.seconds = time.monotonic() - start
    read_end(result)
    return result


def read_end(result):
    with open(result.console, encoding="utf-8", errors="replace") as f:
        text = f.read()
    result.status = judge.end_status(text)
    start = re.search(r"\[ *(\d+\.\d+)\] fullfork-vm: start", text)
    result.boot_seconds = float(start.group(1)) if start else 0.0


def discard(result):
    shutil.rmtree(result.directory, ignore_errors=True)


def choose_accel(name):
    """kvm or tcg; what a trial boot showed is remembered."""
    given = "tcg" if counts() else os.environ.get("ACCEL")
    if given and given not in GRACE:
        raise Failure("ACCEL=%s: choose kvm or tcg" % given)
    if given:
        return given
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        note("vm: TCG (there is no /dev/kvm that may be used)")
        return "tcg"
    cache = os.path.join(OUT, "accel.json")
    try:
        with open(cache, encoding="utf-8") as f:
            accel = json.load(f)["accel"]
    except (OSError, ValueError, KeyError):
        note("vm: trying KVM (%d s at most, once)" % TRIAL)
        saved, GRACE["kvm"] = GRACE["kvm"], 0
        trial = boot(name, "true\n", TRIAL, accel="kvm", label="trial")
        GRACE["kvm"] = saved
        accel = "kvm" if trial.status == 0 else "tcg"
        with open(cache, "w", encoding="utf-8") as f:
            json.dump({"accel": accel}, f)
        discard(trial)
    note("vm: %s" % ("KVM" if accel == "kvm"
                    else "TCG (a trial boot under KVM failed)"))
    return accel


def command(argv):
    """make vm: a shell, or the command CMD with its output and status."""
    name = kbuild.kernel()
    cmd = os.environ.get("CMD")
    timeout = number("TIMEOUT", 300)
    if argv:
        cmd = shlex.join(argv)
    if not cmd:
        if not sys.stdin.isatty():
            raise Failure("make vm is interactive; use make vm CMD='...'")
        note("vm: a root shell on kernel %s; exit or Ctrl-D ends the machine" %
            name)
        rows = shutil.get_terminal_size()
        result = boot(name, "cd /repo\nstty rows %d cols %d\nbash -i\n" %
                      (rows.lines, rows.columns), 0, interactive=True)
        status = 0
    else:
        result = boot(name, cmd + "\n", timeout, show=True)
        status = result.status
    for problem in result.problems():
        note("vm: %s" % problem)
        status = status or 1
    if status == 124:
        note("vm: what every thread was doing: %s/hang.txt" %
             result.directory)
    note("vm: console in %s" % os.path.relpath(result.console))
    return 125 if status is None else status


if __name__ == "__main__":
    main(command)
