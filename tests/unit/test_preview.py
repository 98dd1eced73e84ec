"""Previews: what is shown of a file, and what of a hostile one is not."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import zlib
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hub_services.preview import parquet
from hub_services.preview.confined import ROOT, confined, environment
from hub_services.preview.markdown import first_words, rendered
from hub_services.preview.model import MOST_COLUMNS, MOST_ROWS, Kind, Preview
from hub_services.preview.preview import preview


class Object:
    """One object and how much of it was read."""

    def __init__(self, data: bytes) -> None:
        self.data, self.read_bytes = data, 0

    def read(self, offset: int, length: int) -> bytes:
        self.read_bytes += length
        return self.data[offset : offset + length]


def look(name: str, data: bytes) -> Preview:
    return preview(name, len(data), Object(data).read)


def as_parquet(table: pa.Table, **options: object) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def png(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


# ---------------------------------------------------------------------------- tables


def test_a_csv_file_shows_its_first_rows_and_the_types_of_its_columns() -> None:
    body = "".join(f"{n},{n / 4},2026-01-{n % 28 + 1:02d},true,n{n}\n" for n in range(100))
    found = look("a/b.csv", f"id,share,day,ok,name\n{body}".encode())
    assert found.table is not None
    assert [(each.name, each.type) for each in found.table.columns] == [
        ("id", "whole number"),
        ("share", "number"),
        ("day", "day"),
        ("ok", "true or false"),
        ("name", "text"),
    ]
    assert len(found.table.rows) == MOST_ROWS and found.table.total_rows == 100
    assert found.table.rows[1] == ("1", "0.25", "2026-01-02", "true", "n1")


def test_of_a_large_csv_file_only_the_head_is_read_and_no_half_row_is_shown() -> None:
    data = Object(b"a;b\n" + b"1;22222222\n" * 1_000_000)
    found = preview("x.csv", len(data.data), data.read)
    assert found.table is not None and found.table.total_rows is None
    assert set(found.table.rows) == {("1", "22222222")}
    assert data.read_bytes < 100_000


def test_rows_of_different_length_and_missing_values_are_shown() -> None:
    found = look("x.tsv", b"name\tsize\nx\t1\ny\nz\t3\textra\n")
    assert found.table is not None
    assert [each.type for each in found.table.columns] == ["text", "whole number", "text"]
    assert found.table.rows == (("x", "1", ""), ("y", "", ""), ("z", "3", "extra"))


def test_a_csv_file_without_names_has_numbered_columns() -> None:
    found = look("x.csv", b"1,2\n3,4\n")
    assert found.table is not None
    assert [each.name for each in found.table.columns] == ["column 1", "column 2"]
    assert found.table.total_rows == 2


def test_of_a_large_parquet_file_little_is_read() -> None:
    rows = 300_000
    table = pa.table({"n": list(range(rows)), "name": [f"{n:020}" for n in range(rows)]})
    data = Object(as_parquet(table, compression=None, use_dictionary=False))
    found = preview("t.parquet", len(data.data), data.read)
    assert found.table is not None and found.table.total_rows == rows
    assert [(each.name, each.type) for each in found.table.columns] == [
        ("n", "int64"),
        ("name", "string"),
    ]
    assert found.table.rows[49] == ("49", f"{49:020}")
    assert data.read_bytes < len(data.data) / 3


def test_a_wide_parquet_file_shows_its_first_columns_and_how_many_more_there_are() -> None:
    found = look("t.parquet", as_parquet(pa.table({f"c{n}": [n] for n in range(80)})))
    assert found.table is not None
    assert len(found.table.columns) == MOST_COLUMNS and found.table.more_columns == 30


@pytest.mark.parametrize(
    "data", [b"PAR1", b"not at all", b"PAR1" + b"\xff" * 5000 + b"\x00\x10\x00\x00PAR1"]
)
def test_a_broken_parquet_file_is_refused_in_words(data: bytes) -> None:
    found = look("t.parquet", data)
    assert found.kind is Kind.NONE and "Parquet" in found.note


def test_a_parquet_file_with_bytes_turned_never_harms_the_service() -> None:
    good = bytearray(as_parquet(pa.table({"a": list(range(1000)), "b": ["x"] * 1000})))
    for at in range(len(good) - 400, len(good) - 8, 97):
        bad = bytearray(good)
        bad[at] ^= 0xFF
        found = look("t.parquet", bytes(bad))
        assert found.note or found.table


def test_a_parquet_file_that_wants_too_much_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "MOST_BYTES", 1000)
    found = look("t.parquet", as_parquet(pa.table({"a": list(range(100_000))})))
    assert found.kind is Kind.NONE or (found.table is not None and found.table.note)


def test_an_empty_parquet_file_shows_its_columns() -> None:
    empty = pa.table({"a": pa.array([], pa.int8()), "b": pa.array([], pa.timestamp("us", "UTC"))})
    found = look("t.pq", as_parquet(empty))
    assert found.table is not None and found.table.total_rows == 0
    assert [each.type for each in found.table.columns] == ["int8", "timestamp[us, tz=UTC]"]


# ---------------------------------------------------------------------------- text


def test_text_is_shown_as_it_is_and_cut_at_a_line() -> None:
    small = look("readme.md", "# Häuser\r\nzwei\n".encode())
    assert small.text is not None and small.text.whole
    assert small.text.text == "# Häuser\nzwei\n"
    large = look("log.txt", b"line of some length\n" * 10_000)
    assert large.text is not None and not large.text.whole
    assert set(large.text.text.split("\n")) == {"line of some length"}


def test_a_file_that_is_no_text_has_no_preview_whatever_its_name() -> None:
    for name in ("a.txt", "a.bin", "a.csv"):
        assert look(name, b"\x00\x01\x02" * 100).kind is Kind.NONE


def test_html_and_svg_are_shown_as_text_only() -> None:
    for name in ("a.html", "a.svg", "a.xhtml"):
        found = look(name, b"<svg onload=alert(1)>")
        assert found.kind is Kind.TEXT and found.picture is None


def test_characters_that_hide_or_turn_text_are_marked() -> None:
    found = look("a.py", "if x: \u202e# \x1b[31m\n".encode())
    assert found.text is not None
    assert "\u202e" not in found.text.text and "\x1b" not in found.text.text


# ---------------------------------------------------------------------------- pictures


def test_a_picture_is_told_by_its_bytes_and_not_by_its_name() -> None:
    found = look("a.jpg", png(640, 480))
    assert found.picture is not None
    assert (found.picture.media_type, found.picture.width) == ("image/png", 640)
    assert look("a.png", b"<html><script>alert(1)</script>").kind is Kind.NONE
    assert look("a.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>").kind is Kind.NONE


def test_a_picture_of_too_many_pixels_is_not_shown() -> None:
    assert look("a.png", png(60_000, 60_000)).kind is Kind.NONE


@pytest.mark.parametrize("length", range(0, 40, 3))
def test_a_picture_that_ends_early_is_no_error(length: int) -> None:
    for data in (png(10, 10), b"GIF89a\x01\x00", b"RIFF\0\0\0\0WEBPVP8 ", b"\xff\xd8\xff\xe0"):
        look("a.png", data[:length])


# ---------------------------------------------------------------------------- Markdown

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](<java\nscript:alert(1)>)",
    "![x](https://elsewhere.example/p.png)",
    '<https://a.example/"onmouseover=alert(1)>',
    "<style>body{display:none}</style>",
    "<iframe src=//a.example></iframe>",
    "<form action=//a.example><input name=password></form>",
    "[x](vbscript:x)\n\n[y]: javascript:alert(1)\n\n[y]",
    "[a](https://a.example 'x\" onclick=\"alert(1)')",
    "`<script>`\n\n```html\n<script>alert(1)</script>\n```",
    "<svg><a xlink:href=javascript:alert(1)>",
    "<div id=main class=dc-page style=position:fixed>",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_description_never_brings_scripts_pictures_or_styles(text: str) -> None:
    made = rendered(text)
    unquoted = made.replace("&lt;", "").replace("&gt;", "").replace("&quot;", "")
    for element in ("<script", "<img", "<style", "<iframe", "<form", "<svg", "<div", "<input"):
        assert element not in made.lower()
    assert 'href="javascript' not in unquoted.lower() and 'href="data' not in unquoted.lower()
    assert " onclick=" not in made.lower().split(">")[0] or "&quot;" in made
    assert " id=" not in made.split("&lt;")[0]


def test_markdown_is_rendered_with_tables_lists_and_links_that_vouch_for_nothing() -> None:
    made = rendered("# Title\n\n- a\n- b\n\n|x|y|\n|-|-|\n|1|2|\n\n[l](https://a.example)")
    assert "<h3>Title</h3>" in made and "<li>a</li>" in made and "<td>2</td>" in made
    assert "nofollow" in made and "noopener" in made


def test_headings_follow_on_those_of_the_page_and_leave_no_level_out() -> None:
    made = rendered("## A\n\n#### B\n\n## C\n\n# D\n\n### E")
    assert re.findall(r"<(h\d)>(\w)</\1>", made) == [
        ("h3", "A"),
        ("h4", "B"),
        ("h3", "C"),
        ("h3", "D"),
        ("h4", "E"),
    ]


def test_a_list_shows_the_first_words_of_a_description() -> None:
    assert first_words("# A & B\n\nsome *text*") == "A & B some text"
    assert len(first_words("word " * 500)) <= 160


def test_deeply_nested_markdown_takes_no_time() -> None:
    assert rendered("> " * 5000 + "x") is not None
    assert rendered("[" * 5000) is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
def test_who_reads_parquet_files_reads_nothing_else(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    secret.chmod(0o600)
    program = (
        "import os, socket\n"
        "from hub_services.preview.parquet_worker import _give_up_rights\n"
        "_give_up_rights()\n"
        "assert os.getuid() == os.geteuid() == 65534 and not os.getgroups()\n"
        f"try: open({str(secret)!r}); raise SystemExit('read a secret')\n"
        "except PermissionError: pass\n"
        "try: os.setuid(0); raise SystemExit('is root again')\n"
        "except PermissionError: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not confined(), reason="bubblewrap does not work here")
def test_who_reads_parquet_files_sees_no_file_of_anybody(tmp_path: Path) -> None:
    open_to_all = tmp_path / "open.txt"
    open_to_all.write_text("somebody's")
    open_to_all.chmod(0o644)
    hidden = [str(open_to_all), "/etc/passwd", "/proc/1/environ", str(ROOT / "pyproject.toml")]
    program = (
        "import os, socket\n"
        "from hub_services.preview import parquet_worker\n"
        "parquet_worker._give_up_rights()\n"
        f"for path in {hidden!r}:\n"
        "    try: open(path); raise SystemExit('reads ' + path)\n"
        "    except OSError: pass\n"
        "for path in ('/new', '/tmp/new', os.path.dirname(parquet_worker.__file__) + '/new'):\n"
        "    try: open(path, 'w'); raise SystemExit('writes ' + path)\n"
        "    except OSError: pass\n"
        "assert not {'home', 'var', 'run', 'tmp', 'proc', 'sys', 'boot'} & {*os.listdir('/')}\n"
        "try: socket.create_connection(('127.0.0.1', 80), 1); raise SystemExit('has a network')\n"
        "except OSError as error: assert 'refused' not in str(error), error\n"
    )
    done = subprocess.run(
        [*confined(), sys.executable, "-c", program],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_parquet_files_are_shown_where_bubblewrap_does_not_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parquet, "confined", tuple)
    found = look("t.parquet", as_parquet(pa.table({"a": [1, 2]}))).table
    assert found is not None and found.rows == (("1",), ("2",))


def test_times_with_a_zone_are_shown() -> None:
    at = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    table = pa.table({"at": pa.array([at], pa.timestamp("us", "Europe/Berlin"))})
    found = look("t.parquet", as_parquet(table)).table
    assert found is not None and found.rows == (("2026-03-01 13:00:00+01:00",),)
