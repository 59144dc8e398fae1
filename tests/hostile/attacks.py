"""What peers do to the gateway while others go about their work. Each attack is a context manager on a field."""

import contextlib
import os
import random
import selectors
import signal
import struct
import time

from support import wire

from .field import DATABASE, Attack, Peer, knock, reset, sqlstate, startup

POINT = b"SELECT name FROM public.items WHERE id = "


@contextlib.contextmanager
def running(step, rest, peers=()):
    """A thread that attacks, and the peers to be reset when it is over."""
    attack = Attack(step, rest)
    attack.start()
    try:
        yield attack
    finally:
        attack.stop()
        for peer in peers:
            peer.reset()


def parse(name, text):
    return wire.message(b"P", wire.text(name) + text + b"\0\0\0")


def bind(statement="", portal="", parameters=()):
    values = b"".join(struct.pack("!i", len(value)) + value for value in parameters)
    return wire.message(
        b"B", wire.text(portal) + wire.text(statement) + b"\0\0" + struct.pack("!H", len(parameters)) + values + b"\0\0"
    )


def execute(portal="", rows=0):
    return wire.message(b"E", wire.text(portal) + struct.pack("!I", rows))


SYNC = wire.message(b"S")
FLUSH = wire.message(b"H")


def pour(peer, data, seconds=0.5):
    """Sends as much of `data` as the other side takes within the time; whether it took all."""
    peer.settimeout(seconds)
    try:
        peer.sendall(data)
        return True
    except TimeoutError:
        return False


def drain(peer):
    """Reads what is there and throws it away."""
    peer.setblocking(False)
    try:
        while peer.recv(1 << 20):
            pass
    except (BlockingIOError, ValueError):
        pass
    finally:
        peer.settimeout(30)


# ---- connections that prove nothing ---------------------------------------------------------------------------------


class Slow:
    """Thousands of connections, of which each sends a byte of its first packet a second, or none at all."""

    def __init__(self, field, count):
        self.packet = startup("nobody-in-particular" * 3, DATABASE)
        self.sockets, self.at = [], 0
        for number in range(count):
            self.sockets.append(knock(field.port, source=f"127.0.{1 + number // 20000}.{1 + number % 200}"))
            if number % 100 == 99:
                time.sleep(0.02)

    def step(self):
        """A tenth of them sends its next byte."""
        for number in range(self.at % 10, len(self.sockets), 10):
            if number % 4:
                position = self.at // 10
                with contextlib.suppress(OSError):
                    self.sockets[number].send(self.packet[position % len(self.packet) :][:1])
        self.at += 1

    def ended(self, seconds):
        """How many were ended by the gateway within the time, and what they were told."""
        selector = selectors.DefaultSelector()
        told, ended, deadline = {}, 0, time.monotonic() + seconds
        said = {peer: b"" for peer in self.sockets}
        for peer in self.sockets:
            peer.setblocking(False)
            selector.register(peer, selectors.EVENT_READ)
        while ended < len(self.sockets) and time.monotonic() < deadline:
            for key, _ in selector.select(0.2):
                try:
                    more = key.fileobj.recv(4096)
                except BlockingIOError:
                    continue
                except OSError:
                    more = b""
                said[key.fileobj] += more
                if not more:
                    selector.unregister(key.fileobj)
                    ended += 1
                    code = sqlstate(said[key.fileobj])
                    told[code] = told.get(code, 0) + 1
        selector.close()
        return ended, told

    def close(self):
        for peer in self.sockets:
            peer.close()


