# SPDX-License-Identifier: GPL-2.0
"""Get the base: a Debian package by apt, or the file BASE_TARBALL; digests
are checked, and a wrong one is fatal."""

import glob
import hashlib
import os
import re
import shutil
import subprocess
import tarfile

from common import BUILD, Failure, read_base, run, say, sha256

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def mirror():
    """The mirror that the image itself uses."""
    for path in ["/etc/apt/sources.list"] + sorted(
            glob.glob("/etc/apt/sources.list.d/*")):
        if not os.path.isfile(path):
            continue
        with open(path, encoding="utf-8") as f:
            for line in f:
                m = re.match(r"(?:deb\s+(?:\[[^]]*\]\s*)?|URIs:\s*)(\S+)", line)
                if m and "security" not in m.group(1):
                    return m.group(1)
    raise Failure("the image names no Debian mirror")


class Apt:
    """apt with a state of its own and one suite, needing no privileges."""

    def __init__(self, suite):
        self.dir = os.path.join(BUILD, "apt")
        for d in ("state/lists/partial", "cache/archives/partial", "parts"):
            os.makedirs(os.path.join(self.dir, d), exist_ok=True)
        source = os.path.join(self.dir, "source.list")
        with open(source, "w", encoding="utf-8") as f:
            f.write("deb [signed-by=%s] %s %s main\n" %
                    (KEYRING, mirror(), suite))
        self.options = []
        for key, value in (("APT::Sandbox::User", ""),
                           ("Acquire::Retries", "3"),
                           ("Acquire::Languages", "none"),
                           ("Dir::State", self.dir + "/state"),
                           ("Dir::Cache", self.dir + "/cache"),
                           ("Dir::Etc::SourceList", source),
                           ("Dir::Etc::SourceParts", self.dir + "/parts")):
            self.options += ["-o", "%s=%s" % (key, value)]
        run(["apt-get"] + self.options + ["-qq", "update"])

    def versions(self, package):
        """Every version that the suite has, newest first."""
        out = run(["apt-cache"] + self.options + ["madison", package],
                  check=False).stdout
        return [line.split("|")[1].strip() for line in out.splitlines()]

    def download(self, package, version, directory):
        run(["apt-get"] + self.options +
            ["download", "%s=%s" % (package, version)], cwd=directory)


def stored_name(base):
    return "%s_%s_all.deb" % (base["BASE_PACKAGE"],
                              base["BASE_VERSION"].replace(":", "%3a"))


def check_digest(path, wanted):
    got = sha256(path)
    if got != wanted:
        raise Failure("%s has the wrong digest:\n  expected %s\n  found    %s" %
                      (path, wanted, got))


def from_tarball(base, path):
    say("base: taking %s in place of the package %s %s" %
        (os.path.basename(path), base["BASE_PACKAGE"], base["BASE_VERSION"]))
    if path.endswith(".deb"):
        check_digest(path, base["BASE_DEB_SHA256"])
    else:
        check_digest(path, base["BASE_TAR_SHA256"])
    return path


def fetch(base):
    """Path of the package (or tarball) with the right digest."""
    given = os.environ.get("BASE_TARBALL")
    if given:
        return from_tarball(base, given)
    directory = os.path.join(BUILD, "download")
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, stored_name(base))
    if os.path.exists(path) and sha256(path) == base["BASE_DEB_SHA256"]:
        return path
    say("base: fetching %s %s (160 MB)" %
        (base["BASE_PACKAGE"], base["BASE_VERSION"]))
    try:
        apt = Apt(base["BASE_SUITE"])
        apt.download(base["BASE_PACKAGE"], base["BASE_VERSION"], directory)
    except Failure as e:
        raise Failure(
            "%s %s cannot be fetched any more:\n%s\n"
            "Give the file yourself: BASE_TARBALL=<file>, the .deb of that "
            "version\nor the linux-source tar.xz out of it (both digests are in "
            "linux/BASE),\nor move the queue: make rebase" %
            (base["BASE_PACKAGE"], base["BASE_VERSION"], e)) from None
    found = [p for p in glob.glob(os.path.join(directory, "*.deb"))
             if base["BASE_VERSION"].replace(":", "%3a") in p]
    if path not in found and found:
        os.replace(found[0], path)
    check_digest(path, base["BASE_DEB_SHA256"])
    return path


