"""What an operator and a service manager see: signals, /healthz and /readyz in every state, the watchdog, sd_notify."""

import contextlib
import json
import signal
import subprocess
import threading
import time

from processes import DATABASE, Manager, connects, gone, held_still, must, one, says, session, silent_server, worker_thread
from support import gateway, machine, wire
from support.machine import until


def signals(place):
    server = place.server
    with place.life("signals", limits={"drain_timeout": '"60s"'}) as lockgate:
        lockgate.start()
        idle, busy = session(lockgate), session(lockgate)
        process = lockgate.process
        asked = in_background(lambda: busy.simple("SELECT pg_sleep(20)"))
        until("it is busy", lambda: "pg_sleep(20)" in server.sql("SELECT string_agg(query, ' ') FROM pg_stat_activity WHERE state = 'active'"))
        process.send_signal(signal.SIGTERM)
        until("who is idle goes", lambda: gone(idle))
        code, page = lockgate.get("/readyz")
        must(code == 503 and "shutting down" in page, page)
        must(lockgate.get("/healthz")[0] == 200, "whoever drains is well")
        # Each worker closes its own sockets; the one that was idle may have been quicker.
        until("who comes while it drains is refused", lambda: not connects(lockgate.port), 5)
        must(process.poll() is None, "it did not wait for who is busy")
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        lockgate.ended(process, within=5)
        must(time.monotonic() - begun < 5, "a second signal does not cut at once")
        must(isinstance(asked(), Exception), "the command was not cut")
        for words in ("asked to end", "draining: no new clients", "cutting every session", '"ended"'):
            must(says(process, words), f"the log does not say {words!r}")
        lockgate.start()
        process, there = lockgate.process, session(lockgate)
        process.send_signal(signal.SIGINT)
        lockgate.ended(process, within=5)
        must(gone(there), "SIGINT left a session")
        code, shown = lockgate.replay("verify")
        must(code == 0, shown)
        lockgate.process = None


def in_background(do):
    """Does it on a thread; calling the result waits and gives what came of it."""
    result = []

    def run():
        try:
            result.append(do())
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def wait():
        thread.join(30)
        return result[0] if result else None

    return wait


def watched(place):
    """A worker that does not turn is named, and the watchdog hears nothing while that is so."""
    manager = Manager(place.work / "watched-folder")
    with place.life("watched") as lockgate:
        lockgate.start(env=manager.env(WATCHDOG_USEC="900000"))
        until("the watchdog hears", lambda: len(manager.said("WATCHDOG=1")) >= 3)
        must(lockgate.get("/healthz") == (200, "ok\n"), "not healthy")
        with held_still(worker_thread(lockgate.process, 1)):
            page = until("not healthy", lambda: next((page for code, page in [lockgate.get("/healthz")] if code == 503), None))
            must(page.startswith("worker 1: it has not turned for"), page)
            must(lockgate.get("/readyz")[0] == 503, "ready with a worker that is stuck")
            must(lockgate.figure('worker_stuck{worker="1"}') == 1 and lockgate.figure('worker_stuck{worker="0"}') == 0, "figures")
            time.sleep(0.5)
            before = len(manager.said("WATCHDOG=1"))
            time.sleep(1.5)
            must(len(manager.said("WATCHDOG=1")) == before, "the watchdog hears that all is well")
        until("healthy again", lambda: lockgate.get("/healthz")[0] == 200)
        until("the watchdog hears again", lambda: len(manager.said("WATCHDOG=1")) > before)
        lockgate.end()


