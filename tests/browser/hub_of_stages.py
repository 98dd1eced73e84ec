"""Configuration of a real JupyterHub whose spawner does what a test's files say.

Simulated: only what is behind the spawner (pool, queue, engine, the server itself), so that a
test can hold any moment of a start still. Hub, proxy, pages, scripts and the browser are real.
The folder ``DCLOUD_STAGE`` holds ``pool.json`` and, for each server, ``USER-NAME.json`` with
``event`` (a progress event), ``holding``, ``ready`` and ``fail``.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from jupyterhub.spawner import Spawner, SpawnException
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from dcloud_spawner.datasets.choose import Offered, Shelf
from dcloud_spawner.datasets.wishes import DatasetWish
from dcloud_spawner.errors import UserError
from dcloud_spawner.form.fields import choice_from_form
from dcloud_spawner.form.handlers import form_handlers
from dcloud_spawner.form.purse import balance_words
from dcloud_spawner.form.view import (
    TEMPLATES,
    ImageStatus,
    Offer,
    SpawnFormView,
    found_datasets,
    live_data,
    mine_data,
    render_spawn_form,
    start_datasets,
    template_vars,
)
from dcloud_spawner.live.availability import Availability, ModelAvailability
from dcloud_spawner.live.outlook import Range, Wish
from dcloud_spawner.live.purse import Bound, Payer, Purse, Rates, Rolling
from dcloud_spawner.live.stream import Frames, frame
from dcloud_spawner.options import validate
from dcloud_spawner.profiles import load_profiles
from dcloud_spawner.store.accounts import Budget

STAGE = Path(os.environ["DCLOUD_STAGE"])
PROFILES = load_profiles(Path(__file__).parent / "profiles")
GIB = 2**30


def read(name: str) -> dict[str, Any]:
    path = STAGE / name
    return json.loads(path.read_text()) if path.exists() else {}


def pool() -> Availability:
    said = read("pool.json")
    free = said.get("free", {"NVIDIA A100-SXM4-80GB": 3, "NVIDIA RTX A5000": 0})
    together = said.get("together", 2)
    models = (
        ModelAvailability(
            "NVIDIA A100-SXM4-80GB",
            80 * GIB,
            8,
            free["NVIDIA A100-SXM4-80GB"],
            0,
            min(together, free["NVIDIA A100-SXM4-80GB"]),
            4,
        ),
        ModelAvailability("NVIDIA RTX A5000", 24 * GIB, 4, free["NVIDIA RTX A5000"], 2, 0, 2),
    )
    expected = said.get("expected", [29, 59])
    hour = datetime.now(UTC).replace(second=0, microsecond=0)

    def forecast(wish: Wish) -> Range | None:
        return Range(*(hour + timedelta(minutes=m) for m in expected)) if expected else None

    return Availability(
        models,
        96.0,
        128.0,
        20.0,
        64.0,
        said.get("queue", 2),
        datetime.now(UTC),
        True,
        "docker",
        expected=forecast,
    )


CREDIT = 1_000_000


def purse() -> Purse:
    said = read("pool.json").get("purse", {})
    payers = said.get("payers", [["", "own", "none", 0]])
    return Purse(
        payers=tuple(
            Payer(
                name,
                title,
                Budget(budget),
                round(credits * CREDIT),
                round((credits - (aside[0] if aside else 0)) * CREDIT),
            )
            for name, title, budget, credits, *aside in payers
        ),
        rates=Rates(
            {name: round(rate * CREDIT) for name, rate in said.get("gpu", {"": 1}).items()},
            round(said.get("cpu_core", 0) * CREDIT),
            round(said.get("memory_gib", 0) * CREDIT),
        ),
        bounds={name: Bound(most, used) for name, (most, used) in said.get("bounds", {}).items()},
        closed_models=said.get("closed_models", {}),
        rolling=tuple(Rolling(*each) for each in said.get("rolling", [])),
        refused=said.get("refused", ""),
    )


def shelf(wishes: Sequence[DatasetWish], text: str | None = None) -> Shelf:
    """``datasets`` of the pool: value, whose (its kind), gigabytes, latest version."""
    offers = tuple(
        Offered(
            value=value,
            name=value.split("/")[1],
            owner=value.split("/")[0].removeprefix("project:"),
            kind=kind,
            size_bytes=round(gigabytes * 1e9),
            latest=latest,
            versions=tuple(range(latest, 0, -1)),
            mode="cached",
        )
        for value, kind, gigabytes, latest in read("pool.json").get("datasets", [])
    )
    if text is not None:
        found = tuple(one for one in offers if text in one.value)
        return Shelf(found[:2], len(found))
    names = {one.value for one in offers}
    kept = tuple(wish for wish in wishes if wish.name in names)
    lost = tuple(str(wish) for wish in wishes if wish.name not in names)
    first = sorted(offers, key=lambda one: one.value not in {wish.name for wish in kept})
    return Shelf(tuple(first[:6]), len(offers), kept, lost)


class Page(web.RequestHandler):
    """Stands for the user's server."""

    def get(self) -> None:
        self.set_header("X-JupyterHub-Version", "6.1.1")
        self.finish(f"<title>The server</title><h1>The server</h1><p>{self.request.path}</p>")


