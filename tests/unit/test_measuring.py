"""From readings of counters and gauges to what happened, without a database or an engine."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcloud_spawner.engines.docker_use import container_use
from dcloud_spawner.engines.use import AcceleratorUse, ContainerUse
from dcloud_spawner.measuring.figures import Figures
from dcloud_spawner.measuring.step import Held, Reading, Step, step

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
S = 1_000_000
GIB = 2**30


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def container(seconds: float, cpu_seconds: float | None = 0, **more: object) -> ContainerUse:
    cpu = None if cpu_seconds is None else int(cpu_seconds * S)
    values: dict[str, object] = {"cpu_microseconds": cpu, "memory_bytes": GIB, **more}
    return ContainerUse("w", "ref", after(seconds), **values)  # type: ignore[arg-type]


def gpu(uuid: str = "GPU-1", **values: int | None) -> Held:
    usual: dict[str, int | None] = {
        "utilisation_percent": 50,
        "memory_bytes": 8 * GIB,
        "power_milliwatts": 300_000,
        "temperature_celsius": 60,
    }
    return Held(uuid, "A100", AcceleratorUse(uuid, **{**usual, **values}))


def taken(last: Reading | None, use: ContainerUse, *held: Held) -> Step:
    found = step(last, use, held, START, 20)
    assert found is not None
    return found


def test_counters_tell_what_was_used_between_two_readings() -> None:
    first = taken(None, container(10, 5, network_received_bytes=100))
    second = taken(first.reading, container(20, 20, network_received_bytes=1100))
    assert first.figures.cpu_millicores == 500
    assert second.figures.cpu_microseconds == 15 * S
    assert second.figures.cpu_millicores == 1500
    assert second.figures.network_received_bytes_per_second == 100
    both = first.figures + second.figures
    assert both.cpu_millicores == 1000
    assert both.cpu_millicores_max == 1500
    assert both.network_sent_bytes is None


def test_a_load_counts_for_the_time_around_it_and_not_for_an_hour_without_samples() -> None:
    first = taken(None, container(10), gpu())
    late = taken(first.reading, container(3610, 3000), gpu(utilisation_percent=100))
    assert first.figures.gpu_measured_microseconds == 10 * S
    assert first.figures.gpu_busy_microseconds == 5 * S
    assert late.figures.gpu_measured_microseconds == 20 * S
    assert late.figures.measured_microseconds == 3600 * S


def test_the_drivers_counter_of_energy_bridges_any_gap() -> None:
    first = taken(None, container(10), gpu(energy_millijoules=5_000_000))
    assert first.figures.energy_millijoules == 3_000_000  # 300 W for the first 10 s
    late = taken(first.reading, container(3610), gpu(energy_millijoules=6_085_000))
    assert late.figures.energy_millijoules == 1_085_000
    assert late.figures.gpu_power_milliwatts == 301


def test_without_that_counter_energy_is_power_and_time() -> None:
    first = taken(None, container(10), gpu())
    second = taken(first.reading, container(20), gpu(power_milliwatts=100_000))
    assert second.figures.energy_millijoules == 1_000_000
    assert (first.figures + second.figures).gpu_power_milliwatts == 200_000
    assert (first.figures + second.figures).energy_kwh == pytest.approx(4_000_000 / 3.6e9)


def test_a_driver_that_was_loaded_anew_takes_no_energy_back() -> None:
    first = taken(None, container(10), gpu(energy_millijoules=9_000_000_000))
    second = taken(first.reading, container(20), gpu(energy_millijoules=7))
    assert second.figures.energy_millijoules == 3_000_000
    third = taken(second.reading, container(30), gpu(energy_millijoules=2_000_007))
    assert third.figures.energy_millijoules == 2_000_000


def test_what_nobody_could_read_is_unknown_and_not_zero() -> None:
    dead = Held("GPU-1", "A100", None)
    figures = taken(None, container(10, None, memory_bytes=None), dead).figures
    assert figures.gpus_max == 1 and figures.samples == 1
    for name in ("cpu_millicores", "memory_bytes", "gpu_utilisation_percent", "gpu_memory_bytes"):
        assert getattr(figures, name) is None, name
    for name in ("gpu_power_milliwatts", "energy_kwh", "network_sent_bytes_per_second"):
        assert getattr(figures, name) is None, name
    assert figures.gpu_temperature_celsius_max is None
    # Beside a GPU that is well, a dead one changes no mean of load and spoils no sum.
    both = taken(None, container(10), gpu("GPU-2"), dead).figures
    assert both.gpu_utilisation_percent == 50
    assert both.gpu_memory_bytes is None
    assert both.gpu_power_milliwatts_max is None


def test_a_mig_instance_has_memory_and_no_load() -> None:
    mig = Held("MIG-1", "A100 MIG 1g", AcceleratorUse("MIG-1", memory_bytes=GIB))
    figures = taken(None, container(10), mig).figures
    assert figures.gpu_memory_bytes == GIB
    assert figures.gpu_utilisation_percent is None and figures.energy_kwh is None


def test_the_same_reading_again_adds_nothing_and_an_older_one_neither() -> None:
    first = taken(None, container(10, 5))
    assert step(first.reading, container(10, 5), [], START, 20) is None
    assert step(first.reading, container(9.5, 4.9), [], START, 20) is None


def test_a_clock_that_was_set_back_counts_nothing_twice() -> None:
    first = taken(None, container(7200, 3600), gpu(energy_millijoules=1000))
    second = taken(first.reading, container(3610, 3605), gpu(energy_millijoules=1500))
    assert second.figures.cpu_microseconds == 5 * S
    assert second.figures.measured_microseconds == 0
    assert second.figures.energy_millijoules == 500
    third = taken(second.reading, container(3620, 3610), gpu(energy_millijoules=2000))
    assert third.figures.cpu_millicores == 500


def test_a_container_that_was_made_again_begins_its_counters_at_zero() -> None:
    first = taken(None, container(10, 500))
    again = taken(first.reading, replace(container(20, 3), ref="other"))
    assert again.figures.cpu_microseconds == 3 * S


def test_a_reading_comes_back_from_its_json_as_it_was() -> None:
    reading = taken(None, container(10, 5), gpu(energy_millijoules=12)).reading
    assert Reading.from_json(reading.at, reading.as_json()) == reading


numbers = st.integers(0, 10**12)
maybe = st.none() | numbers
figures = st.builds(
    Figures,
    samples=numbers,
    measured_microseconds=numbers,
    cpu_microseconds=maybe,
    cpu_millicores_max=maybe,
    energy_millijoules=maybe,
    gpu_busy_microseconds=numbers,
    gpus_max=numbers,
)


@given(st.lists(figures, min_size=2, max_size=8), st.integers(1, 7))
def test_it_does_not_matter_how_pieces_are_put_together(pieces: list[Figures], cut: int) -> None:
    cut = min(cut, len(pieces) - 1)
    whole = reduce(Figures.__add__, pieces)
    halves = reduce(Figures.__add__, pieces[:cut]) + reduce(Figures.__add__, pieces[cut:])
    assert whole == halves == reduce(Figures.__add__, reversed(pieces))
    assert Figures() + whole == whole


@pytest.mark.parametrize("cached", ["total_inactive_file", "inactive_file"])
def test_dockers_figures_are_read_the_same_on_both_versions_of_cgroups(cached: str) -> None:
    stats = {
        "read": "2026-03-01T12:00:10.123456789Z",
        "cpu_stats": {"cpu_usage": {"total_usage": 2_500_000_000}},
        "memory_stats": {"usage": 700, "stats": {cached: 200}},
        "networks": {
            "a": {"rx_bytes": 5, "tx_bytes": 6},
            "eth1": {"rx_bytes": 1, "tx_bytes": 1},
        },
    }
    use = container_use("w", "ref", stats, 9)
    at = datetime(2026, 3, 1, 12, 0, 10, 123456, tzinfo=UTC)
    assert use == ContainerUse("w", "ref", at, 2_500_000, 500, 6, 7, 9)


def test_what_docker_does_not_say_is_unknown() -> None:
    ended = {"read": "0001-01-01T00:00:00Z", "cpu_stats": {"cpu_usage": {"total_usage": 0}}}
    assert container_use("w", "ref", ended) is None
    bare = container_use("w", "ref", {"cpu_stats": {"cpu_usage": {"total_usage": 1000}}})
    assert bare is not None
    assert (bare.memory_bytes, bare.network_sent_bytes, bare.disk_bytes) == (None, None, None)
