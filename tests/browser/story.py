"""One story for all pages: somebody asks for 3 A100, waits at place 3, starts on gpu-02."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

A100 = "NVIDIA A100-SXM4-80GB"
A5000 = "NVIDIA RTX A5000"
REQUEST = {
    "gpus": 3,
    "gpu_model": A100,
    "memory_gib": 64,
    "cpus": 16,
    "hours": 4,
    "profile": "pytorch",
    "title": "PyTorch",
}
CHOICE = {key: value for key, value in REQUEST.items() if key != "title"}


def ago(seconds: float) -> str:
    """ISO text of a moment in the past, or, below zero, in the future."""
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()


def queued(place: int = 3, **more: Any) -> dict[str, Any]:
    """A progress event of a request that waits."""
    return {
        "progress": 5,
        "message": f"Place {place} of 4 in the queue.",
        "stage": "queue",
        "stages": {"queue": {"since": ago(200), "until": None}},
        "place": place,
        "queue_length": 4,
        "reasons": [
            "You asked for 3 GPUs on one node. 3 are free, but at most 2 together.",
            "2 requests are ahead of you, asking for 6 GPUs.",
        ],
        "latest_start": ago(-5950),
        "expected": {"from": ago(-1770), "to": ago(-3570)},
        "record": {"inside": 41, "of": 50},
        "on_cpu": True,
        "alternatives": [
            {"what": "2 GPUs of this model", "gpus": 2, "choice": {**CHOICE, "gpus": 2}},
            {"what": "1 GPU of this model", "gpus": 1, "choice": {**CHOICE, "gpus": 1}},
        ],
        "request": REQUEST,
        "choice": CHOICE,
        "gpus": [],
        "node": None,
        "log": [{"at": ago(200), "text": "joined the queue"}],
        "workload": "w1",
        **more,
    }


def starting(**more: Any) -> dict[str, Any]:
    """A progress event of a start that gets its image."""
    return {
        **queued(),
        "progress": 30,
        "message": "Fetching the image.",
        "stage": "image",
        "place": None,
        "stages": {
            "queue": {"since": ago(2670), "until": ago(30)},
            "held": {"since": ago(30), "until": ago(29)},
            "image": {"since": ago(29), "until": None},
        },
        "gpus": [{"uuid": f"GPU-{n}", "model": A100, "index": n} for n in (0, 2, 3)],
        "node": "gpu-02",
        "image": {"progress": 0.62, "message": "5.1 of 8.2 GB"},
        "log": [
            {"at": ago(2670), "text": "joined the queue"},
            {"at": ago(30), "text": "admitted"},
        ],
        **more,
    }


def datasets(state: str = "preparing", done_bytes: float = 12e9) -> list[dict[str, Any]]:
    """Two datasets of a request: one that is copied or in this state, and one that is ready."""
    return [
        {
            "name": "street-scenes",
            "dataset": "vision-lab/street-scenes",
            "version": 7,
            "mode": "cached",
            "state": state,
            "message": "",
            "done_bytes": done_bytes,
            "total_bytes": 138e9,
        },
        {
            "name": "words",
            "dataset": "bob/words",
            "version": 1,
            "mode": "stream",
            "state": "ready",
            "message": "",
            "done_bytes": 0,
            "total_bytes": 5e8,
        },
    ]


def holding(health: str = "ok") -> dict[str, Any]:
    """What a running server holds; GPU 2 has this health."""
    reason = "" if health == "ok" else "it has fallen off the bus (Xid 79)"
    return {
        "title": "PyTorch",
        "gpus": [
            {"model": A100, "index": 0, "health": "ok", "health_reason": ""},
            {"model": A100, "index": 2, "health": health, "health_reason": reason},
        ],
        "memory_gib": 64,
        "cpus": 16,
        "started_at": ago(6180),
        "stops_at": ago(-8220),
        "node": "gpu-02",
    }
