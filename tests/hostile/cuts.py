"""Connections that end after each of their bytes in turn, on the client's side and on the server's, with and without TLS."""

import contextlib
import itertools
import selectors
import socket
import threading
import time

from support import wire
from support.machine import Trouble, say

from .field import DATABASE, Field, Peer, knock, inside_tls, reset, startup


class Scripted(Peer):
    """A session that ends by `end` when it has sent so many bytes of what is inside TLS."""

    def __init__(self, field, cut, tls, end):
        self.field, self.left, self.tls, self.end = field, cut, tls, end

    def live(self):
        """One transaction; whether it came to its end."""
        self.socket = knock(self.field.port)
        try:
            if self.tls:
                self.socket = inside_tls(self.socket)
            self.stream = self.socket.makefile("rb")
            self._knows_nothing()
            self._send(startup(self.field.user.name, DATABASE))
            outer, outer_socket = self, self.socket
            self.socket = Sender(outer_socket, outer)
            self._authenticate(wire.Scram(self.field.user.password))
            for sql in ("BEGIN", "INSERT INTO public.dump VALUES ('never to be seen')", "SELECT 1"):
                self.simple(sql)
            return True
        except (Cut, OSError, EOFError):
            return False
        finally:
            socket_ = self.socket.below if isinstance(self.socket, Sender) else self.socket
            with contextlib.suppress(AttributeError):
                self.stream.close()
            self.end(socket_)

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
        step = 1 if options.full else 7
        for tls, end in itertools.product((False, True), (reset, truncate)):
            cut = 0
            while not Scripted(field, cut, tls, end).live():
                cut += step
                total += 1
        field.settled(before)
        await_rollback(server)
        closed(field)
        say(f"| reset or ended by the client at every {step}. byte, with and without TLS | {total} sessions, none left |")


def truncate(peer):
    """FIN without a word: TLS is cut off, too."""
    with contextlib.suppress(OSError):
        peer.shutdown(socket.SHUT_WR)
    peer.close()


class Cutter(threading.Thread):
    """Between the gateway and the server: ends connections that come while `cut` is set when the server has said so much."""

    def __init__(self, server_port, end):
        super().__init__(daemon=True)
        self.server_port, self.end, self.cut = server_port, end, None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def run(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.carry, args=(near,), daemon=True).start()

    def carry(self, near):
        left = self.cut
        far = socket.create_connection(("127.0.0.1", self.server_port))
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
        self.end(near)
        self.end(far)

    def stop(self):
        self.listener.close()


def server_side(server, work, options):
    """Reset on the server's side after byte k: the client is told, or its connection ends; nothing stays."""
    cut_by_the_server(server, work, options, "server_side", reset, tls=False, step=1 if options.full else 11)


def server_side_tls(server, work, options):
    """The server's TLS stream ends after byte k, without close_notify: never as if the session had ended well."""
    cut_by_the_server(server, work, options, "server_side_tls", truncate, tls=True, step=5 if options.full else 67)


def cut_by_the_server(server, work, options, name, end, tls, step):
    cutter = Cutter(server.port, end)
    cutter.start()
    try:
        with Field(server, work, name, options, target_port=cutter.port, target_tls=tls, victims=False) as field:
            # The catalog's connection stands, and is not to be cut.
            before, told, cut = field.figures(), {}, 0
            while "done" not in told:
                cutter.cut = cut
                began = time.monotonic()
                outcome = conversation(field)
                if time.monotonic() - began > 3:
                    raise Trouble(f"cut after byte {cut}: the client waited {time.monotonic() - began:.1f} s")
                told[outcome] = told.get(outcome, 0) + 1
                cut += step
            cutter.cut = None
            if set(told) - {"done", "cut short", "08006", "57P01", "08001"}:
                raise Trouble(f"clients were told {told}")
            field.settled(before)
            closed(field)
            how = "TLS truncated" if tls else "reset"
            say(f"| {how} on the server's side at every {step}. byte | {sum(told.values())} sessions, told {told} |")
    finally:
        cutter.stop()


def conversation(field):
    """What a client hears of a session that may be cut: "done", a SQLSTATE, or that a message was cut short."""
    try:
        with Peer(field) as peer:
            rows = peer.simple("SELECT name FROM public.items WHERE id < 4")
            return "done" if len(rows) == 3 else f"{len(rows)} rows of 3"
    except wire.Refused as refused:
        return refused.fields["C"]
    except wire.CutShort:
        # Nothing can be said inside of a row.
        return "cut short"
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


CASES = (client_side, server_side, server_side_tls)
