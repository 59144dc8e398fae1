"""The suite of tokio-postgres, in the crate of its own."""

import json
import re
import shutil

import fetch
from support import machine
from support.machine import Trouble

from . import FAILED, PASSED, SKIPPED, Recipe, Role

# Its tests come in without a password; a gateway lets nobody in who does not prove who it is.
WHO = "user=suite password=suite dbname=postgres"


class TokioPostgres(Recipe):
    name = "tokio-postgres"
    version = fetch.version("crate", "tokio-postgres")
    what = "its whole suite, with every optional type"
    databases = ["postgres"]
    roles = [Role("suite", "suite"), *(Role(f"{kind}_user", "password") for kind in ("pass", "md5", "scram"))]
    # The suite's own, in its source.
    port = 5433
    seconds_max = 300

    def prepare(self):
        self.program = fetch.HOME / f"built-tokio-postgres-{self.version}" / "suite"
        if self.program.exists():
            return
        machine.need("build-essential")
        with fetch.made(self.program.parent) as half:
            build = half / "build"
            shutil.copytree(fetch.crate("tokio-postgres"), build)
            self._adapt(build)
            shutil.copy2(self._build(build), half / "suite")
            shutil.rmtree(build)

    def _adapt(self, build):
        manifest = (build / "Cargo.toml").read_text()
        # Benchmarks, and what only they need.
        manifest = re.sub(r"^\[(\[bench\]\]|dev-dependencies\.criterion\])\n(.+\n)+", "", manifest, flags=re.MULTILINE)
        (build / "Cargo.toml").write_text(manifest + "\n[workspace]\n")
        for file in (build / "tests").rglob("*.rs"):
            file.write_text(re.sub(r"user=postgres\b(?! dbname)", WHO, file.read_text()))

    def _build(self, build):
        """The suite as a program."""
        types = re.findall(r"^(with-\S+) = ", (build / "Cargo.toml").read_text(), re.MULTILINE)
        argv = ["cargo", "test", "--no-run", "--test", "test", "--features", ",".join(types), "--message-format", "json", "--quiet"]
        env = machine.cargo_env() | {"CARGO_PROFILE_DEV_DEBUG": "0", "CARGO_TARGET_DIR": str(build / "target")}
        printed = machine.run(argv, what="building tokio-postgres' suite", cwd=build, env=env)
        messages = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
        programs = [message["executable"] for message in messages if message.get("executable")]
        if len(programs) != 1:
            raise Trouble(f"building tokio-postgres' suite should give one program, it gave {len(programs)}")
        return programs[0]

    def furnish(self, server):
        server.sql("CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree")

    def run(self, place):
        begins = place.log.stat().st_size if place.log.exists() else 0
        place.call([self.program, *place.only, "--test-threads=2"], place.work)
        printed = place.log.read_bytes()[begins:].decode(errors="replace")
        kinds = {"ok": PASSED, "ignored": SKIPPED, "FAILED": FAILED}
        return {name: kinds[how] for name, how in re.findall(r"^test (\S+) \.\.\. (ok|ignored|FAILED)", printed, re.MULTILINE)}
