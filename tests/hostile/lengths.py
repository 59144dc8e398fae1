"""Length words that lie, in every place where one stands: before a session, inside one, inside TLS."""

import struct
import time

from support import wire
from support.machine import Trouble

from .field import Field, Peer, inside_tls, knock, last_words, startup, DATABASE

LIES = (0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0, 3)
# Behind the lie comes this much, so that a gateway which believes it has something to keep.
BEHIND = b"\0" * (256 << 10)
# Types of which a long one is thrown away as it comes: what is judged is then refused, stray COPY data is nothing.
STREAMED = b"QPBFd"
TYPES = b"QPBEDCFSHXdcfp"
# Of the gateway's memory, with all of the lies told at a time.
RSS_MIB_MAX = 48


def first_packets(server, work, options):
    """Before a session: each is answered with a protocol error, at once, in clear text and inside TLS."""
    with Field(server, work, "first_packets", options, victims=False) as field:
        before = field.figures()
        for tls in (False, True):
            for lie in (*LIES, 10_001):
                with knock(field.port) as peer:
                    peer = inside_tls(peer) if tls else peer
                    tell(peer, struct.pack("!I", lie) + b"\0\3\0\0")
                    expect_end(peer, f"first packet of {lie:#x} bytes, TLS {tls}")
        slim(field, before)


def proofs(server, work, options):
    """While the client is to prove itself."""
    with Field(server, work, "proofs", options, victims=False) as field:
        before = field.figures()
        for lie in LIES:
            with knock(field.port) as peer:
                peer.sendall(startup(field.user.name, DATABASE))
                peer.recv(1)
                tell(peer, b"p" + struct.pack("!I", lie))
                expect_end(peer, f"a proof of {lie:#x} bytes")
        slim(field, before)


def messages(server, work, options):
    """Inside a session: an impossible length ends it; 2 GiB of what is judged are read and thrown away."""
    with Field(server, work, "messages", options, victims=False) as field:
        before = field.figures()
        held = []
        for tls in (False, True):
            for kind in TYPES:
                for lie in LIES:
                    peer = Peer(field, tls=tls)
                    tell(peer.socket, bytes([kind]) + struct.pack("!I", lie))
                    if kind in STREAMED and lie == 0x7FFFFFFF:
                        held.append(peer)
                        continue
                    expect_end(peer.socket, f"{chr(kind)} of {lie:#x} bytes, TLS {tls}")
                    peer.close()
        for peer in held:
            peer.reset()
        slim(field, before)


def copy_data(server, work, options):
    """A CopyData of 2 GiB passes as it comes."""
    with Field(server, work, "copy_data", options, victims=False) as field:
        before = field.figures()
        peer = Peer(field)
        peer.socket.sendall(wire.message(b"Q", wire.text("COPY public.dump FROM STDIN")))
        time.sleep(0.2)
        tell(peer.socket, b"d" + struct.pack("!I", 0x7FFFFFFF))
        time.sleep(0.2)
        peer.reset()
        slim(field, before)


def tell(peer, lie):
    try:
        peer.sendall(lie + BEHIND)
    except OSError:
        # It has been thrown out already.
        pass


def expect_end(peer, what):
    try:
        code, ended = last_words(peer)
    except OSError:
        return
    if not ended:
        raise Trouble(f"{what}: the connection goes on")
    # The reset that unread bytes cause may overtake the error.
    if code not in ("08P01", "57014", None):
        raise Trouble(f"{what}: ended with SQLSTATE {code}")


def slim(field, before):
    now = field.settled(before, RSS_MIB_MAX)
    grown = (now.rss_kib - before.rss_kib) / 1024
    if grown > RSS_MIB_MAX:
        raise Trouble(f"the gateway grew by {grown:.0f} MiB")


CASES = (first_packets, proofs, messages, copy_data)
