"""Days and months as the reader's calendar has them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

LONGEST_NAME = 64
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True)
class Zone:
    """A time zone with its name."""

    name: str
    info: tzinfo
    known: bool = True
    """False while nobody has said where the reader is."""

    def local(self, moment: datetime) -> datetime:
        """The reader's time."""
        return moment.astimezone(self.info)

    def day(self, moment: datetime) -> date:
        """The reader's day."""
        return self.local(moment).date()

    def midnight(self, day: date) -> datetime:
        """When that day begins, as UTC; where the clocks skip midnight, the first moment."""
        return datetime.combine(day, time(), self.info).astimezone(UTC)

    def month(self, year: int, month: int) -> tuple[datetime, datetime]:
        """A month's first moment and the first one after it, as UTC."""
        following = date(year + month // 12, month % 12 + 1, 1)
        return self.midnight(date(year, month, 1)), self.midnight(following)

    def last_days(self, now: datetime, count: int) -> list[date]:
        """So many days, the last one is today."""
        today = self.day(now)
        return [today - timedelta(days=back) for back in range(count - 1, -1, -1)]


UTC_ZONE = Zone("UTC", UTC, known=False)


def zone_of(*names: str) -> Zone:
    """The first of these zones that there is; UTC when there is none."""
    for name in names:
        found = _find(name) if name else None
        if found is not None:
            return found
    return UTC_ZONE


@lru_cache(1024)
def _find(name: str) -> Zone | None:
    if len(name) > LONGEST_NAME or not name.isascii():
        return None
    try:
        return Zone(name, ZoneInfo(name))
    except (ValueError, KeyError, OSError):  # no such zone, or no name of one
        return None


def day_words(day: date) -> str:
    """``21 Nov``."""
    return f"{day.day} {MONTHS[day.month - 1]}"


def month_words(year: int, month: int) -> str:
    """``November 2026``."""
    return f"{date(year, month, 1):%B} {year}"
