# SPDX-License-Identifier: GPL-2.0
"""make tree, make export, make rebase: between linux/ and the branch in
build/linux.

The queue is turned into commits with a temporary index and no work tree, so
that build/linux only sees the difference between the old branch and the new
one: what does not change keeps its time stamp, and make rebuilds little."""

import json
import os
import re
import tempfile

import fetch
import series
from common import LINUX, Failure, main, read_base, say, timed
from queue_git import (BASE_TREE, BRANCH, GITDIR, IDENT, TREE, base_tag,
                       ensure_base, ensure_worktree, git, raw_diff, resolve,
                       tree_files, tree_git)

STATE = os.path.join(GITDIR, "fullfork.json")
SLUG = 60


def read_state():
    try:
        with open(STATE, encoding="utf-8") as f:
            return json.load(f)
    except (OSError, ValueError):
        return {}


def write_state(tip):
    with open(STATE + ".new", "w", encoding="utf-8") as f:
        json.dump({"linux": series.digest(), "tip": tip}, f)
    os.replace(STATE + ".new", STATE)


# ---- from linux/ to commits

def read_patch(name, scratch):
    """Author, message and diff of a patch in format-patch form."""
    diff = os.path.join(scratch, "diff")
    text = os.path.join(scratch, "message")
    with open(os.path.join(series.PATCHES, name), "rb") as f:
        info = git("mailinfo", "--encoding=UTF-8", "--no-scissors", text, diff,
                   stdin=f.read())
    fields = dict(line.split(": ", 1) for line in info.splitlines()
                  if ": " in line)
    with open(text, encoding="utf-8") as f:
        body = f.read().strip("\n")
    if not fields.get("Subject"):
        raise Failure("linux/patches/%s has no subject" % name)
    message = fields["Subject"] + "\n" + ("\n" + body + "\n" if body else "")
    author = (fields.get("Author", ""), fields.get("Email", ""),
              fields.get("Date", ""))
    if not all(author):
        raise Failure("linux/patches/%s lacks From: or Date:" % name)
    return author, message, diff


def check_patch(name, parent, tree, base_files):
    for status, path in raw_diff(parent, tree):
        if status == "A":
            raise Failure("linux/patches/%s adds %s: new files belong in "
                          "linux/files and a .files step" % (name, path))
        if status != "M":
            raise Failure("linux/patches/%s removes or changes the kind of "
                          "%s: a patch may only edit" % (name, path))
        if path not in base_files:
            raise Failure("linux/patches/%s edits %s, which is an overlay "
                          "file: edit linux/files" % (name, path))


def apply_patch(name, parent, base_files, scratch, index):
    author, message, diff = read_patch(name, scratch)
    try:
        git("apply", "--cached", "--whitespace=nowarn", diff, env=index)
    except Failure as e:
        raise Failure("linux/patches/%s does not apply:\n%s" %
                      (name, e)) from None
    tree = git("write-tree", env=index).strip()
    check_patch(name, parent, tree, base_files)
    return tree, author, message


def apply_overlay(name, base_files, present, date, index):
    message, paths = series.read_overlay_step(name)
    rows = []
    for path in paths:
        if path in base_files:
            raise Failure("overlay file %s (step %s) exists in the base: an "
                          "edit to it belongs in a patch" % (path, name))
        blob = git("hash-object", "-w", "--stdin",
                   stdin=series.read_overlay(path)).strip()
        rows.append("%s %s 0\t%s\0" % (present[path], blob, path))
    git("update-index", "-z", "--index-info", stdin="".join(rows), env=index)
    tree = git("write-tree", env=index).strip()
    return tree, (IDENT[0], IDENT[1], date), message


def commit_tree(tree, parent, author, message, date):
    return git("commit-tree", tree, "-p", parent, stdin=message, env={
        "GIT_AUTHOR_NAME": author[0], "GIT_AUTHOR_EMAIL": author[1],
        "GIT_AUTHOR_DATE": author[2], "GIT_COMMITTER_DATE": date}).strip()


