"""Requests and responses as JSON: how they are read, checked and written."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from collections.abc import Callable, Coroutine
from datetime import datetime
from fractions import Fraction
from typing import Annotated, Any, ClassVar, NoReturn

import msgspec
import numpy as np
from fastapi import Header, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema
from starlette.types import Receive, Scope, Send

from nt_memory.apps.server.problems import Problem, refused
from nt_memory.codec.plain import from_plain, to_plain
from nt_memory.errors import ValueTooLargeError
from nt_memory.frozen import resident_bytes
from nt_memory.records import AsOf, Record
from nt_memory.timeline import AsOfLike

MAX_SENT_BYTES = 64 << 20
"""Larger values are not made into JSON: it takes several times their size."""
OFF_LOOP_BYTES = 256 << 10
MAX_DIM = 1 << 16
_DIGITS_IN_REVISION = 19
_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")

PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {
        "model": Problem,
        "description": text,
        "content": {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
        },
    }
    for code, text in (("4XX", "Refused; see `type`."), ("5XX", "Failed; see `type`."))
}


class PlainRequest(Request):
    """A request whose JSON is read strictly: no NaN, and anything odd is malformed."""

    async def json(self) -> Any:  # type: ignore[explicit-override]  # typing.override is 3.12
        """The body. What it raises, whatever it is, becomes a 400."""
        if not hasattr(self, "_json"):
            self._json = json.loads(await self.body(), parse_constant=_refuse_constant)
        return self._json


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class StrictRoute(APIRoute):
    """A route that reads its body as `PlainRequest`."""

    def get_route_handler(  # type: ignore[explicit-override]
        self,
    ) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of this route."""
        handle = super().get_route_handler()

        async def read_strictly(request: Request) -> Response:
            return await handle(PlainRequest(request.scope, request.receive))

        return read_strictly


class Body(BaseModel):
    """A body with these fields and no others, of these types and no others."""

    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")


