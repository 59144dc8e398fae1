"""What an attack happens in: a PostgreSQL, a gateway, victims whose waits are measured, and the gateway's own figures."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import socket
import statistics
import struct
import subprocess
import threading
import time

from support import gateway, machine, postgres, wire
from support.machine import Trouble

DATABASE = "orders"
SCHEMA = """
CREATE TABLE public.items (id int PRIMARY KEY, name text);
INSERT INTO public.items SELECT n, 'Item ' || n FROM generate_series(1, 1000) n;
CREATE TABLE public.dump (line text);
"""
# The catalog's own role, which no attack touches.
CATALOG = "catalog_reader"
WAITING = struct.Struct("ii")
# Other sessions may wait this many times as long as without the attack.
FACTOR_MAX = 2
# Below it a difference is the scheduler's.
NOISE_US = 1_000
# As many times the windows that were asked for, where they seem to tell of a fault.
WINDOWS_FACTOR_MAX = 8
SETTLE_SECONDS_MAX = 30
# Descriptors of the segments that two workers have at hand once their own are three quarters full: each is open twice.
NEXT_SEGMENTS = 2 * 2


class Peer(wire.Session):
    """A session whose socket is there to be misused."""

    def __init__(self, field, tls=False, rcvbuf=None, source="127.0.0.1"):
        self.socket = knock(field.port, rcvbuf=rcvbuf, source=source)
        if tls:
            self.socket = inside_tls(self.socket)
        self.stream = self.socket.makefile("rb")
        self._knows_nothing()
        self.socket.sendall(startup(field.user.name, DATABASE))
        try:
            self._authenticate(wire.Scram(field.user.password))
        except BaseException:
            self.close()
            raise

    def reset(self):
        self.stream.close()
        reset(self.socket)


def knock(port, rcvbuf=None, source="127.0.0.1"):
    """A connection to the gateway."""
    peer = socket.socket()
    if rcvbuf:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    if source != "127.0.0.1":
        peer.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        peer.bind((source, 0))
    peer.settimeout(30)
    peer.connect(("127.0.0.1", port))
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peer


def inside_tls(peer, **more):
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for name, value in more.items():
        setattr(context, name, value)
    peer.sendall(struct.pack("!II", 8, 80877103))
    if peer.recv(1) != b"S":
        raise Trouble("the gateway does not agree to TLS")
    return context.wrap_socket(peer)


def reset(peer):
    """Closes with RST."""
    with contextlib.suppress(OSError):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, WAITING.pack(1, 0))
    peer.close()


def startup(user, database):
    body = struct.pack("!I", 196608) + b"".join(wire.text(word) for word in ("user", user, "database", database)) + b"\0"
    return struct.pack("!I", len(body) + 4) + body


def last_words(peer, seconds=10):
    """All that a connection still says before it ends: (SQLSTATE of the error among it or None, ended)."""
    peer.settimeout(seconds)
    said = b""
    try:
        while more := peer.recv(65536):
            said += more
    except ConnectionResetError:
        pass
    except TimeoutError:
        return sqlstate(said), False
    return sqlstate(said), True


def sqlstate(said):
    found = re.search(rb"E....S[A-Z]+\0(?:V[A-Z]+\0)?C([0-9A-Z]{5})\0", said, re.DOTALL)
    return found[1].decode() if found else None


def tool():
    """Our load program: beside the gateway's binary, else it is built."""
    folder = pathlib.Path(os.environ.get("LOCKGATE_BIN", machine.target_folder() / "release"))
    path = folder / "lockgate-hostile"
    if not path.exists():
        machine.build_release()
    if not path.exists():
        raise Trouble(f"{path} is not there: cargo build -p lockgate-hostile")
    return path


