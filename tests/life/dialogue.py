"""A hand-over that fails or is interrupted at each of its steps: whoever served goes on, and nobody notices."""

import contextlib
import os
import random
import signal
import socket
import threading
import time

from load import judged, pgbench
from processes import EVERYTHING, READ_ONLY, denied, gone, must, one, says, session, silent_server
from support.machine import Trouble, until

COME = 4
ENDED = 10


class Impostor:
    """A replacement that goes as far through the dialogue as it is told. Use as a context manager: at its end it is gone."""

    def __init__(self, lockgate):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(20)
        # A socket's path has 107 bytes at most.
        folder = os.open(lockgate.data / "run", os.O_PATH)
        try:
            self.socket.connect(f"/proc/self/fd/{folder}/gateway.sock")
        finally:
            os.close(folder)
        self.unread, self.sockets = b"", []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        for one_ in self.sockets:
            one_.close()

    def say(self, line):
        self.socket.sendall(line.encode() + b"\n")

    def hear(self):
        while b"\n" not in self.unread:
            text, descriptors, _, _ = socket.recv_fds(self.socket, 4096, 16)
            self.sockets += [socket.socket(fileno=descriptor) if _is_socket(descriptor) else open(descriptor, "rb", 0) for descriptor in descriptors]
            if not text:
                return None
            self.unread += text
        line, self.unread = self.unread.split(b"\n", 1)
        return line.decode()

    def expect(self, word):
        line = self.hear()
        must(line == word, f"it says {line!r} and not {word!r}")

    def given(self):
        """Asks, and takes all that it is given."""
        self.say("take-over 1")
        while True:
            line = self.hear()
            if line == "given":
                return
            must(line is not None and line.startswith("give "), f"it says {line!r}")

    def stand(self):
        self.say("ready")
        self.expect("yours")


def _is_socket(descriptor):
    try:
        socket.socket(fileno=descriptor).detach()
        return True
    except OSError:
        return False


def steps(place):
    """Replacements that die, or talk nonsense, at every step; under load."""
    with place.life("steps") as lockgate:
        lockgate.start()
        first = lockgate.process
        come = pgbench(place.server, lockgate, 8, "-C", "-c", COME)
        stay = pgbench(place.server, lockgate, 8, "-c", COME)
        for number in range(3):
            for step in (connected, half_a_word, nonsense, asked, given, nonsense_for_ready, ready, stood, nonsense_for_serving):
                with Impostor(lockgate) as impostor:
                    step(impostor)
                until("it can be asked again", lambda: asked_again(lockgate))
        with Impostor(lockgate) as impostor, Impostor(lockgate) as other:
            impostor.given()
            other.say("take-over 1")
            other.expect("no it hands over to another process already")
        must(come.poll() is None and stay.poll() is None, "the load ended before the last step")
        judged(come, "-C"), judged(stay, "-c")
        must(first.poll() is None, "the predecessor has ended")
        lockgate.hand_over()
        lockgate.end()


def connected(impostor):
    pass


def half_a_word(impostor):
    impostor.socket.sendall(b"take-ov")


def nonsense(impostor):
    impostor.say("take everything")
    impostor.expect("no this is not understood; both must be of versions that know each other")


def asked(impostor):
    impostor.say("take-over 1")
    # Until it is heard: whoever asks next is not to be the first.
    impostor.hear()


def given(impostor):
    impostor.given()


def nonsense_for_ready(impostor):
    impostor.given()
    impostor.say("almost")
    impostor.expect('no it says "almost" instead of "ready"')


def ready(impostor):
    impostor.given()
    impostor.say("ready")


def stood(impostor):
    impostor.given()
    impostor.stand()


def nonsense_for_serving(impostor):
    impostor.given()
    impostor.stand()
    impostor.say("x" * 5000)
    impostor.expect("no it says more than can be meant")


def asked_again(lockgate):
    """Whether the process is over its last conversation; if so, over this one, too."""
    with Impostor(lockgate) as impostor, contextlib.suppress(Trouble, OSError):
        nonsense_for_ready(impostor)
        return True
    return False


def fails(place):
    """Real replacements that fail, are killed or told to end, at whatever moment; under load."""
    with place.life("fails") as lockgate:
        lockgate.start()
        right = lockgate.config.read_text()
        lockgate.edit("[policy]", "[polcy]")
        lockgate.ended(lockgate.launch("--take-over"), 1)
        lockgate.config.write_text(right)
        alone = lockgate.launch()
        lockgate.ended(alone, 1)
        must(says(alone, "in use by another gateway"), alone.log.read_text())
        ended, longest = 0, 0.2
        while ended < ENDED:
            bench = pgbench(place.server, lockgate, 10, "-C", "-c", COME)
            ended += ended_before_they_serve(lockgate, bench, ENDED - ended, longest)
            if lockgate.process.poll() is None:
                until("it can be taken over all the same", lambda: try_hand_over(lockgate))
                judged(bench, "-C")
            else:
                # A replacement was quicker than its end. Nobody serves now, and that is no failure of the hand-over.
                bench.kill()
                bench.communicate()
                longest /= 2
                lockgate.start()
        lockgate.end()