def starting(place):
    """Before it judges it is well and not ready, however long its targets let themselves be waited for."""
    with place.life("starting") as lockgate, silent_server() as port:
        lockgate.targets[0].port = port
        lockgate.write()
        begun = time.monotonic()
        lockgate.process = lockgate.launch()
        until("the admin port answers", lambda: connects(lockgate.admin))
        seen = set()
        while not says(lockgate.process, '"serving"'):
            must(time.monotonic() - begun < 20, "it waits for its target's catalog for ever")
            code, page = lockgate.get("/healthz")
            must(code == 200, f"not healthy {time.monotonic() - begun:.1f} s after its start: {page}")
            code, page = lockgate.get("/readyz")
            must(code == 503, f"ready with no target: {page}")
            seen.add("it has not begun to judge yet" in page)
        must(seen >= {True}, "the start was not seen")
        code, page = lockgate.get("/readyz")
        must(code == 503 and '"name":"orders"' in page and "not begun" not in page, page)
        lockgate.edit(f"127.0.0.1:{port}", f"127.0.0.1:{place.server.port}")
        lockgate.reload()
        until("ready", lambda: lockgate.get("/readyz")[0] == 200)
        session(lockgate).close()
        lockgate.end()


def unreachable(place):
    """Ready means that sessions to some target can be judged; targets that cannot be read are named."""
    server = place.server
    with place.life("unreachable") as lockgate:
        nobody = machine.free_port()
        lockgate.targets.append(gateway.Target("ledger", nobody, DATABASE, server.superuser, server.password))
        lockgate.policies["ledger"] = gateway.ALLOW_EVERYTHING.format(group="pilots", target="ledger").replace("everything", "ledger")
        lockgate.start()
        code, page = lockgate.get("/readyz")
        must(code == 200 and '"name":"ledger"' in page, page)
        must(lockgate.figure('target_up{target="ledger"}') == 0 and lockgate.figure('target_up{target="orders"}') == 1, "figures")
        right = f'name = "{DATABASE}"\nprotocol = "postgres"\naddress = "127.0.0.1:{server.port}"'
        wrong = right.replace(str(server.port), str(nobody))
        lockgate.edit(right, wrong)
        with session(lockgate) as lost:
            lockgate.reload()
            code, page = lockgate.get("/readyz")
            must(code == 503 and '"name":"orders"' in page, page)
            must(lockgate.get("/healthz")[0] == 200, "a restart would mend no target")
            must(gone(lost), "a session goes on with a target that is another one now")
        lockgate.edit(wrong, right)
        lockgate.reload()
        until("ready again", lambda: lockgate.get("/readyz")[0] == 200)
        session(lockgate).close()
        lockgate.end()


def unrecorded(place):
    """A worker that cannot record passes no command and is not ready; when it can again, it goes on by itself."""
    with place.life("unrecorded", workers=1) as lockgate:
        lockgate.start()
        series, aside = lockgate.recordings() / "w000", lockgate.folder / "aside"
        series.rename(aside)
        series.write_text("no folder")
        code, page = until("the recording fails", lambda: filled(lockgate), seconds=60)
        must('"what":"recording"' in page, page)
        must(lockgate.get("/healthz")[0] == 200, "a restart would mend no disk")
        must(lockgate.figure('recording_failed{worker="0"}') == 1, "figures")
        until("no command passes", lambda: is_unrecorded(lockgate))
        must(all(is_unrecorded(lockgate) for _ in range(5)), "a command passes though nothing is recorded")
        series.unlink()
        aside.rename(series)
        until("ready again", lambda: lockgate.get("/readyz")[0] == 200)
        with session(lockgate) as asked:
            must(one(asked.simple("SELECT 1")) == b"1", "it does not go on")
        lockgate.end()


def is_unrecorded(lockgate):
    """Asks much; whether the answer is that nothing can be recorded."""
    try:
        with session(lockgate) as asked:
            asked.simple(f"SELECT '{'recorded ' * 10000}'")
    except wire.Refused as refusal:
        return refusal.fields["C"] == "58030"
    return False


def filled(lockgate):
    """Records some megabytes; the answer of /readyz once it is not 200."""
    with contextlib.suppress(wire.Refused, OSError, EOFError), session(lockgate) as asked:
        for _ in range(20):
            asked.simple("SELECT repeat('recorded ', 10000)")
    code, page = lockgate.get("/readyz")
    return (code, page) if code != 200 else None


