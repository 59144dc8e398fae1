"""Servers that mean harm: what they send is refused, bounded in time and memory, and others' sessions do not notice."""

import contextlib
import os
import socket
import struct
import threading
import time

from support import wire
from support.machine import Trouble, say

from .field import CATALOG, Field, Peer

RSS_MIB_MAX = 64
# A server's, which is longer than the gateway's: 4 s for a log-in, 5 s to linger.
PATIENCE_SECONDS = 12

OK = wire.message(b"R", struct.pack("!I", 0))
KEY = wire.message(b"K", struct.pack("!II", 1, 2))
READY = wire.message(b"Z", b"I")
ENCODING = wire.message(b"S", wire.text("client_encoding") + wire.text("UTF8"))
WELCOME = OK + ENCODING + KEY + READY
ROW = wire.message(b"D", struct.pack("!HI", 1, 1000) + b"x" * 1000)
COLUMN = wire.message(b"T", struct.pack("!H", 1) + wire.text("c") + struct.pack("!IHIhih", 0, 0, 25, -1, -1, 0))


class Impostor(threading.Thread):
    """Where the target should be: the catalog's connection reaches the real one, all others meet the scene."""

    def __init__(self, server_port):
        super().__init__(daemon=True)
        self.server_port, self.scene = server_port, None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                threading.Thread(target=self.meet, args=(near,), daemon=True).start()

    def meet(self, near):
        with contextlib.suppress(OSError), near:
            first = near.recv(65536)
            if CATALOG.encode() not in first:
                near.settimeout(PATIENCE_SECONDS)
                self.scene(near)
                return
            with socket.create_connection(("127.0.0.1", self.server_port)) as far:
                far.sendall(first)
                back = threading.Thread(target=carry, args=(far, near), daemon=True)
                back.start()
                carry(near, far)


def carry(source, sink):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


# ---- scenes: what the server does once it has the StartupMessage ----------------------------------------------------


def for_ever(near, data):
    while True:
        near.sendall(data)


def long_before_session(near):
    near.sendall(b"S" + struct.pack("!I", 0x7FFFFFFF))
    for_ever(near, b"\0" * 65536)


def negative_length(near):
    near.sendall(b"R" + struct.pack("!I", 0xFFFFFFFF) + b"\0" * 64)
    near.recv(1)


def parameters_without_end(near):
    near.sendall(OK)
    for_ever(near, wire.message(b"S", wire.text("application_name") + wire.text("x" * 1000)) * 16)


def notices_without_end(near):
    near.sendall(OK)
    for_ever(near, wire.message(b"N", b"SNOTICE\0C00000\0M" + b"x" * 1000 + b"\0\0") * 16)


def scram_without_end(near):
    near.sendall(wire.message(b"R", struct.pack("!I", 10) + b"SCRAM-SHA-256\0\0"))
    nonce = near.recv(4096).split(b"r=")[-1].rstrip(b"\0")
    challenge = b"r=" + nonce + b"abc,s=c2FsdHNhbHRzYWx0c2FsdA==,i=2147483647"
    near.sendall(wire.message(b"R", struct.pack("!I", 11) + challenge))
    near.recv(1)


def scram_of_another(near):
    near.sendall(wire.message(b"R", struct.pack("!I", 10) + b"SCRAM-SHA-256\0\0"))
    near.recv(4096)
    near.sendall(wire.message(b"R", struct.pack("!I", 11) + b"r=somebodyelse,s=c2FsdHNhbHRzYWx0c2FsdA==,i=4096"))
    near.recv(1)


def asks_again_and_again(near):
    for_ever(near, wire.message(b"R", struct.pack("!I", 5) + b"salt"))


def says_nothing(near):
    near.recv(1)


def garbage(near):
    for_ever(near, os.urandom(65536))


def ready_at_once(near):
    near.sendall(READY)
    near.recv(1)


def unasked(near):
    near.sendall(WELCOME)
    near.recv(4096)
    near.sendall(COLUMN + wire.message(b"C", b"SELECT 0\0") + READY + READY + ROW)
    near.recv(1)


