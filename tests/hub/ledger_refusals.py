"""Requests that the API of the ledger has to refuse: a table. In paths and bodies ``PROJECT``,
``OWN`` and ``FOREIGN`` stand for ids of accounts, ``CHARGE`` and ``GRANTED`` for those of entries,
``SESSION`` for that of a session, ``ASKED`` for that of an open request of Olga's, and ``SOON`` for
a time in some weeks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BIGINT = 2**63
PAST, FUTURE = "2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z"
LONG = "x" * 501
WHY = "a good reason"
GIVE = {"microcredits": 1_000_000, "reason": WHY}
GRANTS = "/accounts/OWN/grants"
ADJUST = "/accounts/OWN/adjust"
TRANSFER = "/accounts/OWN/transfer"
REFUND = "/ledger/CHARGE/refund"


@dataclass(frozen=True)
class Bad:
    """One request, and the field that the refusal has to name, if any."""

    name: str
    method: str
    path: str
    body: Any = None
    field: str = ""
    status: tuple[int, ...] = (400,)
    headers: tuple[tuple[str, str], ...] = ()
    raw: bytes | None = None
    """Sent as it is, instead of ``body``."""


AMOUNTS: list[tuple[str, object]] = [
    ("nothing", 0),
    ("half a micro-credit", 0.5),
    ("a whole number with a point", 1.0),
    ("a number as text", "1000000"),
    ("credits as text", "1.00"),
    ("true", True),
    ("null", None),
    ("a list", [1]),
    ("an object", {"microcredits": 1}),
    ("more than any account", 10**15 + 1),
    ("the last BIGINT", BIGINT - 1),
    ("beyond BIGINT", BIGINT),
    ("far beyond BIGINT", 10**40),
    ("below BIGINT", -BIGINT - 1),
]

TEXTS: list[tuple[str, object]] = [
    ("empty", ""),
    ("blanks", "   "),
    ("two letters", "ab"),
    ("long", LONG),
    ("very long", "ü" * 10_000),
    ("with a NUL", "abc\x00def"),
    ("a number", 12345),
    ("null", None),
    ("a list", ["because"]),
]

TIMES: list[tuple[str, object]] = [
    ("without a zone", "2100-01-01T00:00:00"),
    ("a date", "2100-01-01"),
    ("seconds since 1970", 4102444800),
    ("seconds as text", "4102444800"),
    ("a word", "tomorrow"),
    ("a day that is none", "2100-02-30T00:00:00Z"),
    ("the year 9999 in the west", "9999-12-31T23:59:59-12:00"),
    ("the year 1 in the east", "0001-01-01T00:00:00+14:00"),
    ("in other digits", "٢١٠٠-01-01T00:00:00Z"),
    ("empty", ""),
    ("true", True),
]


def _amounts() -> list[Bad]:
    found = []
    for path in (GRANTS, ADJUST, TRANSFER, REFUND):
        target = {"to_account": "PROJECT"} if path is TRANSFER else {}
        for name, value in AMOUNTS:
            if not (path is REFUND and value is None):  # None is all of the charge
                body = {**GIVE, **target, "microcredits": value}
                found.append(Bad(f"{path}: {name}", "POST", path, body, "microcredits"))
    for path in (GRANTS, TRANSFER, REFUND):
        body = {"reason": WHY, "microcredits": -1, "to_account": "PROJECT"}
        if path is not TRANSFER:
            del body["to_account"]
        found.append(Bad(f"{path}: minus one", "POST", path, body, "microcredits"))
    return found


def _reasons() -> list[Bad]:
    return [
        Bad(f"{path}: reason {name}", "POST", path, {"microcredits": 1, "reason": value}, "reason")
        for path in (GRANTS, ADJUST, REFUND)
        for name, value in TEXTS
    ]


def _times() -> list[Bad]:
    found = [
        Bad(f"grant: {key} {name}", "POST", GRANTS, {**GIVE, key: value}, key)
        for key in ("starts_at", "ends_at")
        for name, value in TIMES
    ]
    rate = {"resource": "gpu", "microcredits": 1}
    found += [
        Bad(f"rate: valid_from {name}", "POST", "/rates", {**rate, "valid_from": value})
        for name, value in TIMES
    ]
    return found


GRANT_BODIES = [
    Bad("grant: no body", "POST", GRANTS, None),
    Bad("grant: an array", "POST", GRANTS, [GIVE]),
    Bad("grant: a text", "POST", GRANTS, "all of it"),
    Bad("grant: another field", "POST", GRANTS, {**GIVE, "account": "FOREIGN"}),
    Bad("grant: every day", "POST", GRANTS, {**GIVE, "every": "day"}, "every"),
    Bad("grant: carry over perhaps", "POST", GRANTS, {**GIVE, "carry_over": "perhaps"}),
    Bad("grant: from the past", "POST", GRANTS, {**GIVE, "starts_at": PAST}, "starts_at"),
    Bad("grant: expired", "POST", GRANTS, {**GIVE, "ends_at": PAST}, "ends_at"),
    Bad(
        "grant: over before it begins",
        "POST",
        GRANTS,
        {**GIVE, "starts_at": FUTURE, "ends_at": FUTURE},
        "ends_at",
    ),
    Bad("grant: on no account", "POST", "/accounts/none/grants", GIVE, status=(404,)),
    Bad("grant: too much in all", "POST", GRANTS, {**GIVE, "microcredits": 10**15}),
    Bad("grant: none to end", "DELETE", f"{GRANTS}/none", status=(404,)),
]

MOVES = [
    Bad("transfer: to nobody", "POST", TRANSFER, GIVE, ""),
    Bad("transfer: to two", "POST", TRANSFER, {**GIVE, "to_user": "max", "to_project": "vision"}),
    Bad("transfer: to itself", "POST", TRANSFER, {**GIVE, "to_account": "OWN"}),
    Bad("transfer: to a path", "POST", TRANSFER, {**GIVE, "to_account": "../etc"}, "to_account"),
    Bad("transfer: to a NUL", "POST", TRANSFER, {**GIVE, "to_user": "m\x00"}, "to_user"),
    Bad("transfer: to a list", "POST", TRANSFER, {**GIVE, "to_user": ["max"]}, "to_user"),
    Bad("transfer: to SQL", "POST", TRANSFER, {**GIVE, "to_user": "' OR 1=1 --"}, status=(404,)),
    Bad(
        "transfer: more than there is",
        "POST",
        TRANSFER,
        {**GIVE, "microcredits": 10**14, "to_account": "PROJECT"},
        status=(409,),
    ),
    Bad("transfer: from nowhere", "POST", "/accounts/none/transfer", GIVE),
    Bad("adjust: beyond all", "POST", ADJUST, {**GIVE, "microcredits": 10**15}),
    Bad("adjust: no account", "POST", "/accounts/none/adjust", GIVE, status=(404,)),
    Bad("adjust: another field", "POST", ADJUST, {**GIVE, "balance": 0}),
    Bad(
        "refund: more than the charge", "POST", REFUND, {**GIVE, "microcredits": 10**14}, "", (409,)
    ),
    Bad("refund: of a grant", "POST", "/ledger/GRANTED/refund", {"reason": WHY}, "", (409,)),
    Bad("refund: no such entry", "POST", "/ledger/999999/refund", {"reason": WHY}, "", (404,)),
    Bad("refund: entry -1", "POST", "/ledger/-1/refund", {"reason": WHY}, "", (404,)),
    Bad("refund: entry 1e3", "POST", "/ledger/1e3/refund", {"reason": WHY}, "", (404,)),
    Bad("refund: beyond BIGINT", "POST", f"/ledger/{BIGINT}/refund", {"reason": WHY}, "", (404,)),
    Bad("refund: in other digits", "POST", "/ledger/%D9%A1/refund", {"reason": WHY}, "", (404,)),
]

PROJECT = {"name": "chemistry"}
PROJECTS = [
    Bad(f"project: {name}", "POST", "/accounts", {**PROJECT, **change})
    for name, change in (
        ("no name", {"name": ""}),
        ("upper case", {"name": "Chemistry"}),
        ("a blank within", {"name": "che mistry"}),
        ("a slash", {"name": "che/mistry"}),
        ("dots", {"name": ".."}),
        ("a hyphen first", {"name": "-chemistry"}),
        ("letters that look alike", {"name": "сhemistry"}),
        ("a long name", {"name": "c" * 65}),
        ("a newline", {"name": "chemistry\nadmin"}),
        ("a name that is a number", {"name": 7}),
        ("a long title", {"title": "x" * 121}),
        ("a NUL in the title", {"title": "che\x00mistry"}),
        ("a budget of money", {"budget": 100}),
        ("an unknown budget", {"budget": "infinite"}),
        ("owners as text", {"owners": "olga"}),
        ("an owner without a name", {"owners": [""]}),
        ("a long owner", {"owners": ["x" * 256]}),
        ("an owner with a NUL", {"owners": ["o\x00"]}),
        ("too many owners", {"owners": [f"user-{n}" for n in range(101)]}),
        ("money at once", {"microcredits": 10}),
        ("a kind", {"kind": "user"}),
    )
]
PROJECTS += [
    Bad("project: there is one", "POST", "/accounts", {"name": "vision"}, "", (409,)),
    Bad("project: no body", "POST", "/accounts", None),
    Bad("change: nothing", "PATCH", "/accounts/PROJECT", {}),
    Bad("change: the balance", "PATCH", "/accounts/PROJECT", {"balance": 10}),
    Bad("change: the name", "PATCH", "/accounts/PROJECT", {"name": "mine"}),
    Bad("change: closed as text", "PATCH", "/accounts/PROJECT", {"closed": "yes"}, "closed"),
    Bad(
        "change: a person's account closed", "PATCH", "/accounts/OWN", {"closed": True}, "", (403,)
    ),
    Bad("change: a person's title", "PATCH", "/accounts/OWN", {"title": "Boss"}, "", (403,)),
    Bad(
        "member: an unknown role", "PUT", "/accounts/PROJECT/members/max", {"role": "boss"}, "role"
    ),
    Bad("member: a role as number", "PUT", "/accounts/PROJECT/members/max", {"role": 1}, "role"),
    Bad("member: another field", "PUT", "/accounts/PROJECT/members/max", {"rights": "all"}),
    Bad("member: blanks", "PUT", "/accounts/PROJECT/members/%20", {}, "user", (404,)),
    Bad("member: a NUL", "PUT", "/accounts/PROJECT/members/a%00b", {}, "", (404,)),
    Bad("member: a long name", "PUT", f"/accounts/PROJECT/members/{'x' * 256}", {}, "", (404,)),
    Bad("member: of a person", "PUT", "/accounts/OWN/members/max", {}, "", (403,)),
    Bad("member: who is not in it", "DELETE", "/accounts/PROJECT/members/stan", None, "", (404,)),
    Bad("member: the last owner", "DELETE", "/accounts/PROJECT/members/olga", None, "", (409,)),
]

RATE = {"resource": "gpu", "microcredits": 1_000_000}
RATES = [
    Bad(f"rate: {name}", "POST", "/rates", {**RATE, **change})
    for name, change in (
        ("no resource", {"resource": ""}),
        ("an unknown resource", {"resource": "electricity"}),
        ("minus one", {"microcredits": -1}),
        ("half", {"microcredits": 0.5}),
        ("as text", {"microcredits": "1000000"}),
        ("true", {"microcredits": True}),
        ("beyond BIGINT", {"microcredits": BIGINT}),
        ("more than a thousand credits", {"microcredits": 10**9 + 1}),
        ("from the past", {"valid_from": PAST}),
        ("a model of memory", {"resource": "memory_gib", "gpu_model": "A100"}),
        ("an unknown tier", {"tier": "platinum"}),
        ("a long model", {"gpu_model": "A" * 256}),
        ("a model with a NUL", {"gpu_model": "A\x00"}),
        ("another field", {"currency": "EUR"}),
    )
]

QUERIES = [
    Bad(f"query: {path}", "GET", path, None, "", (status,))
    for path, status in (
        ("/ledger?cursor=-1", 400),
        ("/ledger?cursor=1e9", 400),
        ("/ledger?cursor=abc", 400),
        ("/ledger?cursor=%D9%A1", 400),
        ("/ledger?cursor=9223372036854775808", 400),
        ("/ledger?cursor=" + "9" * 100, 400),
        ("/ledger?limit=0", 400),
        ("/ledger?limit=501", 400),
        ("/ledger?limit=-5", 400),
        ("/ledger?limit=1.5", 400),
        ("/ledger?limit=1&limit=2", 400),
        ("/ledger?kind=theft", 400),
        ("/ledger?kind=charge,grant", 400),
        ("/ledger?since=yesterday", 400),
        ("/ledger?since=2030-01-01", 400),
        ("/ledger?since=1700000000", 400),
        ("/ledger?until=9999-12-31T23:59:59-12:00", 400),
        ("/ledger?account=none", 404),
        ("/ledger?account=..%2f", 400),
        ("/ledger?account=%00", 400),
        ("/ledger?account=%ff", 400),
        ("/ledger?account=" + "a" * 65, 400),
        ("/ledger?balance=1", 400),
        ("/ledger?workload=none", 404),
        ("/ledger?workload=%00", 400),
        ("/usage?group_by=", 400),
        ("/usage?group_by=colour", 400),
        ("/usage?group_by=day,day", 400),
        ("/usage?group_by=day,month", 400),
        ("/usage?group_by=day%00", 400),
        ("/usage?cursor=x", 400),
        ("/usage?since=2030-01-02T00:00:00Z&until=2030-01-01T00:00:00Z", 400),
        ("/usage?user=%00", 400),
        ("/usage?user=" + "u" * 256, 400),
        ("/usage?account=none", 404),
        ("/usage?gpu_model=%00", 400),
        ("/usage/sessions?state=lost", 400),
        ("/usage/sessions?cursor=-7", 400),
        ("/usage/sessions?account=none", 404),
        ("/usage/sessions/none", 404),
        ("/usage/sessions/..%2f..%2fetc", 404),
        ("/usage/sessions/%00", 404),
        ("/usage/sessions/none/measures", 404),
        ("/usage/sessions/SESSION/measures?seconds=1", 400),
        ("/usage/sessions/SESSION/measures?seconds=ten", 400),
        ("/usage/sessions/SESSION/measures?since=now", 400),
        ("/usage/sessions/SESSION/costs", 404),
        ("/accounts?kind=bank", 400),
        ("/accounts?cursor=1%00", 400),
        ("/accounts?name=%00", 400),
        ("/accounts?mine=perhaps", 400),
        ("/accounts/none", 404),
        ("/accounts/none/grants", 404),
        ("/accounts/PROJECT/grants?cursor=x", 400),
        ("/rates?at=soon", 400),
        ("/rates?resource=water", 400),
        ("/rates?cursor=%20", 400),
    )
]

METHODS = [
    Bad(f"method: {method} {path}", method, path, {}, "", (405,))
    for method, path in (
        ("POST", "/usage"),
        ("DELETE", "/ledger"),
        ("PATCH", "/ledger"),
        ("PUT", "/accounts/OWN"),
        ("DELETE", "/accounts/OWN"),
        ("PATCH", "/accounts/OWN/grants"),
        ("DELETE", "/rates"),
    )
]

RAW = [
    Bad(f"raw: {name}", "POST", ADJUST, raw=body, status=(status,))
    for name, body, status in (
        ("not JSON", b"{microcredits", 400),
        ("half a JSON", b'{"microcredits": 1, "rea', 400),
        ("NaN", b'{"microcredits": NaN, "reason": "abc"}', 400),
        ("infinity", b'{"microcredits": Infinity, "reason": "abc"}', 400),
        ("minus infinity", b'{"microcredits": -Infinity, "reason": "abc"}', 400),
        ("1e400", b'{"microcredits": 1e400, "reason": "abc"}', 400),
        ("1e3", b'{"microcredits": 1e3, "reason": "abc"}', 400),
        (
            "a number of 5000 digits",
            b'{"microcredits": ' + b"9" * 5000 + b', "reason": "abc"}',
            400,
        ),
        ("hexadecimal", b'{"microcredits": 0x10, "reason": "abc"}', 400),
        ("a leading zero", b'{"microcredits": 010, "reason": "abc"}', 400),
        ("not UTF-8", b'{"microcredits": 1, "reason": "\xff\xfe abc"}', 400),
        ("half a surrogate", b'{"microcredits": 1, "reason": "abc \\ud800"}', 400),
        ("an escaped NUL", b'{"microcredits": 1, "reason": "abc\\u0000"}', 400),
        ("deep", b"[" * 5000, 400),
        ("large", b'{"reason": "' + b"x" * 70_000 + b'"}', 413),
        ("a form", b"microcredits=1&reason=abc", 400),
    )
]

KEYS = [
    Bad(
        f"key: {name}",
        "POST",
        ADJUST,
        {**GIVE, "microcredits": 5},
        "Idempotency-Key",
        headers=(("Idempotency-Key", key),),
    )
    for name, key in (
        ("empty", ""),
        ("long", "k" * 129),
        ("a blank", "a b"),
        ("other", "schlüssel"),
    )
]

LIMIT = "/limits/mia/gpus"
SET = {"value": 3, "reason": WHY}
LIMITS = [
    Bad(f"limit: gpus {name}", "PUT", LIMIT, {"reason": WHY, "value": value})
    for name, value in (
        ("true", True),
        ("as text", "3"),
        ("minus one", -1),
        ("one and a half", 1.5),
        ("a list", ["A100"]),
        ("an object", {"gpus": 3}),
        ("beyond BIGINT", BIGINT),
        ("far beyond BIGINT", 10**40),
    )
]
LIMITS += [
    Bad(f"limit: {limit} {name}", "PUT", f"/limits/mia/{limit}", {"reason": WHY, "value": value})
    for limit, name, value in (
        ("memory_gib", "nothing", 0),
        ("memory_gib", "1e300", 1e300),
        ("hours", "nothing", 0),
        ("gpu_hours_week", "minus", -0.5),
        ("gpu_models", "none", []),
        ("gpu_models", "without a name", [""]),
        ("gpu_models", "a number", [1]),
        ("gpu_models", "a NUL", ["A\x00"]),
        ("gpu_models", "as text", "A100"),
        ("gpu_models", "too many", [f"model-{n}" for n in range(51)]),
        ("tier", "unknown", "platinum"),
        ("tier", "a number", 1),
        ("role", "unknown", "king"),
        ("role", "none", None),
        ("credits", "of another kind", 5),
        ("GPUs", "in capitals", 5),
        ("%20", "blank", 5),
    )
]
LIMITS += [
    Bad("limit: no value", "PUT", LIMIT, {"reason": WHY}, "value"),
    Bad("limit: no reason", "PUT", LIMIT, {"value": 3}, "reason"),
    Bad("limit: expired", "PUT", LIMIT, {**SET, "ends_at": PAST}, "ends_at"),
    Bad("limit: the end no time", "PUT", LIMIT, {**SET, "ends_at": "never"}, "ends_at"),
    Bad("limit: another field", "PUT", LIMIT, {**SET, "user": "olga"}),
    Bad("limit: NaN", "PUT", LIMIT, raw=b'{"value": NaN, "reason": "abc"}'),
    Bad("limit: infinity", "PUT", LIMIT, raw=b'{"value": Infinity, "reason": "abc"}'),
    Bad("limit: 1e400", "PUT", "/limits/mia/cpus", raw=b'{"value": 1e400, "reason": "abc"}'),
    Bad("limit: nobody", "PUT", "/limits/%20/gpus", SET, "user", (404,)),
    Bad("limit: a NUL", "PUT", "/limits/m%00/gpus", SET, "", (404,)),
    Bad("limit: a newline", "PUT", "/limits/m%0Aia/gpus", SET, "user"),
    Bad("limit: a long name", "PUT", f"/limits/{'m' * 256}/gpus", SET, "", (404,)),
    Bad("limit: nothing to take back", "DELETE", LIMIT, None, "", (404,)),
    Bad("limit: of no limit", "DELETE", "/limits/mia/nothing", None, "", (404,)),
    Bad("limit: looked at with a NUL", "GET", "/limits/m%00", None, "", (404,)),
]

ASK = {"what": "credits", "value": 5_000_000, "reason": WHY, "until": "SOON"}
ASKS = [
    Bad(f"ask: {name}", "POST", "/requests", {**ASK, **change}, about)
    for name, change, about in (
        ("nothing", {"value": 0}, "value"),
        ("minus", {"value": -5}, "value"),
        ("half a micro-credit", {"value": 0.5}, "value"),
        ("credits as text", {"value": "5.00"}, "value"),
        ("true", {"value": True}, ""),
        ("null", {"value": None}, ""),
        ("far beyond BIGINT", {"value": 10**40}, "value"),
        ("no end", {"until": None}, "until"),
        ("for the past", {"until": PAST}, "until"),
        ("for ever", {"until": "2150-01-01T00:00:00Z"}, "until"),
        ("without a zone", {"until": "2030-01-01T00:00:00"}, "until"),
        ("power", {"what": "power"}, "what"),
        ("no reason", {"reason": ""}, "reason"),
        ("a long reason", {"reason": LONG}, "reason"),
        ("a NUL", {"reason": "abc\x00"}, "reason"),
        ("an unknown limit", {"what": "limit", "limit": "fame"}, "limit"),
        ("no limit", {"what": "limit"}, "limit"),
        ("a limit with a NUL", {"what": "limit", "limit": "gpus\x00"}, "limit"),
        ("the role as a limit", {"what": "limit", "limit": "role", "value": "admin"}, ""),
        ("an unknown role", {"what": "role", "value": "king"}, "value"),
        ("a role as number", {"what": "role", "value": 1}, "value"),
        ("GPUs as text", {"what": "limit", "limit": "gpus", "value": "many"}, "value"),
        ("minus one GPU", {"what": "limit", "limit": "gpus", "value": -1}, "value"),
        ("for somebody else", {"user": "olga"}, ""),
        ("a wrong id", {"account": "../etc"}, "account"),
    )
]
ASKS += [
    Bad(
        "ask: for another's account", "POST", "/requests", {**ASK, "account": "FOREIGN"}, "", (404,)
    ),
    Bad("ask: for no account", "POST", "/requests", {**ASK, "account": "none"}, "", (404,)),
    Bad(
        "ask: for what one has",
        "POST",
        "/requests",
        {**ASK, "what": "limit", "limit": "gpus", "value": 1},
        "",
        (409,),
    ),
    Bad("answer: no such request", "POST", "/requests/none/grant", {}, "", (404,)),
    Bad("answer: decline without a word", "POST", "/requests/none/decline", {}, "words"),
    Bad("answer: decline nothing", "POST", "/requests/none/decline", {"words": WHY}, "", (404,)),
    Bad("answer: withdraw nothing", "POST", "/requests/none/withdraw", None, "", (404,)),
    Bad("answer: a NUL", "POST", "/requests/%00/grant", {}, "", (404,)),
    Bad("answer: until the past", "POST", "/requests/ASKED/grant", {"until": PAST}, "until"),
    Bad("answer: minus", "POST", "/requests/ASKED/grant", {"value": -1}, "value"),
    Bad("answer: far too much", "POST", "/requests/ASKED/grant", {"value": 10**40}, "value"),
    Bad("answer: text", "POST", "/requests/ASKED/grant", {"value": "all"}, "value"),
    Bad("answer: another field", "POST", "/requests/ASKED/grant", {"to": "olga"}),
    Bad("answer: short words", "POST", "/requests/ASKED/decline", {"words": "no"}, "words"),
    Bad("answer: another's withdrawn", "POST", "/requests/ASKED/withdraw", None, "", (403,)),
    Bad("requests: a state", "GET", "/requests?state=lost"),
    Bad("requests: a cursor", "GET", "/requests?cursor=lost", None, "cursor"),
    Bad("requests: a NUL", "GET", "/requests?user=%00"),
    Bad("requests: one", "GET", "/requests/none", None, "", (404,)),
]

REFUSED: list[Bad] = [
    *_amounts(),
    *_reasons(),
    *_times(),
    *GRANT_BODIES,
    *MOVES,
    *PROJECTS,
    *RATES,
    *QUERIES,
    *METHODS,
    *RAW,
    *KEYS,
    *LIMITS,
    *ASKS,
]


def filled(value: Any, names: dict[str, str]) -> Any:
    """A path or body with ids in it."""
    if isinstance(value, str):
        for name, identifier in names.items():
            value = value.replace(name, identifier)
        return value
    if isinstance(value, dict):
        return {key: filled(each, names) for key, each in value.items()}
    return [filled(each, names) for each in value] if isinstance(value, list) else value
