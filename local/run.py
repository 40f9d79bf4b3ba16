"""`make run`: everything on this machine, in one terminal, until Ctrl-C."""

import http.client
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from local import install
from local.ports import LOOPBACK, is_free, kept_ports
from local.postgres import DATABASE, Postgres, programs
from local.processes import (
    MARK,
    State,
    Supervisor,
    command_line,
    marked,
    only_run,
    port_owner,
)
from local.rabbitmq import USER, Ports, RabbitMQ
from local.server import Server, ServerError, clean_environment, kept_secret, kill_all
from local.settings import ROOT, Settings, load
from local.verify import keep

START_SECONDS = 120.0
BROKER_SECONDS = 5.0
STOP_SECONDS = 14.0
DEATHS_AT_START = 3
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXAMPLE = (
    '{"content": "The shuttle will launch from the Cape on Monday and reach its orbit at noon."}'
)


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # around any proxy


def say(text: str) -> None:
    """Print a line for people."""
    print(f"postroom: {text}", flush=True)


def check_port(name: str, host: str, port: int) -> None:
    """Raise ServerError, naming the setting, if nothing could listen there."""
    try:
        free = is_free(port, host)
    except OSError as error:
        setting = "API_HOST" if name == "API_PORT" else name
        msg = f"cannot listen on {host}:{port} ({setting}): {error.strerror}"
        raise ServerError(msg) from error
    if not free:
        msg = f"port {port} is taken{port_owner(port)}; set {name} to another one"
        raise ServerError(msg)


