"""A session's measures over time. They are never billed from."""

from __future__ import annotations

from sqlalchemy import Connection

from dcloud_spawner.errors import InvalidChoice
from dcloud_spawner.platform import utc_now
from dcloud_spawner.store import measures
from dcloud_spawner.store.measures import Measure
from hub_services.web.api.access import find_session, read
from hub_services.web.api.operation import Call, Nothing
from hub_services.web.api.usage_models import MeasuresQuery, MeasuresView, MeasureView

MOST_POINTS = 5000
"""Of one answer, whoever asks for a length."""


async def get_measures(call: Call[MeasuresQuery, Nothing]) -> MeasuresView:
    """Measures of a session: utilisation, memory, power and temperature of its GPUs, CPU, memory,
    disk and network."""
    query = call.query

    def reading(connection: Connection) -> list[Measure]:
        session = find_session(connection, call.viewer, call.path["id"])
        workload, now = session.workload, utc_now()
        # The engine's clock may be behind ours.
        known = (workload.admitted_at, workload.engine_started_at, session.meter.began_at)
        begin = min((each for each in known if each), default=workload.submitted_at)
        until = min(query.until or now, workload.ended_at or now)
        since = max(query.since or begin, begin)
        if until <= since:
            return []
        seconds = int(query.seconds) if query.seconds else None
        if seconds and (until - since).total_seconds() > MOST_POINTS * seconds:
            raise InvalidChoice(
                f"seconds: that would be more than {MOST_POINTS} points.",
                hint="Ask for longer ones, for a shorter time, or leave seconds out.",
                field="seconds",
            )
        return measures.series(connection, workload.id, since, until, seconds)

    found = await read(call, reading)
    return MeasuresView(
        workload=call.path["id"],
        seconds=found[0].seconds if found else None,
        items=tuple(_measure_view(each) for each in found),
    )


def _measure_view(measure: Measure) -> MeasureView:
    figures = measure.figures
    names = MeasureView.model_fields.keys() - {"at", "gpus"}
    return MeasureView(
        at=measure.at,
        gpus=figures.gpus_max,
        **{name: getattr(figures, name) for name in names},
    )
