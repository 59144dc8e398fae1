"""pgjdbc: its source distribution holds no suite, so a conformance test of ours for what its users use."""

import pathlib
import re

from support import machine

from . import FAILED, PASSED, Recipe

DRIVER = pathlib.Path("/usr/share/java/postgresql.jar")
TESTS = pathlib.Path(__file__).parents[1] / "Jdbc.java"


class Pgjdbc(Recipe):
    name = "pgjdbc"
    what = "a conformance test of ours, as no registry has its suite"
    tls = (False, True)
    settings = {"max_prepared_transactions": "10"}
    seconds_max = 300

    @property
    def version(self):
        machine.need("libpostgresql-jdbc-java")
        return re.search(r"(\d+\.)+\d+", next(DRIVER.parent.glob("postgresql-[0-9]*.jar")).name)[0].rstrip(".")

    def prepare(self):
        machine.need("default-jdk-headless")

    def run(self, place):
        begins = place.log.stat().st_size if place.log.exists() else 0
        place.call(["java", "-cp", DRIVER, TESTS, *place.only], place.work, PGDATABASE="suite")
        printed = place.log.read_bytes()[begins:].decode(errors="replace")
        found = re.findall(r"^(ok|FAILED) (.+?)(?:: .*)?$", printed, re.MULTILINE)
        return {test: PASSED if how == "ok" else FAILED for how, test in found}
