"""What a tool is: its arguments as a model, what it does with them, and what it answers.

A tool is a class. Its fields are the arguments, so that the schema which agents are shown and the
check of what they send are one thing; its docstring is the description; `run` calls the memory. An
argument that no field has is refused: an `as_of` that was spelled `asof` and ignored would let an
agent look ahead without anybody noticing.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from mcp_types import Tool as ListedTool
from mcp_types import ToolAnnotations
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode
from typing_extensions import override

from nt_memory.clock import to_us
from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from nt_memory.apps.mcp.desk import Turn

READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
"""Changes nothing."""
ADDS = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
)
"""Adds; what was there before stays readable."""
SETTLES = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
"""Adds, and repeating the call adds nothing."""
REPLACES = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=False
)
"""Takes the place of what was there, or takes it away."""
REMOVES = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)
"""Takes something away; it cannot be taken away twice."""


def parse_time(given: Any) -> datetime:
    """An aware time, from ISO 8601.

    Raises:
        ValueError: anything else, a naive time too.
    """
    if isinstance(given, str):
        try:
            given = datetime.fromisoformat(given)
        except ValueError:
            raise ValueError(
                f"{given!r} is not an ISO 8601 time such as 2026-03-02T16:00:00-05:00"
            ) from None
    to_us(given)
    time: datetime = given
    return time


def _parse_as_of(given: Any) -> datetime | int:
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    if isinstance(given, str) and given.isascii() and given.isdigit():
        return int(given)
    return parse_time(given)


def _from_text(given: Any) -> Any:
    """Some hosts send lists and objects as the text of their JSON."""
    if isinstance(given, str):
        try:
            parsed = json.loads(given)
        except (ValueError, RecursionError):
            return given
        if isinstance(parsed, list | dict):
            return parsed
    return given


_TIME_SCHEMA = {"type": "string", "format": "date-time"}
Time = Annotated[datetime, BeforeValidator(parse_time), WithJsonSchema(_TIME_SCHEMA)]
AsOf = Annotated[
    Annotated[
        datetime | int,
        BeforeValidator(_parse_as_of),
        WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, _TIME_SCHEMA]}),
    ]
    | None,
    Field(description="Only what was known then: a time with its offset, or a revision."),
]
Whose = Annotated[str | None, Field(description="Whose memory; by default your own.")]
Text = Annotated[str | None, Field(description="The situation in words; give this or `embedding`.")]
Vector = Annotated[
    Annotated[list[float], BeforeValidator(_from_text)] | None,
    Field(description="The situation as numbers; an agent's all have one length."),
]
Labels = Annotated[tuple[str, ...], BeforeValidator(_from_text)]
Agents = Annotated[
    Annotated[list[str], BeforeValidator(_from_text)] | None,
    Field(description="Whose memories; by default your own."),
]
Where = Annotated[
    Annotated[dict[str, Any], BeforeValidator(_from_text)] | None,
    Field(
        description='Fields their data must have, {"symbol": "AAPL"}, or {"op": "eq|ne|gt|gte|lt|lte",'
        ' "field": …, "value": …}, {"op": "in", "field": …, "values": […]}, {"op": "and|or", '
        '"filters": […]}.'
    ),
]
Fence = Annotated[
    int | None,
    Field(description="A lock's fence: the write is refused if that lock was lost meanwhile."),
]
RequestId = Annotated[
    str | None,
    Field(description="Your name for this call: calling again with it acts once."),
]
Cursor = Annotated[str | None, Field(description="`next_cursor` of the page before.")]
JsonObject = Annotated[dict[str, Any], BeforeValidator(_from_text)]


class Answer(BaseModel):
    """What a tool answers; its schema is the tool's output schema."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


class Tool(BaseModel):
    """Arguments of one call of one tool.

    Attributes:
        called: The tool's name.
        title: The same for people.
        effect: What it does to the memory, as hosts are told.
        answers: What `run` returns.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    called: ClassVar[str]
    title: ClassVar[str]
    effect: ClassVar[ToolAnnotations]
    answers: ClassVar[type[Answer]]

    @abstractmethod
    async def run(self, turn: Turn) -> Answer:
        """Do it.

        Raises:
            NtMemoryError: the memory refused.
        """

    def check_one(self, **given: object) -> None:
        """Refuse none and several of some arguments.

        Raises:
            InvalidInputError: not exactly one is given.
        """
        if sum(value is not None for value in given.values()) != 1:
            raise InvalidInputError(f"give exactly one of {' and '.join(given)}")


def listed(tool: type[Tool]) -> ListedTool:
    """A tool as hosts are told of it."""
    return ListedTool(
        name=tool.called,
        title=tool.title,
        description=" ".join((tool.__doc__ or "").split()),
        input_schema=_schema(tool, "validation", _TerseInput),
        output_schema=_schema(tool.answers, "serialization", _Terse),
        annotations=tool.effect,
    )


class _Terse(GenerateJsonSchema):
    """Without titles: they repeat the names, and agents pay for every word."""

    @override
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


class _TerseInput(_Terse):
    """An argument that may be left out is of its own type; null, which is taken too, is not told."""

    @override
    def nullable_schema(self, schema: Any) -> dict[str, Any]:
        return self.generate_inner(schema["schema"])

    @override
    def default_schema(self, schema: Any) -> dict[str, Any]:
        if schema.get("default", ...) is None:
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)


def _schema(
    model: type[BaseModel], mode: JsonSchemaMode, generator: type[GenerateJsonSchema]
) -> dict[str, Any]:
    schema = model.model_json_schema(mode=mode, schema_generator=generator)
    schema.pop("title", None)
    schema.pop("description", None)
    for inner in schema.get("$defs", {}).values():
        inner.pop("title", None)
        inner.pop("description", None)
    return schema
