"""A recipe says how one driver's own suite is obtained, prepared and run, and how its outcomes are read."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import xml.etree.ElementTree as xml

from support.machine import Trouble

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclasses.dataclass
class Role:
    """A superuser of the server, whom the gateway knows by the same name and password."""

    name: str
    password: str


class Recipe:
    """What a suite needs; the runner does the rest. `run` is called once directly and once through the gateway."""

    name = ""
    version = ""
    what = ""
    databases = ["suite"]
    later = []
    """Databases that the suite itself makes and drops. A gateway is not ready while a target is not there, so these
    targets lead to empty databases of other names, and what the suite makes stays unvisited."""
    settings = {}
    roles = []
    port = None
    """Where the suite looks for its server, if that is written into it; else any."""
    tls = (False,)
    seconds_max = 1800
    """A suite that hangs is ended then, and what it did not reach counts as not passed."""

    def prepare(self):
        """Fetches and builds, once, into the cache."""

    def furnish(self, server):
        """What must stand in the databases before the first test."""

    def run(self, place):
        """Runs it against place.env's PGHOST, PGPORT, PGUSER, PGPASSWORD, PGSSLMODE; returns {test: outcome}."""
        raise NotImplementedError


@dataclasses.dataclass
class Place:
    """Where one run happens."""

    env: dict
    work: pathlib.Path
    log: pathlib.Path
    sample: bool
    only: list
    tls: bool
    seconds_max: int

    def wants(self, name):
        return not self.only or any(text in name for text in self.only)

    def call(self, argv, cwd, seconds_max=None, **env):
        """Runs a suite's program into the log; returns its exit, or None where it had to be ended."""
        seconds_max = seconds_max or self.seconds_max
        with open(self.log, "ab") as log:
            process = subprocess.Popen(
                ["nice", "-n", "5", *map(str, argv)],
                cwd=cwd,
                env={**self.env, **{key: str(value) for key, value in env.items()}},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                return process.wait(seconds_max)
            except subprocess.TimeoutExpired:
                log.write(f"ended after {seconds_max} s without an end of its own\n".encode())
                return None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()

    def pytest(self, python, arguments, cwd, **env):
        """Runs pytest; returns {class::test: outcome}. A test that several files hold counts as passed if all did."""
        report = self.work / "junit.xml"
        chosen = [word for text in self.only for word in ("-k", text)]
        argv = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *chosen, *arguments]
        code = self.call(argv, cwd, None, **env)
        if not report.exists():
            raise Trouble(f"pytest left no report (exit {code}); its words are in {self.log}")
        outcomes = {}
        for case in xml.parse(report).iter("testcase"):
            kinds = {child.tag for child in case}
            outcome = FAILED if kinds & {"failure", "error"} else SKIPPED if "skipped" in kinds else PASSED
            name = f"{case.get('classname')}::{case.get('name')}"
            outcomes[name] = FAILED if FAILED in (outcome, outcomes.get(name)) else outcome
        return outcomes
