# SPDX-License-Identifier: GPL-2.0
"""Build every commit of the queue, as a bisection would meet it. Prints the
commits, or checks one out: what ci/run build-each needs of git."""

import os
import sys

import queue_git
from common import Failure, main, read_base, say


def command(argv):
    base = queue_git.ensure_base(read_base())
    if argv == ["list"]:
        say(queue_git.git("rev-list", "--reverse", "%s..%s" % (
            base, queue_git.BRANCH)).strip())
        return 0
    if len(argv) == 2 and argv[0] == "checkout":
        path = os.path.join(queue_git.BUILD, "each")
        if not queue_git.ensure_worktree(path, argv[1]):
            queue_git.run(["git", "-C", path, "checkout", "-q", "-f",
                           "--detach", argv[1]])
        say("== " + queue_git.git("log", "-1", "--format=%h %s",
                                  argv[1]).strip())
        return 0
    raise Failure("usage: each.py list | checkout COMMIT")


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main(command)
