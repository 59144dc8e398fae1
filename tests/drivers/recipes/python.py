"""The suites of asyncpg and psycopg 2, in the source distributions of their own."""

import shutil

import fetch
from support import machine

from . import Recipe


class Asyncpg(Recipe):
    name = "asyncpg"
    version = fetch.version("pypi", "asyncpg")
    what = "its whole suite, as against a remote server"
    databases = ["postgres"]
    later = ["testdb", "asyncpg_intro_test"]
    tls = (False, True)
    settings = {"max_prepared_transactions": "10"}

    def prepare(self):
        self.python = machine.venv("suite-asyncpg", *fetch.pinned("asyncpg", "uvloop", "distro", "pytest"))
        self.source = fetch.sdist("asyncpg")

    def run(self, place):
        # Beside the source the tests would import it in place of the built package.
        shutil.copytree(self.source / "tests", place.work / "tests")
        files = ["tests/test_prepare.py", "tests/test_copy.py"] if place.sample else ["tests"]
        return place.pytest(self.python, files, place.work, PGDATABASE="postgres")


class Psycopg2(Recipe):
    name = "psycopg2"
    version = fetch.version("pypi", "psycopg2")
    what = "its whole suite but replication"
    databases = ["psycopg2_test"]
    tls = (False, True)
    settings = {"max_prepared_transactions": "10"}

    def prepare(self):
        self.python = machine.venv("suite-psycopg2", *fetch.pinned("psycopg2-binary", "pytest"))
        self.source = fetch.sdist("psycopg2")

    def furnish(self, server):
        server.sql("CREATE EXTENSION hstore", "psycopg2_test")

    def run(self, place):
        shutil.copytree(self.source / "tests", place.work / "tests")
        files = [f"tests/test_{part}.py" for part in ("cursor", "copy", "lobject")] if place.sample else ["tests"]
        return place.pytest(self.python, files, place.work)
