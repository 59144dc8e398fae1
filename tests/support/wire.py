"""A small PostgreSQL client in the standard library: SCRAM, simple and extended protocol, TLS."""

import base64
import hashlib
import hmac
import secrets
import socket
import struct

ANSWER_SECONDS_MAX = 30
SSL_REQUEST = 80877103


class CutShort(EOFError):
    """The connection ended inside of a message."""


class Refused(Exception):
    """The server said ErrorResponse; its fields by letter."""

    def __init__(self, fields):
        super().__init__(f"{fields.get('C')}: {fields.get('M')}")
        self.fields = fields


def message(kind, body=b""):
    return kind + struct.pack("!I", len(body) + 4) + body


def text(value):
    return value.encode() + b"\0"


class Session:
    """One connection, ready for queries once made. Use as a context manager."""

    def __init__(self, host, port, user, password, database, version=(3, 0), tls=None, direct=False, scram=None, **parameters):
        """`tls`: an SSLContext, asked for first or, with `direct`, not. `scram`: what to say other than a plain client."""
        self.socket = socket.create_connection((host, port), ANSWER_SECONDS_MAX)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self._encrypt(tls, direct, host)
        self.stream = self.socket.makefile("rb")
        self._knows_nothing()
        start = {"user": user, "database": database, **parameters}
        body = struct.pack("!HH", *version) + b"".join(text(key) + text(value) for key, value in start.items()) + b"\0"
        self.socket.sendall(struct.pack("!I", len(body) + 4) + body)
        try:
            self._authenticate(scram or Scram(password))
        except BaseException:
            self.close()
            raise

    def _knows_nothing(self):
        """Nobody has told it anything yet."""
        self.status = None
        # SASL mechanisms that were offered, in order.
        self.offered = []
        # What ParameterStatus told, the latest of each.
        self.parameters = {}
        # (newest minor version, options that are not known) of NegotiateProtocolVersion.
        self.negotiated = None
        # Process id and secret, as BackendKeyData told them.
        self.key = None

    def _encrypt(self, tls, direct, host):
        if not direct:
            self.socket.sendall(struct.pack("!II", 8, SSL_REQUEST))
            if self.socket.recv(1) != b"S":
                raise OSError("the other side speaks no TLS")
        self.socket = tls.wrap_socket(self.socket, server_hostname=host)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.stream.close()
        self.socket.close()

    def simple(self, query):
        """Rows of a simple Query."""
        self.socket.sendall(message(b"Q", text(query)))
        return self._rows()

    def extended(self, query):
        """Rows of Parse, Bind, Describe, Execute, Sync."""
        self.socket.sendall(
            message(b"P", b"\0" + text(query) + b"\0\0")
            + message(b"B", b"\0\0" + b"\0" * 6)
            + message(b"D", b"P\0")
            + message(b"E", b"\0" + b"\0" * 4)
            + message(b"S")
        )
        return self._rows()

    def read(self):
        """The next message: its type and its body."""
        header = self._exactly(5)
        kind, length = header[:1], struct.unpack("!I", header[1:])[0]
        return kind, self._exactly(length - 4, begun=True)

    def _told(self, body):
        name, value = body.split(b"\0")[:2]
        self.parameters[name.decode()] = value.decode()

    def _exactly(self, size, begun=False):
        got = self.stream.read(size)
        if len(got) == size:
            return got
        if got or begun:
            raise CutShort("the connection was closed inside of a message")
        raise EOFError("the connection was closed")

    def _rows(self):
        rows, refused = [], None
        while True:
            try:
                kind, body = self.read()
            except EOFError:
                # The error that ended the session says more than its end.
                if refused:
                    raise refused from None
                raise
            if kind == b"D":
                rows.append(_cells(body))
            elif kind == b"E":
                refused = refused or Refused(fields(body))
                if refused.fields["S"] in ("FATAL", "PANIC"):
                    # Nothing follows but the end.
                    raise refused
            elif kind == b"S":
                self._told(body)
            elif kind == b"Z":
                self.status = body
                if refused:
                    raise refused
                return rows

    def _authenticate(self, scram):
        while True:
            kind, body = self.read()
            if kind == b"E":
                raise Refused(fields(body))
            if kind == b"Z":
                self.status = body
                return
            if kind == b"S":
                self._told(body)
            if kind == b"v":
                self.negotiated = negotiated(body)
            if kind == b"K":
                self.key = struct.unpack("!I", body[:4])[0], body[4:]
            if kind != b"R":
                continue
            code = struct.unpack("!I", body[:4])[0]
            if code == 10:
                self.offered = [name.decode() for name in body[4:].split(b"\0") if name]
                first = scram.first()
                self.socket.sendall(message(b"p", text(scram.mechanism) + struct.pack("!I", len(first)) + first))
            elif code == 11:
                self.socket.sendall(message(b"p", scram.final(body[4:])))
            elif code == 12:
                scram.proven(body[4:])
            elif code != 0:
                raise OSError(f"this client does not know authentication {code}")


class Scram:
    """A client's end of SCRAM-SHA-256. `header` is what it says of channel binding, `channel` what it sees of it."""

    def __init__(self, password, mechanism="SCRAM-SHA-256", header=b"n,,", channel=b""):
        self.mechanism, self.header, self.channel = mechanism, header, channel
        self.password = (password or "").encode()
        self.bare = b"n=,r=" + base64.b64encode(secrets.token_bytes(18))
        self.signature = None

    def first(self):
        return self.header + self.bare

    def final(self, server_first):
        parts = dict(part.split(b"=", 1) for part in server_first.split(b","))
        salted = hashlib.pbkdf2_hmac("sha256", self.password, base64.b64decode(parts[b"s"]), int(parts[b"i"]))
        key = hmac.digest(salted, b"Client Key", "sha256")
        without_proof = b"c=" + base64.b64encode(self.header + self.channel) + b",r=" + parts[b"r"]
        whole = b",".join((self.bare, server_first, without_proof))
        signed = hmac.digest(hashlib.sha256(key).digest(), whole, "sha256")
        proof = bytes(a ^ b for a, b in zip(key, signed))
        self.signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), whole, "sha256")
        return without_proof + b",p=" + base64.b64encode(proof)

    def proven(self, server_final):
        if base64.b64decode(server_final[2:]) != self.signature:
            raise OSError("the server does not know the password either")


def cancel(host, port, process_id, secret):
    """Sends a CancelRequest; returns when the other side has acted on it and closed."""
    body = struct.pack("!II", 80877102, process_id) + secret
    with socket.create_connection((host, port), ANSWER_SECONDS_MAX) as connection:
        connection.sendall(struct.pack("!I", len(body) + 4) + body)
        if connection.recv(1):
            raise OSError("a CancelRequest was answered")


def negotiated(body):
    """Of a NegotiateProtocolVersion: the newest minor version, and options that are not known."""
    newest, count = struct.unpack("!II", body[:8])
    options = [option.decode() for option in body[8:].split(b"\0")[:-1]]
    if len(options) != count:
        raise OSError(f"{count} options were announced and {len(options)} came")
    return newest & 0xFFFF, options


def fields(body):
    """Of an ErrorResponse or NoticeResponse, by letter."""
    return {part[:1].decode(): part[1:].decode(errors="replace") for part in body.split(b"\0") if part}


def _cells(body):
    cells, at = [], 2
    for _ in range(struct.unpack("!H", body[:2])[0]):
        (size,) = struct.unpack("!i", body[at : at + 4])
        at += 4
        cells.append(None if size < 0 else body[at : at + size])
        at += max(size, 0)
    return cells