class Victims:
    """Sessions that ask for a row each few milliseconds."""

    def __init__(self, port, user, password, sessions=6, rate=300):
        argv = [tool(), "victims", "--address", f"127.0.0.1:{port}", "--user", user, "--database", DATABASE]
        argv += ["--sessions", sessions, "--rate", rate, "--sql", "SELECT name FROM public.items WHERE id = 7"]
        self.process = subprocess.Popen(
            list(map(str, argv)),
            env={**os.environ, "LOCKGATE_PASSWORD": password},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self.process.stdout.readline().strip() != "ready":
            raise Trouble("the victims cannot connect")

    def take(self):
        """What they waited since the last time."""
        self.process.stdin.write("take\n")
        self.process.stdin.flush()
        taken = json.loads(self.process.stdout.readline())
        if taken["errors"]:
            raise Trouble(f"victims suffer: {taken}")
        return taken

    def p99(self):
        """Of what they waited since the last time, in microseconds."""
        taken = self.take()
        if not taken["count"]:
            raise Trouble("victims wait without end")
        return taken["p99_us"]

    def stop(self):
        self.process.stdin.close()
        self.process.wait(10)


@dataclasses.dataclass
class Figures:
    """The gateway's own at one moment."""

    rss_kib: int
    descriptors: int
    threads: int
    sessions: int

    def __str__(self):
        return f"{self.rss_kib // 1024} MiB, {self.descriptors} descriptors, {self.sessions} sessions"


class Field:
    """One server, one gateway, its victims. `limits` as in the configuration."""

    def __init__(self, server, work, name, options, tls="optional", limits=None, target_port=None, open_files=None, victims=True, target_tls=False):
        self.server, self.name, self.options = server, name, options
        self.user = gateway.User("pilot", ["pilot"])
        policy = {"everything": gateway.ALLOW_EVERYTHING.format(group="pilot", target=DATABASE)}
        target = gateway.target_of(server, DATABASE, tls=target_tls)
        target.catalog = (CATALOG, server.catalog_password)
        target.port = target_port or target.port
        folder = work / name
        folder.mkdir()
        self.gateway = gateway.Gateway(folder, [target], [self.user], policy, tls=tls, limits=limits, driver=options.driver)
        self.gateway.launcher = options.launcher
        self.gateway.open_files = open_files
        self.with_victims = victims
        self.swept = False
        # Those of the gateway, and those that go to the server directly: what the attack's own work and the target's
        # do to the machine, they bear too.
        self.victims, self.witnesses = None, None

    def __enter__(self):
        self.gateway.start()
        self.port = self.gateway.port
        if self.with_victims:
            self.victims = Victims(self.port, self.user.name, self.user.password)
            self.witnesses = Victims(self.server.port, self.server.superuser, self.server.password)
        return self

    def __exit__(self, kind, *_):
        for victims in filter(None, (self.victims, self.witnesses)):
            victims.stop()
        if kind is None:
            self.gateway.deserted()
            self.gateway.stop()
            # Of a series whose first segments are gone nothing can be verified.
            code, shown = (0, "") if self.swept else self.gateway.replay("verify")
            if code != 0:
                raise Trouble(f"the recording of {self.name} does not verify (exit {code}):\n{shown[-2000:]}")
        elif self.gateway.process and self.gateway.process.poll() is None:
            self.gateway.kill()

    def window(self, seconds, looks=()):
        """(p99 through the gateway, p99 directly) in a stretch of time; `looks` are taken in it, evenly."""
        self.victims.take()
        self.witnesses.take()
        for look in looks:
            time.sleep(seconds / (len(looks) + 1))
            look()
        time.sleep(seconds / (len(looks) + 1))
        return self.victims.p99(), self.witnesses.p99()

    def figures(self):
        status = pathlib.Path(f"/proc/{self.gateway.process.pid}/status").read_text()
        number = lambda key: int(re.search(rf"^{key}:\s+(\d+)", status, re.MULTILINE)[1])
        descriptors = len(os.listdir(f"/proc/{self.gateway.process.pid}/fd"))
        return Figures(number("VmRSS"), descriptors, number("Threads"), self.gateway.sessions_open())

    def settled(self, before, rss_slack_mib=64, seconds=SETTLE_SECONDS_MAX):
        """Waits until sessions and descriptors are what they were; Trouble if they do not get there."""
        deadline = time.monotonic() + seconds
        while True:
            now = self.figures()
            if now.sessions <= before.sessions and now.descriptors <= before.descriptors + NEXT_SEGMENTS:
                break
            if time.monotonic() > deadline:
                raise Trouble(f"{now} {seconds} s after the attack; before it {before}")
            time.sleep(0.1)
        grown = (now.rss_kib - before.rss_kib) // 1024
        if grown > rss_slack_mib:
            raise Trouble(f"{grown} MiB stay with the gateway after the attack")
        return now


class Attack(threading.Thread):
    """Runs `step` again and again, with a rest after each, until it is stopped."""

    def __init__(self, step, rest):
        super().__init__(daemon=True)
        self.step, self.rest, self.trouble = step, rest, None
        self.over = threading.Event()
        self.steps = 0

    def run(self):
        try:
            while not self.over.wait(self.rest):
                self.step()
                self.steps += 1
        except (OSError, EOFError):
            # The gateway has thrown the attacker out, which is its right.
            return
        except Exception as trouble:
            self.trouble = trouble

    def stop(self):
        self.over.set()
        self.join(60)
        if self.trouble:
            raise self.trouble


@dataclasses.dataclass
class Waits:
    """Windows without the attack and with it, each (p99 through the gateway, p99 directly), in microseconds."""

    quiet: list
    attacked: list

    @staticmethod
    def _median(windows, place):
        return max(statistics.median(window[place] for window in windows), 1)

    @property
    def before(self):
        return self._median(self.quiet, 0)

    @property
    def during(self):
        return self._median(self.attacked, 0)

    @property
    def machine(self):
        """What became of those who do not come by the gateway: the attack's work and the target's, not the gateway's."""
        return max(self._median(self.attacked, 1) / self._median(self.quiet, 1), 1)

    @property
    def ratio(self):
        return self.during / (self.before * self.machine)

    def within(self):
        return self.ratio <= FACTOR_MAX or self.during - self.before * self.machine <= NOISE_US

    def __str__(self):
        return (
            f"p99 {self.before / 1000:.2f} → {self.during / 1000:.2f} ms (machine {self.machine:.1f}) | {self.ratio:.2f}"
        )


def interleaved(field, attack, options):
    """Windows without and with `attack()`, a context manager, in turn; the highest figures during it.

    An attack's window goes on behind its end, for what it leaves behind is its doing; a quiet one begins when that is
    over. On a machine that others use a few windows may tell nothing: where they seem to tell of a fault, there are more.
    """
    waits, seen, before = Waits([], []), [], field.figures()
    while len(waits.quiet) < options.pairs or (not waits.within() and len(waits.quiet) < WINDOWS_FACTOR_MAX * options.pairs):
        field.settled(before)
        waits.quiet.append(field.window(options.seconds))
        with contextlib.ExitStack() as stack:
            stack.enter_context(attack())
            looks = [lambda: seen.append(field.figures())] * 3 + [stack.close]
            waits.attacked.append(field.window(options.seconds, looks))
    return waits, max(seen, key=lambda figures: figures.rss_kib)


@contextlib.contextmanager
def database(work, **settings):
    """A PostgreSQL with what the attacks need."""
    # A server process for each of many sessions: the kernel's own limits are what matters, not durability.
    with postgres.Server(work, tls=True, settings={"max_connections": "600", **settings}) as server:
        server.sql(f"CREATE DATABASE {DATABASE}")
        server.sql(SCHEMA, DATABASE)
        server.catalog_password = server.account(CATALOG)
        yield server
