"""Fetches what driver suites are made of, by package name, at the versions in versions.txt, into the cache."""

import contextlib
import pathlib
import shutil

from support import machine
from support.machine import Trouble

HOME = machine.CACHE / "suites"


def _pins():
    lines = (pathlib.Path(__file__).parent / "versions.txt").read_text().splitlines()
    return {(kind, name): version for kind, name, version in (line.split() for line in lines if line.strip() and line[0] != "#")}


PINS = _pins()


def version(kind, name):
    return PINS[kind, name]


def pinned(*names):
    """PyPI requirements."""
    return [f"{name}=={version('pypi', name)}" for name in names]


@contextlib.contextmanager
def _made(folder):
    """A folder that is whole or not there: what fails half-way is begun anew the next time."""
    half = folder.with_name(folder.name + ".half")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    yield half
    half.rename(folder)


def sdist(name):
    """The unpacked source distribution of a PyPI package."""
    folder = HOME / f"{name}-{version('pypi', name)}"
    if not folder.exists():
        with _made(folder) as half:
            argv = [machine.venv("tools"), "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", half]
            machine.run([*argv, *pinned(name)], what=f"downloading the source of {name}")
            _unpack(next(half.glob("*.tar.gz")))
    return _inside(folder)


def _unpack(tarball):
    machine.run(["tar", "-xf", tarball, "--no-same-owner"], what=f"unpacking {tarball.name}", cwd=tarball.parent)


def _inside(folder):
    found = [path for path in folder.iterdir() if path.is_dir()]
    if len(found) != 1:
        raise Trouble(f"{folder} should hold one folder, it holds {len(found)}: remove it and run this again")
    return found[0]
