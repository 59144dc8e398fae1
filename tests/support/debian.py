"""Debian's sources and packages of newer releases, read through lists of our own: the system's stay as they are."""

import contextlib
import os
import pathlib
import re

from . import machine
from .machine import Trouble

RELEASES = ("bookworm", "trixie", "forky", "sid")
KEYRING = pathlib.Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def lists(home=machine.CACHE / "debian"):
    """Options that make apt read our own lists, made once, and nothing of the system's."""
    for folder in ("lists/partial", "cache/archives/partial", "etc"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    kinds = ("deb-src", "deb")
    wanted = "".join(f"{kind} [signed-by={KEYRING}] {_mirror()} {release} main\n" for release in RELEASES for kind in kinds)
    options = {
        "Dir::Etc::sourcelist": home / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State::lists": home / "lists",
        "Dir::Cache": home / "cache",
        "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    stamp = home / "done"
    if not (stamp.exists() and stamp.read_text() == wanted):
        (home / "sources.list").write_text(wanted)
        machine.run(["apt-get", "-q", *words, "update"], what="reading Debian's lists")
        stamp.write_text(wanted)
    return words


def _mirror():
    """The Debian mirror that this machine uses already."""
    files = [*pathlib.Path("/etc/apt").glob("sources.list"), *pathlib.Path("/etc/apt/sources.list.d").glob("*")]
    for file in files:
        found = re.search(r"^(?:URIs:\s*|deb\s+(?:\[.*?\]\s+)?)(\S+/debian)/?(?:\s|$)", file.read_text(errors="replace"), re.MULTILINE)
        if found and file.suffix in (".list", ".sources") and KEYRING.exists():
            return found[1]
    raise Trouble(
        "this needs sources from Debian, and this machine's apt knows no Debian mirror or lacks its keyring (package "
        "debian-archive-keyring): run this on Debian"
    )


def upstream(package, version, into):
    """The upstream tarball of a source package, at exactly this version of Debian's."""
    argv = ["apt-get", "-q", *lists(), "source", "--download-only", "--tar-only", f"{package}={version}"]
    trouble = None
    try:
        machine.run(argv, what=f"downloading the source of {package} {version}", cwd=into)
    except Trouble as caught:
        # A source in several tarballs may be offered in part; what counts is the first.
        trouble = caught
    for tarball in into.glob(f"{package}_*.orig.tar.*"):
        return tarball
    raise trouble or Trouble(f"Debian's source of {package} {version} holds no upstream tarball")


def unpacked(package, version, into):
    """Unpacks a binary package's files into a folder, without installing it."""
    argv = ["apt-get", "-q", *lists(), "download", f"{package}={version}"]
    machine.run(argv, what=f"downloading {package} {version}", cwd=into)
    archive = next(into.glob(f"{package}_*.deb"))
    machine.run(["dpkg-deb", "-x", archive, into], what=f"unpacking {package}")
    with contextlib.suppress(OSError):
        archive.unlink()
