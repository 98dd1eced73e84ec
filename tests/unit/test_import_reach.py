"""An import from inside is refused where it is asked for, by the rule of the import itself."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dcloud_spawner.datasets.reach import NotReached, refuse_inside
from dcloud_spawner.settings import Settings
from hub_services.web.api import dataset_imports


def answering(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """A name server that says this of every name."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 443)) for each in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *asked, **more: found)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state=tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/x",
        "http://localhost/x",
        "http://[::1]/x",
        "http://[::ffff:10.0.0.1]/x",
        "http://2130706433/x",
        "http://169.254.169.254/latest/meta-data/",
        "https://192.168.1.7/x",
        "http://127.0.0.1./x",
    ],
)
def test_an_address_inside_is_refused_with_its_field(settings: Settings, url: str) -> None:
    with pytest.raises(NotReached, match="cannot come from there") as refused:
        refuse_inside(settings, url, "url")
    assert (refused.value.field, refused.value.code) == ("url", "address_not_allowed")


def test_a_name_that_leads_inside_alone_is_refused_and_one_that_leads_out_too_is_not(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, "10.0.0.1", "10.0.0.2")
    with pytest.raises(NotReached, match="not in the public internet"):
        refuse_inside(settings, "https://inside.example/x", "endpoint")
    answering(monkeypatch, "10.0.0.1", "93.184.216.34")
    refuse_inside(settings, "https://both.example/x", "endpoint")  # as the import would


def test_a_name_of_which_nothing_is_known_is_left_to_the_import(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(*asked: object, **more: object) -> object:
        raise socket.gaierror(socket.EAI_AGAIN, "no name server")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    refuse_inside(settings, "https://somewhere.example/x", "url")


def test_a_network_that_was_opened_for_imports_is_reached(tmp_path: Path) -> None:
    opened = Settings(state=tmp_path, import_networks=["10.1.0.0/16"])  # type: ignore[list-item]
    refuse_inside(opened, "https://10.1.2.3/x", "url")
    with pytest.raises(NotReached):
        refuse_inside(opened, "https://10.2.2.3/x", "url")


def test_name_servers_that_say_nothing_keep_nobody_else_from_a_thread(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the threads of the event loop the hub's address is looked up, for everybody."""
    answers = threading.Event()
    monkeypatch.setattr(dataset_imports, "refuse_inside", lambda *asked: answers.wait(60))
    monkeypatch.setattr(dataset_imports, "RESOLVE_SECONDS", 0.01)
    call: Any = SimpleNamespace(
        service=SimpleNamespace(platform=SimpleNamespace(settings=settings))
    )

    async def ask() -> None:
        url = "https://slow.example/x"
        try:
            await asyncio.gather(
                *(dataset_imports._refuse_inside(call, url, "url") for _ in range(40))
            )
            await asyncio.wait_for(asyncio.to_thread(bool), 30)
        finally:
            answers.set()

    asyncio.run(ask())