def rows_without_end(near):
    near.sendall(WELCOME)
    near.recv(4096)
    near.sendall(COLUMN)
    for_ever(near, ROW * 64)


def long_row(near):
    near.sendall(WELCOME)
    near.recv(4096)
    near.sendall(COLUMN + b"D" + struct.pack("!I", 0x7FFFFFFF))
    for_ever(near, b"\0" * 65536)


def long_error(near):
    near.sendall(WELCOME)
    near.recv(4096)
    near.sendall(b"E" + struct.pack("!I", 0x7FFFFFFF))
    for_ever(near, b"\0" * 65536)


def reads_nothing(near):
    near.sendall(WELCOME)
    time.sleep(PATIENCE_SECONDS)


# Scene; may the client be told by these SQLSTATEs; or, where it goes on for ever, does it read or not.
ENDS = (
    (long_before_session, {"08P01"}),
    (negative_length, {"08P01"}),
    (parameters_without_end, {"08P01", "08006", "08001", "57014", "08004"}),
    (notices_without_end, {"08P01", "08006", "08001", "57014", "08004"}),
    (scram_without_end, {"28000", "08P01", "08004", "08001"}),
    (scram_of_another, {"28000", "08P01", "08004", "08001"}),
    (asks_again_and_again, {"28000", "08P01", "08004", "08001", "08006", "57014"}),
    (says_nothing, {"08006", "08001", "57014", "08004"}),
    (garbage, {"08P01"}),
    (ready_at_once, {"08P01"}),
    (unasked, {"08P01", "done"}),
    (long_error, {"08P01"}),
)


@contextlib.contextmanager
def stage(server, work, name, options):
    impostor = Impostor(server.port)
    impostor.start()
    limits = {"login_timeout": '"4s"', "connect_timeout": '"2s"'}
    try:
        with Field(server, work, name, options, target_port=impostor.port, limits=limits, victims=False) as field:
            yield impostor, field
    finally:
        impostor.listener.close()


def scenes(server, work, options):
    """Each scene ends with an error for the client, in time and without the gateway's growth."""
    with stage(server, work, "scenes", options) as (impostor, field):
        before = field.figures()
        for scene, expected in ENDS:
            impostor.scene = scene
            began = time.monotonic()
            told = conversation(field)
            took, now = time.monotonic() - began, field.figures()
            say(f"  {scene.__name__}: {told} after {took:.1f} s, {now.rss_kib // 1024} MiB")
            if told not in expected:
                raise Trouble(f"{scene.__name__}: the client was told {told}")
            if took > PATIENCE_SECONDS - 4:
                raise Trouble(f"{scene.__name__}: the client waited {took:.1f} s")
            grow(field, before, scene.__name__)
        field.settled(before, RSS_MIB_MAX)


def conversation(field):
    try:
        with Peer(field) as peer:
            peer.simple("SELECT 1")
            peer.simple("SELECT 1")
            return "done"
    except wire.Refused as refused:
        return refused.fields["C"]
    except (OSError, EOFError):
        return "no word"


def streams(server, work, options):
    """What never ends is held back by a client that does not read, and by a server that does not."""
    with stage(server, work, "streams", options) as (impostor, field):
        before = field.figures()
        for scene in (rows_without_end, long_row):
            impostor.scene = scene
            peer = Peer(field, rcvbuf=4096)
            peer.socket.sendall(wire.message(b"Q", wire.text("SELECT 1")))
            time.sleep(1)
            grow(field, before, scene.__name__)
            peer.reset()
        impostor.scene = reads_nothing
        peer = Peer(field)
        peer.socket.settimeout(1)
        query = wire.message(b"Q", wire.text("SELECT '" + "x" * 60000 + "'"))
        with contextlib.suppress(TimeoutError):
            while True:
                peer.socket.sendall(query)
        grow(field, before, "reads_nothing")
        peer.reset()
        time.sleep(PATIENCE_SECONDS - 4)
        field.settled(before, RSS_MIB_MAX)


def grow(field, before, what):
    grown = (field.figures().rss_kib - before.rss_kib) // 1024
    if grown > RSS_MIB_MAX:
        raise Trouble(f"{what}: the gateway grew by {grown} MiB")


CASES = (scenes, streams)
