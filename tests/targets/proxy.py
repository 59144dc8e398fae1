"""A TCP proxy between a gateway and its server that dies where it is told to: by FIN, by RST, or by silence."""

import contextlib
import select
import socket
import struct
import threading
import time

CHUNK = 1 << 16


class Proxy:
    """Relays every connection to a port. `arm()` singles out the next one that is made; what dies is always that one,
    so that the catalog's own connection, which was there before, lives on."""

    def __init__(self, port):
        self.server = port
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.waiting = None
        self.mute = False
        self.held = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        for near in self.held:
            near.close()

    def shut(self):
        """From now on connections are refused."""
        # Or the thread that accepts would keep it open for one more.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def hush(self):
        """From now on connections are made, and nothing is said on them."""
        self.mute = True

    def arm(self, how="fin", behind=None):
        """The plan for the next connection: it dies when that many bytes of the server's have passed, or when told."""
        plan = Plan(how, behind)
        with self.lock:
            self.waiting = plan
        return plan

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if self.mute:
                self.held.append(near)
                continue
            with self.lock:
                plan, self.waiting = self.waiting or Plan("never", None), None
            threading.Thread(target=self._relay, args=(near, plan), daemon=True).start()

    def _relay(self, near, plan):
        try:
            far = socket.create_connection(("127.0.0.1", self.server), 10)
        except OSError:
            near.close()
            return
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plan.begun(near, far)
        with contextlib.suppress(OSError, ValueError):
            while not plan.died.is_set():
                ready, _, _ = select.select([near, far], [], [], 0.5)
                for end in ready:
                    data = end.recv(CHUNK)
                    if not data:
                        return plan.close()
                    if end is near:
                        far.sendall(data)
                    elif plan.passes(data):
                        return
        if not plan.died.is_set():
            plan.close()


class Plan:
    """What is to happen to one connection, and what has."""

    def __init__(self, how, behind):
        self.how, self.behind = how, behind
        self.down = b""
        self.at = None
        self.died = threading.Event()
        self.there = threading.Event()
        self.near = self.far = None

    def begun(self, near, far):
        self.near, self.far = near, far
        self.there.set()

    def passes(self, data):
        """Relays what the server said; tells whether that was the end."""
        if self.behind is not None and len(self.down) + len(data) >= self.behind:
            self._down(data[: self.behind - len(self.down)])
            self.die()
            return True
        self._down(data)
        return False

    def _down(self, data):
        self.down += data
        self.near.sendall(data)

    def die(self, how=None):
        """The server's side dies now."""
        how = how or self.how
        self.there.wait(10)
        self.died.set()
        self.at = time.monotonic()
        if how == "rst":
            self.near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how != "silence":
            # The relaying thread may sit in select on it: shutting down wakes it, and FIN is what fin means.
            if how == "fin":
                self.near.shutdown(socket.SHUT_RDWR)
            self.near.close()
        self.far.close()

    def close(self):
        self.died.set()
        for end in (self.near, self.far):
            end.close()
