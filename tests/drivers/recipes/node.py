"""The suites of node-postgres: pg, pg-pool, pg-cursor and pg-query-stream, from Debian's copy of their repository."""

import json
import shutil

import fetch
from support import machine
from support.machine import Trouble

from . import FAILED, PASSED, SKIPPED, Recipe

# What their development needs, less what only lints, bundles and deploys.
NEEDS = ("typescript", "ts-node", "mocha", "async", "bluebird", "co", "pg-copy-streams", "expect.js", "lodash", "JSONStream")
NEEDS += ("concat-stream", "stream-spec", "@types/node", "@types/mocha", "@types/chai", "@types/pg")
# libpq's own binding, and what is not about a server.
LEFT_OUT = ("pg-native", "pg-bundler-test", "pg-esm-test")
BUILT = ("pg-protocol", "pg-cloudflare", "pg-query-stream")
MOCHA = {"pg-pool": ["test"], "pg-cursor": ["test"], "pg-query-stream": ["-r", "ts-node/register/transpile-only", "test/**/*.ts"]}
SAMPLE = ("gh-issues",)
FILE_SECONDS_MAX = 60


class NodePostgres(Recipe):
    name = "node-postgres"
    version = fetch.version("debian", "node-postgres").split("+")[0]
    what = "the whole suites of pg (in JavaScript), pg-pool, pg-cursor and pg-query-stream"
    databases = ["suite", "template1"]
    tls = (False, True)
    seconds_max = 300

    def prepare(self):
        machine.need("nodejs", "npm")
        self.home = fetch.HOME / f"built-node-postgres-{self.version}"
        if self.home.exists():
            return
        with fetch.made(self.home) as half:
            shutil.copytree(fetch.debian_source("node-postgres"), half, dirs_exist_ok=True)
            for package in LEFT_OUT:
                shutil.rmtree(half / "packages" / package)
            fetch.npm(half, *NEEDS)
            for package in BUILT:
                # Newer types than the sources were written for make tsc complain, and yet it writes what it was asked for.
                argv = ["sh", "-c", f"node_modules/.bin/tsc -p packages/{package} || test -e packages/{package}/dist/index.js"]
                machine.run(argv, what=f"building {package}", cwd=half)

    def run(self, place):
        # Nobody vouches for a test's certificate; to node-postgres `require` means that somebody does. psql, which one
        # of the tests runs, does not know this mode.
        mode = "no-verify" if place.tls else "disable"
        place.env |= {"PGDATABASE": "suite", "PGSSLMODE": mode, "PGTESTNOSSL": "" if place.tls else "1"}
        outcomes = self._files(place)
        for package in MOCHA if not place.sample else ["pg-cursor"]:
            outcomes |= self._mocha(place, package)
        return outcomes

    def _files(self, place):
        """pg's integration tests: programs, each of them right if it ends well."""
        folder = self.home / "packages/pg"
        if place.call(["node", "script/create-test-tables.js"], folder) != 0:
            raise Trouble(f"pg's test tables were not made; see {place.log}")
        outcomes = {}
        for file in sorted((folder / "test/integration").rglob("*-tests.js")):
            name = str(file.relative_to(folder))
            if place.wants(name) and (not place.sample or file.parent.name in SAMPLE):
                code = place.call(["node", file], folder, FILE_SECONDS_MAX)
                outcomes[name] = PASSED if code == 0 else FAILED
        return outcomes

    def _mocha(self, place, package):
        folder = self.home / "packages" / package
        report = place.work / f"{package}.json"
        argv = [self.home / "node_modules/.bin/mocha", "--exit", "--reporter", "json", "--reporter-option", f"output={report}"]
        code = place.call([*argv, *MOCHA[package]], folder)
        if not report.exists():
            raise Trouble(f"{package} left no report (exit {code}); see {place.log}")
        outcomes = {}
        for key, outcome in (("passes", PASSED), ("pending", SKIPPED), ("failures", FAILED)):
            for test in json.loads(report.read_text())[key]:
                name = f"{package}: {test['fullTitle']}"
                if place.wants(name):
                    outcomes[name] = FAILED if FAILED in (outcome, outcomes.get(name)) else outcome
        return outcomes
