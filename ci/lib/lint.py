# SPDX-License-Identifier: GPL-2.0
"""What can be said of the queue and of the scripts without running a kernel.

lint.py queue            checkpatch, size, order of the queue; shell and Python;
                         whether the document names tests that are there
lint.py sparse           sparse over ours and over what we edit, for KERNEL
lint.py compile          what we edit, and ours, with the compiler of KERNEL
lint.py compare-sparse   no warning that the base does not have
lint.py rust             rustfmt, clippy and rustdoc over our files in Rust
lint.py judge-tests      the tests of the judge
lint.py fixed-point      exporting what tree made changes nothing"""

import collections
import concurrent.futures
import json
import os
import re
import sys
import unittest

import document
import kbuild
import patchqueue
import queue_git
from common import JOBS, LOG, OUT, REPO, Failure, Results, main, read_base, run, \
    say, timed

# Lines added and deleted in files of the base, over the whole queue: hooks; and
# where a subsystem copies what is its own, which belongs there.
BUDGET = 620
BUDGET_COPIES = 2350
COPIES = re.compile(r".*: (copy|refuse) .* for full fork$")

# What checkpatch says and the queue does not heed: (path, type, reason).
CHECKPATCH_IGNORE = [
    ("", "MISSING_SIGN_OFF",
     "the queue is unsigned; whoever sends it upstream signs it"),
    ("", "FILE_PATH_CHANGES", "one MAINTAINERS entry covers all new files"),
    ("include/uapi/", "BIT_MACRO", "user space has no BIT()"),
    ("include/linux/sched/jobctl.h", "BIT_MACRO",
     "the neighbours are shifts of their _BIT names"),
    ("include/trace/events/", "COMPLEX_MACRO", "TRACE_EVENT() is like that"),
    ("include/trace/events/", "MACRO_ARG_UNUSED", "as above"),
    ("include/trace/events/", "MULTILINE_DEREFERENCE", "as above"),
    ("include/trace/events/", "OPEN_ENDED_LINE", "as above"),
    ("include/trace/events/", "PARENTHESIS_ALIGNMENT", "as above"),
    ("include/trace/events/", "SPACING", "as above"),
    ("include/trace/events/", "TRAILING_SEMICOLON",
     "TRACE_DEFINE_ENUM() in a list needs one"),
    ("tools/testing/", "BIT_MACRO", "user space has no BIT()"),
    ("tools/testing/", "LINE_SPACING",
     "FIXTURE_VARIANT_ADD() blocks are taken for functions"),
    ("tools/testing/", "MACRO_ARG_REUSE",
     "test macros take names of variables, as kselftest_harness.h does"),
    ("tools/testing/", "MACRO_WITH_FLOW_CONTROL", "ASSERT_ and SKIP return"),
    ("tools/testing/", "SPACING",
     "a pointer to FIXTURE_DATA() is taken for a product"),
    ("tools/testing/", "CAMELCASE", "_Static_assert and names of libc"),
]
SHELL = re.compile(rb"#!.*\b(bash|sh)\b")


def tracked():
    """Files of the repository as git sees them, new ones included."""
    out = run(["git", "-C", REPO, "ls-files", "-z", "--cached", "--others",
               "--exclude-standard"]).stdout
    return [f for f in out.split("\0")
            if f and os.path.isfile(os.path.join(REPO, f))]


def lint_scripts(results):
    for name in tracked():
        path = os.path.join(REPO, name)
        if name.startswith("linux/") or os.path.islink(path):
            continue
        with open(path, "rb") as f:
            head = f.readline()
        if SHELL.match(head):
            p = run(["shellcheck", "-x", path], check=False, cwd=REPO)
            results.add("shellcheck " + name, p.returncode == 0,
                        p.stdout.strip())
            with open(path, encoding="utf-8") as f:
                lines = sum(1 for _ in f)
            results.add("length " + name, lines < 150,
                        "%d lines of shell: make it Python" % lines)
        elif name.endswith(".py") or b"python3" in head:
            try:
                with open(path, encoding="utf-8") as f:
                    compile(f.read(), path, "exec")
                error = ""
            except SyntaxError as e:
                error = str(e)
            results.add("compile " + name, not error, error)


def ignored(line):
    path, _, rest = line.partition(":")
    return any(path.startswith(prefix) and ":%s:" % kind in rest
               for prefix, kind, _ in CHECKPATCH_IGNORE)


def checkpatch(commit):
    """What checkpatch says of a commit and is to be heeded."""
    text = queue_git.git("format-patch", "-1", "--stdout", "--no-signature",
                         commit, raw=True)
    p = run(["perl", "scripts/checkpatch.pl", "--strict", "--no-summary",
             "--show-types", "--terse", "--showfile", "--max-line-length=100",
             "-"], check=False, cwd=queue_git.TREE, input=text, text=False)
    said = p.stdout.decode(errors="replace").strip().splitlines()
    lines = [x for x in said if x and not ignored(x)]
    if p.returncode not in (0, 1):
        lines.append("checkpatch: exit status %d: %s" %
                     (p.returncode, p.stderr.decode(errors="replace")))
    return lines


