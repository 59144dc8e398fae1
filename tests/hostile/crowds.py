"""More peers than there is room for: thousands of slow ones, more than may come in, more than there are descriptors."""

import os
import pathlib
import socket
import time

from support.machine import Trouble, say

from .attacks import Slow, running
from .field import DATABASE, Field, Peer, Waits, knock, last_words, startup

ROOMY = {"sessions_max": 30000, "unauthenticated_max": 30000, "unauthenticated_per_address_max": 30000}
SLOW_FULL, SLOW_SAMPLE = 10_000, 2_000
# What a connection that has sent some bytes and proven nothing may cost.
SLOW_BYTES_MAX = 8 << 10
OPEN_FILES = 400
# As /proc/net/tcp names them.
ESTABLISHED, KEEPALIVE_TIMER = "01", "02"
# Linux's TCP_REPAIR: the socket is taken out of the connection.
TCP_REPAIR = 19
# A minute of silence, and some probes.
KEEPALIVE_SECONDS_MAX = 130


def slow_connections(server, work, options):
    """Thousands that send a byte a second, or nothing: they cost little, are ended in time, and nobody notices."""
    waits = slow_crowd(server, work, options)
    if not waits.within():
        # As with other attacks: where a few windows seem to tell of a fault there are more, and all of them count.
        again = slow_crowd(server, work, options)
        waits = Waits(waits.quiet + again.quiet, waits.attacked + again.attacked)
    if not waits.within():
        raise Trouble(f"the victims' p99 is {waits.ratio:.2f} times what it was")


def slow_crowd(server, work, options):
    """One such crowd; how long the victims waited."""
    count = SLOW_FULL if options.full else SLOW_SAMPLE
    windows = options.pairs + 2
    # They come in, are watched, and are then thrown out.
    patience = round((10 if options.full else 4) + windows * options.seconds)
    with Field(server, work, "slow", options, limits=ROOMY | {"login_timeout": f'"{patience}s"'}) as field:
        before = field.figures()
        quiet = [field.window(options.seconds) for _ in range(windows)]
        slow = Slow(field, count)
        try:
            with running(slow.step, 0.1):
                attacked = [field.window(options.seconds) for _ in range(windows)]
                worst = field.figures()
            ended, told = slow.ended(40)
        finally:
            slow.close()
        waits = Waits(quiet, attacked)
        each = (worst.rss_kib - before.rss_kib) * 1024 // count
        say(
            f"| {count} slow connections | {waits} | {before.rss_kib // 1024} → {worst.rss_kib // 1024} MiB, {each} bytes each, "
            f"{worst.sessions} open; told {told} |"
        )
        # 20,000 descriptors, a usual hard limit, make room for 9,872; the rest is told so.
        if worst.sessions < count * 0.98:
            raise Trouble(f"only {worst.sessions} of {count} were let in")
        if ended < count:
            raise Trouble(f"{count - ended} of {count} were not ended in time")
        if each > SLOW_BYTES_MAX:
            raise Trouble(f"each slow connection costs {each} bytes")
        field.settled(before)
        return waits


def turned_away(server, work, options):
    """With the limits as they are by default, whoever is too many is told so; who is there stays."""
    with Field(server, work, "turned_away", options, limits={"login_timeout": '"5s"'}) as field:
        before = field.figures()
        crowd = [knock(field.port) for _ in range(300)]
        time.sleep(0.3)
        told = {}
        for peer in crowd:
            code, ended = last_words(peer, 0.05 if told.get("53300", 0) > 60 else 0.2)
            told[(code if ended else "in")] = told.get(code if ended else "in", 0) + 1
        say(f"| 300 connections from one address, 128 may wait | told {told} |")
        if not told.get("53300"):
            raise Trouble(f"nobody was told: {told}")
        if told.get("in", 0) > 130:
            raise Trouble(f"too many were let in: {told}")
        for peer in crowd:
            peer.close()
        field.victims.take()
        field.settled(before)
        Peer(field).close()


def descriptors(server, work, options):
    """Few descriptors: sessions that stand go on, the gateway does not spin, and who comes later gets in again."""
    with Field(server, work, "descriptors", options, limits=ROOMY, open_files=OPEN_FILES) as field:
        before = field.figures()
        crowd = [knock(field.port) for _ in range(OPEN_FILES * 2)]
        for peer in crowd:
            try:
                peer.sendall(startup(field.user.name, DATABASE))
            except OSError:
                pass
        spent = processor_seconds(field)
        field.window(3)
        spent = processor_seconds(field) - spent
        now = field.figures()
        say(f"| {len(crowd)} connections, {OPEN_FILES} descriptors | {now} | {spent:.2f} s of processor in 3 s |")
        if spent > 1.5:
            raise Trouble(f"the gateway spins: {spent:.2f} s of processor in 3 s")
        if field.gateway.total("recording_failures_total") or field.gateway.get("/readyz")[0] != 200:
            raise Trouble("recording or catalog suffer")
        for peer in crowd:
            peer.close()
        field.settled(before)
        with Peer(field) as late:
            if late.simple("SELECT 1") != [[b"1"]]:
                raise Trouble("who comes later is not served")


def half_open(server, work, options):
    """Peers that vanish without a word are asked for a sign of life, and found out; one that ends its half is let go."""
    with Field(server, work, "half_open", options, victims=False) as field:
        before = field.figures()
        peers = [Peer(field) for _ in range(20)]
        dull = len(unprobed(field))
        if dull:
            raise Trouble(f"{dull} idle connections would never find out that their peer has gone")
        for peer in peers[10:]:
            peer.socket.shutdown(socket.SHUT_WR)
            if last_words(peer.socket) != (None, True):
                raise Trouble("a session goes on though its client has ended its half")
        if options.full:
            vanish(peers[:10])
            say(f"| 10 clients vanish | {field.figures()} |")
            field.settled(before, seconds=KEEPALIVE_SECONDS_MAX)
        for peer in peers:
            peer.close()
        field.settled(before)


def unprobed(field):
    """Connections of the gateway's to clients and target for which the kernel has no keep-alive timer."""
    links = (os.readlink(path) for path in pathlib.Path(f"/proc/{field.gateway.process.pid}/fd").iterdir())
    sockets = {link[8:-1] for link in links if link.startswith("socket:[")}
    found = []
    for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
        parts = line.split()
        near, far = (int(parts[at].split(":")[1], 16) for at in (1, 2))
        # The catalog's connection is there as well; admin's is not meant.
        if parts[9] in sockets and parts[3] == ESTABLISHED and (near == field.port or far == field.server.port):
            if parts[5].split(":")[0] != KEEPALIVE_TIMER:
                found.append(line)
    return found


def vanish(peers):
    """Closes without FIN or reset, as when a cable is cut."""
    try:
        for peer in peers:
            peer.socket.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
            peer.close()
    except PermissionError:
        raise Trouble("to vanish without a word takes CAP_NET_ADMIN: run this as root") from None


def processor_seconds(field):
    parts = pathlib.Path(f"/proc/{field.gateway.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


CASES = (slow_connections, turned_away, descriptors, half_open)
