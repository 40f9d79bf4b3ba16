"""How much each key may do in a minute, over all API processes.

A process counts what it admits itself. Every second it adds that to the table `key_uses` and learns
what the others have admitted: so all of them together let in what a key may, and a second's worth
more at most. While the database is away each counts for itself.
"""

from dataclasses import dataclass, field
from math import ceil
from time import time
from typing import TYPE_CHECKING, Final

from shared.access import Caller, Limits
from shared.store import key_uses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from uuid import UUID

    from api.keyring import Run
    from shared.store.key_uses import Used

_MINUTE: Final = 60


@dataclass(frozen=True, slots=True)
class Rate:
    """How a key stands once a request is counted, or refused.

    Attributes:
        exceeded: the request is one too many, and was not counted.
        seconds: until the next minute begins.
        headers: `RateLimit` and `RateLimit-Policy`, as the IETF's draft on them has it.
    """

    exceeded: bool
    seconds: int
    headers: "Mapping[str, str]"


@dataclass(slots=True)
class _Use:
    """What a key has used in one minute: requests and bytes, in this order.

    Attributes:
        minute: since the epoch.
        ours: admitted by this process.
        told: how much of that the table has.
        all: what the table had by then, ours included.
        debt: by how much more than it may it used before: a body is as large as it is.
    """

    minute: int
    ours: list[int] = field(default_factory=lambda: [0, 0])
    told: list[int] = field(default_factory=lambda: [0, 0])
    all: list[int] = field(default_factory=lambda: [0, 0])
    debt: list[int] = field(default_factory=lambda: [0, 0])

    def total(self, which: int) -> int:
        return self.debt[which] + self.all[which] + self.ours[which] - self.told[which]


class Rates:
    """Counts what limited keys do; for use on one event loop."""

    def __init__(self, run: "Run", now: "Callable[[], float]" = time) -> None:
        self._run = run
        self._now = now
        self._uses: dict[UUID, _Use] = {}

    def count(self, caller: Caller, size: int) -> Rate | None:
        """Count a request of a caller unless it is one too many; None if they have no limit.

        Args:
            caller: who asks.
            size: bytes of the body as far as that is told. What a body has more is counted with
                `add`. One that is larger than what is left is let in; the next ones wait for that.
        """
        limits, key_id = caller.limits, caller.key_id
        if limits is None or key_id is None:
            return None
        now = self._now()
        use = self._use(key_id, limits, int(now // _MINUTE))
        exceeded = any(
            limit is not None and use.total(which) >= limit
            for which, limit in enumerate((limits.requests, limits.bytes))
        )
        if not exceeded:
            use.ours[0] += 1
            use.ours[1] += size
        seconds = ceil(_MINUTE - now % _MINUTE)
        return Rate(exceeded, seconds, _headers(limits, use, seconds))

    def add(self, caller: Caller, size: int) -> None:
        """Count bytes of a body whose size was not told beforehand."""
        if caller.limits is not None and caller.key_id is not None:
            minute = int(self._now() // _MINUTE)
            self._use(caller.key_id, caller.limits, minute).ours[1] += size

    async def refresh(self) -> None:
        """Tell the table what was admitted, and learn what all have; to be done every second.

        Raises:
            DatabaseUnavailable: nothing is told or learned.
        """
        minute = int(self._now() // _MINUTE)
        uses = {key: use for key, use in self._uses.items() if use.minute == minute}
        if not uses:
            return
        more: dict[UUID, Used] = {
            key: (use.ours[0] - use.told[0], use.ours[1] - use.told[1]) for key, use in uses.items()
        }
        found = await self._run(lambda session: key_uses.exchange(session, minute, more))
        for key, use in uses.items():
            use.told = [before + new for before, new in zip(use.told, more[key], strict=True)]
            use.all = list(found[key])

    def _use(self, key_id: "UUID", limits: Limits, minute: int) -> _Use:
        use = self._uses.get(key_id)
        if use is None or use.minute != minute:
            before, use = use, _Use(minute)
            if before is not None:
                paid = minute - before.minute
                use.debt = [
                    0 if limit is None else max(0, before.total(which) - paid * limit)
                    for which, limit in enumerate((limits.requests, limits.bytes))
                ]
            self._uses[key_id] = use
        return use


def _headers(limits: Limits, use: _Use, seconds: int) -> dict[str, str]:
    policies, states = [], []
    for which, (name, limit, unit) in enumerate(
        (("requests", limits.requests, ""), ("bytes", limits.bytes, ';qu="content-bytes"'))
    ):
        if limit is not None:
            policies.append(f'"{name}";q={limit};w={_MINUTE}{unit}')
            states.append(f'"{name}";r={max(0, limit - use.total(which))};t={seconds}')
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)}