def lines_in_base(commit, base_files):
    """Lines that a commit adds and deletes in files of the base."""
    total = 0
    for line in queue_git.git("diff", "--numstat", "--no-renames", commit + "^",
                              commit).splitlines():
        added, deleted, path = line.split("\t")
        if path in base_files:
            total += int(added) + int(deleted)
            say("   %4s added %4s deleted  %s" % (added, deleted, path))
    return total


def lint_queue(results):
    base = queue_git.ensure_base(read_base())
    tip = queue_git.resolve(queue_git.BRANCH)
    base_files = queue_git.tree_files(base)
    hooks = copies = 0
    commits = [line.partition(" ")[::2] for line in queue_git.git(
        "log", "--format=%H %s", "%s..%s" % (base, tip)).splitlines()]
    # The last ones first: the tests are what takes longest.
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        said = list(pool.map(checkpatch, [commit for commit, _ in commits]))
    for (commit, subject), lines in reversed(list(zip(commits, said))):
        results.add("checkpatch: " + subject, not lines, "\n   " +
                    "\n   ".join(lines[:40]) if lines else "")
        results.add("subject at most 72: " + subject, len(subject) <= 72,
                    "%d characters" % len(subject))
        author = queue_git.git("log", "-1", "--format=%an <%ae>", commit).strip()
        results.add("author: " + subject, author == "%s <%s>" % queue_git.IDENT,
                    author)
        trailer = re.search(
            r"^(Signed-off-by|Co-authored-by|Co-developed-by|Assisted-by):",
            queue_git.git("log", "-1", "--format=%B", commit), re.M)
        results.add("no trailer: " + subject, not trailer,
                    trailer.group(0) if trailer else "")
        size = lines_in_base(commit, base_files)
        if COPIES.match(subject):
            copies += size
        else:
            hooks += size
    for what, lines, budget in (("hooks", hooks, BUDGET),
                                ("copies of objects", copies, BUDGET_COPIES)):
        say("lint: %s: %d lines in files of the base (budget %d)" %
            (what, lines, budget))
        results.add("lines touched in files of the base: " + what,
                    lines <= budget, "%d, budget %d" % (lines, budget))


def cmd_queue():
    results = Results("lint")
    with timed("lint: checkpatch, shellcheck, size"):
        lint_scripts(results)
        document.lint(results)
        lint_queue(results)
    return results.write()


# ---- sparse

def changed_files():
    """(status, path) of everything that the queue changes."""
    return queue_git.raw_diff(
        queue_git.resolve("refs/tags/" + queue_git.base_tag(read_base())),
        queue_git.BRANCH)


def included_parts(paths):
    """Files in C that are parts of others, which include them."""
    parts = set()
    for path in paths:
        name = os.path.join(kbuild.SRC, path)
        if path.endswith(".c") and os.path.exists(name):
            with open(name, encoding="utf-8") as f:
                parts |= {os.path.join(os.path.dirname(path), part) for part in
                          re.findall(r'^#include "([\w-]+\.c)"', f.read(), re.M)}
    return parts


def sparse_objects():
    """Objects of the files of the base that we edit, and of our own files."""
    objects, ours = [], []
    changed = changed_files()
    parts = included_parts(path for _, path in changed)
    for status, path in changed:
        if path in parts:
            continue
        # The helpers of Rust are compiled as parts of one file.
        if not path.endswith(".c") or path.startswith(("tools/", "samples/", "rust/")):
            continue
        if path.startswith("arch/") and not path.startswith("arch/x86/"):
            continue
        (ours if status == "A" else objects).append(path[:-2] + ".o")
    return objects, ours


def sparse_warnings(text):
    """file: message, without line numbers."""
    found = collections.Counter()
    for line in text.splitlines():
        m = re.match(r"(\S+\.[ch]):\d+:\d+: ((?:warning|error): .*)", line)
        if m:
            path = m.group(1).removeprefix(kbuild.SRC + "/")
            path = re.sub(r"^(\.\./)+(kernel/src/|src/)?", "", path)
            found["%s: %s" % (path, re.sub(r"\b\d+\b", "N", m.group(2)))] += 1
    return found


def cmd_sparse():
    name = kbuild.kernel()
    edited, ours = sparse_objects()
    objects = edited if name == "base" else edited + ours
    log = os.path.join(LOG, "sparse-%s.log" % name)
    found = collections.Counter()
    with timed("sparse on %s: %d files" % (name, len(objects))):
        if objects:
            kbuild.configure(name)
            kbuild.watched(
                kbuild.make_command(name, "-k", "C=2", "CHECK=/repo/ci/sparse",
                                    *objects), log, "sparse")
            with open(log, encoding="utf-8", errors="replace") as f:
                text = f.read()
            for o in objects:
                if not re.search(r"^  CHECK +(\S*/)?%s$" %
                                 re.escape(o[:-2] + ".c"), text, re.M):
                    raise Failure("sparse did not check %s" % o)
            found = sparse_warnings(text)
    with open(os.path.join(OUT, "sparse-%s.json" % name), "w",
              encoding="utf-8") as f:
        json.dump(found, f)
    return 0


