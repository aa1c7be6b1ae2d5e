# SPDX-License-Identifier: GPL-2.0
"""Configure and build a kernel: /kernel/src into /kernel/out.

KERNEL is fast, debug, kcsan, base, off, trace, criu or arm64. What a config asks for is verified
before anything is compiled."""

import os
import re
import subprocess
import sys
import threading
import time

import series
from common import JOBS, LOG, OUT, REPO, Failure, main, run, say, timed

SRC = "/kernel/src"
DST = "/kernel/out"
TREE_FRAGMENT = SRC + "/kernel/configs/fullfork.config"
FRAGMENTS = {
    "fast": ["common", "fast", "rust"],
    "debug": ["common", "debug", "rust"],
    "kcsan": ["common", "kcsan"],
    "base": ["common", "fast"],
    "off": ["common", "fast", "off"],
    "trace": ["common", "fast", "trace"],
    "criu": ["common", "fast", "rust", "criu"],
    "each": ["common", "fast"],
    "each-off": ["common", "fast"],
    "arm64": ["arm64"],
}
# base and off must not ask for the feature.
WITH_FULLFORK = ("fast", "debug", "kcsan", "trace", "criu", "each", "arm64")
# They check what they do at every step: built with clang, and slow.
CHECKED = ("debug", "kcsan")
CROSS = "aarch64-linux-gnu-"
IMAGE = {"arm64": "arch/arm64/boot/Image"}
TICK = 30
ESTIMATE = {
    "fast": "10 minutes on 2 cores when nothing is cached",
    "debug": "20 minutes on 2 cores when nothing is cached",
}


def kernel():
    name = os.environ.get("KERNEL") or "fast"
    if name not in FRAGMENTS:
        raise Failure("KERNEL=%s: choose one of %s" %
                      (name, ", ".join(FRAGMENTS)))
    return name


def image(name):
    return os.path.join(OUT, name, IMAGE.get(name, "arch/x86/boot/bzImage"))


def make_command(name, *args):
    cmd = ["make", "-C", SRC, "O=" + DST, "-j%d" % JOBS, "LOCALVERSION=",
           "KBUILD_BUILD_USER=fullfork", "KBUILD_BUILD_HOST=fullfork",
           "KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 2026",
           "KBUILD_BUILD_VERSION=1"]
    if name == "arm64":
        cmd += ["ARCH=arm64", "CROSS_COMPILE=" + CROSS,
                "CC=ccache %sgcc" % CROSS]
    elif name in CHECKED:
        cmd += ["ARCH=x86_64", "LLVM=1", "CC=ccache clang"]
    else:
        cmd += ["ARCH=x86_64", "CC=ccache gcc"]
    return cmd + list(args)


def fragments(name):
    paths = [os.path.join(REPO, "ci/config", f + ".config")
             for f in FRAGMENTS[name]]
    if name in WITH_FULLFORK:
        if os.path.exists(TREE_FRAGMENT):
            paths.append(TREE_FRAGMENT)
        else:
            say("config: the queue has no kernel/configs/fullfork.config yet: "
                "built without the feature")
    return paths


def asked(paths):
    """What the fragments ask for, a later one winning: symbol -> value."""
    wanted = {}
    for path in paths:
        with open(path, encoding="utf-8") as f:
            for line in f:
                line = line.strip()
                m = re.fullmatch(r"# (CONFIG_\w+) is not set", line)
                if m:
                    wanted[m.group(1)] = "n"
                elif line and not line.startswith("#"):
                    symbol, _, value = line.partition("=")
                    wanted[symbol] = value
    return wanted


def verify(config, wanted):
    """Every option is what was asked, else fail."""
    got = {}
    with open(config, encoding="utf-8") as f:
        for line in f:
            if line.startswith("CONFIG_"):
                symbol, _, value = line.strip().partition("=")
                got[symbol] = value
    wrong = ["%s: asked %s, got %s" % (s, v, got.get(s, "n"))
             for s, v in sorted(wanted.items()) if got.get(s, "n") != v]
    if wrong:
        raise Failure("the config is not what was asked:\n  " +
                      "\n  ".join(wrong))