def reply(content: Any, status: int = 200, **headers: str) -> Response:
    """A JSON response. NaN and infinite numbers, which JSON has not, become null."""
    return Response(
        to_json(content),
        status,
        media_type="application/json",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def to_json(content: Any) -> bytes:
    """What a response has, as JSON; NaN and infinite numbers become null."""
    return msgspec.json.encode(content, enc_hook=_spell)


def _spell(part: Any) -> Any:
    if isinstance(part, np.ndarray | np.generic):
        return part.tolist()
    if isinstance(part, Fraction):
        return str(part)
    raise TypeError(f"{type(part).__name__} has no JSON form here")  # pragma: no cover


# --- values -----------------------------------------------------------------------------------

Value = Annotated[
    Any,
    WithJsonSchema({"description": 'Any value. What JSON lacks is spelled `{"$type": ...}`.'}),
]


def to_value(given: Any) -> Any:
    """The value that a body means.

    Raises:
        CodecError: it is the JSON form of none.
    """
    return from_plain(given)


def bytes_of(value: Any) -> int:
    """About how many bytes a value takes, arrays over files included."""
    return resident_bytes(value) + _mapped_bytes(value)


def size_of(value: Any) -> int:
    """About how many bytes a value takes that is to be sent.

    Raises:
        ValueTooLargeError: too many to be sent as JSON.
    """
    size = bytes_of(value)
    if size > MAX_SENT_BYTES:
        raise ValueTooLargeError(f"a value of {size} bytes is too large to be sent as JSON")
    return size


def _mapped_bytes(value: Any) -> int:
    """Bytes of the arrays in a value: those over files count for nothing in memory."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(_mapped_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_mapped_bytes, value))
    return 0


def reply_with(make: Callable[[], Any], size: int) -> Response:
    """A JSON response whose content is made on another thread, and only when its turn comes, if large.

    Args:
        make: Makes the content.
        size: About how many bytes are in it, as of `size_of`.
    """
    return LargeResponse(make) if size > OFF_LOOP_BYTES else reply(make())


class LargeResponse(Response):
    """A response that takes much memory while it is made and sent: only a few exist at once.

    Otherwise clients that ask for large values and do not read them would fill the memory; the
    connection is cut once nothing of it was read for a while (`protocol`).
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
        self._make = make

    async def __call__(  # type: ignore[explicit-override]  # typing.override is 3.12
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Make it and send it.

        Raises:
            HTTPException: 503, if others are still being sent to clients that read slowly.
        """
        house = scope["app"].state.house
        try:
            async with asyncio.timeout(house.settings.write_timeout_s):
                await house.large.acquire()
        except TimeoutError:
            raise refused(503, "too many large responses are being sent", retry_after="5") from None
        try:
            data = await asyncio.to_thread(lambda: to_json(self._make()))
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(data)).encode()),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            # In pieces, each of which waits until most of those before it have been read.
            for first in range(0, len(data), OFF_LOOP_BYTES):
                piece = data[first : first + OFF_LOOP_BYTES]
                is_last = first + OFF_LOOP_BYTES >= len(data)
                await send({"type": "http.response.body", "body": piece, "more_body": not is_last})
        finally:
            house.large.release()


class RecordOut(BaseModel):
    """One version of one key."""

    agent: str
    key: str
    value: Value
    revision: int
    known_at: datetime
    recorded_at: datetime
    expires_at: datetime | None
    actor: str
    tags: list[str]


def spell_record(record: Record) -> dict[str, Any]:
    """A record as JSON."""
    return {
        "agent": record.agent,
        "key": record.key,
        "value": to_plain(record.value),
        "revision": record.revision,
        "known_at": record.known_at,
        "recorded_at": record.recorded_at,
        "expires_at": record.expires_at,
        "actor": record.actor,
        "tags": record.tags,
    }


def spell_fields(of: Any, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a dataclass or a named tuple by name, nested ones too; public ones only."""
    names: tuple[str, ...]
    if dataclasses.is_dataclass(of):
        names = tuple(field.name for field in dataclasses.fields(of))
    else:
        names = of._fields
    return {
        name: _spell_field(getattr(of, name))
        for name in names
        if name not in without and not name.startswith("_")
    }


def _spell_field(part: Any) -> Any:
    if hasattr(part, "_fields") or (dataclasses.is_dataclass(part) and not isinstance(part, type)):
        return spell_fields(part)
    if isinstance(part, tuple | list):
        return [_spell_field(one) for one in part]
    return part


# --- times ------------------------------------------------------------------------------------


def parse_time(given: Any) -> datetime:
    """An ISO 8601 time with its offset. A `+` that a URL turned into a blank is put back."""
    if isinstance(given, str):
        for text in (given, given.replace(" ", "+")):
            try:
                found = datetime.fromisoformat(text)
            except ValueError:
                continue
            if found.tzinfo is not None:
                return found
    raise ValueError("must be a time with its offset, such as 2026-03-02T16:00:00-05:00")


def parse_moment(given: Any) -> AsOfLike:
    """A revision, or a time."""
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    if isinstance(given, str) and given.isascii() and given.isdigit():
        if len(given) > _DIGITS_IN_REVISION:
            raise ValueError("must be a revision")
        return int(given)
    if isinstance(given, dict) and given.keys() == {"time", "revision"}:
        revision = given["revision"]
        if isinstance(revision, int) and not isinstance(revision, bool):
            return AsOf(parse_time(given["time"]), revision)
    return parse_time(given)


_TIME = {"type": "string", "format": "date-time"}
Time = Annotated[datetime, PlainValidator(parse_time), WithJsonSchema(_TIME)]
Moment = Annotated[
    Any,  # an `AsOfLike`, whose names pydantic cannot look up
    PlainValidator(parse_moment),
    WithJsonSchema(
        {
            "anyOf": [
                _TIME,
                {"type": "integer", "minimum": 0, "maximum": (1 << 63) - 1},
                {
                    "type": "object",
                    "properties": {"time": _TIME, "revision": {"type": "integer", "minimum": 0}},
                    "required": ["time", "revision"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]
AsOfQuery = Annotated[
    Annotated[
        datetime | int,  # FastAPI takes nothing but scalars in a query
        PlainValidator(parse_moment),
        WithJsonSchema({"anyOf": [_TIME, {"type": "string", "pattern": "^[0-9]{1,18}$"}]}),
    ]
    | None,
    Query(description="What was known then: a time with its offset, or a revision."),
]

# --- names and numbers ------------------------------------------------------------------------


def _refuse_odd(value: Any) -> Any:
    """In paths and queries numbers are strings, of which pydantic takes more than JSON writes: +0.0, 1_000."""
    if isinstance(value, str) and _JSON_NUMBER.fullmatch(value) is None:
        raise ValueError("not spelled as JSON spells numbers")
    return value


def _refuse_fractions(value: Any) -> Any:
    """The same of whole numbers, of which 1.0 is none."""
    if isinstance(value, str) and "." in value:
        raise ValueError("not a whole number")
    return _refuse_odd(value)


Number = Annotated[float, BeforeValidator(_refuse_odd)]
Whole = Annotated[int, BeforeValidator(_refuse_fractions)]

AGENT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$"
AgentName = Annotated[str, Field(pattern=AGENT_PATTERN)]
KeyName = Annotated[str, Field(min_length=1, max_length=256)]
Label = Annotated[str, Field(min_length=1, max_length=128)]
Tags = Annotated[list[Label], Field(max_length=64)]
Real = Annotated[float, Field(allow_inf_nan=False)]
Vector = Annotated[list[Real], Field(min_length=1, max_length=MAX_DIM)]
Revision = Annotated[Whole, Field(ge=0, le=(1 << 63) - 1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
RequestId = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=128,
        description="Repeated by the same caller, the request acts once and says the same again.",
    ),
]


class RevisionOut(BaseModel):
    """What a write returns."""

    revision: int
