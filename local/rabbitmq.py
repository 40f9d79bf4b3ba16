"""RabbitMQ as installed on this machine, run as any user, on ports and a folder of its own."""

import base64
import json
import re
import shutil
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from local.ports import LOOPBACK
from local.server import Command, Server, ServerError, kept_secret, wait_until

USER = "postroom"
# Debian's command in /usr/sbin insists on root and su; the script it wraps runs as anybody.
# Homebrew's folder of server programs is on few people's PATH.
PLACES = (
    "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server",
    "/opt/homebrew/opt/rabbitmq/sbin/rabbitmq-server",
    "/usr/local/opt/rabbitmq/sbin/rabbitmq-server",
)


def find_rabbitmq() -> Path | None:
    """Return the installed rabbitmq-server that can be run as it is; None without it or Erlang."""
    found = [path for place in PLACES for path in sorted(Path("/").glob(place[1:]), key=version_of)]
    on_path = shutil.which("rabbitmq-server")
    if not found and on_path:
        found = [Path(on_path).resolve()]
    return found[-1] if found and find_epmd() else None


def find_epmd() -> Path | None:
    """Return Erlang's port mapper: on PATH, else in the Erlang that `erl` belongs to."""
    if on_path := shutil.which("epmd"):
        return Path(on_path)
    erl = shutil.which("erl")
    return next(Path(erl).resolve().parents[1].glob("**/bin/epmd"), None) if erl else None


def version_of(server: Path) -> tuple[int, ...]:
    """Return the version of a rabbitmq-server by the name of its core plugin, () if unknown."""
    for plugin in (server.parents[1] / "plugins").glob("rabbit-*"):
        if match := re.match(r"rabbit-(\d+)\.(\d+)\.(\d+)", plugin.name):
            return tuple(map(int, match.groups()))
    return ()


@dataclass(frozen=True)
class Ports:
    """The four ports of a node."""

    amqp: int
    management: int
    distribution: int
    epmd: int


class RabbitMQ(Server):
    """A RabbitMQ node with its management plugin; everything listens on 127.0.0.1.

    ``settings`` are further lines of rabbitmq.conf. The administrator ``postroom`` has a random
    password, kept in ``folder`` with mode 0600. Raises ServerError where it is not installed.
    """

    def __init__(self, folder: Path, ports: Ports, settings: Sequence[str] = ()) -> None:
        super().__init__(folder)
        self.ports = ports
        self.settings = settings
        program, epmd = find_rabbitmq(), find_epmd()
        if not program or not epmd:
            msg = "RabbitMQ is not installed"
            raise ServerError(msg)
        self.program, self.epmd = program, epmd

    @property
    def password(self) -> str:
        """The administrator's password."""
        return kept_secret(self.folder / "password")

    @property
    def url(self) -> str:
        """The default virtual host."""
        return self.url_of("/")

    def url_of(self, vhost: str) -> str:
        """Return the AMQP URL of one virtual host."""
        path = "%2F" if vhost == "/" else vhost
        return f"amqp://{USER}:{self.password}@{LOOPBACK}:{self.ports.amqp}/{path}"

    @property
    def dashboard(self) -> str:
        """The management dashboard, without user and password."""
        return f"http://{LOOPBACK}:{self.ports.management}/"

    @property
    def api_url(self) -> str:
        """The management HTTP API with user and password, as Flower wants it."""
        return f"http://{USER}:{self.password}@{LOOPBACK}:{self.ports.management}/api/"

    def prepare(self) -> None:
        """Write the configuration anew; data and password stay."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.folder / "conf.d").mkdir(exist_ok=True)
        (self.folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        (self.folder / "advanced.config").write_text("[].\n")
        file = self.folder / "rabbitmq.conf"
        file.touch(mode=0o600)
        file.write_text("\n".join([*self._configuration(), *self.settings, ""]))

    def _configuration(self) -> list[str]:
        lines = [
            f"listeners.tcp.1 = {LOOPBACK}:{self.ports.amqp}",
            f"management.tcp.ip = {LOOPBACK}",
            f"management.tcp.port = {self.ports.management}",
            f"default_user = {USER}",
            f"default_pass = {self.password}",
            # Small machines: an alarm stops every publisher, so it comes late.
            "vm_memory_high_watermark.relative = 0.6",
            "disk_free_limit.absolute = 50MB",
            "log.console = true",
            "log.console.use_colors = off",
            "log.file = false",
        ]
        if version_of(self.program) >= (4,):
            # RabbitMQ 4.3 drops these; earlier ones shall refuse them likewise.
            lines += [
                f"deprecated_features.permit.{name} = false"
                for name in ("transient_nonexcl_queues", "global_qos")
            ]
        return lines

    def commands(self) -> list[Command]:
        """Return the port mapper and the node."""
        env = self._environment()
        epmd = (str(self.epmd), "-address", LOOPBACK, "-port", str(self.ports.epmd))
        return [Command("epmd", epmd, env), Command("rabbitmq", (str(self.program),), env)]

    def _environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.folder),  # the Erlang cookie lives there
            "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the node, no shell in between
            "NOTIFY_SOCKET": "",
            # Erlang starts a port mapper by itself and leaves it behind; ours is supervised.
            "ERL_FLAGS": "-start_epmd false",
            "ERL_EPMD_PORT": str(self.ports.epmd),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_CRASH_DUMP": str(self.folder / "erl_crash.dump"),
            "RABBITMQ_NODENAME": "postroom@localhost",
            "RABBITMQ_DIST_PORT": str(self.ports.distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(self.folder / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOGS": "-",  # else $LOGS is taken, which may be anybody's
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.folder / "generated"),
        }

    def ready(self) -> bool:
        """Say whether it takes AMQP clients, which it does last of all when it starts."""
        try:
            self.api("GET", f"health/checks/port-listener/{self.ports.amqp}")
        except (OSError, HTTPException):
            return False
        return True

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Call the management HTTP API: ``path`` is below ``/api/``, ``body`` becomes JSON.

        Returns the decoded answer, None for an empty one; raises urllib.error.HTTPError.
        """
        credentials = base64.b64encode(f"{USER}:{self.password}".encode()).decode()
        request = urllib.request.Request(  # noqa: S310  (our own http:// address)
            f"{self.dashboard}api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Basic {credentials}", "Content-Type": "application/json"},
        )
        # No proxy: the environment's may not be asked for loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        # A cluster on a busy machine takes longer than ten seconds to make a virtual host.
        with opener.open(request, timeout=60) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def create_vhost(self, name: str, deadline: float = 30) -> str:
        """Create a virtual host and return its URL once it runs."""
        self.api("PUT", f"vhosts/{name}")
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self.api("PUT", f"permissions/{name}/{USER}", everything)
        if not wait_until(lambda: self._vhost_runs(name), deadline):
            msg = f"RabbitMQ's virtual host {name} does not start"
            raise ServerError(msg)
        return self.url_of(name)

    def _vhost_runs(self, name: str) -> bool:
        return set(self.api("GET", f"vhosts/{name}")["cluster_state"].values()) == {"running"}
