#!/usr/bin/env python3
"""Ends with status 0 if this container is healthy, without curl and without importing Postroom.

healthy.py answers PORT PATH      a server here answers 200
healthy.py connected PORT …       a process here holds a connection to such a port elsewhere
"""

import sys
from collections.abc import Collection
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

_ESTABLISHED = "01"


def answers(port: int, path: str) -> bool:
    """Say whether the server on `port` answers 200."""
    try:
        connection = HTTPConnection("127.0.0.1", port, timeout=4)
        connection.request("GET", path)
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, HTTPException):
        return False


def connected(ports: Collection[int]) -> bool:
    """Say whether anything here is connected to one of `ports`.

    A ping through the broker (`celery inspect`) would say as much at a hundred times the cost: the
    broker drops the connection of a worker whose heart does not beat.
    """
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, _, remote, state, *_ = line.split()
            if state == _ESTABLISHED and int(remote.rpartition(":")[2], 16) in ports:
                return True
    return False


def main(question: str, *arguments: str) -> int:
    """Return the exit status for what the command line asks."""
    if question == "answers":
        port, path = arguments
        healthy = answers(int(port), path)
    else:
        healthy = connected({int(port) for port in arguments})
    return int(not healthy)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