def config_key(wanted):
    """What the config depends on: the options asked and the Kconfig files."""
    git = ["git", "-C", SRC]
    return "%r\n%s%s" % (sorted(wanted.items()),
                         run(git + ["rev-parse", "HEAD"]).stdout,
                         run(git + ["diff", "HEAD", "--", "*Kconfig*"]).stdout)


def configure(name):
    """Make DST/.config; it keeps its time stamp where nothing changed."""
    wanted = asked(fragments(name))
    stamp = DST + "/.config-key"
    key = config_key(wanted)
    if os.path.exists(stamp) and os.path.exists(DST + "/.config"):
        with open(stamp, encoding="utf-8") as f:
            if f.read() == key:
                verify(DST + "/.config", wanted)
                return
    # In a directory of its own: allnoconfig also resets what tells make which
    # objects an option concerns.
    scratch = DST + "/.config-scratch"
    os.makedirs(scratch, exist_ok=True)
    config = scratch + "/.config"
    run(make_command(name, "-s", "O=" + scratch, "allnoconfig"))
    with open(config, encoding="utf-8") as f:
        kept = [line for line in f if not any(
            s in wanted for s in re.findall(r"CONFIG_\w+", line)[:1])]
    with open(config, "w", encoding="utf-8") as f:
        f.writelines(kept)
        for symbol, value in wanted.items():
            f.write("# %s is not set\n" % symbol if value == "n"
                    else "%s=%s\n" % (symbol, value))
    run(make_command(name, "-s", "O=" + scratch, "olddefconfig"))
    verify(config, wanted)
    with open(config, "rb") as f:
        series.write_file(DST + "/.config", f.read())
    with open(stamp, "w", encoding="utf-8") as f:
        f.write(key)
    say("config: %d options asked, all as asked" % len(wanted))


def watched(cmd, log_path, what):
    """Run a long make; a line every half minute, the errors at the end."""
    start = time.monotonic()
    with open(log_path, "w", encoding="utf-8") as log:
        p = subprocess.Popen(cmd, stdout=log, stderr=subprocess.STDOUT)
        done = threading.Event()

        def tick():
            while not done.wait(TICK):
                with open(log_path, encoding="utf-8", errors="replace") as f:
                    objects = sum(line.startswith("  CC") or
                                  line.startswith("  AS") for line in f)
                say("   %s: %d objects, %.0f s" %
                    (what, objects, time.monotonic() - start))
        ticker = threading.Thread(target=tick, daemon=True)
        ticker.start()
        status = p.wait()
        done.set()
        ticker.join()
    if status:
        with open(log_path, encoding="utf-8", errors="replace") as f:
            lines = f.read().splitlines()
        errors = [i for i, line in enumerate(lines)
                  if re.search(r"\b(error|Error|undefined reference)\b", line)]
        first = max(0, errors[0] - 5) if errors else -30
        raise Failure("%s failed (all of it in %s):\n%s" %
                      (what, log_path, "\n".join(lines[first:][:60])))


def warnings(log_path):
    with open(log_path, encoding="utf-8", errors="replace") as f:
        return [line.strip() for line in f
                if re.search(r"\bwarning:|\bWARNING:", line)]


def build(name, targets=()):
    with timed("build " + name, ESTIMATE.get(name, "")):
        configure(name)
        log_path = os.path.join(LOG, "build-%s.log" % name)
        if not targets:
            targets = ["Image" if name == "arm64" else "bzImage"]
        os.environ["CCACHE_STATSLOG"] = stats_log = DST + "/.ccache-stats"
        with open(stats_log, "w", encoding="utf-8"):
            pass
        watched(make_command(name, *targets), log_path, "build " + name)
        found = warnings(log_path)
        for line in found:
            say("   " + line)
        stats = run(["ccache", "--show-log-stats"]).stdout
        hit = re.search(r"Hits:\s+(\d+) / +(\d+)", stats)
        if hit and int(hit.group(2)):
            say("   ccache: %s hits of %s" % hit.groups())
    return found


def command(argv):
    found = build(kernel(), argv)
    return 1 if found else 0


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(__file__))
    main(command)