def ended_before_they_serve(lockgate, bench, most, longest):
    """Ends so many replacements, each within so many seconds of its start; how many had not taken over by then."""
    serving = lockgate.process
    for ended in range(most):
        if bench.poll() is not None:
            return ended
        successor = lockgate.launch("--take-over")
        time.sleep(random.uniform(0.0, longest))
        successor.send_signal(signal.SIGKILL if ended % 2 else signal.SIGTERM)
        until("the successor ends", lambda: successor.poll() is not None)
        if says(serving, '"handed over;'):
            lockgate.ended(serving)
            return ended
        must(serving.poll() is None, "the predecessor has ended")
    return most


def try_hand_over(lockgate):
    try:
        return lockgate.hand_over()
    except Trouble:
        return None


def told_to_end(place):
    """SIGTERM during a hand-over: who comes is served without a gap, and the one that was told ends when it may."""
    with place.life("term") as lockgate:
        lockgate.start()
        first = lockgate.process
        with Impostor(lockgate) as impostor:
            impostor.given()
            first.send_signal(signal.SIGTERM)
            until("the signal is heard", lambda: says(first, "draining when it has, or has failed to"))
            session(lockgate).close()
            impostor.stand()
            impostor.say("serving")
            impostor.expect("farewell")
            # The impostor has the sockets; it accepts nobody.
            lockgate.ended(first)
        lockgate.start()
        first, idle = lockgate.process, session(lockgate)
        with Impostor(lockgate) as impostor:
            impostor.given()
            first.send_signal(signal.SIGTERM)
            until("the signal is heard", lambda: says(first, "draining when it has, or has failed to"))
            must(one(idle.simple("SELECT 1")) == b"1", "it drains before it is known who serves")
        until("without the other it drains", lambda: gone(idle))
        lockgate.ended(first)
        lockgate.start()
        first, busy = lockgate.process, session(lockgate)
        busy.simple("BEGIN")
        with Impostor(lockgate) as impostor:
            impostor.given()
            for _ in range(2):
                first.send_signal(signal.SIGTERM)
                time.sleep(0.2)
            lockgate.ended(first, within=5)
        code, shown = lockgate.replay("verify")
        must(code == 0, shown)
        lockgate.process = None


def reload_between(place):
    """SIGHUP during a hand-over is not forgotten: whoever serves in the end reloads."""
    with place.life("hup") as lockgate:
        lockgate.start()
        first = lockgate.process
        with session(lockgate) as there:
            with Impostor(lockgate) as impostor:
                impostor.given()
                lockgate.policy(READ_ONLY)
                first.send_signal(signal.SIGHUP)
                until("the signal is heard", lambda: says(first, "the reload comes when it serves, or has failed to"))
            message = until("the reload is done when the other has failed", lambda: denied(there))
            must("not today" in message, message)
        with Impostor(lockgate) as impostor:
            impostor.given()
            lockgate.policy(EVERYTHING)
            first.send_signal(signal.SIGHUP)
            until("the signal is heard", lambda: first.log.read_text().count("the reload comes when it serves") == 2)
            impostor.stand()
            impostor.say("serving")
            impostor.expect("farewell, reload")
        lockgate.ended(first)
        lockgate.start()
        reloading(lockgate)
        lockgate.end()


def reloading(lockgate):
    """Whoever takes over during a reload waits for its end."""
    first = lockgate.process
    with silent_server() as port:
        lockgate.edit(f"127.0.0.1:{lockgate.targets[0].port}", f"127.0.0.1:{port}")
        first.send_signal(signal.SIGHUP)
        until("the reload waits for its target", lambda: lockgate.figure('target_up{target="orders"}') == 0)
        lockgate.edit(f"127.0.0.1:{port}", f"127.0.0.1:{lockgate.targets[0].port}")
        lockgate.hand_over()
    must(says(first, '"reloaded"'), "the reload was given up")
    session(lockgate).close()


def dies_meanwhile(place):
    """A predecessor that dies with a replacement at hand is replaced."""
    with place.life("dies") as lockgate:
        lockgate.start()
        first = lockgate.process
        successor = lockgate.launch("--take-over")
        until("it has been given everything", lambda: says(successor, '"taking over"'))
        first.send_signal(signal.SIGSTOP)
        until("the successor stands", lambda: stands(successor))
        first.kill()
        first.wait()
        lockgate.taken_over_by(successor)
        lockgate.former.remove(first)
        must(says(successor, "has died; this one takes its place"), successor.log.read_text())
        done = []
        for _ in range(8):
            # While the kernel clears away a dead io_uring, it may wake that for one of them, who waits until it is noticed.
            threading.Thread(target=lambda: done.append(session(lockgate).close()), daemon=True).start()
            time.sleep(0.1)
        until("who comes is served", lambda: len(done) == 8, 5)
        until("nobody waits for the dead", lambda: lockgate.figure("predecessors") == 0)
        lockgate.hand_over()
        lockgate.end()


def stands(process):
    """Whether its workers run: what follows is the last part of the dialogue."""
    must(process.poll() is None, process.log.read_text())
    return says(process, '"published"')


CASES = {
    "steps": steps,
    "fails": fails,
    "term": told_to_end,
    "hup": reload_between,
    "dies": dies_meanwhile,
}
