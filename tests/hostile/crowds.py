"""More peers than there is room for: thousands of slow ones, more than may come in, more than there are descriptors."""

import time

from support import wire
from support.machine import Trouble, say

from .attacks import Slow
from .field import DATABASE, Field, Peer, Waits, knock, last_words, startup

ROOMY = {"sessions_max": 30000, "unauthenticated_max": 30000, "unauthenticated_per_address_max": 30000}
SLOW_FULL, SLOW_SAMPLE = 10_000, 2_000
# What a connection that has sent some bytes and proven nothing may cost.
SLOW_BYTES_MAX = 8 << 10
OPEN_FILES = 400


def slow_connections(server, work, options):
    """Thousands that send a byte a second, or nothing: they cost little, are ended in time, and nobody notices."""
    count = SLOW_FULL if options.full else SLOW_SAMPLE
    with Field(server, work, "slow", options, limits=ROOMY | {"login_timeout": '"20s"'}) as field:
        before = field.figures()
        quiet = field.victims.watch(options.seconds * 2)
        slow = Slow(field, count)
        try:
            field.victims.take()
            begun = time.monotonic()
            while time.monotonic() - begun < options.seconds * 3:
                slow.step()
                time.sleep(0.1)
            attacked, worst = field.victims.take(), field.figures()
            ended, told = slow.ended(40)
        finally:
            slow.close()
        if quiet["errors"] or attacked["errors"]:
            raise Trouble(f"victims suffer: {quiet} {attacked}")
        waits = Waits([(quiet["p99_us"], attacked["p99_us"])])
        each = (worst.rss_kib - before.rss_kib) * 1024 // count
        say(
            f"| {count} slow connections | p99 {waits.before / 1000:.2f} → {waits.during / 1000:.2f} ms | {waits.ratio:.2f} | "
            f"{before.rss_kib // 1024} → {worst.rss_kib // 1024} MiB, {each} bytes each, {worst.sessions} open; told {told} |"
        )
        if worst.sessions < count:
            raise Trouble(f"only {worst.sessions} of {count} were let in")
        if ended < count:
            raise Trouble(f"{count - ended} of {count} were not ended in time")
        if each > SLOW_BYTES_MAX:
            raise Trouble(f"each slow connection costs {each} bytes")
        if not waits.within(options.factor):
            raise Trouble(f"the victims' p99 is {waits.ratio:.2f} times what it was")
        field.settled(before)


def turned_away(server, work, options):
    """With the limits as they are by default, whoever is too many is told so; who is there stays."""
    with Field(server, work, "turned_away", options) as field:
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
        waits = field.victims.take()
        if waits["errors"]:
            raise Trouble(f"victims suffer: {waits}")
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
        waits = field.victims.watch(3)
        spent = processor_seconds(field) - spent
        now = field.figures()
        say(f"| {len(crowd)} connections, {OPEN_FILES} descriptors | {now} | {spent:.2f} s of processor in 3 s |")
        if waits["errors"] or not waits["count"]:
            raise Trouble(f"victims suffer: {waits}")
        if spent > 1.5:
            raise Trouble(f"the gateway spins: {spent:.2f} s of processor in 3 s")
        if field.metric("recording_failures_total") or field.gateway.get("/readyz")[0] != 200:
            raise Trouble("recording or catalog suffer")
        for peer in crowd:
            peer.close()
        field.settled(before)
        with Peer(field) as late:
            if late.simple("SELECT 1") != [[b"1"]]:
                raise Trouble("who comes later is not served")


def processor_seconds(field):
    import os
    import pathlib

    parts = pathlib.Path(f"/proc/{field.gateway.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


CASES = (slow_connections, turned_away, descriptors)
