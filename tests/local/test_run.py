"""`make run`: its settings, its lock, its ports, and its processes with stand-ins for Postroom."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from local import install, run, settings
from local.demo import documents
from local.ports import LOOPBACK, free_ports, kept_ports
from local.processes import MARK, command_line, marked, only_run
from local.run import check_port
from local.server import Command, ServerError, alive, kill_all, wait_until
from tests.keys import bearer

ROOT = Path(__file__).resolve().parents[2]
ENDS = 60.0  # `make run` promises 15 seconds; PostgreSQL may wait for a disk that others use, too

# What the environments' programs are replaced with: an API that is ready, and others that wait.
STAND_IN = """
import http.server, os, sys, time
if sys.argv[1] == "alembic":
    sys.exit()
if sys.argv[1:] == os.environ.get("BROKEN", "").split():
    sys.exit("broken on purpose")
if sys.argv[1:] != ["-m", "api"]:
    os.fork()
    time.sleep(600)
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["API_PORT"])), Ready).serve_forever()
"""
PROGRAMS = {
    "api/bin/python": "",
    "api/bin/alembic": "alembic",
    "worker/bin/python": "",
    "worker/bin/celery": "celery",
}


class Checkout:
    """A checkout in a folder with a space, whose programs are stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / ".data"
        self.output = folder / "output"
        self.api_port, self.flower_port = free_ports(2)
        self.started: list[subprocess.Popen[bytes]] = []
        folder.mkdir()
        (folder / "local").symlink_to(ROOT / "local")
        (folder / "stand_in.py").write_text(STAND_IN)
        for name, argument in PROGRAMS.items():
            self._program(name, f"stand_in.py {argument}")

    def _program(self, name: str, arguments: str) -> None:
        program = self.folder / ".venvs" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        program.chmod(0o755)

    def with_postroom(self) -> "Checkout":
        """Put Postroom itself in the stand-ins' place."""
        for package in ("api", "worker", "shared", "migrations"):
            (self.folder / package).symlink_to(ROOT / package)
        for name, argument in PROGRAMS.items():
            self._program(name, f"-m {argument}" if argument else "")
        return self

    def run(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start `make run`'s program; what it prints goes to ``output``."""
        code = (
            "import sys, pathlib, local.settings as s, local.run as r;"
            "s.ROOT = r.ROOT = pathlib.Path.cwd(); sys.exit(r.main())"
        )
        with self.output.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", code],
                cwd=self.folder,
                env={
                    **os.environ,
                    "PYTHONPATH": str(self.folder),
                    "API_PORT": str(self.api_port),
                    "FLOWER_PORT": str(self.flower_port),
                    "BROKER_URL": f"spool://{self.data}/spool",
                    "WORKER_CONCURRENCY": "2",
                    "DATABASE_URL": "",
                    "DATA_DIR": "",
                    **environment,
                },
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def said(self) -> str:
        """Return what was printed so far."""
        return self.output.read_text()

    def wait_for(self, words: str, process: subprocess.Popen[bytes]) -> None:
        """Wait until it prints ``words``."""
        wait_until(lambda: words in self.said() or process.poll() is not None, 60)
        assert words in self.said()

    def running(self) -> list[str]:
        """Return the command lines of what a run started and still runs."""
        return [" ".join(each.cmdline()) for each in marked(self.data) if alive(each)]


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    made = Checkout(tmp_path / "my checkout")
    yield made
    for process in made.started:
        if process.poll() is None:
            sys.stderr.write(made.said())
            process.kill()
            process.wait()
    kill_all(marked(made.data))


def end(process: subprocess.Popen[bytes], number: signal.Signals) -> int:
    process.send_signal(number)
    return process.wait(ENDS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything(checkout: Checkout, number: signal.Signals) -> None:
    process = checkout.run()
    checkout.wait_for("Ctrl-C stops everything", process)
    running = checkout.running()
    assert sum("-m worker" in each for each in running) == 4  # two, and a child each
    assert any("bin/postgres" in each for each in running)
    assert end(process, number) == 0
    assert checkout.running() == []


@pytest.mark.parametrize("words", ["starting Postgres", "running the migrations"])
def test_ctrl_c_during_the_start(checkout: Checkout, words: str) -> None:
    process = checkout.run()
    checkout.wait_for(words, process)
    assert end(process, signal.SIGINT) == 0
    assert checkout.running() == []


class Finalized:
    """Gets a signal while Python finalizes it."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_is_kept_where_python_drops_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_signals", [])
    before = signal.signal(signal.SIGINT, run._interrupt)
    try:
        Finalized()
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(KeyboardInterrupt):
        run.Run(settings.load()).watch()


def test_a_process_that_dies_is_started_again(checkout: Checkout) -> None:
    process = checkout.run()
    checkout.wait_for("Ctrl-C stops everything", process)
    (api,) = [each for each in marked(checkout.data) if each.cmdline()[-2:] == ["-m", "api"]]
    api.kill()
    checkout.wait_for("api ended", process)
    assert wait_until(lambda: any(each.endswith("-m api") for each in checkout.running()), 30)
    assert end(process, signal.SIGINT) == 0


def test_data_is_there_after_everything_was_killed(checkout: Checkout) -> None:
    process = checkout.run()
    checkout.wait_for("Ctrl-C stops everything", process)
    password = (checkout.data / "postgres" / "password").read_text()
    process.kill()
    kill_all(marked(checkout.data))
    process.wait()
    process = checkout.run()
    checkout.wait_for("Ctrl-C stops everything", process)
    assert password in checkout.said()
    assert end(process, signal.SIGINT) == 0


def test_what_a_killed_run_left_is_ended_by_the_next(checkout: Checkout) -> None:
    process = checkout.run()
    checkout.wait_for("Ctrl-C stops everything", process)
    before = marked(checkout.data)
    (supervisor,) = [each for each in before if "supervisor.supervisord" in each.cmdline()]
    supervisor.suspend()  # else the kernel would have it stop the others
    process.kill()
    process.wait()
    process = checkout.run()
    checkout.wait_for("Ctrl-C stops everything", process)
    assert "that an earlier run left behind" in checkout.said()
    assert not [each for each in before if alive(each)]
    assert end(process, signal.SIGINT) == 0


def test_a_killed_supervisor_ends_the_run(checkout: Checkout) -> None:
    process = checkout.run()
    checkout.wait_for("Ctrl-C stops everything", process)
    kill_all(each for each in marked(checkout.data) if "supervisor.supervisord" in each.cmdline())
    assert process.wait(ENDS) == 1
    assert "supervisord, which runs the processes, has ended" in checkout.said()
    assert checkout.running() == []


def test_a_process_that_cannot_start_is_told_with_its_log(checkout: Checkout) -> None:
    process = checkout.run(BROKEN="-m api")
    assert process.wait(60) == 1
    assert "api ended" in checkout.said()
    assert "    | broken on purpose" in checkout.said()
    assert checkout.running() == []


def test_a_program_that_is_missing_is_told(checkout: Checkout) -> None:
    (checkout.folder / ".venvs" / "worker" / "bin" / "python").unlink()
    process = checkout.run()
    assert process.wait(60) == 1
    assert "postroom: worker-1 does not start: " in checkout.said()
    assert checkout.running() == []


def test_a_second_run_is_refused(checkout: Checkout) -> None:
    first = checkout.run()
    checkout.wait_for("Ctrl-C stops everything", first)
    second = checkout.run()
    assert second.wait(ENDS) == 1
    assert f"already running with {checkout.data} (process {first.pid})" in checkout.said()
    assert end(first, signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("name", "scheme"), [("BROKER_URL", "amqp"), ("DATABASE_URL", "postgresql")]
)
def test_a_server_of_the_settings_that_is_away_is_told_soon_in_one_line(
    checkout: Checkout, name: str, scheme: str
) -> None:
    url = f"{scheme}://user:secret@{LOOPBACK}:{free_ports(1)[0]}/x"
    process = checkout.with_postroom().run(**{name: url})
    assert process.wait(60) == 1
    told = [line for line in checkout.said().splitlines() if f"{name}: no connection" in line]
    assert len(told) == 1
    assert told[0].startswith(f"postroom: {name}: no connection to the ")
    assert "refused" in told[0].lower()
    assert "secret" not in checkout.said()
    assert "Traceback" not in checkout.said()
    assert checkout.running() == []


def test_where_keys_are_asked_for_the_first_one_is_told_and_becomes_a_token(
    checkout: Checkout,
) -> None:
    process = checkout.with_postroom().run(AUTH="on", SECRET_KEY="")
    checkout.wait_for("Ctrl-C stops everything", process)
    (key,) = re.findall(r"(pr_\S+)  for everything; told this once", checkout.said())
    with httpx2.Client(
        base_url=f"http://{LOOPBACK}:{checkout.api_port}", trust_env=False, timeout=15
    ) as client:
        (made,) = client.get("/v1/keys", headers=bearer(key)).json()["data"]
        form = {"grant_type": "client_credentials"}
        token = client.post("/v1/token", data=form, auth=(made["id"], key)).json()["access_token"]
        assert client.get("/v1/keys", headers=bearer(token)).status_code == 200
    assert end(process, signal.SIGINT) == 0


@pytest.mark.parametrize("name", ["API_PORT", "FLOWER_PORT"])
def test_a_taken_port_is_told(checkout: Checkout, name: str) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert checkout.run(**{name: port}).wait(ENDS) == 1
    line = checkout.said()
    assert line.startswith(f"postroom: port {port} is taken by ")
    assert f"(process {os.getpid()}); set {name} to another one" in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("API_PORT", "http"),
        ("API_PORT", "70000"),
        ("FLOWER_PORT", "-1"),
        ("WORKER_CONCURRENCY", "0"),
        ("DATABASE_URL", "mysql://localhost/x"),
        ("BROKER_URL", "redis://localhost"),
        ("DATABASE_URL_FILE", "/nowhere"),
        ("DATA_DIR_FILE", "/"),
        ("PORT", "http"),
        ("CLOUDAMQP_URL", "redis://localhost"),
    ],
)
def test_a_wrong_setting_is_one_line_without_its_value(name: str, value: str) -> None:
    own = {"PORT": "API_PORT", "CLOUDAMQP_URL": "BROKER_URL"}.get(name, name)
    with pytest.raises(ServerError, match=f"^wrong settings: {own}.*$") as caught:
        settings.load({name: value})
    assert "\n" not in str(caught.value)
    assert value not in str(caught.value).removeprefix("wrong settings: ").split()


def test_a_value_and_a_file_are_refused() -> None:
    with pytest.raises(ServerError, match=r"^wrong settings: API_PORT: API_PORT_FILE is set"):
        settings.load({"API_PORT": "1", "API_PORT_FILE": "/x"})


def test_every_setting_may_be_the_content_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "DATABASE_URL": "postgres://u:p@h/d",
        "BROKER_URL": "amqp://u:p@h/v",
        "API_HOST": "::1",
        "API_PORT": "1",
        "FLOWER_PORT": "2",
        "DATA_DIR": "/data",
        "WORKER_NAME": "w",
        "WORKER_CONCURRENCY": "3",
    }
    for name, value in given.items():
        (tmp_path / name).write_text(f"{value}\n")
    files = {f"{name}_FILE": str(tmp_path / name) for name in given}
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    read = settings.load(files)
    assert read == settings.load(given)
    shown = {name: str(getattr(read, name.lower())) for name in given}
    assert shown == given
    (tmp_path / ".env").write_text("".join(f"{name}={file}\n" for name, file in files.items()))
    assert settings.load({}) == read
    assert settings.load({"API_PORT": "7"}).api_port == 7


def test_platforms_names_come_after_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    platform = {"PORT": "5", "CLOUDAMQP_URL": "amqps://u:p@cloud/v"}
    read = settings.load(platform)
    assert (read.api_port, read.broker_url) == (5, "amqps://u:p@cloud/v")
    read = settings.load({**platform, "API_PORT": "6", "BROKER_URL": "amqp://h/"})
    assert (read.api_port, read.broker_url) == (6, "amqp://h/")


def test_settings_come_from_environment_then_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("API_PORT=8001\nFLOWER_PORT=8002\nBROKER_URL=\n")
    (tmp_path / "url").write_text("postgres://u:p@h/d\n")
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    read = settings.load(
        {"FLOWER_PORT": "8003", "API_HOST": "0.0.0.0", "DATABASE_URL_FILE": f"{tmp_path}/url"}
    )
    assert (read.api_port, read.flower_port, read.broker_url) == (8001, 8003, None)
    assert read.api_url == "http://127.0.0.1:8001"
    assert read.database_url == "postgres://u:p@h/d"
    assert read.data_dir == tmp_path / ".data"


def test_the_secret_of_tokens_is_made_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    given = {"DATABASE_URL": "postgres://h/d", "BROKER_URL": "amqp://h/"}
    read = settings.load({**given, "DATA_DIR": str(tmp_path)})
    made = run.Run(read).environment()["SECRET_KEY"]
    assert run.Run(read).environment()["SECRET_KEY"] == made
    assert len(made) >= 32
    (kept,) = [file for file in tmp_path.iterdir() if file.read_text() == made]
    assert kept.stat().st_mode & 0o777 == 0o600
    own = replace(read, secret_key="told")
    assert run.Run(own).environment()["SECRET_KEY"] == "told"


def test_an_address_of_another_machine_is_told() -> None:
    with pytest.raises(ServerError, match=r"^cannot listen on 192\.0\.2\.1:80 \(API_HOST\): "):
        check_port("API_PORT", "192.0.2.1", 80)


def test_kept_ports_change_only_when_taken(tmp_path: Path) -> None:
    first = kept_ports(tmp_path / "ports.json", ["a", "b"])
    assert kept_ports(tmp_path / "ports.json", ["a", "b"]) == first
    with socket.socket() as taken:
        taken.bind((LOOPBACK, first["a"]))
        taken.listen()
        second = kept_ports(tmp_path / "ports.json", ["a", "b"])
    assert second["a"] != first["a"]
    assert second["b"] == first["b"]


def test_the_lock_is_free_again(tmp_path: Path) -> None:
    with (
        only_run(tmp_path),
        pytest.raises(ServerError, match="already running"),
        only_run(tmp_path),
    ):
        pass
    with only_run(tmp_path):
        assert (tmp_path / "run.lock").read_text() == str(os.getpid())


def test_marked_finds_grandchildren_only_of_this_folder(tmp_path: Path) -> None:
    script = "sh -c 'sleep 600; true' & sleep 600; true"
    with subprocess.Popen(["sh", "-c", script], env={**os.environ, MARK: str(tmp_path)}) as parent:
        assert wait_until(lambda: len(marked(tmp_path)) == 4, 10)
        assert marked(tmp_path / "other") == []
        kill_all(marked(tmp_path))
        assert parent.wait(10) == -signal.SIGKILL
    assert not [each for each in marked(tmp_path) if alive(each)]


def test_a_command_line_keeps_what_is_odd() -> None:
    command = Command("odd", ("printf", "%s", "a 'b' $c"), {"X": 'd "e" %f'})
    told = subprocess.run(["sh", "-c", command_line(command)], capture_output=True, check=True)
    assert told.stdout == b"a 'b' $c"


def test_wait_until_gives_up() -> None:
    start = time.monotonic()
    assert not wait_until(lambda: False, 0.1)
    assert time.monotonic() - start >= 0.1


def test_the_demo_tells_in_one_line_that_nothing_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "local.demo"],
        env={**os.environ, "API_PORT": str(free_ports(1)[0]), "API_HOST": LOOPBACK},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("postroom: nothing listens on http://127.0.0.1:")
    assert done.stderr.count("\n") == 1


def test_the_demo_has_hundreds_of_different_documents() -> None:
    pairs = documents()
    assert len({content for _, content in pairs}) == len(pairs) >= 300
    assert len({theme for theme, _ in pairs}) == 20


@pytest.mark.parametrize("hindrance", [{"NO_INSTALL": "1"}, {"PATH": "/nowhere"}])
def test_what_is_missing_is_told_with_the_command_that_gets_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], hindrance: dict[str, str]
) -> None:
    absent = replace(install.PROGRAMS["rabbitmq"], find=lambda: None)
    monkeypatch.setitem(install.PROGRAMS, "rabbitmq", absent)
    for name, value in hindrance.items():
        monkeypatch.setenv(name, value)
    assert install.main(["rabbitmq"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("postroom: no RabbitMQ (")
    assert line.endswith(install.advice("rabbitmq"))


def test_installing_starts_no_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(install, "POLICY", policy)
    with install.no_services():
        assert subprocess.run([str(policy)], check=False).returncode == 101
    assert not policy.exists()
    policy.write_text("the administrator's")
    with install.no_services():
        assert policy.read_text() == "the administrator's"
    assert policy.read_text() == "the administrator's"