@contextlib.contextmanager
def resets(field):
    """Connections that are reset at once, after their first packet, or in the middle of it."""
    packet = startup(field.user.name, DATABASE)

    def step():
        for number in range(10):
            peer = knock(field.port)
            with contextlib.suppress(OSError):
                peer.sendall(packet[: (0, 3, len(packet) // 2, len(packet))[number % 4]])
            reset(peer)

    with running(step, 0.02) as attack:
        yield attack


@contextlib.contextmanager
def cancels_unknown(field):
    """CancelRequests with keys that nobody has."""

    def step():
        for _ in range(20):
            peer = knock(field.port)
            with contextlib.suppress(OSError):
                peer.sendall(struct.pack("!III", 16, 80877102, random.getrandbits(31)) + os.urandom(4))
            peer.close()

    with running(step, 0.02) as attack:
        yield attack


@contextlib.contextmanager
def cancels_known(field):
    """CancelRequests with the right key of a session, whose senders do not wait."""
    owner = Peer(field)
    process_id, secret = owner.key
    request = struct.pack("!III", 12 + len(secret), 80877102, process_id) + secret

    def step():
        for _ in range(20):
            peer = knock(field.port)
            with contextlib.suppress(OSError):
                peer.sendall(request)
            reset(peer)

    with running(step, 0.02, [owner]) as attack:
        yield attack


@contextlib.contextmanager
def handshakes(field):
    """TLS handshakes that are begun by the dozen and never ended."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    hello = ssl.MemoryBIO()
    half = context.wrap_bio(ssl.MemoryBIO(), hello)
    with contextlib.suppress(ssl.SSLWantReadError):
        half.do_handshake()
    packet = struct.pack("!II", 8, 80877103)
    greeting = hello.read()

    def step():
        peers = [knock(field.port) for _ in range(24)]
        for peer in peers:
            peer.sendall(packet)
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.recv(1)
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.sendall(greeting)
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.recv(1)
            reset(peer)

    with running(step, 0.1) as attack:
        yield attack


@contextlib.contextmanager
def stalls(field, seconds):
    """No attack: the gateway is stopped for a while, and again."""
    process = field.gateway.process

    def step():
        process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        process.send_signal(signal.SIGCONT)

    try:
        with running(step, 2 * seconds) as attack:
            yield attack
    finally:
        process.send_signal(signal.SIGCONT)


# ---- sessions that misbehave ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def commands_unread(field):
    """A pipeline of Parse, Bind, Execute, each with a text of its own, in bursts; answers are read late."""
    peer, count = Peer(field), 0

    def step():
        nonlocal count
        burst = b""
        for _ in range(3000):
            count += 1
            burst += parse("", POINT + str(count).encode()) + bind() + execute()
        pour(peer.socket, burst + SYNC)
        drain(peer.socket)

    with running(step, 0.15, [peer]) as attack:
        yield attack


@contextlib.contextmanager
def queries_unread(field):
    """Simple queries by the thousand; nothing is ever read."""
    peer = Peer(field)
    burst = b"".join(wire.message(b"Q", wire.text(f"SELECT {number}")) for number in range(4000))

    def step():
        pour(peer.socket, burst, 0.1)

    with running(step, 0.1, [peer]) as attack:
        yield attack


@contextlib.contextmanager
def syncs(field):
    """The shortest message there is, as often as it fits."""
    peer = Peer(field)

    def step():
        pour(peer.socket, SYNC * 8000, 0.3)
        drain(peer.socket)

    with running(step, 0.1, [peer]) as attack:
        yield attack


@contextlib.contextmanager
def errors(field):
    """Pipelines of which every one fails."""
    peer = Peer(field)
    burst = (parse("", b"SELECT nothing FROM nowhere") + bind() + execute() + SYNC) * 1000

    def step():
        pour(peer.socket, burst)
        drain(peer.socket)

    with running(step, 0.15, [peer]) as attack:
        yield attack


@contextlib.contextmanager
def copy_in(field):
    """COPY of rows without end, a message for each."""
    peer = Peer(field)
    peer.socket.sendall(wire.message(b"Q", wire.text("COPY public.dump FROM STDIN")))
    time.sleep(0.1)
    burst = wire.message(b"d", b"a line of no use\n") * 8000

    def step():
        pour(peer.socket, burst)

    with running(step, 0.1, [peer]) as attack:
        yield attack


@contextlib.contextmanager
def results_unread(field, count=64):
    """Results without end for clients whose window is shut: more than a worker has receive slots for."""
    peers = [Peer(field, rcvbuf=4096) for _ in range(count)]
    for number, peer in enumerate(peers):
        sql = (
            "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 1000000)) TO STDOUT"
            if number % 2
            else "SELECT repeat('x', 1000) FROM generate_series(1, 1000000)"
        )
        peer.socket.sendall(wire.message(b"Q", wire.text(sql)))
    with running(lambda: None, 0.1, peers) as attack:
        yield attack


@contextlib.contextmanager
def results_unread_tls(field):
    """The same inside TLS."""
    peers = [Peer(field, tls=True, rcvbuf=4096) for _ in range(8)]
    for peer in peers:
        peer.socket.sendall(wire.message(b"Q", wire.text("SELECT repeat('x', 1000) FROM generate_series(1, 1000000)")))
    with running(lambda: None, 0.1, peers) as attack:
        yield attack


@contextlib.contextmanager
def notifications(field):
    """Listeners that never read, and somebody who never stops notifying."""
    ears = [Peer(field, rcvbuf=4096) for _ in range(8)]
    for ear in ears:
        ear.simple("LISTEN flood")
    mouth = Peer(field)

    def step():
        mouth.simple(";".join(f"NOTIFY flood, '{'x' * 4000}{number}'" for number in range(50)))

    with running(step, 0.05, [*ears, mouth]) as attack:
        yield attack


@contextlib.contextmanager
def half_messages(field):
    """Sessions that send a long query a byte at a time."""
    peers = [Peer(field) for _ in range(50)]
    for peer in peers:
        peer.socket.sendall(b"Q" + struct.pack("!I", 1 << 20))

    def step():
        for peer in peers:
            peer.socket.send(b"x")

    with running(step, 0.05, peers) as attack:
        yield attack


@contextlib.contextmanager
def executes(field):
    """One long parameter, bound once and executed by the thousand: each execution is a command to be recorded."""
    peer = Peer(field)
    peer.socket.sendall(parse("long", b"SELECT length($1::text)") + bind("long", "p", [b"x" * (1 << 20)]) + FLUSH)

    def step():
        pour(peer.socket, execute("p") * 40 + FLUSH)
        drain(peer.socket)

    with running(step, 0.25, [peer]) as attack:
        yield attack


@contextlib.contextmanager
def replaced(field):
    """Long statements in the unnamed one's place, each before the last is answered."""
    peer = Peer(field)
    long = b"SELECT '" + b"x" * (1 << 19) + b"'"

    def step():
        for number in range(4):
            pour(peer.socket, parse("", long + str(number).encode()))

    with running(step, 0.1, [peer]) as attack:
        yield attack


@contextlib.contextmanager
def empty_records(field):
    """TLS records with nothing in them."""
    peer = Peer(field, tls=True)
    plain = peer.socket

    def step():
        # A record that does not decrypt is the end; then the next peer comes.
        nonlocal plain
        with contextlib.suppress(OSError):
            os.write(plain.fileno(), b"\x17\x03\x03\x00\x00" * 2000)
        plain.close()
        plain = Peer(field, tls=True).socket

    with running(step, 0.1) as attack:
        yield attack
    plain.close()


WITHOUT_PROOF = (resets, cancels_unknown, cancels_known, handshakes)
WITH_SESSION = (
    (commands_unread, queries_unread, syncs, errors, copy_in, results_unread, results_unread_tls, notifications)
    + (half_messages, executes, replaced, empty_records)
)
