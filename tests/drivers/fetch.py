"""Fetches what driver suites are made of, by package name, at the versions in versions.txt, into the cache."""

import contextlib
import functools
import json
import pathlib
import shutil

from support import debian, machine
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
def made(folder):
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
        with made(folder) as half:
            argv = [machine.venv("tools"), "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", half]
            machine.run([*argv, *pinned(name)], what=f"downloading the source of {name}")
            _unpack(next(half.glob("*.tar.gz")))
    return _inside(folder)


def debian_source(name):
    """The unpacked upstream source of a Debian source package."""
    folder = HOME / f"{name}-{version('debian', name)}"
    if not folder.exists():
        with made(folder) as half:
            _unpack(_sources().tarball(name, version("debian", name), half))
    return _inside(folder)


@functools.cache
def _sources():
    return debian.Sources(HOME)


def npm(folder, *names):
    """Installs npm packages into a folder's node_modules, beside what its package.json asks for."""
    wanted = [f"{name}@{version('npm', name)}" for name in names]
    argv = ["npm", "install", "--no-save", "--ignore-scripts", "--omit=dev", "--omit=peer", "--no-audit", "--no-fund"]
    machine.run([*argv, *wanted], what=f"installing {', '.join(wanted)}", cwd=folder)


def crate(name):
    """The source of a crate, as cargo unpacked it: cargo's own copy, not to be written to."""
    project = HOME / f"crate-{name}-{version('crate', name)}"
    if not project.exists():
        with made(project) as half:
            (half / "src").mkdir()
            (half / "src/lib.rs").touch()
            wanted = f'{name} = "={version("crate", name)}"'
            (half / "Cargo.toml").write_text(f'[package]\nname = "x"\nedition = "2024"\n[dependencies]\n{wanted}\n[workspace]\n')
    argv = ["cargo", "metadata", "--format-version", "1", "--quiet"]
    printed = machine.run(argv, what=f"fetching the crate {name}", cwd=project, env=machine.cargo_env())
    packages = json.loads(printed[printed.index("{") :])["packages"]
    return next(pathlib.Path(package["manifest_path"]).parent for package in packages if package["name"] == name)


def _unpack(tarball):
    machine.run(["tar", "-xf", tarball, "--no-same-owner"], what=f"unpacking {tarball.name}", cwd=tarball.parent)


def _inside(folder):
    found = [path for path in folder.iterdir() if path.is_dir()]
    if len(found) != 1:
        raise Trouble(f"{folder} should hold one folder, it holds {len(found)}: remove it and run this again")
    return found[0]
