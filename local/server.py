"""A real server on this machine: started, asked to stop, or killed, never left behind."""

import atexit
import os
import secrets
import shutil
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil

POLL_SECONDS = 0.05


class ServerError(Exception):
    """A server could not be prepared, started or reached; the message is one line for people."""


@dataclass(frozen=True)
class Command:
    """One process: what to run, what to add to its environment, and how to ask it to stop."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM


def clean_environment() -> dict[str, str]:
    """Return our environment without what would point these servers and their tools elsewhere."""
    foreign = ("PG", "RABBITMQ_", "ERL_")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


def kept_secret(file: Path) -> str:
    """Return the password kept in ``file`` (mode 0600), making a random one the first time."""
    if not file.exists():
        fresh = file.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_hex(16))
        fresh.rename(file)
    return file.read_text()


def wait_until(condition: Callable[[], bool], deadline: float) -> bool:
    """Poll until ``condition()`` holds, for ``deadline`` seconds at most; say whether it does."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_SECONDS)
    return True


def alive(process: psutil.Process) -> bool:
    """Say whether the process still runs; one that waits to be reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def family(pid: int) -> list[psutil.Process]:
    """Return the process and all that descend from it; nothing if it is gone."""
    try:
        head = psutil.Process(pid)
        return [head, *head.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill_all(processes: Iterable[psutil.Process], deadline: float = 10) -> None:
    """End processes at once (SIGKILL) and wait until none of them runs."""
    processes = list(processes)
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    if not wait_until(lambda: not any(map(alive, processes)), deadline):
        left = [process.pid for process in processes if alive(process)]
        msg = f"processes {left} do not end"
        raise ServerError(msg)


def dying_with_parent(argv: Iterable[str], death: str = "KILL") -> list[str]:
    """Have Linux end a child when whoever starts it dies without a chance to do so itself.

    The kernel watches the thread that starts it, so this is for main threads only.
    """
    argv = list(argv)
    if threading.current_thread() is threading.main_thread() and shutil.which("setpriv"):
        if argv[0] == "setpriv":  # changing the account would undo what an outer one has set
            argv = argv[1:]
        return ["setpriv", "--pdeathsig", death, *argv]
    return argv


class Server(ABC):
    """A server with its data in ``folder``: start and stop it as often as needed.

    Its output is appended to ``log``. Use it as a context manager, or call ``stop`` in the end;
    what still runs when Python exits is killed. Not to be shared between threads.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.log = self.folder / "server.log"
        self._running: list[tuple[Command, subprocess.Popen[bytes]]] = []

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect, with user and password."""

    @abstractmethod
    def prepare(self) -> None:
        """Make data folder and configuration where missing; may raise ServerError."""

    @abstractmethod
    def commands(self) -> list[Command]:
        """Return the server's processes in the order of their start."""

    @abstractmethod
    def ready(self) -> bool:
        """Say whether clients can work with it now."""

    def start(self) -> None:
        """Start its processes, each in a session of its own (Ctrl-C does not reach it)."""
        if self._running:
            msg = f"{type(self).__name__} was started before"
            raise ServerError(msg)
        self.prepare()
        atexit.register(self.kill)
        for command in self.commands():
            self._running.append((command, self._spawn(command)))

    def _spawn(self, command: Command) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                dying_with_parent(command.argv),
                env={**clean_environment(), **command.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self, deadline: float = 60) -> None:
        """Wait until ``ready()``; raises ServerError after ``deadline`` seconds or if it ended."""
        if not wait_until(lambda: self._ended() or self.ready(), deadline) or self._ended():
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
            msg = f"{type(self).__name__} did not get ready:\n{tail}"
            raise ServerError(msg)

    def _ended(self) -> bool:
        return any(process.poll() is not None for _, process in self._running)

    def pids(self) -> list[int]:
        """Return the process ids of its own processes, without their children."""
        return [process.pid for _, process in self._running]

    def stop(self, patience: float = 30) -> None:
        """Ask it to stop, last process first; kill what is left after ``patience`` seconds."""
        members = [member for pid in self.pids() for member in family(pid)]
        for command, process in reversed(self._running):
            process.send_signal(command.stop_signal)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                break
        self._end(members)

    def kill(self) -> None:
        """End the whole server with kill -9, children included."""
        self._end(member for pid in self.pids() for member in family(pid))

    def _end(self, members: Iterable[psutil.Process]) -> None:
        kill_all(members)
        for _, process in self._running:
            process.wait()
        self._running.clear()
        atexit.unregister(self.kill)

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
