# SPDX-License-Identifier: GPL-2.0
"""The git repository under build/ that the queue is turned into commits in."""

import os
import subprocess
import time

import fetch
from common import BUILD, Failure, note, run, say

GITDIR = os.path.join(BUILD, "base.git")
TREE = os.path.join(BUILD, "linux")
BASE_TREE = os.path.join(BUILD, "base")
BRANCH = "fullfork"

DEBIAN_IGNORES = b"\n#\n# Debian packaging: ignore everything"

# Who makes the commits that carry no author of their own.
IDENT = ("Full fork for Linux", "fullfork@localhost")
CONFIG = ["-c", "core.quotePath=false", "-c", "core.compression=1",
          "-c", "checkout.workers=0", "-c", "diff.renames=false",
          "-c", "core.abbrev=12", "-c", "gc.auto=0"]


def environment(**extra):
    env = dict(os.environ)
    env.update(GIT_COMMITTER_NAME=IDENT[0], GIT_COMMITTER_EMAIL=IDENT[1])
    env.update(extra)
    return env


def git(*args, check=True, env=None, stdin=None, raw=False):
    """Run git on the repository under build/, without a work tree."""
    p = run(["git", "--git-dir=" + GITDIR] + CONFIG + list(args), check=False,
            env=environment(**(env or {})), input=stdin,
            text=not (raw or isinstance(stdin, bytes)))
    if check and p.returncode:
        err = p.stderr if isinstance(p.stderr, str) else p.stderr.decode()
        raise Failure("git %s: %s" % (args[0], err.strip()))
    return p.stdout if raw or not isinstance(p.stdout, bytes) \
        else p.stdout.decode()


def tree_git(*args, check=True, env=None):
    """Run git in the work tree build/linux."""
    p = run(["git", "-C", TREE] + CONFIG + list(args), check=False,
            env=environment(**(env or {})))
    if check and p.returncode:
        raise Failure("git %s: %s" % (args[0], p.stderr.strip()))
    return p


def resolve(name):
    return git("rev-parse", "-q", "--verify", name + "^{commit}",
               check=False).strip()


def base_tag(base):
    return "base-" + base["BASE_VERSION"].replace("~", "_").replace(":", "_")


def quoted(name):
    if '"' in name or "\n" in name or "\\" in name:
        raise Failure("a file name of the base needs quoting: %r" % name)
    return name.encode()


def import_base(base, tag):
    """Make the one commit that holds the base."""
    path = fetch.fetch(base)
    say("base: unpacking into one commit (about 40 s)")
    start = time.monotonic()
    importer = subprocess.Popen(
        ["git", "--git-dir=" + GITDIR] + CONFIG +
        ["fast-import", "--quiet", "--depth=0", "--force"],
        stdin=subprocess.PIPE, env=environment())
    pipe = importer.stdin
    blobs, newest = [], 0
    for count, (name, mode, data, mtime) in enumerate(
            fetch.members(base, path), 1):
        if name == ".gitignore":
            # Debian adds lines that ignore everything, new files of ours too.
            data = data.partition(DEBIAN_IGNORES)[0]
        pipe.write(b"blob\nmark :%d\ndata %d\n" % (count, len(data)))
        pipe.write(data)
        pipe.write(b"\n")
        blobs.append((name, mode, count))
        newest = max(newest, int(mtime))
    message = "%s %s\n" % (base["BASE_PACKAGE"], base["BASE_VERSION"])
    who = b"%s <%s> %d +0000" % (IDENT[0].encode(), IDENT[1].encode(), newest)
    # The tag is written last, so that a broken import leaves none behind.
    pipe.write(b"commit refs/heads/import\nauthor %s\ncommitter %s\n"
               b"data %d\n%s" % (who, who, len(message), message.encode()))
    for name, mode, mark in blobs:
        pipe.write(b"M %s :%d %s\n" % (mode.encode(), mark, quoted(name)))
    pipe.write(b"\nreset refs/tags/%s\nfrom refs/heads/import\n\n" %
               tag.encode())
    pipe.close()
    if importer.wait():
        raise Failure("git fast-import failed")
    git("update-ref", "-d", "refs/heads/import")
    say("base: %d files in %.0f s" % (len(blobs), time.monotonic() - start))


def ensure_base(base):
    """The commit of the base; fetched and made where it is missing."""
    if not os.path.isdir(os.path.join(GITDIR, "objects")):
        os.makedirs(BUILD, exist_ok=True)
        run(["git", "init", "-q", "--bare", "--initial-branch=none", GITDIR])
    tag = base_tag(base)
    commit = resolve("refs/tags/" + tag)
    if not commit:
        import_base(base, tag)
        commit = resolve("refs/tags/" + tag)
    elif os.environ.get("BASE_TARBALL"):
        note("base: %s is there already, BASE_TARBALL is not looked at" % tag)
    return commit


def ensure_worktree(path, commit, branch=None):
    """A work tree at path; existing ones are left alone."""
    if os.path.exists(os.path.join(path, ".git")):
        return False
    if os.path.isdir(path) and os.listdir(path):
        raise Failure("%s exists and is no work tree: remove it" % path)
    say("tree: checking out %s (about 15 s)" % os.path.relpath(path, BUILD))
    git("worktree", "prune", "--expire=now")
    how = ["-B", branch] if branch else ["--detach"]
    git("worktree", "add", "-f", "-q", *how, path, commit)
    return True


def raw_diff(old, new):
    """What changed between two trees: (status, path) without renames."""
    out = git("diff-tree", "-r", "-z", "--no-renames", "--name-status", old,
              new)
    fields = out.split("\0")
    return list(zip(fields[0:-1:2], fields[1::2]))


def tree_files(commit):
    """Every file of a commit: path -> (mode, blob)."""
    files = {}
    for row in git("ls-tree", "-r", "-z", commit).split("\0"):
        if row:
            meta, path = row.split("\t", 1)
            mode, _, blob = meta.split(" ")
            files[path] = (mode, blob)
    return files
