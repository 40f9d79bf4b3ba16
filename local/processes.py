"""The processes of one `make run`: supervisord, what it runs, and what an earlier run left."""

import contextlib
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import xmlrpc.client
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
from supervisor.xmlrpc import Faults, SupervisorTransport

from local.server import Command, ServerError, dying_with_parent, kill_all, wait_until

# Every process of a run carries this variable: so they are found again, grandchildren too, even
# after whoever started them was killed. Process ids in a file would miss some and outlive others.
MARK = "POSTROOM_RUN"


def marked(data_dir: Path) -> list[psutil.Process]:
    """Return the processes, but for our own, that a run with this data folder started."""
    return [each for each in psutil.process_iter() if _is_marked(each, data_dir)]


def _is_marked(process: psutil.Process, data_dir: Path) -> bool:
    if process.pid == os.getpid():
        return False
    try:
        try:
            return process.environ().get(MARK) == str(data_dir)
        except (psutil.AccessDenied, PermissionError):
            # Root in a container may not look at what another account runs, such as PostgreSQL.
            # Everybody may see commands, and its one names a folder of ours.
            return any(word.startswith(f"{data_dir}/") for word in process.cmdline())
    except (psutil.Error, OSError):
        return False  # gone


def port_owner(port: int) -> str:
    """Return who listens on a port, as far as we may see it: ``" by python3 (process 123)"``."""
    with contextlib.suppress(psutil.Error):
        for each in psutil.net_connections("tcp"):
            if each.laddr and each.laddr.port == port and each.status == psutil.CONN_LISTEN:
                return (
                    f" by {psutil.Process(each.pid).name()} (process {each.pid})"
                    if each.pid
                    else ""
                )
    return ""


@contextlib.contextmanager
def only_run(data_dir: Path) -> Iterator[None]:
    """Hold the data folder's lock, so that one run at a time uses it; else raise ServerError."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        msg = f"wrong settings: DATA_DIR: {error}"
        raise ServerError(msg) from error
    with (data_dir / "run.lock").open("a+") as lock:
        _lock(lock, data_dir)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _lock(lock: IO[str], data_dir: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        msg = f"already running with {data_dir} (process {lock.read()}); stop that one with Ctrl-C"
        raise ServerError(msg) from None


def command_line(command: Command) -> str:
    """Return a command with what it adds to its environment as one line for supervisord."""
    env = [f"{name}={value}" for name, value in command.env.items()]
    return shlex.join(["/usr/bin/env", *env, *command.argv])


@dataclass(frozen=True)
class State:
    """What supervisord says of one process.

    ``name`` is ``group:process``, ``complaint`` is why it could not be started, often empty.
    """

    name: str
    pid: int
    status: str
    complaint: str
    log: Path


class Supervisor:
    """supervisord with one configuration file, in a session of its own."""

    def __init__(self, configuration: Path, environment: Mapping[str, str], log: Path) -> None:
        # A socket's path may not exceed 107 bytes, so it cannot live in the data folder.
        self._folder = tempfile.TemporaryDirectory(prefix="postroom-")
        command = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(configuration)]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                dying_with_parent(command, "TERM"),
                env={**environment, "POSTROOM_CONTROL": self._folder.name},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # the same as its log file
                stderr=output,
                start_new_session=True,
            )
        self._log = log

    @property
    def _rpc(self) -> Any:
        """Its functions, through a connection of their own: a failed call leaves one unusable."""
        transport = SupervisorTransport(None, None, f"unix://{self._folder.name}/control")
        return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor

    def alive(self) -> bool:
        """Say whether supervisord runs."""
        return self._process.poll() is None

    def wait_ready(self) -> None:
        """Wait until it answers; raise ServerError if it ends or takes too long."""
        if not wait_until(lambda: not self.alive() or self._answers(), 30) or not self.alive():
            last = (self._log.read_text(errors="replace").splitlines() or ["no reason given"])[-1]
            msg = f"supervisord does not start: {last}"
            raise ServerError(msg)

    def _answers(self) -> bool:
        try:
            self._rpc.getState()
        except OSError:
            return False
        return True

    def states(self) -> list[State]:
        """Return the state of every process; raise ServerError when supervisord is gone."""
        try:
            return [_state(info) for info in self._rpc.getAllProcessInfo()]
        except (OSError, xmlrpc.client.Error) as error:
            msg = "supervisord, which runs the processes, has ended"
            raise ServerError(msg) from error

    def start_group(self, group: str) -> None:
        """Start the group's processes without waiting; ServerError if one cannot be."""
        for result in self._rpc.startProcessGroup(group, False):
            if result["status"] != Faults.SUCCESS:
                msg = f"{result['name']} does not start: {result['description']}"
                raise ServerError(msg)

    def start_again(self, name: str) -> None:
        """Start one process that supervisord has given up, unless it runs by now."""
        with contextlib.suppress(xmlrpc.client.Fault):
            self._rpc.startProcess(name, False)

    def stop(self, patience: float) -> None:
        """Stop everything, the last group first; kill supervisord alone if it takes longer."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
        self._folder.cleanup()

    def kill(self) -> None:
        """End supervisord alone, at once."""
        kill_all([psutil.Process(self._process.pid)] if self.alive() else [])
        self._process.wait()


def _state(info: Mapping[str, Any]) -> State:
    name, log = f"{info['group']}:{info['name']}", Path(info["stdout_logfile"])
    return State(name, info["pid"], info["statename"], info["spawnerr"], log)