def cmd_compile():
    """A whole build of KERNEL in small: it is none that tests run on."""
    name = kbuild.kernel()
    edited, ours = sparse_objects()
    if name not in kbuild.WITH_FULLFORK:
        ours = []
    return 1 if kbuild.build(name, edited + ours) else 0


def cmd_compare_sparse():
    results = Results("sparse")
    found = {}
    for name in ("base", "fast"):
        with open(os.path.join(OUT, "sparse-%s.json" % name),
                  encoding="utf-8") as f:
            found[name] = collections.Counter(json.load(f))
    edited, ours = sparse_objects()
    new = found["fast"] - found["base"]
    for path in [o[:-2] + ".c" for o in edited + ours]:
        lines = [w for w in new if w.startswith(path + ":")]
        results.add("sparse " + path, not lines, "; ".join(lines))
    # A header warns once for each file that includes it; so only those that
    # the queue edits or adds are looked at, and how often does not matter.
    headers = tuple(path + ":" for _, path in changed_files()
                    if path.endswith(".h"))
    rest = [w for w in new if w.startswith(headers) and w not in found["base"]]
    results.add("sparse, in our headers", not rest, "; ".join(rest))
    return results.write()


# ---- Rust

def rust_object(path):
    """What make builds to have a file compiled, and is said to be checked."""
    if path.startswith("rust/kernel/"):
        return "rust/kernel.o"
    if path.startswith("samples/rust/"):
        return path[:-len(".rs")] + ".o"
    raise Failure("which crate is %s in?" % path)


def rust_warnings(text, path):
    """What rustc and its relatives say of a file, a paragraph each."""
    return [block.strip() for block in re.split(r"\n(?=\S)", text)
            if re.match(r"(warning|error)\b", block) and
            re.search(r"--> (\S*/)?%s:" % re.escape(path), block)]


def rust_make(what, *args):
    log = os.path.join(LOG, "rust-%s.log" % what)
    kbuild.watched(kbuild.make_command(kbuild.kernel(), *args), log, what)
    with open(log, encoding="utf-8", errors="replace") as f:
        return f.read()


def clippy(objects):
    for o in objects:
        # Else make finds that nothing changed since the last time.
        directory, name = os.path.split(os.path.join(kbuild.DST, o))
        command = os.path.join(directory, ".%s.cmd" % name)
        if os.path.exists(command):
            os.unlink(command)
    # The crate kernel is made ready for all others.
    samples = [o for o in objects if not o.startswith("rust/")]
    text = rust_make("clippy", "CLIPPY=1", "prepare", *samples)
    for o in objects:
        if not re.search(r"^  CLIPPY +(\[M\]|L)? *%s$" % re.escape(o), text,
                         re.M):
            raise Failure("clippy did not check %s" % o)
    return text


def cmd_rust():
    results = Results("rust")
    ours = [path for status, path in changed_files()
            if status == "A" and path.endswith(".rs")]
    with timed("rustfmt, clippy and rustdoc: %d files" % len(ours)):
        kbuild.configure(kbuild.kernel())
        said = {"clippy": clippy(sorted({rust_object(f) for f in ours})),
                "rustdoc": rust_make("rustdoc", "rustdoc")}
        for path in ours:
            p = run(["rustfmt", "--check", path], check=False, cwd=kbuild.SRC)
            results.add("rustfmt " + path, p.returncode == 0,
                        (p.stdout + p.stderr).strip())
            for tool, text in said.items():
                found = rust_warnings(text, path)
                results.add("%s %s" % (tool, path), not found,
                            "\n".join(found))
    return results.write()


# ---- the others

def cmd_judge_tests():
    results = Results("judge-tests")
    suite = unittest.defaultTestLoader.discover(
        os.path.join(REPO, "ci/tests"), pattern="test_*.py")

    class Collect(unittest.TextTestResult):
        def addSuccess(self, test):
            results.add(test.id(), True)

        def addFailure(self, test, err):
            super().addFailure(test, err)
            results.add(test.id(), False, str(err[1]))

        def addError(self, test, err):
            super().addError(test, err)
            results.add(test.id(), False, repr(err[1]))

    unittest.TextTestRunner(stream=sys.stdout, resultclass=Collect,
                            verbosity=0).run(suite)
    return results.write()


def cmd_fixed_point():
    results = Results("fixed-point")
    results.extend(patchqueue.cmd_fixed_point())
    return results.write()


def command(argv):
    commands = {"queue": cmd_queue, "sparse": cmd_sparse,
                "compile": cmd_compile, "compare-sparse": cmd_compare_sparse,
                "rust": cmd_rust,
                "judge-tests": cmd_judge_tests,
                "fixed-point": cmd_fixed_point}
    if len(argv) != 1 or argv[0] not in commands:
        raise Failure("usage: lint.py " + "|".join(commands))
    return commands[argv[0]]()


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main(command)
