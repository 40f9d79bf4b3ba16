"""The embedded PostgreSQL is started, stopped and killed."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from local.ports import free_ports
from local.postgres import Postgres
from local.server import ServerError, alive, family, wait_until

ROOT = Path(__file__).resolve().parents[2]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")


def members(server: Postgres) -> list[psutil.Process]:
    return [member for pid in server.pids() for member in family(pid)]


def test_data_outlives_stop_and_kill(own_postgres: Postgres) -> None:
    own_postgres.create_database("kept")
    own_postgres.sql("create table word as select 'first' as word", "kept")
    own_postgres.stop()
    own_postgres.start()
    own_postgres.wait_ready()
    own_postgres.sql("insert into word values ('second')", "kept")
    own_postgres.kill()
    own_postgres.start()
    own_postgres.wait_ready()
    assert own_postgres.sql("select word from word order by 1", "kept") == "first\nsecond"


def test_none_outlives_a_test_run_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, time; from local.ports import free_ports;"
        "from local.postgres import Postgres;"
        "server = Postgres(pathlib.Path(sys.argv[1]), free_ports(1)[0]);"
        "server.start(); server.wait_ready(); print(*server.pids(), flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "postgres")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout
        left = [member for pid in starter.stdout.readline().split() for member in family(int(pid))]
        starter.kill()
    assert len(left) > 3
    assert wait_until(lambda: not any(map(alive, left)), 10)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_no_process_stays(own_postgres: Postgres, end: str) -> None:
    before = members(own_postgres)
    assert len(before) > 3
    getattr(own_postgres, end)()
    assert not [process for process in before if alive(process)]


def test_an_exception_leaves_no_process(tmp_path: Path) -> None:
    server = Postgres(tmp_path / "postgres", free_ports(1)[0])
    started: list[psutil.Process] = []

    def interrupted() -> None:
        with server:
            started.extend(members(server))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert started
    assert not [process for process in started if alive(process)]


def test_it_is_set_up_as_the_product_needs(own_postgres: Postgres) -> None:
    asked = "server_encoding", "data_checksums", "fsync", "listen_addresses"
    shown = [own_postgres.sql(f"show {name}") for name in asked]
    assert shown == ["UTF8", "on", "on", "127.0.0.1"]
    assert own_postgres.sql("select lower('ÄÖ') || (1 < 2)") == "äötrue"
    assert (own_postgres.folder / "password").stat().st_mode & 0o777 == 0o600


def test_a_wrong_password_is_refused(own_postgres: Postgres) -> None:
    (own_postgres.folder / "password").write_text("wrong")
    assert not own_postgres.ready()
    with pytest.raises(ServerError, match="password authentication failed"):
        own_postgres.sql("select 1")


def test_a_lock_file_of_another_process_is_no_hindrance(own_postgres: Postgres) -> None:
    own_postgres.stop()
    # What a reboot may leave: a lock file whose process id is somebody else's by now.
    lock = own_postgres.folder / "cluster" / "postmaster.pid"
    lock.write_text(f"{os.getpid()}\n{lock.parent}\n1\n1\n\n127.0.0.1\n0 0\nready\n")
    own_postgres.start()
    own_postgres.wait_ready()


def test_an_interrupted_initdb_is_made_good(tmp_path: Path) -> None:
    (tmp_path / "postgres" / "cluster.new" / "base").mkdir(parents=True)
    with Postgres(tmp_path / "postgres", free_ports(1)[0]) as server:
        assert server.sql("select 1") == "1"


def test_a_taken_port_is_told(own_postgres: Postgres, tmp_path: Path) -> None:
    second = Postgres(tmp_path / "second", own_postgres.port)
    with pytest.raises(ServerError, match="Address already in use"), second:
        pass
    assert not second.pids()


@needs_root
def test_root_runs_it_as_somebody_else_in_a_folder_closed_to_others(tmp_path: Path) -> None:
    closed = tmp_path / "only root enters"
    closed.mkdir(mode=0o700)
    with Postgres(closed / "postgres", free_ports(1)[0]) as server:
        users = {process.uids().effective for process in members(server)}
        assert users == {(closed / "postgres").stat().st_uid}
        assert 0 not in users
        server.sql("create table t as select 1")