def notify(place):
    """What the service manager hears, word for word, of processes that follow each other."""
    manager = Manager(place.work / "notify-folder")
    with place.life("notify") as lockgate:
        lockgate.start(env=manager.env(WATCHDOG_USEC="3000000"))
        first = lockgate.process
        until("READY", lambda: manager.said("READY=1", first.pid))
        before = usec_now()
        lockgate.reload()
        lockgate.edit("[policy]", "[polcy]")
        lockgate.reload(well=False)
        lockgate.edit("[polcy]", "[policy]")
        with session(lockgate):
            first.send_signal(signal.SIGUSR2)
            successor = until("a successor is started", lambda: started_by(first))
            until("MAINPID", lambda: manager.said(f"MAINPID={successor}", first.pid))
            until("READY of the other", lambda: manager.said("READY=1", successor))
            until("the watchdog hears the other", lambda: manager.said("WATCHDOG=1", successor))
        lockgate.ended(first)
        machine.run(["kill", "-TERM", successor])
        until("the successor has ended", lambda: not connects(lockgate.admin))
        exactly(manager.lines(first.pid), [
            ["READY=1", "STATUS=serving"],
            ["RELOADING=1", "MONOTONIC_USEC=*", "STATUS=reloading"],
            ["READY=1", "STATUS=serving"],
            ["RELOADING=1", "MONOTONIC_USEC=*", "STATUS=reloading"],
            ["READY=1", "STATUS=the last reload was refused for mistakes; see the log"],
            [f"MAINPID={successor}"],
        ])
        exactly(manager.lines(successor), [
            ["READY=1", "STATUS=serving"],
            ["STOPPING=1", "STATUS=draining: sessions end when they are idle"],
        ])
        must(manager.order(f"MAINPID={successor}") < manager.order("READY=1", successor), "READY before MAINPID")
        times = [int(line.split("=")[1]) for _, _, lines in manager.heard for line in lines if line.startswith("MONOTONIC_USEC=")]
        must(before <= times[0] <= times[1] <= usec_now(), f"{times} are no times of the monotonic clock")
        lockgate.process, lockgate.former = None, []
    not_ours(place)
    unit()


def not_ours(place):
    """The watchdog of another process is none of this one's business."""
    manager = Manager(place.work / "not-ours-folder")
    with place.life("not-ours") as lockgate:
        lockgate.start(env=manager.env(WATCHDOG_USEC="300000", WATCHDOG_PID="1"))
        until("READY", lambda: manager.said("READY=1"))
        time.sleep(1)
        must(not manager.said("WATCHDOG=1"), "the watchdog is another process' affair")
        lockgate.end()


def usec_now():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def started_by(process):
    """The process id of the successor that a process has started, once its log says so."""
    found = [line for line in process.log.read_text().splitlines() if "it takes over when it stands" in line]
    return json.loads(found[0])["pid"] if found else None


def exactly(heard, expected):
    """All that a process said, but for the watchdog's beat."""
    heard = [lines for lines in heard if lines != ["WATCHDOG=1"]]
    plain = [[line.split("=")[0] + "=*" if line.startswith("MONOTONIC") else line for line in lines] for lines in heard]
    must(plain == expected, f"the service manager heard {heard}")


def unit():
    """The example unit is one that systemd understands, where there is a systemd to ask."""
    path = machine.ROOT / "docs/lockgate.service"
    done = subprocess.run(["sh", "-c", "command -v systemd-analyze"], capture_output=True)
    if done.returncode != 0:
        text = path.read_text()
        must(all(word in text for word in ("Type=notify", "WatchdogSec=", "ExecStart=")), "the unit is not whole")
        return
    shown = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True).stderr
    ours = [line for line in shown.splitlines() if "lockgate" in line and "not executable" not in line]
    # systemd before 253 has no notify-reload; the unit says what to write there.
    ours = [line for line in ours if "notify-reload" not in line]
    must(not ours, "\n".join(ours))


CASES = {
    "signals": signals,
    "watched": watched,
    "starting": starting,
    "unreachable": unreachable,
    "unrecorded": unrecorded,
    "notify": notify,
}
