"""`nt-memory doctor`: look at everything, say what to do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from nt_memory.apps.cli import printing
from nt_memory.apps.cli.commands import Family
from nt_memory.apps.cli.exits import Exit
from nt_memory.apps.cli.options import AsJson, Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nt_memory.apps.cli.doctor.checks import Check, Patient

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


def doctor(*, store: Store = None, json: AsJson = False) -> None:
    """Look whether machine, disk and store are fit, and say what to do about what is not.

    Versions, processor, memory, huge pages, limits, fork, clock, permissions, file system, disk speed,
    space, the store, who writes it, how its embeddings fit the memory; and of servers that are named by a URL whether
    they answer, let this node in, and have all of the journal. Changes nothing; a store may be in use. Exit code 1 if something fails, 11 if it is a server that cannot be reached.
    """
    from nt_memory.apps.cli.doctor import disk, machine, network  # noqa: PLC0415 - slow
    from nt_memory.apps.cli.doctor import store as at_rest  # noqa: PLC0415
    from nt_memory.apps.cli.doctor.checks import examine  # noqa: PLC0415

    patient = _patient(store)
    here = (
        disk.check_permissions,
        disk.check_file_system,
        disk.check_disk_speed,
        disk.check_space,
        at_rest.check_store,
        at_rest.check_writer,
        at_rest.check_embeddings,
    )
    found = examine(
        patient,
        (
            machine.check_versions,
            machine.check_processor,
            machine.check_memory,
            machine.check_huge_pages,
            machine.check_limits,
            machine.check_fork,
            machine.check_clock,
            *(here if patient.url is None else ()),
            network.check_server,
            network.check_credentials,
            network.check_copies,
            network.check_vector_server,
        ),
    )
    _say(found, as_json=json)
    failed = {check.name for check in found if check.status == "fail"}
    if failed:
        is_away = failed <= {"server", "vector server"}
        raise typer.Exit(Exit.UNREACHABLE if is_away else Exit.FAILED)


def register(app: typer.Typer) -> None:
    """Add the command."""
    Family(app, "The store").add(
        doctor,
        "doctor",
        "doctor --store /data/memory",
        "doctor --store nats://127.0.0.1:4222",
        "doctor --json | jq '.checks[] | select(.status != \"ok\")'",
        document="Diagnosis",
    )


def _patient(store: str | None) -> Patient:
    import dataclasses  # noqa: PLC0415

    from nt_memory.apps.cli.doctor.checks import Patient, nearest  # noqa: PLC0415
    from nt_memory.config import MemoryConfig  # noqa: PLC0415

    config = MemoryConfig.from_env()
    given = store if store is not None else config.url
    url = given if given is not None and "://" in given else None
    if given is not None and url is None:
        config = dataclasses.replace(config, storage_path=given, url=None)
    path = Path(config.storage_path)
    return Patient(config, path, nearest(path), url)


def _say(found: Sequence[Check], *, as_json: bool) -> None:
    if as_json:
        from nt_memory.apps.cli import documents  # noqa: PLC0415 - numpy

        checks = [
            documents.Check(name=c.name, status=c.status, found=c.found, advice=c.advice)
            for c in found
        ]
        is_healthy = all(check.status != "fail" for check in found)
        printing.document(documents.Diagnosis(is_healthy=is_healthy, checks=checks))
        return
    if not sys.stdout.isatty():
        for check in found:
            printing.row(check.status, check.name, check.found, check.advice)
        return
    from rich.text import Text  # noqa: PLC0415 - slow, and not for pipes

    printing.table(
        ("", "what", "found", "what to do"),
        [(Text(c.status, style=_STYLES[c.status]), c.name, c.found, c.advice) for c in found],
    )