class StagedSpawner(Spawner):
    entered: dict[str, object] | None = None
    wrong: str = ""
    http: HTTPServer | None = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.start_timeout = 10**6
        self.options_form = type(self).draw_form
        self.options_from_form = self.take_form

    @property
    def file(self) -> str:
        return f"{self.user.name}-{self.name}.json"

    async def view(self) -> SpawnFormView:
        said = read("pool.json")
        images = said.get("images", {})
        groups = {group.name for group in self.user.groups}
        view = SpawnFormView(
            user=self.user.name,
            offers=tuple(
                Offer(
                    profile,
                    ImageStatus(**images.get(profile.name, {})),
                    ""
                    if profile.allows(groups)
                    else f"Only for the group {' or '.join(profile.groups)}.",
                )
                for profile in PROFILES.values()
            ),
            availability=pool(),
            server=self.name,
            last_choice=said.get("last_choice"),
            entered=self.user.spawner.entered,
            error_field=self.user.spawner.wrong,
            active_servers=tuple(n for n, s in self.user.spawners.items() if s.active),
            purse=purse(),
            ask_url="/services/dcloud/requests",
        )
        return replace(view, shelf=shelf(start_datasets(view))) if "datasets" in said else view

    async def find_datasets(self, text: str) -> dict[str, object]:
        return found_datasets(shelf((), text))

    async def draw_form(self) -> str:
        view = await self.view()
        self.user.spawner.entered, self.user.spawner.wrong = None, ""
        return render_spawn_form(view)

    async def live_form(self) -> dict[str, object]:
        view = await self.view()
        return {**live_data(view), "mine": mine_data(view)}

    def balance_view(self) -> dict[str, str] | None:
        return balance_words(purse().payers)

    def live_source(self, *, form: bool = True) -> Callable[[], Awaitable[Frames]]:
        async def compose() -> Frames:
            if read("pool.json").get("silent"):
                raise web.HTTPError(503)
            event = self.waiting_view()
            shown = {"server": frame("server", {"server": self.name, **event})} if event else {}
            if not form:
                return shown
            view = await self.view()
            data = live_data(view)
            del data["at"]
            return {"form": frame("form", data), "mine": frame("mine", mine_data(view)), **shown}

        return compose

    async def live_changed(self, seconds: float) -> bool:
        await asyncio.sleep(0.05)
        return True

    def take_form(self, form: dict[str, list[str]]) -> dict[str, object]:
        entered = self.user.spawner.entered = choice_from_form(form)
        groups = {group.name for group in self.user.groups}
        try:
            choice = validate(entered, PROFILES, groups=groups).as_dict()
        except UserError as error:
            self.user.spawner.wrong = error.field
            refused = SpawnException(error.text, reason=error.code, status_code=400)
            refused.jupyterhub_message = error.text
            raise refused from error
        self.user.spawner.entered = None
        (STAGE / "posted.json").write_text(json.dumps(choice))
        return choice

    def options_from_query(self, query: dict[str, list[str]]) -> dict[str, object]:
        self.user.spawner.entered = choice_from_form(query)
        told = SpawnException("A link only fills in this form.", reason="link", status_code=200)
        told.jupyterhub_message = str(told)
        raise told

    async def start(self) -> str:
        while True:
            said = read(self.file)
            if said.get("fail"):
                failed = SpawnException(said["fail"], reason="engine", status_code=500)
                failed.jupyterhub_message = said["fail"]
                raise failed
            if said.get("ready"):
                break
            await asyncio.sleep(0.05)
        sockets = bind_sockets(0, "127.0.0.1")
        self.http = HTTPServer(web.Application([(".*", Page)]))
        self.http.add_sockets(sockets)
        return f"http://127.0.0.1:{sockets[0].getsockname()[1]}"

    async def stop(self, now: bool = False) -> None:
        if self.http:
            self.http.stop()
            self.http = None
        await asyncio.sleep(read(self.file).get("stop_seconds", 0))

    async def poll(self) -> int | None:
        return None if self.http else 0

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        last = None
        while True:
            event = read(self.file).get("event")
            if event and event != last:
                last = event
                yield dict(event)
            await asyncio.sleep(0.05)

    def waiting_view(self) -> dict[str, Any] | None:
        return None if self.http else read(self.file).get("event")

    def holding_view(self) -> dict[str, Any] | None:
        return read(self.file).get("holding") if self.http else None

    @property
    def home_size_bytes(self) -> int:
        return 8_400_000_000


c = get_config()  # type: ignore[name-defined]  # noqa: F821
c.JupyterHub.spawner_class = StagedSpawner
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = os.environ["DCLOUD_STAGE_PASSWORD"]
c.Authenticator.allow_all = True
c.Authenticator.admin_users = {"admin-a"}
c.JupyterHub.db_url = f"sqlite:///{STAGE / 'hub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(STAGE / "cookie_secret")
c.JupyterHub.bind_url = os.environ["DCLOUD_STAGE_URL"]
c.JupyterHub.hub_bind_url = os.environ["DCLOUD_STAGE_HUB"]
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = os.environ["DCLOUD_STAGE_PROXY"]
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = False
c.JupyterHub.allow_named_servers = True
c.JupyterHub.named_server_limit_per_user = 3
c.JupyterHub.concurrent_spawn_limit = 0
c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0}
c.JupyterHub.template_paths = [str(TEMPLATES)]
c.JupyterHub.template_vars = template_vars(
    simulated=os.environ.get("DCLOUD_STAGE_SIMULATED", "") == "1",
    isolation_note=os.environ.get("DCLOUD_STAGE_NOTE", ""),
    approvals=False,
)
c.JupyterHub.extra_handlers = form_handlers()
c.JupyterHub.load_roles = [
    {"name": "resumer", "services": ["resumer"], "scopes": ["list:users", "servers"]}
]
c.JupyterHub.services = [{"name": "resumer", "api_token": os.environ["DCLOUD_STAGE_TOKEN"]}]