def tar_member(base):
    return "./usr/src/%s.tar.xz" % base["BASE_PACKAGE"]


def open_tar_xz(base, path):
    """A stream of the tar.xz inside the package, or of the tarball itself."""
    if not path.endswith(".deb"):
        return open(path, "rb"), []
    # dpkg-deb cannot write into a closed pipe quietly, so read its tar to the
    # end of the one member that matters.
    deb = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", path],
                           stdout=subprocess.PIPE)
    tar = subprocess.Popen(["tar", "-xO", tar_member(base)],
                           stdin=deb.stdout, stdout=subprocess.PIPE)
    deb.stdout.close()
    return tar.stdout, [deb, tar]


def tar_digest(base, path):
    stream, children = open_tar_xz(base, path)
    h = hashlib.sha256()
    while block := stream.read(1 << 20):
        h.update(block)
    for c in children:
        if c.wait():
            raise Failure("%s does not hold %s" % (path, tar_member(base)))
    return h.hexdigest()


def check_tar_digest(base, path):
    """Of the tar.xz inside a package: who takes that one alone must get the
    same, and linux/BASE is wrong if its two digests do not belong together."""
    got = tar_digest(base, path)
    if got != base["BASE_TAR_SHA256"]:
        raise Failure("%s in %s has the wrong digest:\n  expected %s\n"
                      "  found    %s" % (tar_member(base), path,
                                         base["BASE_TAR_SHA256"], got))


def describe(version):
    """linux/BASE for another version; None means the newest one of the same
    stable series."""
    base = read_base()
    given = os.environ.get("BASE_TARBALL")
    if given:
        if not version or not given.endswith(".deb"):
            raise Failure("to move to a file give BASE=<its version> and "
                          "BASE_TARBALL=<its .deb>")
        base.update(BASE_VERSION=version, BASE_DEB_SHA256=sha256(given))
        base["BASE_TAR_SHA256"] = tar_digest(base, given)
        return base
    apt = Apt(base["BASE_SUITE"])
    series = re.match(r"\d+\.\d+", version or base["BASE_VERSION"]).group(0)
    base["BASE_PACKAGE"] = "linux-source-" + series
    known = apt.versions(base["BASE_PACKAGE"])
    if not version:
        if not known:
            raise Failure("the archive has no %s" % base["BASE_PACKAGE"])
        version = known[0]
    matches = [k for k in known if k == version or k.split("-")[0] == version]
    if not matches:
        raise Failure("the archive has %s of %s, not %s" %
                      (", ".join(known) or "no version",
                       base["BASE_PACKAGE"], version))
    base["BASE_VERSION"] = matches[0]
    directory = os.path.join(BUILD, "download")
    shutil.rmtree(directory + "/new", ignore_errors=True)
    os.makedirs(directory + "/new")
    apt.download(base["BASE_PACKAGE"], base["BASE_VERSION"], directory + "/new")
    path = os.path.join(directory, stored_name(base))
    os.replace(glob.glob(directory + "/new/*.deb")[0], path)
    base["BASE_DEB_SHA256"] = sha256(path)
    base["BASE_TAR_SHA256"] = tar_digest(base, path)
    return base


def members(base, path):
    """The regular files and symlinks of the base: (name, mode, data, mtime)."""
    check_tar_digest(base, path)
    stream, children = open_tar_xz(base, path)
    xz = subprocess.Popen(["xz", "-dc", "-T0"], stdin=stream,
                          stdout=subprocess.PIPE)
    stream.close()
    with tarfile.open(fileobj=xz.stdout, mode="r|", bufsize=1 << 20) as tar:
        for m in tar:
            name = m.name.removeprefix("./").partition("/")[2]
            if m.isdir() or not name:
                continue
            if m.issym():
                yield name, "120000", m.linkname.encode(), m.mtime
            elif m.isreg():
                mode = "100755" if m.mode & 0o100 else "100644"
                yield name, mode, tar.extractfile(m).read(), m.mtime
            else:
                raise Failure("the base holds something odd: %s" % m.name)
        while xz.stdout.read(1 << 20):
            pass
    for c in children + [xz]:
        if c.wait():
            raise Failure("%s cannot be unpacked" % path)
