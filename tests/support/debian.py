"""Debian's source packages: read into lists of our own, so that the system's apt stays as it is."""

import os
import pathlib
import re

from . import machine
from .machine import Trouble

HELPER = "/usr/lib/apt/apt-helper"
# Only their lists of sources are read.
SUITES = ("forky", "sid", "trixie", "bookworm")


class Sources:
    """What apt knows of sources, in a folder of its own."""

    def __init__(self, home):
        apt = home / "apt"
        for folder in ("lists/partial", "cache/archives/partial"):
            (apt / folder).mkdir(parents=True, exist_ok=True)
        uri, keyring = _mirror()
        (apt / "sources.list").write_text("".join(f"deb-src [signed-by={keyring}] {uri} {suite} main\n" for suite in SUITES))
        options = {
            "Dir::Etc::sourcelist": apt / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::lists": apt / "lists",
            "Dir::Cache": apt / "cache",
            "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
        }
        self.lists = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        machine.run(["apt-get", "-q", *self.lists, "update"], what="reading Debian's lists of sources")

    def versions(self, package):
        """Upstream version → Debian's whole one, the newest last as the lists have them."""
        shown = machine.run(["apt-cache", *self.lists, "showsrc", package], what=f"looking for the source of {package}")
        whole = re.findall(rf"^Package: {re.escape(package)}\n(?:.*\n)*?Version: (\S+)$", shown, re.MULTILINE)
        return {re.sub(r"^\d+:", "", version).rsplit("-", 1)[0]: version for version in reversed(whole)}

    def tarball(self, package, upstream, into):
        """Downloads the main tarball that upstream published: not its other parts, and not Debian's patches."""
        offered = self.versions(package)
        if upstream not in offered:
            raise Trouble(f"Debian offers no source of {package} {upstream}, but of {', '.join(offered) or 'none'}")
        listed = machine.run(["apt-get", "-q", *self.lists, "source", "--print-uris", f"{package}={offered[upstream]}"], cwd=into)
        found = re.search(r"^'(?P<uri>\S+)' (?P<name>\S+\.orig\.tar\.\w+) \d+ (?P<hash>\S+)", listed, re.MULTILINE)
        if not found:
            raise Trouble(f"the source of {package} {upstream} has no main tarball:\n{listed}")
        argv = [HELPER, *self.lists, "download-file", found["uri"], into / found["name"], found["hash"]]
        machine.run(argv, what=f"downloading the source of {package} {upstream}")
        return into / found["name"]


def _mirror():
    """The Debian mirror that this machine uses already, and Debian's keyring."""
    keyring = pathlib.Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    files = [*pathlib.Path("/etc/apt").glob("sources.list"), *pathlib.Path("/etc/apt/sources.list.d").glob("*")]
    for file in files:
        found = re.search(r"^(?:URIs:\s*|deb\s+(?:\[.*?\]\s+)?)(\S+/debian)/?(?:\s|$)", file.read_text(errors="replace"), re.MULTILINE)
        if found and file.suffix in (".list", ".sources") and keyring.exists():
            return found[1], keyring
    raise Trouble(
        "sources of test suites come from Debian, and this machine's apt knows no Debian mirror or lacks its "
        "keyring (package debian-archive-keyring): run this on Debian"
    )
