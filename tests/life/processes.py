"""A gateway of more than one process: those that serve, one after the other, and those that have handed over and drain."""

import contextlib
import ctypes
import dataclasses
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import time

from support import gateway, postgres, wire
from support.machine import Trouble, until

DATABASE = "orders"
EVERYTHING = gateway.ALLOW_EVERYTHING.format(group="pilots", target=DATABASE)
READ_ONLY = EVERYTHING.replace("allow * on *", 'allow * on *\n    deny drop because "not today"')
SECONDS_MAX = 30
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17


@dataclasses.dataclass
class Place:
    """Where a case runs: the database's server, a folder, the driver, and how long a load lasts."""

    server: postgres.Server
    work: pathlib.Path
    driver: str
    seconds: int

    @contextlib.contextmanager
    def life(self, name, **options):
        """A gateway of its own, with two users; not started yet."""
        folder = self.work / name
        folder.mkdir()
        users = [gateway.User("pilot", ["pilots"]), gateway.User("guest", ["pilots"])]
        target = gateway.target_of(self.server, DATABASE)
        policy = {"everything": EVERYTHING}
        with Life(folder, [target], users, policy, segment="4MiB", driver=self.driver, **options) as lockgate:
            yield lockgate


class Life(gateway.Gateway):
    """As a gateway, but each process has a log of its own."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.former = []
        self.launched = []

    def launch(self, *flags, env=None):
        """A process, which may not live long; its log is in .log."""
        path = self.folder / f"gateway-{len(self.launched) + 1}.log"
        words = [*flags, *(["--driver", self.driver] if self.driver else [])]
        with open(path, "wb") as log:
            process = subprocess.Popen(
                [self.binary, "serve", "--config", self.config, *words],
                cwd=self.folder,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        process.log = path
        self.launched.append(process)
        return process

    def start(self, env=None):
        if not self.config.exists():
            self.write()
        self.process = self.launch(env=env)
        self.log = self.process.log
        until("the gateway is ready", lambda: self.process.poll() is not None or self._ready() and says(self.process, '"serving"'))
        if self.process.poll() is not None:
            raise Trouble(f"lockgate ended with exit {self.process.returncode}:\n{self.log_tail()}")

    def hand_over(self, env=None):
        """Another process takes over; returns the one that did."""
        successor = self.launch("--take-over", env=env)
        self.taken_over_by(successor)
        return successor

    def taken_over_by(self, successor):
        """Waits until a process that was launched serves."""
        until("the other process serves", lambda: successor.poll() is not None or says(successor, '"serving"'))
        if successor.poll() is not None:
            raise Trouble(f"the successor ended with exit {successor.returncode}:\n{successor.log.read_text()}")
        self.former.append(self.process)
        self.process, self.log = successor, successor.log

    def policy(self, text):
        # At once: whoever drains may be reading it.
        draft = self.folder / "everything.draft"
        draft.write_text(text)
        draft.replace(self.folder / "policies" / "everything.policy")

    def edit(self, what, by):
        text = self.config.read_text()
        if what not in text:
            raise Trouble(f"{what} is not in the configuration")
        self.config.write_text(text.replace(what, by))

    def ended(self, process, code=0, within=SECONDS_MAX):
        """Waits for a process' end."""
        try:
            found = process.wait(within)
        except subprocess.TimeoutExpired:
            raise Trouble(f"a process does not end within {within} s:\n{process.log.read_text()[-3000:]}") from None
        if found != code:
            raise Trouble(f"a process ended with exit {found} and not {code}:\n{process.log.read_text()[-3000:]}")

    def end(self):
        """Everything ends in order, and what was recorded verifies."""
        for process in [*self.former, self.process]:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            self.ended(process)
        self.process, self.former = None, []
        code, shown = self.replay("verify")
        if code != 0:
            raise Trouble(f"the recordings do not verify:\n{shown}")

    def sessions_recorded(self):
        code, shown = self.replay("list", "--json")
        if code != 0:
            raise Trouble(f"the recordings cannot be listed:\n{shown}")
        return [json.loads(line) for line in shown.splitlines() if line.startswith("{")]

    def kill_all(self):
        for process in self.launched:
            if process.poll() is None:
                process.kill()
                process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill_all()


def says(process, words):
    return words in process.log.read_text(errors="replace")


class Manager:
    """What a service manager hears: a socket for NOTIFY_SOCKET, and all that was said, in order."""

    def __init__(self, folder):
        folder.mkdir()
        self.path = folder / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(str(self.path))
        self.socket.setblocking(False)
        self.heard = []

    def env(self, **more):
        return {"NOTIFY_SOCKET": str(self.path), **more}

    def hear(self):
        """All messages so far: (sender's process, time of hearing, lines)."""
        with contextlib.suppress(BlockingIOError):
            while True:
                text, control, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(12))
                pid = int.from_bytes(control[0][2][:4], "little")
                self.heard.append((pid, time.monotonic(), text.decode().splitlines()))
        return self.heard

    def lines(self, pid):
        """All that a process said, a list of lines for each datagram."""
        return [lines for who, _, lines in self.hear() if who == pid]

    def order(self, line, pid=None):
        """Where in the order of all datagrams a line was said first."""
        return next(at for at, (who, _, lines) in enumerate(self.hear()) if line in lines and pid in (None, who))

    def said(self, line, pid=None):
        return [at for who, at, lines in self.hear() if line in lines and pid in (None, who)]


def worker_thread(process, index):
    """The thread of a worker."""
    for task in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
        if (task / "comm").read_text().strip() == f"worker-{index}":
            return int(task.name)
    raise Trouble(f"there is no thread worker-{index}")


@contextlib.contextmanager
def held_still(thread):
    """Stops one thread, and only this one, as a debugger does."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

    def trace(request):
        if libc.ptrace(request, thread, None, None) != 0:
            raise Trouble(f"ptrace: {os.strerror(ctypes.get_errno())}; a test needs to be allowed to trace its own children")

    trace(PTRACE_SEIZE)
    trace(PTRACE_INTERRUPT)
    os.waitpid(thread, 0x40000000)  # __WALL
    try:
        yield
    finally:
        trace(PTRACE_DETACH)


# ---------------------------------------------------------------------------
# Sessions


def session(lockgate, user=0):
    user = lockgate.users[user]
    return wire.Session("127.0.0.1", lockgate.port, user.name, user.password, DATABASE)


def one(rows):
    return rows[0][0]


def must(condition, text):
    if not condition:
        raise Trouble(text)


def refused(ask, code):
    """What a statement is refused with."""
    try:
        ask()
    except wire.Refused as refusal:
        if refusal.fields.get("C") != code:
            raise Trouble(f"refused with {refusal} and not with {code}") from None
        return refusal.fields.get("M")
    raise Trouble(f"not refused; {code} was expected")


def denied(asked):
    """What a DROP is refused with, or None."""
    try:
        asked.simple("DROP TABLE IF EXISTS missing")
    except wire.Refused as refusal:
        return str(refusal)
    return None


def gone(asked):
    try:
        asked.simple("SELECT 1")
    except (wire.Refused, OSError, EOFError):
        return True
    return False


def connects(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def cancel_request(port, process, secret):
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(struct.pack("!III", 12 + len(secret), 80877102, process) + secret)
        must(connection.recv(1) == b"", "a cancel request was answered")


@contextlib.contextmanager
def silent_server():
    """A port where connections are accepted by the kernel and nothing is ever said."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield listening.getsockname()[1]
