"""The machine a test runs on: missing packages, an unprivileged user, a cache, free ports, the Rust toolchain."""

import contextlib
import functools
import glob
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("LOCKGATE_CACHE", ROOT / ".cache"))
TOOLS = CACHE / "tools"
RUST = "1.95.0"
_BUILD = ["cargo", "build", "--release", "--locked"]
# What every script but the fuzz targets needs: our programs, and the bare relay that the bench compares with.
RELEASE = [
    [*_BUILD, "-p", "lockgate", "-p", "lockgate-replay", "-p", "lockgate-hostile", "-p", "lockgate-bench"],
    [*_BUILD, "-p", "lockgate-ring", "--example", "relay"],
]


# Debian puts servers where an ordinary user's PATH does not look.
ADMIN_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"

# So that servers are stopped and folders removed when somebody ends a test.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


class Trouble(Exception):
    """Something a person has to see: what happened, why, what to do."""


def say(text):
    print(text, flush=True)


def run(argv, what=None, **options):
    """Runs a command to its end and returns what it printed; Trouble carries its words if it fails."""
    options.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run(
        [str(word) for word in argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", **options
    )
    if done.returncode != 0:
        words = "\n".join(done.stdout.splitlines()[-40:])
        raise Trouble(f"{what or ' '.join(map(str, argv[:3]))} failed with exit {done.returncode}:\n{words}")
    return done.stdout


# ---------------------------------------------------------------------------
# Debian packages


def _libclang():
    if os.environ.get("LIBCLANG_PATH"):
        return True
    return bool(glob.glob("/usr/lib/llvm-*/lib/libclang*.so*") + glob.glob("/usr/lib/*/libclang*.so*"))


def postgres_bin():
    """The folder of the newest PostgreSQL server that the system has, or None."""
    found = [path for path in glob.glob("/usr/lib/postgresql/*/bin/postgres") + glob.glob("/usr/pgsql-*/bin/postgres")]
    version = lambda path: int(re.search(r"(\d+)/bin/postgres$", path)[1])
    if found:
        return pathlib.Path(max(found, key=version)).parent
    there = shutil.which("postgres")
    return pathlib.Path(there).resolve().parent if there else None


def _venv():
    return subprocess.run([sys.executable, "-c", "import ensurepip, venv"], capture_output=True).returncode == 0


# A package is missing when what it is needed for is: other sources of the same thing are as good.
PROBES = {
    "bison": lambda: shutil.which("bison"),
    "build-essential": lambda: shutil.which("cc") and shutil.which("make"),
    "bzip2": lambda: shutil.which("bzip2"),
    "flex": lambda: shutil.which("flex"),
    "haproxy": lambda: shutil.which("haproxy", path=ADMIN_PATH),
    "default-jdk-headless": lambda: shutil.which("javac"),
    "libclang-dev": _libclang,
    "libpostgresql-jdbc-java": lambda: os.path.exists("/usr/share/java/postgresql.jar"),
    "nodejs": lambda: shutil.which("node"),
    "npm": lambda: shutil.which("npm"),
    "openssl": lambda: shutil.which("openssl"),
    "perl": lambda: shutil.which("perl"),
    "pgbouncer": lambda: pgbouncer(),
    "postgresql": lambda: postgres_bin() and shutil.which("psql"),
    "postgresql-contrib": lambda: postgres_bin() and (postgres_bin() / "pgbench").exists(),
    "python3-venv": _venv,
    "valgrind": lambda: shutil.which("valgrind"),
}


def pgbouncer():
    """PgBouncer's binary."""
    return shutil.which("pgbouncer", path=ADMIN_PATH)


def need(*packages):
    """Installs those Debian packages whose programs are missing."""
    missing = [package for package in packages if not PROBES[package]()]
    if not missing:
        return
    by_hand = f"install them yourself (Debian: apt-get install {' '.join(missing)}) and run this again"
    if not shutil.which("apt-get"):
        raise Trouble(f"missing on this machine: {', '.join(missing)}. There is no apt-get here: {by_hand}")
    before = _before_apt()
    if before is None:
        raise Trouble(f"missing on this machine: {', '.join(missing)}. You are neither root nor may you use sudo: {by_hand}")
    say(f"installing {', '.join(missing)}")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        run([*before, "apt-get", "-q", "update"], env=quiet)
    except Trouble as trouble:
        say(f"apt-get update did not end well, going on with the lists there are: {str(trouble).splitlines()[-1]}")
    run([*before, "apt-get", "-q", "-y", "install", *missing], env=quiet)
    still = [package for package in missing if not PROBES[package]()]
    if still:
        raise Trouble(f"apt-get installed {', '.join(still)}, and yet what it is needed for is not there: {by_hand}")


def _before_apt():
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo"):
        ask = ["sudo"] if sys.stdin.isatty() else ["sudo", "-n"]
        if subprocess.run([*ask, "true"], stderr=subprocess.DEVNULL).returncode == 0:
            return ask
    return None


def until(what, attempt, seconds=30):
    """What `attempt` gives once that is something; Trouble when it takes too long."""
    deadline = time.monotonic() + seconds
    while True:
        found = attempt()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Trouble(f"{what}: not within {seconds} s")
        time.sleep(0.02)


def venv(name, *requirements):
    """A Python of its own with these PyPI packages, in the cache; made again when the list changes."""
    home = CACHE / f"venv-{name}"
    stamp = home / "requirements"
    wanted = "\n".join((sys.version, *requirements))
    if not (stamp.exists() and stamp.read_text() == wanted):
        need("python3-venv")
        shutil.rmtree(home, ignore_errors=True)
        run([sys.executable, "-m", "venv", home], what=f"making a venv in {home}")
        if requirements:
            run([home / "bin/python", "-m", "pip", "install", "-q", *requirements], what=f"installing {', '.join(requirements)}")
        stamp.write_text(wanted)
    return home / "bin/python"


# ---------------------------------------------------------------------------
# Users, folders, ports


@functools.cache
def server_user():
    """Whom a PostgreSQL server runs as: it refuses to be root. None: whoever we are already."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise Trouble("PostgreSQL refuses to run as root, and this machine has neither a user postgres nor nobody: add one")


def as_server_user(argv):
    """The same command, run as server_user()."""
    user = server_user()
    if user is None:
        return [str(word) for word in argv]
    become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"]
    return become + [str(word) for word in argv]


@contextlib.contextmanager
def work_folder(name):
    """A folder under /tmp, gone at the end; LOCKGATE_KEEP=1 keeps it. Short, for unix sockets' sake, and passable."""
    path = pathlib.Path(tempfile.mkdtemp(prefix=f"lockgate-{name}-", dir="/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        if os.environ.get("LOCKGATE_KEEP"):
            say(f"kept: {path}")
        else:
            shutil.rmtree(path, ignore_errors=True)


def own(path):
    """Gives a path to server_user()."""
    user = server_user()
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def certificates(folder):
    """An authority of its own, and a certificate and key of it for localhost and 127.0.0.1: (authority, certificate, key)."""
    need("openssl")
    authority, authority_key = folder / "ca.crt", folder / "ca.key"
    certificate, key, request, names = (folder / f"server.{end}" for end in ("crt", "key", "csr", "ext"))
    names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    signed = ["-CA", authority, "-CAkey", authority_key, "-CAcreateserial", "-days", "30", "-extfile", names]
    for argv in (
        ["req", "-x509", *new_key, "-days", "30", "-subj", "/CN=test authority", "-keyout", authority_key, "-out", authority],
        ["req", *new_key, "-subj", "/CN=localhost", "-keyout", key, "-out", request],
        ["x509", "-req", "-in", request, *signed, "-out", certificate],
    ):
        run(["openssl", *argv], what="making a certificate")
    key.chmod(0o600)
    return authority, certificate, key


# ---------------------------------------------------------------------------
# Rust


def cargo_env():
    """The environment for cargo. An installed toolchain of the right version serves under any name, so that a
    machine that cannot download one is no worse off."""
    env = {**os.environ, "CARGO_TERM_COLOR": os.environ.get("CARGO_TERM_COLOR", "auto")}
    home = pathlib.Path(env.get("CARGO_HOME", pathlib.Path.home() / ".cargo")) / "bin"
    env["PATH"] = f"{env.get('PATH', '')}:{home}:{TOOLS / 'bin'}"
    if not shutil.which("cargo", path=env["PATH"]):
        raise Trouble("Rust is missing: install rustup (https://rustup.rs, or Debian 13's package rustup) and run this again.")
    if shutil.which("rustup", path=env["PATH"]) and "RUSTUP_TOOLCHAIN" not in env:
        name = _toolchain(env)
        if name:
            env["RUSTUP_TOOLCHAIN"] = name
    return env


def _toolchain(env):
    listed = subprocess.run(["rustup", "toolchain", "list"], env=env, capture_output=True, text=True).stdout
    names = [line.split()[0] for line in listed.splitlines() if line.strip() and "no installed" not in line]
    if any(name.startswith(RUST) for name in names):
        return None
    for name in names:
        done = subprocess.run(["rustup", "run", name, "rustc", "--version"], env=env, capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.startswith(f"rustc {RUST} "):
            return name
    return None


def cargo_tool(name, env):
    """Builds a program of cargo's into the cache where it is missing."""
    if not shutil.which(name, path=env["PATH"]):
        say(f"building {name} (once; some minutes)")
        argv = ["cargo", "install", "--quiet", "--locked", "--root", TOOLS, name]
        run(argv, what=f"building {name}", env={**env, "CARGO_TARGET_DIR": str(CACHE / "target")})
        shutil.rmtree(CACHE / "target", ignore_errors=True)


def target_folder():
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


def build_release():
    """Builds our programs; returns the folder they are in."""
    need("build-essential", "libclang-dev")
    for argv in RELEASE:
        done = subprocess.run(argv, cwd=ROOT, env=cargo_env(), stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise Trouble(f"{' '.join(argv)} failed with exit {done.returncode}; its words stand above")
    return target_folder() / "release"
