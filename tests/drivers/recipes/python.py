"""The suites of asyncpg and psycopg 2, in the source distributions of their own."""

import re
import shutil

import fetch
from support import machine

from . import FAILED, PASSED, SKIPPED, Recipe


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
        files = ["tests/test_prepare.py"] if place.sample else ["tests"]
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
        files = [f"tests/test_{part}.py" for part in ("copy", "lobject")] if place.sample else ["tests"]
        return place.pytest(self.python, files, place.work)


class SqlAlchemy(Recipe):
    name = "sqlalchemy"
    version = fetch.version("pypi", "sqlalchemy")
    what = "of its dialects, engine and SQL what it marks as a matter of the backend, over psycopg 3; dialects over asyncpg"
    databases = ["sqla"]
    settings = {"max_prepared_transactions": "10"}
    seconds_max = 2400
    OVER = {"psycopg": ("test/dialect", "test/engine", "test/sql"), "asyncpg": ("test/dialect",)}
    SAMPLE = ("test/dialect/postgresql/test_query.py",)

    def prepare(self):
        packages = ("sqlalchemy", "greenlet", "psycopg", "psycopg-binary", "asyncpg", "typing-extensions", "pytest")
        self.python = machine.venv("suite-sqlalchemy", *fetch.pinned(*packages))
        self.source = fetch.sdist("sqlalchemy")

    def furnish(self, server):
        server.sql("CREATE SCHEMA test_schema; CREATE SCHEMA test_schema_2; CREATE EXTENSION hstore; CREATE EXTENSION citext", "sqla")
        server.sql("ALTER DATABASE sqla SET default_text_search_config = 'pg_catalog.english'")

    def run(self, place):
        shutil.copytree(self.source, place.work / "source")
        outcomes = {}
        for over, files in self.OVER.items():
            url = f"postgresql+{over}://{place.env['PGUSER']}:{place.env['PGPASSWORD']}@127.0.0.1:{place.env['PGPORT']}/sqla"
            words = ["--dburi", url, "--backend-only", "--dropfirst", "--maxfail", 100_000, "-r", "N", "-p", "no:randomly"]
            done = place.pytest(self.python, [*words, *(self.SAMPLE if place.sample else files)], place.work / "source")
            outcomes |= {f"{over}: {test}": how for test, how in done.items()}
        return outcomes


class Django(Recipe):
    name = "django"
    version = fetch.version("pypi", "django")
    what = "the parts of its suite that are about databases"
    # The suite would make the latter two itself; told to keep what is there, it uses them.
    databases = ["postgres", "test_main", "test_other"]
    seconds_max = 3000
    SAMPLE = ("transactions", "introspection")
    PARTS = tuple(
        """
        backends introspection transactions aggregation aggregation_regress annotations async basic bulk_create composite_pk constraints custom_columns
        custom_lookups custom_methods custom_pk datatypes dates datetimes db_functions db_typecasts db_utils defer
        defer_regress delete delete_regress distinct_on_fields empty expressions expressions_case expressions_window
        filtered_relation fixtures fixtures_regress force_insert_update foreign_object from_db_value generic_relations
        get_or_create indexes inspectdb lookup m2m_through many_to_many many_to_one migrations model_fields
        model_inheritance model_regress multiple_database null_queries one_to_one ordering or_lookups postgres_tests
        prefetch_related queries raw_query schema select_for_update select_related serializers sessions_tests
        string_lookup timezones transaction_hooks update update_only_fields xor_lookups
        """.split()
    )

    def prepare(self):
        packages = ("django", "psycopg", "psycopg-binary", "psycopg-pool", "typing-extensions", "jinja2", "tblib")
        self.python = machine.venv("suite-django", *fetch.pinned(*packages))
        self.source = fetch.sdist("django")

    def run(self, place):
        shutil.copytree(self.source / "tests", place.work / "tests")
        (place.work / "tests/through.py").write_text(DJANGO_SETTINGS)
        argv = [self.python, "-W", "ignore", "runtests.py", "--settings=through", "--parallel=1", "--keepdb", "-v", "2"]
        chosen = [word for text in place.only for word in ("-k", text)]
        begins = place.log.stat().st_size if place.log.exists() else 0
        place.call([*argv, *chosen, *(self.SAMPLE if place.sample else self.PARTS)], place.work / "tests")
        return _unittest_outcomes(place.log.read_bytes()[begins:].decode(errors="replace"))


DJANGO_SETTINGS = """
import os

def _database(name):
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        **{key: os.environ["PG" + key] for key in ("HOST", "PORT", "USER", "PASSWORD")},
    }

DATABASES = {"default": _database("main"), "other": _database("other")}
SECRET_KEY = "of a test"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
"""


def _unittest_outcomes(printed):
    """What unittest says of each test with -v 2: its name and class on a line, behind which the outcome follows."""
    outcomes = {}
    name = None
    for line in printed.splitlines():
        begin = re.match(r"(\w+) \(([\w.]+)\)", line)
        name = begin[2] if begin else name
        end = re.search(r"(?:\W|^)(ok|FAIL|ERROR|skipped(?= ['\"].*)|expected failure|unexpected success)(?: ['\"].*)?$", line)
        if end and name:
            outcomes[name] = {"ok": PASSED, "expected failure": PASSED, "skipped": SKIPPED}.get(end[1], FAILED)
            name = None
    return outcomes