def tail(log: Path, lines: int = 12) -> str:
    """Return the last lines of a log, indented."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 20_000))
        text = file.read().decode(errors="replace")
        return "\n".join(f"    | {line}" for line in text.splitlines()[-lines:])
    return ""


class Run:
    """One `make run`, from the check of the ports to the last process's end."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.data = settings.data_dir
        self.logs = self.data / "logs"
        self.postgres: Postgres | None = None
        self.rabbitmq: RabbitMQ | None = None
        self.supervisor: Supervisor | None = None
        self._seen: dict[str, State] = {}
        self._deaths: Counter[str] = Counter()
        self._ready = False
        self._broker_away: float | None = None

    def clear(self) -> None:
        """End what an earlier run left behind when it was killed."""
        left = marked(self.data)
        if left:
            say(f"ending {len(left)} processes that an earlier run left behind")
            kill_all(left)

    def prepare(self) -> None:
        """Check the ports, choose database and broker, and make their folders."""
        check_port("API_PORT", self.settings.api_host, self.settings.api_port)
        check_port("FLOWER_PORT", LOOPBACK, self.settings.flower_port)
        if self.settings.api_port == self.settings.flower_port:
            msg = f"API_PORT and FLOWER_PORT are both {self.settings.api_port}"
            raise ServerError(msg)
        for folder in (self.logs, self.data / "beat", self.data / "flower"):
            folder.mkdir(parents=True, exist_ok=True)
        if not self.settings.database_url:
            port = kept_ports(self.data / "postgres-port.json", ["postgres"])["postgres"]
            self.postgres = Postgres(self.data / "postgres", port)
        if not self.settings.broker_url:
            self._choose_broker()
        for server in self.servers:
            server.prepare()

    def _choose_broker(self) -> None:
        reason = install.install("rabbitmq")
        if reason is None:
            names = ["amqp", "management", "distribution", "epmd"]
            ports = Ports(**kept_ports(self.data / "rabbitmq-ports.json", names))
            self.rabbitmq = RabbitMQ(self.data / "rabbitmq", ports)
            waiting = self.data / "spool" / "queues"
            if any(waiting.glob("ingest/[!.]*")) or any(waiting.glob("bulk/[!.]*")):
                say(f"documents wait in {waiting}; to store them, once: BROKER_URL={self._spool}")
            return
        say(
            f"no RabbitMQ ({reason}): messages go through the folder {self.data / 'spool'} instead."
        )
        say("  It loses nothing, but serves this one machine, has no priorities and no dashboard.")
        say(f"  To get RabbitMQ: {install.advice('rabbitmq')}")

    @property
    def _spool(self) -> str:
        return f"spool://{quote(str(self.data / 'spool'))}"

    @property
    def servers(self) -> list[Server]:
        """The servers that are ours to run."""
        return [server for server in (self.postgres, self.rabbitmq) if server]

    @property
    def database_url(self) -> str:
        """The settings' database, or our own."""
        return self.settings.database_url or (self.postgres.url if self.postgres else "")

    @property
    def broker_url(self) -> str:
        """The settings' broker, or our own."""
        return self.settings.broker_url or (self.rabbitmq.url if self.rabbitmq else self._spool)

    def environment(self) -> dict[str, str]:
        """Return the environment of every process of this run."""
        spool = self.broker_url.startswith("spool:")
        settings = {
            "DATABASE_URL": self.database_url,
            "BROKER_URL": self.broker_url,
            "API_HOST": self.settings.api_host,
            "API_PORT": str(self.settings.api_port),
            "FLOWER_PORT": str(self.settings.flower_port),
            "DATA_DIR": str(self.data),
            "SECRET_KEY": self.settings.secret_key or kept_secret(self.data / "secret-key"),
            "WORKER_NAME": self.settings.worker_name,
            "WORKER_CONCURRENCY": str(self.settings.worker_concurrency),
            "PYTHONUNBUFFERED": "1",
        }
        if self.rabbitmq:
            settings["FLOWER_BROKER_API"] = self.rabbitmq.api_url  # has a password: no argument
            settings["BROKER_API_URL"] = self.rabbitmq.api_url
        for_supervisord = {
            MARK: str(self.data),
            "POSTROOM_LOGS": str(self.logs),
            "POSTROOM_POSTGRES_HERE": str(bool(self.postgres)).lower(),
            "POSTROOM_RABBITMQ_HERE": str(bool(self.rabbitmq)).lower(),
            "POSTROOM_WORKER_PROCESSES": str(self.settings.worker_concurrency if spool else 1),
            **{
                f"POSTROOM_{name.upper()}_COMMAND": "unused"
                for name in ("postgres", "epmd", "rabbitmq")
            },
        }
        for server in self.servers:
            for command in server.commands():
                for_supervisord[f"POSTROOM_{command.name.upper()}_COMMAND"] = command_line(command)
        inherited = clean_environment()
        for name in settings:
            inherited.pop(f"{name}_FILE", None)
        return {**inherited, **settings, **for_supervisord}

    def start(self) -> None:
        """Start servers, run the migrations, start Postroom, and wait until it is ready."""
        environment = self.environment()
        keep(self.data, environment)
        log = self.logs / "supervisord.log"
        self.supervisor = Supervisor(ROOT / "local" / "supervisord.conf", environment, log)
        self.supervisor.wait_ready()
        for server in self.servers:
            say(f"starting {type(server).__name__}")
        self.wait(lambda: all(server.ready() for server in self.servers), "the servers")
        if self.postgres and not self.postgres.has_database(DATABASE):
            self.postgres.create_database(DATABASE)
        self._migrate(environment)
        say("starting the API, the worker, beat and Flower")
        self.supervisor.start_group("postroom")
        self.wait(lambda: self._api_is_ready() and self._all_run(), "Postroom")
        self._ready = True

    def _migrate(self, environment: dict[str, str]) -> None:
        say("running the migrations")
        command = [".venvs/api/bin/alembic", "-c", "migrations/alembic.ini", "upgrade", "head"]
        log = self.logs / "migrations.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            self.wait(lambda: process.poll() is not None, "the migrations")
        if process.returncode:
            last = tail(log, 1).removeprefix("    | ")
            if last.startswith("postroom: "):  # a line for people: from the settings, or about them
                raise ServerError(last.removeprefix("postroom: "))
            msg = f"the migrations failed; the end of {log}:\n{tail(log)}"
            raise ServerError(msg)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Watch the processes until the condition holds; raise ServerError if it takes too long."""
        end = time.monotonic() + START_SECONDS
        while not condition():
            if time.monotonic() > end:
                msg = f"{what} did not get ready within {START_SECONDS:.0f} s; see {self.logs}"
                raise ServerError(msg)
            self.watch()

    def _all_run(self) -> bool:
        """Say whether every process of Postroom has lived for as long as it takes to start."""
        ours = [each for each in self._seen.values() if each.name.startswith("postroom:")]
        return all(each.status == "RUNNING" for each in ours)

    def _api_is_ready(self) -> bool:
        """Say whether the API is ready; ServerError if the broker of the settings stays away."""
        try:
            with _OPENER.open(f"{self.settings.api_url}/readyz", timeout=5) as answer:
                return bool(answer.status == http.HTTPStatus.OK)
        except urllib.error.HTTPError as error:
            self._check_broker(json.load(error).get("broker", "ok"))
        except (OSError, http.client.HTTPException):
            pass  # it does not listen yet
        return False

    def _check_broker(self, found: str) -> None:
        """Give up on a broker that is not ours to start, as on a database: run it, run us again."""
        if found == "ok" or not self.settings.broker_url:
            self._broker_away = None
            return
        self._broker_away = self._broker_away or time.monotonic()
        if time.monotonic() - self._broker_away > BROKER_SECONDS:
            msg = f"BROKER_URL: no connection to the broker: {' '.join(found.split())}"
            raise ServerError(msg)

    def watch(self, seconds: float = 0.2) -> None:
        """Tell of every process that died since the last call, then pause."""
        if _signals:  # Python drops what a signal's handler raises inside a finalizer
            raise KeyboardInterrupt
        assert self.supervisor  # noqa: S101  (start() made it)
        for state in self.supervisor.states():
            before = self._seen.get(state.name)
            self._seen[state.name] = state
            if before and (
                (before.pid and before.pid != state.pid)
                or (before.status != state.status and state.status in {"BACKOFF", "FATAL"})
            ):
                self._died(state)
        time.sleep(seconds)

    def _died(self, state: State) -> None:
        self._deaths[state.name] += 1
        name = state.name.partition(":")[2]
        ended = f"{name} ended" + (f" ({state.complaint})" if state.complaint else "")
        if not self._ready and self._deaths[state.name] >= DEATHS_AT_START:
            msg = f"{ended} {DEATHS_AT_START} times; the end of {state.log}:\n{tail(state.log)}"
            raise ServerError(msg)
        say(f"{ended} and is started again; the end of {state.log}:")
        print(tail(state.log, 5), flush=True)
        if state.status == "FATAL" and self.supervisor:  # supervisord has given up; we do not
            self.supervisor.start_again(state.name)

    def tell(self) -> None:
        """Print where everything is."""
        url = self.settings.api_url
        lines = [("API", url), ("Documentation", f"{url}/docs")]
        lines += [("Flower", f"http://{LOOPBACK}:{self.settings.flower_port}")]
        if self.rabbitmq:
            login = f"user {USER}, password {self.rabbitmq.password}"
            lines += [("RabbitMQ", f"{self.rabbitmq.dashboard}  {login}")]
        if self.postgres:
            psql = shlex.join([str(programs() / "psql"), self.postgres.url])
            lines += [("PostgreSQL", psql)]
        lines += [("Logs", str(self.logs)), ("Keys", self._keys())]
        print("\nPostroom is ready.\n")
        print("\n".join(f"  {name:<14} {text}" for name, text in lines))
        print(f"\nTry it:  curl -i {url}/v1/documents -H 'content-type: application/json' \\")
        if self._asks_for_keys():
            print('           -H "authorization: Bearer $POSTROOM_KEY" \\')
        print(f"           -d '{EXAMPLE}'")
        print("or, in another terminal:  make demo")
        print("\nCtrl-C stops everything.\n", flush=True)

    def _asks_for_keys(self) -> bool:
        try:
            with _OPENER.open(f"{self.settings.api_url}/v1/categories", timeout=5):
                return False
        except urllib.error.HTTPError as error:
            return error.code == http.HTTPStatus.UNAUTHORIZED
        except (OSError, http.client.HTTPException):
            return False

    def _keys(self) -> str:
        """Return what there is to say about keys; make the first one where they are asked for."""
        if not self._asks_for_keys():
            return "none: whoever reaches the API may do everything (AUTH=on asks for keys)"
        command = [".venvs/api/bin/python", "-m", "api.keys", "create", "first", "admin", "--first"]
        made = subprocess.run(
            command, env=self.environment(), cwd=ROOT, capture_output=True, text=True, check=False
        )
        if key := made.stdout.strip():
            return f"{key}  for everything; told this once"
        return "made before; more with: .venvs/api/bin/python -m api.keys create NAME SCOPE"

    def stop(self) -> None:
        """Stop everything within STOP_SECONDS; a second Ctrl-C kills what is left at once."""
        try:
            if self.supervisor:
                say("stopping (Ctrl-C again: at once)")
                self.supervisor.stop(STOP_SECONDS)
        except KeyboardInterrupt:
            say("killing what is left")
        finally:
            _ignore_signals()
            kill_all(marked(self.data))


_signals: list[int] = []  # those that asked us to stop


def _interrupt(number: int, _: object) -> None:
    _signals.append(number)
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def run(settings: Settings) -> int:
    """Run everything until Ctrl-C, SIGTERM or the terminal's end; return the exit status.

    Raises ServerError when another run uses the data folder.
    """
    with only_run(settings.data_dir):
        here = Run(settings)
        try:
            here.clear()
            here.prepare()
            here.start()
            here.tell()
            while True:
                here.watch(1)
        except KeyboardInterrupt:
            return 0
        except ServerError as error:
            print(f"postroom: {error}", file=sys.stderr, flush=True)
            return 1
        finally:
            here.stop()


def main() -> int:
    """Run, and say in one line what went wrong."""
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    os.chdir(ROOT)
    try:
        return run(load())
    except KeyboardInterrupt:
        return 0
    except ServerError as error:
        print(f"postroom: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
