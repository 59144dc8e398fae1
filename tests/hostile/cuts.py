"""Connections that are reset after each of their bytes in turn, on the client's side and on the server's."""

import contextlib
import selectors
import socket
import threading
import time

from support import wire
from support.machine import Trouble, say

from .field import DATABASE, Field, Peer, knock, inside_tls, reset, startup


class Scripted(Peer):
    """A session that is reset when it has sent so many bytes."""

    def __init__(self, field, cut, tls):
        self.field, self.left, self.tls = field, cut, tls
        self.sent = 0

    def live(self):
        """One transaction; whether it came to its end."""
        self.socket = knock(self.field.port)
        try:
            if self.tls:
                self.socket = inside_tls(self.socket)
            self.stream = self.socket.makefile("rb")
            self._send(startup(self.field.user.name, DATABASE))
            outer, outer_socket = self, self.socket
            self.socket = Sender(outer_socket, outer)
            self._authenticate(self.field.user.password)
            for sql in ("BEGIN", "INSERT INTO public.dump VALUES ('never to be seen')", "SELECT 1"):
                self.simple(sql)
            return True
        except (Cut, OSError, EOFError):
            return False
        finally:
            socket_ = self.socket.below if isinstance(self.socket, Sender) else self.socket
            with contextlib.suppress(AttributeError):
                self.stream.close()
            reset(socket_)

    def _send(self, data):
        Sender(self.socket, self).sendall(data)


class Cut(Exception):
    """The byte at which it ends."""


class Sender:
    """Sends up to the cut."""

    def __init__(self, below, script):
        self.below, self.script = below, script

    def sendall(self, data):
        part = data[: self.script.left]
        self.script.left -= len(part)
        self.below.sendall(part)
        if len(part) < len(data):
            raise Cut


def client_side(server, work, options):
    """Cut by the client after byte k, for each k: nothing stays, and nothing that was not committed is there."""
    with Field(server, work, "client_side", options, victims=False) as field:
        before, total = field.figures(), 0
        for tls in (False, True):
            step, cut = (1 if options.full else 7), 0
            while not Scripted(field, cut, tls).live():
                cut += step
                total += 1
        field.settled(before)
        await_rollback(server)
        closed(field)
        say(f"| reset by the client at each {'byte' if options.full else 'seventh byte'} | {total} sessions, none left |")


class Cutter(threading.Thread):
    """Between the gateway and the server: resets both ways when the server has said so many bytes."""

    def __init__(self, server_port):
        super().__init__(daemon=True)
        self.server_port, self.cut = server_port, None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.said = 0

    def run(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.carry, args=(near,), daemon=True).start()

    def carry(self, near):
        far = socket.create_connection(("127.0.0.1", self.server_port))
        first = near.recv(65536)
        far.sendall(first)
        left = self.cut if b"catalog_reader" not in first and self.cut is not None else None
        pairs = {near: far, far: near}
        selector = selectors.DefaultSelector()
        for peer in pairs:
            selector.register(peer, selectors.EVENT_READ)
        with contextlib.suppress(OSError):
            while True:
                for key, _ in selector.select():
                    data = key.fileobj.recv(65536)
                    if not data:
                        raise ConnectionAbortedError
                    if key.fileobj is far and left is not None:
                        if len(data) > left:
                            near.sendall(data[:left])
                            # What was sent is to arrive before the reset does.
                            time.sleep(0.002)
                            raise ConnectionAbortedError
                        left -= len(data)
                    pairs[key.fileobj].sendall(data)
        selector.close()
        reset(near)
        reset(far)

    def stop(self):
        self.listener.close()


def server_side(server, work, options):
    """Cut on the server's side after byte k: the client is told, or its connection ends; nothing stays."""
    cutter = Cutter(server.port)
    cutter.start()
    try:
        with Field(server, work, "server_side", options, target_port=cutter.port, victims=False) as field:
            before, cut, step = field.figures(), 0, (1 if options.full else 11)
            told, total = {}, 0
            while True:
                cutter.cut = cut
                began = time.monotonic()
                outcome = conversation(field)
                if time.monotonic() - began > 3:
                    raise Trouble(f"cut after byte {cut}: the client waited {time.monotonic() - began:.1f} s")
                told[outcome] = told.get(outcome, 0) + 1
                if outcome == "no word":
                    say(f"  cut after byte {cut}: no word")
                total += 1
                if outcome == "done":
                    break
                cut += step
            cutter.cut = None
            if set(told) - {"done", "08006", "57P01", "08001"}:
                raise Trouble(f"clients were told {told}")
            field.settled(before)
            closed(field)
            say(f"| reset on the server's side at each {'byte' if options.full else 'eleventh byte'} | {total} sessions, told {told} |")
    finally:
        cutter.stop()


def conversation(field):
    """What a client hears of a session that may be cut: "done", or a SQLSTATE."""
    try:
        with Peer(field) as peer:
            peer.simple("SELECT name FROM public.items WHERE id < 4")
            return "done"
    except wire.Refused as refused:
        return refused.fields["C"]
    except (OSError, EOFError):
        return "no word"


def await_rollback(server):
    """Transactions that were cut are rolled back, and their server processes gone."""
    deadline = time.monotonic() + 10
    left = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    while server.sql(left) != "0":
        if time.monotonic() > deadline:
            raise Trouble("transactions of sessions that were cut stay open on the server")
        time.sleep(0.1)
    seen = server.sql("SELECT count(*) FROM public.dump WHERE line LIKE 'never%'", DATABASE)
    if seen != "0":
        raise Trouble(f"{seen} rows of sessions that were cut are there")


def closed(field):
    """Every session that is recorded as begun is recorded as ended."""
    code, shown = field.gateway.replay("list")
    if code != 0:
        raise Trouble(f"lockgate-replay list: {shown[-500:]}")


CASES = (client_side, server_side)
