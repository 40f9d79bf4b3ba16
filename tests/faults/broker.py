"""RabbitMQ beyond one installed node: its command line, a container, a cluster."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from local.install import advice
from local.ports import LOOPBACK, free_ports
from local.rabbitmq import Ports, RabbitMQ, find_rabbitmq
from local.server import Command, wait_until


def control(broker: RabbitMQ, *words: str) -> str:
    """Run `rabbitmqctl`; return what it prints.

    Raises:
        AssertionError: it fails.
    """
    if isinstance(broker, ContainerRabbitMQ):
        command, environment = ["docker", "exec", broker.name, "rabbitmqctl"], {}
    else:
        command = [str(Path(broker.program).with_name("rabbitmqctl"))]
        environment = broker._environment()
    done = subprocess.run(
        [*command, *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class ContainerRabbitMQ(RabbitMQ):
    """RabbitMQ as an image has it, with its data in the container."""

    def __init__(self, folder: Path, ports: Ports, image: str) -> None:
        super().__init__(folder, ports)
        self.image = image
        self.name = f"postroom-faults-{os.getpid()}-{ports.amqp}"

    def create(self) -> None:
        """Make the container; it is started and killed like any server afterwards."""
        self.prepare()
        publish = [
            f"{LOOPBACK}:{self.ports.amqp}:5672",
            f"{LOOPBACK}:{self.ports.management}:15672",
        ]
        mounted = ("rabbitmq.conf", "enabled_plugins")
        docker(
            "create",
            f"--name={self.name}",
            "--hostname=postroom",  # the node is named after it, and its data after the node
            *(f"--publish={each}" for each in publish),
            *(f"--volume={self.folder / name}:/etc/rabbitmq/{name}:ro" for name in mounted),
            self.image,
        )

    def prepare(self) -> None:
        super().prepare()
        (self.folder / "rabbitmq.conf").chmod(0o644)  # the container reads it as another user

    def _configuration(self) -> list[str]:
        inside = f"{LOOPBACK}:{self.ports.amqp}", f"tcp.port = {self.ports.management}"
        return [
            line.replace(inside[0], "5672").replace(inside[1], "tcp.port = 15672")
            for line in super()._configuration()
            if "management.tcp.ip" not in line
        ]

    def commands(self) -> list[Command]:
        return [Command("container", ("docker", "start", "--attach", self.name))]

    def ready(self) -> bool:
        try:
            return bool(self.api("GET", "health/checks/port-listener/5672"))
        except OSError:
            return False

    def stop(self, patience: float = 30) -> None:
        if self.pids():
            docker("stop", f"--time={int(patience)}", self.name)
        super().kill()

    def kill(self) -> None:
        if self.pids():
            docker("kill", self.name)
        super().kill()


@contextmanager
def frozen(broker: RabbitMQ) -> Iterator[None]:
    """Have a broker do nothing for a while: its processes get no time."""
    if isinstance(broker, ContainerRabbitMQ):
        docker("pause", broker.name)
        try:
            yield
        finally:
            docker("unpause", broker.name)
        return
    pids = broker.pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def docker(*words: str) -> str:
    """Run docker; return what it prints."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def has_image(image: str) -> bool:
    """Say whether docker runs here and has an image."""
    if not shutil.which("docker"):
        return False
    command = ["docker", "image", "inspect", image]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def container(folder: Path, image: str) -> Iterator[RabbitMQ]:
    """Yield a RabbitMQ of an image; skip where it cannot be had."""
    if not has_image(image):
        pytest.skip(f"docker does not run here, or has no image {image}")
    server = ContainerRabbitMQ(folder, Ports(*free_ports(4)), image)
    server.create()
    try:
        with server:
            yield server
            server.kill()
    finally:
        docker("rm", "--force", "--volumes", server.name)


class Node(RabbitMQ):
    """One node of a cluster on this machine; the first one has the port mapper for all."""

    def __init__(self, folder: Path, number: int, ports: Sequence[Ports]) -> None:
        super().__init__(folder, ports[number], settings=_cluster_settings(len(ports)))
        self.number = number
        self._epmd_port = ports[0].epmd

    @property
    def name(self) -> str:
        return f"postroom{self.number}@localhost"

    def prepare(self) -> None:
        """Write the configuration, and what lets nodes and administrators in, alike on all."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in (".erlang.cookie", "password"):
            file = self.folder / name
            if self.number and not file.exists():
                shutil.copy(self.folder.with_name("node-0") / name, file)
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text("POSTROOMFAULTS")
            cookie.chmod(0o400)
        super().prepare()

    def commands(self) -> list[Command]:
        return super().commands()[1:]

    def port_mapper(self) -> Command:
        return super().commands()[0]

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {
            "RABBITMQ_NODENAME": self.name,
            "ERL_EPMD_PORT": str(self._epmd_port),
            # Three nodes with a thread for each core apiece would fight for them.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 -kernel inet_dist_use_interface"
            " {127,0,0,1}",
        }


def _cluster_settings(nodes: int) -> list[str]:
    return [
        "cluster_formation.peer_discovery_backend = classic_config",
        *(
            f"cluster_formation.classic_config.nodes.{number + 1} = postroom{number}@localhost"
            for number in range(nodes)
        ),
        "cluster_partition_handling = pause_minority",
    ]


class Cluster:
    """Three nodes; looks like one RabbitMQ to those who ask for URLs and the management API."""

    def __init__(self, folder: Path) -> None:
        ports = [Ports(*free_ports(4)) for _ in range(3)]
        self.nodes = [Node(folder / f"node-{number}", number, ports) for number in range(3)]
        self._mapper: Any = None

    def start(self, stack: ExitStack) -> None:
        """Start all nodes; each waits for the others to form the cluster."""
        for node in self.nodes:
            node.prepare()
        command = self.nodes[0].port_mapper()
        mapper = subprocess.Popen(command.argv, env={**os.environ, **command.env})
        stack.callback(mapper.wait)
        stack.callback(mapper.send_signal, signal.SIGKILL)
        for node in self.nodes:
            stack.callback(node.kill)
            node.start()
        for node in self.nodes:
            node.wait_ready(120)
        assert wait_until(self.complete, 60), "the nodes form no cluster"

    def complete(self) -> bool:
        """Say whether every node runs and is known to the first one that answers."""
        found = self._anyone().api("GET", "nodes")
        return len(found) == len(self.nodes) and all(each["running"] for each in found)

    @property
    def api_url(self) -> str:
        """The management API of one node, which may be away."""
        return self.nodes[0].api_url

    def create_vhost(self, name: str) -> str:
        """Create a virtual host; return a URL that names all nodes."""
        self.nodes[0].create_vhost(name, 60)
        return ";".join(node.url_of(name) for node in self.nodes)

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Call the management API of a node that runs."""
        return self._anyone().api(method, path, body)

    def _anyone(self) -> RabbitMQ:
        return next(node for node in self.nodes if node.pids() and node.ready())

    def leader(self, vhost: str, queue: str) -> Node:
        """Return the node that leads a queue."""
        name = self.api("GET", f"queues/{vhost}/{queue}")["leader"]
        return next(node for node in self.nodes if node.name == name)


def need_rabbitmq() -> None:
    """Skip where there is no RabbitMQ."""
    if not find_rabbitmq():
        pytest.skip(f"there is no RabbitMQ; to get it: {advice('rabbitmq')}")
