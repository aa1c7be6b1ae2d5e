# SPDX-License-Identifier: GPL-2.0
"""linux/series, linux/patches and linux/files: read and write."""

import hashlib
import os
import re
import stat

from common import LINUX, Failure, say

SERIES = os.path.join(LINUX, "series")
PATCHES = os.path.join(LINUX, "patches")
FILES = os.path.join(LINUX, "files")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*\.(patch|files)$")


class Section:
    """Comment and blank lines, then the steps under them."""

    def __init__(self):
        self.header = []
        self.steps = []


def read_sections():
    sections = [Section()]
    with open(SERIES, encoding="utf-8") as f:
        for number, line in enumerate(f.read().splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                if sections[-1].steps:
                    sections.append(Section())
                sections[-1].header.append(line)
            elif NAME.match(line):
                sections[-1].steps.append(line)
            else:
                raise Failure("linux/series:%d: neither a step nor a comment: "
                              "%s" % (number, line))
    return sections


def read_steps():
    steps = [s for section in read_sections() for s in section.steps]
    for s in steps:
        if steps.count(s) > 1:
            raise Failure("linux/series names %s twice" % s)
        if not os.path.isfile(os.path.join(PATCHES, s)):
            raise Failure("linux/series names %s, which is not in "
                          "linux/patches" % s)
    for s in sorted(os.listdir(PATCHES)):
        if s not in steps and not s.startswith("."):
            raise Failure("linux/patches/%s is not in linux/series" % s)
    return steps


def merge_sections(steps):
    """The text of linux/series for these steps: each keeps its section, a new
    one goes under that of its predecessor."""
    sections = read_sections()
    old = {s: i for i, section in enumerate(sections) for s in section.steps}
    filled = [[] for _ in sections]
    current = None
    for s in steps:
        if s in old:
            current = max(old[s], current or 0)
        elif current is None:
            # The first section that is more than the head of the file.
            current = next((i for i, x in enumerate(sections) if x.steps), 0)
        filled[current].append(s)
    lines = []
    for section, names in zip(sections, filled):
        lines += section.header + names
    return "".join(line + "\n" for line in lines)


def read_overlay_step(name):
    """The message and the paths of a .files step."""
    with open(os.path.join(PATCHES, name), encoding="utf-8") as f:
        message, found, listing = f.read().partition("\n---\n")
    paths = listing.split("\n")
    if not found or paths[-1] != "":
        raise Failure("linux/patches/%s: expected a message, a line ---, and "
                      "paths, one per line" % name)
    paths = paths[:-1]
    if not message.strip():
        raise Failure("linux/patches/%s has no message" % name)
    if paths != sorted(set(paths)) or not paths or "" in paths:
        raise Failure("linux/patches/%s: the list of paths is empty or not "
                      "sorted" % name)
    return message.strip("\n") + "\n", paths


def overlay_text(message, paths):
    return message.strip("\n") + "\n---\n" + "".join(
        p + "\n" for p in sorted(paths))


def overlay_files():
    """Every file under linux/files: path -> mode as git has it."""
    found = {}
    for directory, subdirs, names in os.walk(FILES):
        subdirs[:] = [d for d in subdirs if d != "__pycache__"]
        for name in names + [d for d in subdirs if
                             os.path.islink(os.path.join(directory, d))]:
            path = os.path.join(directory, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                git_mode = "120000"
            else:
                git_mode = "100755" if mode & 0o100 else "100644"
            found[os.path.relpath(path, FILES)] = git_mode
    # What keeps the empty directory in git is no part of the tree.
    found.pop(".gitkeep", None)
    return found


def read_overlay(path):
    full = os.path.join(FILES, path)
    if os.path.islink(full):
        return os.readlink(full).encode()
    with open(full, "rb") as f:
        return f.read()


def check_listing(steps):
    """Every overlay file is listed by exactly one step, and exists."""
    owner = {}
    for s in steps:
        if s.endswith(".files"):
            for path in read_overlay_step(s)[1]:
                if path in owner:
                    raise Failure("%s is listed by %s and by %s" %
                                  (path, owner[path], s))
                owner[path] = s
    present = overlay_files()
    missing = sorted(set(owner) - set(present))
    if missing:
        raise Failure("listed by linux/patches/%s but not in linux/files: %s" %
                      (owner[missing[0]], ", ".join(missing)))
    stray = sorted(set(present) - set(owner))
    if stray:
        raise Failure("in linux/files but listed by no step (add each to a "
                      ".files step of linux/patches):\n  %s" %
                      "\n  ".join(stray))
    return owner


def digest():
    """One hash over all of linux/, to see whether somebody edited it."""
    h = hashlib.sha256()
    names = [os.path.join(LINUX, "BASE"), SERIES]
    names += [os.path.join(PATCHES, n) for n in sorted(os.listdir(PATCHES))]
    for name in names:
        with open(name, "rb") as f:
            h.update(name[len(LINUX):].encode() + b"\0" + f.read() + b"\0")
    for path, mode in sorted(overlay_files().items()):
        h.update(("%s %s\0" % (path, mode)).encode() + read_overlay(path))
    return h.hexdigest()


def write_file(path, data, mode="100644"):
    """Write data where it differs from what is there; say whether it did."""
    if os.path.lexists(path):
        same = False
        if os.path.islink(path):
            same = mode == "120000" and os.readlink(path).encode() == data
        elif mode != "120000" and os.path.isfile(path):
            with open(path, "rb") as f:
                same = f.read() == data
            executable = bool(os.stat(path).st_mode & 0o100)
            if same and executable != (mode == "100755"):
                os.chmod(path, 0o755 if mode == "100755" else 0o644)
                return True
        if same:
            return False
        os.unlink(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if mode == "120000":
        os.symlink(data.decode(), path)
    else:
        with open(path, "wb") as f:
            f.write(data)
        os.chmod(path, 0o755 if mode == "100755" else 0o644)
    return True


def write_queue(steps, overlay):
    """Make linux/ hold these steps (name -> bytes, in order) and overlay files
    (path -> (mode, bytes)); files that are right already are not touched."""
    changed = []
    if write_file(SERIES, merge_sections(list(steps)).encode()):
        changed.append("series")
    for name, data in steps.items():
        if write_file(os.path.join(PATCHES, name), data):
            changed.append("patches/" + name)
    for name in os.listdir(PATCHES):
        if name not in steps and not name.startswith("."):
            os.unlink(os.path.join(PATCHES, name))
            changed.append("patches/%s (removed)" % name)
    for path, (mode, data) in overlay.items():
        if write_file(os.path.join(FILES, path), data, mode):
            changed.append("files/" + path)
    for path in overlay_files():
        if path not in overlay:
            full = os.path.join(FILES, path)
            os.unlink(full)
            changed.append("files/%s (removed)" % path)
            while (full := os.path.dirname(full)) != FILES and \
                    not os.listdir(full):
                os.rmdir(full)
    for name in changed:
        say("export: linux/" + name)
    return changed
