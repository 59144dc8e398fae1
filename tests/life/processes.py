"""A gateway of more than one process: those that serve, one after the other, and those that have handed over and drain."""

import contextlib
import ctypes
import os
import pathlib
import signal
import socket
import subprocess
import time

from support import gateway
from support.machine import Trouble

SECONDS_MAX = 30
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17


class Life(gateway.Gateway):
    """As a gateway, but each process has a log of its own, and `more` stands in front of the configuration's tables."""

    def __init__(self, *arguments, more="", **options):
        super().__init__(*arguments, **options)
        self.more = more
        self.former = []
        self.started = 0

    def _toml(self):
        return super()._toml() + self.more

    def launch(self, *flags, env=None):
        """A process, which may not live long; its log is in .log."""
        self.started += 1
        path = self.folder / f"gateway-{self.started}.log"
        with open(path, "wb") as log:
            process = subprocess.Popen(
                [self.binary, "serve", "--config", self.config, *flags],
                cwd=self.folder,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        process.log = path
        return process

    def start(self, env=None):
        if not self.config.exists():
            self.write()
        self.process = self.launch(env=env)
        self.log = self.process.log
        until("the gateway is ready", lambda: self.process.poll() is not None or self._ready())
        if self.process.poll() is not None:
            raise Trouble(f"lockgate ended with exit {self.process.returncode}:\n{self.log_tail()}")

    def hand_over(self, env=None):
        """Another process takes over; returns the one that did."""
        successor = self.launch("--take-over", env=env)
        until("the other process serves", lambda: successor.poll() is not None or says(successor, '"serving"'))
        if successor.poll() is not None:
            raise Trouble(f"the successor ended with exit {successor.returncode}:\n{successor.log.read_text()}")
        self.former.append(self.process)
        self.process, self.log = successor, successor.log
        return successor

    def reload(self, well=True):
        """SIGHUP, and waits for what becomes of it."""
        counted = "done" if well else "refused"
        before = self.figure(f'reloads_total{{result="{counted}"}}')
        self.process.send_signal(signal.SIGHUP)
        until(f"a reload is {counted}", lambda: self.figure(f'reloads_total{{result="{counted}"}}') > before)

    def figure(self, name):
        page = self.get("/metrics")[1]
        for line in page.splitlines():
            if line.startswith(f"lockgate_{name} "):
                return float(line.rsplit(" ", 1)[1])
        raise Trouble(f"there is no figure {name} in\n{page}")

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

    def kill_all(self):
        for process in [*self.former, self.process]:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill_all()


def says(process, words):
    return words in process.log.read_text(errors="replace")


def until(what, condition, within=SECONDS_MAX):
    deadline = time.monotonic() + within
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Trouble(f"in vain for {within} s: {what}")
        time.sleep(0.02)


class Manager:
    """What a service manager hears: a socket for NOTIFY_SOCKET, and all that was said, in order."""

    def __init__(self, folder):
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
