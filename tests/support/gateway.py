"""A Lockgate of a test's own: its configuration, its start, its end, and lockgate-replay on what it recorded."""

import contextlib
import dataclasses
import http.client
import os
import pathlib
import re
import resource
import secrets
import shutil
import signal
import subprocess
import time

from . import machine
from .machine import Trouble, until

READY_SECONDS_MAX = 30
# Longer than the drain that a gateway allows its sessions.
STOP_SECONDS_MAX = 45
LEAVE_SECONDS_MAX = 5
ALLOW_EVERYTHING = 'policy everything for group "{group}" on target "{target}" {{\n    allow * on *\n}}\n'


@dataclasses.dataclass
class Target:
    """A database behind the gateway. `tls` as in the configuration."""

    name: str
    port: int
    database: str
    user: str
    password: str
    tls: str = "disable"
    ca: pathlib.Path | None = None
    # Role and password of the catalog's own connection; None: the target's.
    catalog: tuple[str, str] | None = None
    catalog_poll: str | None = None
    # Lines of the configuration beside those above; an `address` there takes the place of the port.
    more: dict = dataclasses.field(default_factory=dict)
    # Certificate and key that the gateway shows it.
    shown: tuple[pathlib.Path, pathlib.Path] | None = None


@dataclasses.dataclass
class User:
    name: str
    groups: list[str]
    # None: it has none, only a certificate.
    password: str | None = dataclasses.field(default_factory=lambda: secrets.token_hex(18))
    certificate_name: str | None = None
    # Lines of the configuration beside those above.
    more: dict = dataclasses.field(default_factory=dict)


class Gateway:
    """One running gateway. Use as a context manager, or start() and stop()."""

    # What it is started by: words that stand before its own command line.
    launcher = ()

    def __init__(
        self, folder, targets, users, policies, tls="off", durability="async", workers=2, segment="64MiB", driver=None, limits=None,
        listeners=None,
    ):
        self.folder = folder / "gateway"
        self.targets = targets
        self.users = users
        self.policies = policies
        self.tls = tls
        self.durability = durability
        self.segment = segment
        self.workers = workers
        self.driver = driver
        self.limits = limits or {}
        # Settings of listeners beside the first, by name, each value as TOML has it; and where they came to listen.
        self.listeners = listeners or {}
        self.ports = {}
        # The limit of open files that the gateway starts under; None: whatever this process has.
        self.open_files = None
        self.port = None
        self.port_wanted = None
        self.admin = None
        self.process = None
        self.binary = binary("lockgate")
        self.log = self.folder / "gateway.log"
        self.data = self.folder / "var"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def write(self):
        """Writes configuration, secrets and policies; done again by start() only where nothing stands."""
        (self.folder / "secrets").mkdir(parents=True, mode=0o700)
        (self.folder / "policies").mkdir()
        self.folder.chmod(0o700)
        for name, text in self.policies.items():
            (self.folder / "policies" / f"{name}.policy").write_text(text)
        for secret, value in self._secrets().items():
            path = self.folder / "secrets" / secret
            path.write_text(value + "\n")
            path.chmod(0o600)
        self.port, self.admin = self.port_wanted or machine.free_port(), machine.free_port()
        self.ports = {name: machine.free_port() for name in self.listeners}
        self.config.write_text(self._toml())

    @property
    def config(self):
        return self.folder / "lockgate.toml"

    def _secrets(self):
        of_targets = {f"target-{target.name}": target.password for target in self.targets if target.password}
        of_catalogs = {f"catalog-{target.name}": target.catalog[1] for target in self.targets if target.catalog}
        return of_targets | of_catalogs | {f"user-{user.name}": user.password for user in self.users if user.password}

    def _toml(self):
        lines = ['data_dir = "var"', "", "[workers]", f"count = {self.workers}", ""]
        lines += ["[limits]", *(f"{key} = {value}" for key, value in self.limits.items()), ""]
        lines += ["[recording]", f'durability = "{self.durability}"', f'segment_bytes = "{self.segment}"', ""]
        lines += ["[[listener]]", 'protocol = "postgres"', f'bind = "127.0.0.1:{self.port}"', f'tls = "{self.tls}"', ""]
        for name, settings in self.listeners.items():
            lines += ["[[listener]]", 'protocol = "postgres"', f'bind = "127.0.0.1:{self.ports[name]}"']
            lines += [*(f"{key} = {value}" for key, value in settings.items()), ""]
        for target in self.targets:
            more = {"address": f'"127.0.0.1:{target.port}"'} | target.more
            lines += ["[[target]]", f'name = "{target.name}"', 'protocol = "postgres"']
            lines += [f"{key} = {value}" for key, value in more.items()]
            lines += [f'database = "{target.database}"', f'user = "{target.user}"', f'tls = "{target.tls}"']
            lines += [f'ca = "{target.ca}"'] if target.ca else []
            lines += [f'catalog_poll = "{target.catalog_poll}"'] if target.catalog_poll else []
            lines += [f'certificate = "{target.shown[0]}"', f'key = "{target.shown[1]}"'] if target.shown else []
            lines += [f'password = {{ file = "secrets/target-{target.name}" }}'] if target.password else []
            lines += [""]
            if target.catalog:
                lines += ["[target.catalog]", f'user = "{target.catalog[0]}"']
                lines += [f'password = {{ file = "secrets/catalog-{target.name}" }}', ""]
        for user in self.users:
            groups = ", ".join(f'"{group}"' for group in user.groups)
            lines += ["[[user]]", f'name = "{user.name}"', f"groups = [{groups}]"]
            lines += [f"{key} = {value}" for key, value in user.more.items()]
            lines += [f'certificate_name = "{user.certificate_name}"'] if user.certificate_name else []
            lines += [f'password = {{ file = "secrets/user-{user.name}" }}'] if user.password else []
            lines += [""]
        lines += ["[policy]", 'paths = ["policies/"]', "", "[admin]", f'bind = "127.0.0.1:{self.admin}"']
        return "\n".join(lines) + "\n"

    def start(self):
        """Starts on what write() wrote, or on what an earlier run left."""
        if not self.config.exists():
            self.write()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*self.launcher, self.binary, "serve", "--config", self.config, *(["--driver", self.driver] if self.driver else [])],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=self._limit_open_files if self.open_files else None,
            )
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not self._ready():
            if self.process.poll() is not None:
                raise Trouble(f"lockgate serve ended with exit {self.process.returncode}. Its log ends:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise Trouble(f"lockgate is not ready within {READY_SECONDS_MAX} s. Its log ends:\n{self.log_tail()}")
            time.sleep(0.02)

    def _limit_open_files(self):
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.open_files, self.open_files))

    def _ready(self):
        try:
            admin = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=1)
            admin.request("GET", "/readyz")
            return admin.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False

    def get(self, path):
        """(status, body) of a page of the admin listener."""
        admin = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=5)
        admin.request("GET", path)
        answer = admin.getresponse()
        return answer.status, answer.read().decode(errors="replace")

    def reload(self, well=True):
        """SIGHUP, and waits for what becomes of it."""
        counted = "done" if well else "refused"
        before = self.figure(f'reloads_total{{result="{counted}"}}')
        self.process.send_signal(signal.SIGHUP)
        until(f"a reload is {counted}", lambda: self.figure(f'reloads_total{{result="{counted}"}}') > before)

    def figure(self, name):
        """The one with exactly this name and these labels."""
        page = self.get("/metrics")[1]
        for line in page.splitlines():
            if line.startswith(f"lockgate_{name} "):
                return float(line.rsplit(" ", 1)[1])
        raise Trouble(f"there is no figure {name} in\n{page}")

    def total(self, name):
        """A count, whatever its labels, all together."""
        counts = re.findall(rf"^lockgate_{name}(?:{{.*?}})? (\d+)$", self.get("/metrics")[1], re.MULTILINE)
        return sum(map(int, counts))

    def sessions_open(self):
        """How many sessions the workers count, all together."""
        return self.total("sessions_open")

    def deserted(self):
        """Trouble if sessions stay when all clients have left."""
        deadline = time.monotonic() + LEAVE_SECONDS_MAX
        while self.sessions_open() > 0:
            if time.monotonic() > deadline:
                raise Trouble(f"{self.sessions_open()} sessions stay open though every client has left")
            time.sleep(0.05)

    def stop(self):
        """Ends it as an operator does; Trouble if it does not end well or had ended before."""
        if self.process is None:
            return
        early = self.process.poll()
        if early is not None:
            self.process = None
            raise Trouble(f"lockgate had ended by itself with exit {early}. Its log ends:\n{self.log_tail()}")
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Trouble(f"lockgate did not stop within {STOP_SECONDS_MAX} s. Its log ends:\n{self.log_tail()}") from None
        self.process = None
        if code != 0:
            raise Trouble(f"lockgate stopped with exit {code}. Its log ends:\n{self.log_tail()}")

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()
        self.process = None

    def log_tail(self, lines=30):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def client_env(self, user, **more):
        """So that psql and its kin come in by this gateway."""
        mode = "disable" if self.tls == "off" else "require"
        here = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": user.name, "PGPASSWORD": user.password}
        return {**os.environ, **here, "PGSSLMODE": mode, **more}

    def replay(self, *words):
        """(exit, what it printed) of lockgate-replay on this gateway's recordings."""
        return replay(*words, self.recordings())

    def recordings(self):
        """The folder that holds the recordings."""
        inside = self.data / "recordings"
        return inside if inside.exists() else self.data


