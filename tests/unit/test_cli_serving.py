"""`nt-memory serve` and `nt-memory token` at the command line: what they refuse, and how."""

from __future__ import annotations

import logging

import pytest
from typer.testing import CliRunner

from nt_memory.apps.cli.main import app
from nt_memory.apps.server.tokens import TokenFile


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """`serve` sends a process's logs to stderr; here the process goes on."""
    loggers = [logging.getLogger(name) for name in ("nt_memory", "uvicorn", "asyncio")]
    before = [(one.handlers[:], one.propagate, one.level) for one in loggers]
    yield
    for one, (handlers, propagate, level) in zip(loggers, before, strict=True):
        one.handlers, one.propagate = handlers, propagate
        one.setLevel(level)


@pytest.fixture
def cli(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("serve", "--host", "0.0.0.0"), 2, "--tokens"),  # noqa: S104 - that is what is refused
        (("serve", "--tokens", "missing"), 1, "missing"),
        (("serve", "--certfile", "missing.pem"), 1, "No such file"),
        (("serve", "--keyfile", "key.pem"), 2, "--certfile"),
        (("serve", "--store", "missing", "--read-only"), 7, "missing"),
        (("token",), 2, "--operator"),
        (("token", "a b"), 2, "agent"),
        (("token", "scout", "--operator"), 2, "--operator"),
        (("token", "scout", "--tokens", "no/such/folder"), 1, "No such file"),
    ],
)
def test_what_is_wrong_is_one_line_and_an_exit_code(cli, arguments, code, said):
    """The exit codes of all commands; nothing is served, and no traceback is shown."""
    done = cli(*arguments, *(("--port", "0") if arguments[0] == "serve" else ()))
    assert done.exit_code == code, done.output
    assert said in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_a_token_is_printed_once_and_taken(cli, tmp_path):
    """What is printed is a token of the agent, or of the operator."""
    scout = cli("token", "scout", "--tokens", "book").output.strip()
    operator = cli("token", "--operator", "--tokens", "book").output.strip()
    book = TokenFile(tmp_path / "book")
    assert book.find(scout).agent == "scout"
    assert book.find(operator).agent == ""