def build_commits(base_commit):
    """The tip of the branch that linux/ describes."""
    steps = series.read_steps()
    series.check_listing(steps)
    base_files = tree_files(base_commit)
    present = series.overlay_files()
    date = git("log", "-1", "--format=%cd", "--date=raw", base_commit).strip()
    parent = base_commit
    with tempfile.TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": os.path.join(scratch, "index")}
        git("read-tree", base_commit, env=index)
        for name in steps:
            if name.endswith(".patch"):
                tree, author, message = apply_patch(
                    name, parent, base_files, scratch, index)
            else:
                tree, author, message = apply_overlay(
                    name, base_files, present, date, index)
            parent = commit_tree(tree, parent, author, message, date)
    return parent


# ---- from commits to linux/

def slug(commit, suffix):
    name = git("log", "-1", "--format=%f", commit).strip()
    return name[:SLUG].rstrip("-.") + suffix


def patch_text(commit):
    raw = git("format-patch", "-1", "--stdout", "--zero-commit",
              "--no-signature", "--no-stat", "-N", "--no-renames",
              "--diff-algorithm=myers", commit, raw=True)
    lines, in_diff = [], False
    for line in raw.split(b"\n"):
        if not in_diff and line.startswith(b"diff --git "):
            # --no-stat leaves out the line that ends the message.
            in_diff = True
            while lines and lines[-1] in (b"", b"---"):
                lines.pop()
            lines += [b""] * (b"" not in lines) + [b"---"]
        if in_diff and line.startswith(b"index "):
            continue
        lines.append(line)
    return b"\n".join(lines).rstrip(b"\n") + b"\n"


class Export:
    """Reads the branch commit by commit and collects what linux/ must hold."""

    def __init__(self, base_commit, tip):
        self.base = tree_files(base_commit)
        self.tip = tip
        self.steps = {}         # name -> bytes, or the message of a .files step
        self.owner = {}         # overlay path -> step
        for line in git("rev-list", "--reverse", "--parents",
                        "%s..%s" % (base_commit, tip)).splitlines():
            commit, *parents = line.split()
            if len(parents) != 1:
                raise Failure("%s is a merge: the queue must be linear" %
                              self.name(commit))
            self.take(commit, parents[0])

    @staticmethod
    def name(commit):
        return git("log", "-1", "--format=%h (%s)", commit).strip()

    def take(self, commit, parent):
        changes = raw_diff(parent, commit)
        base_edits = [p for s, p in changes if p in self.base]
        odd = [p for s, p in changes if p in self.base and s != "M"]
        added = [p for s, p in changes if p not in self.base and s == "A"]
        rest = [(s, p) for s, p in changes
                if p not in self.base and s != "A"]
        if odd:
            raise Failure("%s removes a file of the base or changes its kind: "
                          "%s" % (self.name(commit), ", ".join(odd)))
        if base_edits and (added or rest):
            raise Failure(
                "%s edits files of the base (%s) and files of ours (%s): split "
                "it into two commits" %
                (self.name(commit), ", ".join(base_edits),
                 ", ".join(added + [p for _, p in rest])))
        if not changes:
            raise Failure("%s is empty" % self.name(commit))
        if base_edits:
            self.add(slug(commit, ".patch"), patch_text(commit), commit)
            return
        for status, path in rest:
            if path not in self.owner:
                raise Failure("%s: %s has no step" % (self.name(commit), path))
            if status == "D":
                del self.owner[path]
        if added:
            message = git("log", "-1", "--format=%B", commit).strip("\n")
            step = slug(commit, ".files")
            self.add(step, message, commit)
            self.owner.update((p, step) for p in added)
        elif rest:
            say("export: %s is absorbed in the steps of the files that it "
                "edits; its message is dropped" % self.name(commit))

    def add(self, step, content, commit):
        if step in self.steps:
            raise Failure("%s and an earlier commit both give the name %s: "
                          "change a subject" % (self.name(commit), step))
        self.steps[step] = content

    def result(self):
        files = tree_files(self.tip)
        overlay, steps = {}, {}
        for path in self.owner:
            mode, blob = files[path]
            overlay[path] = (mode, git("cat-file", "blob", blob, raw=True))
        for step, content in self.steps.items():
            if step.endswith(".patch"):
                steps[step] = content
                continue
            paths = [p for p, o in self.owner.items() if o == step]
            if paths:
                steps[step] = series.overlay_text(content, paths).encode()
            else:
                say("export: %s has no files left and is dropped" % step)
        return steps, overlay