def binary(name):
    """A program of ours: LOCKGATE_BIN names the folder, else it is the release build."""
    folder = pathlib.Path(os.environ.get("LOCKGATE_BIN", machine.target_folder() / "release"))
    path = folder / name
    if not path.exists():
        machine.build_release()
    if not path.exists():
        raise Trouble(f"{path} is not there: build it (cargo build --release --workspace) or set LOCKGATE_BIN")
    return path


def replay(*words):
    argv = [binary("lockgate-replay"), *map(str, words)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode(errors="replace")


def target_of(server, database, name=None, tls=False, catalog_poll=None):
    """The whole of a test's server as a target, reached as its superuser."""
    mode = "verify-full" if tls else "disable"
    authority = server.authority if tls else None
    return Target(name or database, server.port, database, server.superuser, server.password, mode, authority, catalog_poll=catalog_poll)


@contextlib.contextmanager
def door(server, work, database, tls=False, driver=None, catalog_poll=None):
    """A gateway that allows everything, whose user bears the superuser's name: (port, password, environment)."""
    user = User(server.superuser, ["everyone"])
    policy = {"everything": ALLOW_EVERYTHING.format(group="everyone", target=database)}
    mode = "required" if tls else "off"
    target = target_of(server, database, tls=tls, catalog_poll=catalog_poll)
    with Gateway(work, [target], [user], policy, tls=mode, driver=driver) as gateway:
        try:
            yield gateway.port, user.password, {"PGSSLMODE": "require" if tls else "disable"}
        finally:
            shutil.copy2(gateway.log, machine.CACHE / "gateway.log")


@contextlib.contextmanager
def straight(server, tls=False):
    """The server itself in a gateway's place."""
    yield server.port, server.password, {"PGSSLMODE": "require" if tls else "disable"}
