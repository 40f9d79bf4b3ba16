"""Free TCP ports on 127.0.0.1."""

import json
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from errno import EADDRINUSE
from pathlib import Path

LOOPBACK = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    """Return ``count`` different ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Say whether ``port`` of ``host`` is free; OSError if we may not listen there at all."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do: sockets that an earlier run left in TIME_WAIT are no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != EADDRINUSE:
                raise
            return False
    return True


def is_open(port: int, host: str = LOOPBACK) -> bool:
    """Say whether somebody accepts connections on ``port`` of ``host``."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def kept_ports(file: Path, names: Iterable[str]) -> dict[str, int]:
    """Return a port for each name, the same as last time wherever that one is still free.

    The choice is kept in ``file`` (JSON), so that addresses survive a restart.
    """
    try:
        kept = {str(name): int(port) for name, port in json.loads(file.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        kept = {}
    names = list(names)
    fresh = free_ports(len(names))
    ports = {
        name: kept[name] if name in kept and is_free(kept[name]) else port
        for name, port in zip(names, fresh, strict=True)
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(ports))
    return ports