# ---- the commands

def unexported():
    """Why build/linux must not be overwritten; None where it may."""
    head = tree_git("symbolic-ref", "-q", "--short", "HEAD",
                    check=False).stdout.strip()
    if head != BRANCH:
        return "build/linux is not on branch %s (a rebase under way?)" % BRANCH
    if tree_git("status", "--porcelain").stdout.strip():
        return "build/linux has changes that are not committed"
    if resolve(BRANCH) != read_state().get("tip"):
        return "build/linux has commits that are not exported (make export)"
    return None


def cmd_tree(explicit=True):
    base = read_base()
    base_commit = ensure_base(base)
    state = read_state()
    exists = os.path.exists(os.path.join(TREE, ".git"))
    force = os.environ.get("FORCE") == "1"
    same = exists and state.get("linux") == series.digest()
    if same and not explicit:
        return
    reason = unexported() if exists else None
    if reason and not force:
        raise Failure("%s; FORCE=1 throws that away" % reason)
    if same and not reason:
        say("tree: build/linux is up to date")
        return
    tip = build_commits(base_commit)
    if exists:
        for operation in ("rebase", "am", "cherry-pick"):
            tree_git(operation, "--abort", check=False)
        tree_git("checkout", "-q", "-f", "-B", BRANCH, tip)
        if force:
            tree_git("clean", "-fdq")
    else:
        ensure_worktree(TREE, tip, BRANCH)
    write_state(tip)
    say("tree: build/linux: %s, %s commits on top" %
        (base_tag(base), git("rev-list", "--count",
                             "%s..%s" % (base_commit, tip)).strip()))


def cmd_base_tree():
    commit = ensure_base(read_base())
    if not ensure_worktree(BASE_TREE, commit):
        run_in = ["--git-dir=%s/.git" % BASE_TREE, "--work-tree=" + BASE_TREE]
        from common import run
        head = run(["git"] + run_in + ["rev-parse", "HEAD"]).stdout.strip()
        if head != commit:
            run(["git", "-C", BASE_TREE, "checkout", "-q", "-f", "--detach",
                 commit])


def exported():
    """linux/ as the branch would have it; fails where that loses something."""
    base_commit = ensure_base(read_base())
    if not os.path.exists(os.path.join(TREE, ".git")):
        raise Failure("there is no build/linux: make tree")
    tip = resolve(BRANCH)
    head = tree_git("rev-parse", "HEAD").stdout.strip()
    if head != tip:
        raise Failure("build/linux is not on branch %s (a rebase under way?)" %
                      BRANCH)
    if tree_git("status", "--porcelain").stdout.strip():
        raise Failure("build/linux has changes that are not committed")
    if not git("merge-base", base_commit, tip, check=False).strip():
        raise Failure("branch %s does not sit on %s" %
                      (BRANCH, base_tag(read_base())))
    return tip, Export(base_commit, tip).result()


def cmd_export():
    force = os.environ.get("FORCE") == "1"
    if not os.path.exists(os.path.join(TREE, ".git")):
        raise Failure("there is no build/linux: make tree")
    state = read_state()
    if state.get("linux") != series.digest() and not force:
        raise Failure(
            "linux/ was edited since the last make tree or make export, and "
            "export would write over that; FORCE=1 does")
    base_commit = ensure_base(read_base())
    tip, (steps, overlay) = exported()
    changed = series.write_queue(steps, overlay)
    # The proof that nothing was lost: the queue gives the same tree again.
    again = build_commits(base_commit)
    if raw_diff(tip, again):
        raise Failure("the exported queue gives another tree than build/linux; "
                      "this is a bug of export")
    if Export(base_commit, again).result()[0] != steps:
        raise Failure("a message does not survive the way through a patch; "
                      "has it a line that begins with --- or diff?")
    write_state(tip)
    say("export: %s" % ("%d files written" % len(changed) if changed
                        else "nothing changed"))


