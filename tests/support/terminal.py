"""psql in a terminal, as a person sits at it: what is typed, what comes back, one prompt after another."""

import os
import pty
import re
import select
import signal
import subprocess
import termios
import time

from .machine import Trouble

# The prompt names the server's process: the same number before and after is the same connection.
PROMPT = re.compile(r"^\S+@\S+ \[(?P<pid>\d+)\][=^!-][*!?]?[#>] \Z", re.MULTILINE)
ANSWER_SECONDS_MAX = 30


class Psql:
    """One interactive psql. Use as a context manager."""

    def __init__(self, program, env, database, *options):
        prompt = "%n@%/ [%p]%R%x%# "
        argv = [str(program), "-X", "-n", "-P", "pager=off", "-v", f"PROMPT1={prompt}", *options, "-d", database]
        self.ours, theirs = pty.openpty()
        settings = termios.tcgetattr(theirs)
        settings[1] &= ~termios.ONLCR
        termios.tcsetattr(theirs, termios.TCSANOW, settings)
        self.process = subprocess.Popen(
            argv, env={**env, "TERM": "dumb", "COLUMNS": "200"}, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self.pid = None
        self.prompt = ""
        self.banner = self._until_prompt()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.ours)

    def ask(self, line):
        """Types a line; returns what a person then sees from that line's prompt to the next, without the next."""
        prompt = self.prompt
        self.type(line)
        return prompt + self._until_prompt()

    def type(self, line):
        os.write(self.ours, line.encode() + b"\n")

    def interrupt(self):
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def until_prompt(self, seconds=ANSWER_SECONDS_MAX):
        return self._until_prompt(seconds)

    def quit(self):
        """\\q; returns psql's exit."""
        self.type("\\q")
        return self.process.wait(ANSWER_SECONDS_MAX)

    def _until_prompt(self, seconds=ANSWER_SECONDS_MAX):
        text, deadline = "", time.monotonic() + seconds
        while True:
            found = PROMPT.search(text)
            if found:
                self.pid, self.prompt = int(found["pid"]), found[0]
                return text[: found.start()]
            ready, _, _ = select.select([self.ours], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise Trouble(f"psql shows no prompt within {seconds} s; it shows:\n{text}")
            try:
                more = os.read(self.ours, 65536)
            except OSError:
                more = b""
            if not more:
                raise Trouble(f"psql ended (exit {self.process.wait()}); it showed:\n{text}")
            text += more.decode(errors="replace")
