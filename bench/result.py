"""One figure and its peer, measured in the same run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Result:
    """``value`` and ``peer_value`` are medians (or means over seeds) in ``unit``; ``ratio`` is
    value over peer."""

    value: float
    unit: str
    peer: str
    peer_value: float
    n: int

    @property
    def ratio(self) -> float:
        """How much we cost for each unit that the peer costs."""
        return self.value / self.peer_value

    def as_dict(self) -> dict[str, object]:
        """As bench/results.json keeps it."""
        return {**asdict(self), "ratio": round(self.ratio, 4)}


def paired(
    values: Sequence[float], peers: Sequence[float], unit: str, peer: str, digits: int = 4
) -> Result:
    """Medians of two equally long series that were measured in turn."""
    assert len(values) == len(peers)
    return Result(
        round(statistics.median(values), digits),
        unit,
        peer,
        round(statistics.median(peers), digits),
        len(values),
    )


def averaged(
    values: Sequence[float], peers: Sequence[float], unit: str, peer: str, digits: int = 4
) -> Result:
    """Means of two equally long series over the same seeds."""
    assert len(values) == len(peers)
    return Result(
        round(statistics.fmean(values), digits),
        unit,
        peer,
        round(statistics.fmean(peers), digits),
        len(values),
    )