def cmd_fixed_point():
    """For CI: exporting what tree made must change nothing. Rows of results."""
    base_commit = ensure_base(read_base())
    tip = build_commits(base_commit)
    steps, overlay = Export(base_commit, tip).result()
    rows = []
    for name in series.read_steps():
        with open(os.path.join(series.PATCHES, name), "rb") as f:
            rows.append((name, steps.get(name) == f.read(), "differs"))
    present = series.overlay_files()
    same = set(present) == set(overlay) and all(
        (present[p], series.read_overlay(p)) == overlay[p] for p in present)
    rows.append(("files/", same, "differs"))
    with open(series.SERIES, "rb") as f:
        rows.append(("series", series.merge_sections(list(steps)).encode() ==
                     f.read(), "differs"))
    rows.append(("same commits twice", build_commits(base_commit) == tip,
                 "differ"))
    return rows


def cmd_adopt():
    """Bring the lists of the .files steps in line with linux/files: a new file
    goes to the step that owns its neighbours, a file that is gone leaves."""
    steps = {s: series.read_overlay_step(s) for s in series.read_steps()
             if s.endswith(".files")}
    present = set(series.overlay_files())
    lists = {s: [p for p in paths if p in present]
             for s, (_, paths) in steps.items()}
    owner = {p: s for s, paths in lists.items() for p in paths}
    for path in sorted(present - set(owner)):
        directory = path
        step = None
        while not step and (directory := os.path.dirname(directory)):
            near = [s for p, s in owner.items()
                    if p.startswith(directory + "/")]
            step = near[-1] if near else None
        if not step:
            raise Failure("no step has a neighbour of linux/files/%s: write a "
                          ".files step for it" % path)
        lists[step].append(path)
        say("adopt: %s: %s" % (step, path))
    for step, (message, _) in steps.items():
        series.write_file(os.path.join(series.PATCHES, step),
                          series.overlay_text(message, lists[step]).encode())


def write_base(base):
    path = os.path.join(LINUX, "BASE")
    with open(path, encoding="utf-8") as f:
        comments = [line for line in f if line.startswith("#")]
    text = "".join(comments) + "".join(
        "%s=%s\n" % item for item in base.items())
    series.write_file(path, text.encode())


def cmd_rebase():
    cmd_tree()
    old = read_base()
    old_commit = ensure_base(old)
    new = fetch.describe(os.environ.get("BASE"))
    if new["BASE_VERSION"] == old["BASE_VERSION"]:
        say("rebase: the queue is on %s already" % old["BASE_VERSION"])
        return
    new_commit = ensure_base(new)
    clash = set(series.overlay_files()) & set(tree_files(new_commit))
    if clash:
        raise Failure("%s has files of the same name as ours: %s" %
                      (new["BASE_VERSION"], ", ".join(sorted(clash))))
    say("rebase: from %s to %s" % (old["BASE_VERSION"], new["BASE_VERSION"]))
    write_base(new)
    write_state(resolve(BRANCH))
    p = tree_git("-c", "advice.mergeConflict=false", "rebase", "--onto", new_commit, old_commit, BRANCH,
                 check=False)
    if p.returncode:
        said = "\n".join(line for line in re.split(r"[\r\n]+", p.stdout + p.stderr)
                         if line and not line.startswith("Rebasing ("))
        raise Failure(
            "the queue conflicts with %s:\n%s\n"
            "Resolve it in build/linux: edit the files, git add them, then\n"
            "  git rebase --continue\n"
            "until the branch is whole, and then\n"
            "  make export\n"
            "To give up:  git -C build/linux rebase --abort; git checkout "
            "linux/BASE; FORCE=1 make tree" %
            (new["BASE_VERSION"], said))
    cmd_export()
    say("rebase: done; build and test, then commit linux/ as "
        "\"linux: rebase to %s\"" % new["BASE_VERSION"])


def command(argv):
    commands = {"tree": cmd_tree, "export": cmd_export, "rebase": cmd_rebase,
                "adopt": cmd_adopt,
                "ensure": lambda: cmd_tree(explicit=False),
                "base-tree": cmd_base_tree}
    if len(argv) != 1 or argv[0] not in commands:
        raise Failure("usage: patchqueue.py " + "|".join(commands))
    if argv[0] in ("adopt", "ensure", "base-tree"):
        commands[argv[0]]()
    else:
        with timed(argv[0]):
            commands[argv[0]]()


if __name__ == "__main__":
    main(command)
