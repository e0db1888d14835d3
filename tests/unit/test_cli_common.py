"""What every command shares: keys as people handle them, and errors as one line."""

import subprocess
import sys

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from telemetry.__main__ import ENTRIES, build
from telemetry.cli.common import database_dsn, format_key, parse_key, reported
from telemetry.config import load_config
from telemetry.errors import InputError, KeystoreError, StoreError

KINDS = st.sampled_from(["owner", "site", "gateway", "device"])


@given(KINDS, st.integers(-(2**63), 2**63 - 1))
def test_keys_come_back_as_they_were_shown(kind: str, key: int):
    shown = format_key(kind, key)
    assert len(shown) == 18
    assert parse_key(kind, shown) == key
    assert parse_key(kind, str(key)) == key


@pytest.mark.parametrize("text", ["", "s_00", "o_xyz", "gw-1", "o_" + "f" * 17])
def test_what_is_no_key_of_that_kind_is_refused(text: str):
    with pytest.raises(InputError):
        parse_key("owner", text)


def test_an_error_is_one_line_with_its_remedy_and_code_2(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(typer.Exit) as caught, reported():
        raise KeystoreError("something\nis [bold]wrong[/bold]", remedy="mend it")
    assert caught.value.exit_code == 2
    assert capsys.readouterr().err == "error: something is [bold]wrong[/bold] (mend it)\n"


def test_a_group_of_errors_is_a_line_each(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(typer.Exit), reported():
        raise BaseExceptionGroup("tasks", [StoreError("one"), ExceptionGroup("more", [StoreError("two")])])
    assert capsys.readouterr().err == "error: one\nerror: two\n"


def test_a_defect_is_not_passed_off_as_an_error_of_the_user():
    with pytest.raises(ExceptionGroup), reported():
        raise ExceptionGroup("tasks", [StoreError("one"), ZeroDivisionError()])


def test_the_keys_are_on_the_same_server_unless_told_otherwise():
    same = load_config(embedded=False, database={"dsn": "postgresql://db.example:5433/telemetry?sslmode=require"})
    assert database_dsn(same, "keys") == "postgresql://db.example:5433/keys?sslmode=require"
    other = load_config(embedded=False, database={"dsn": "postgresql://a/t", "keys_dsn": "postgresql://b/k"})
    assert database_dsn(other, "keys") == "postgresql://b/k"
    assert database_dsn(other) == "postgresql://a/t"


def leaves(command):
    """The command itself, or all commands below a group."""
    below = getattr(command, "commands", None)
    return [leaf for each in below.values() for leaf in leaves(each)] if below else [command]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_command_loads_and_says_how_it_is_used(entry):
    command = build((entry,)).commands[entry.name].load()
    for leaf in leaves(command):
        assert "Example: telemetry " in leaf.help
        assert leaf.name in leaf.help


def test_help_lists_every_command_without_importing_any():
    code = (
        "import sys\nfrom telemetry.__main__ import build\n"
        "try:\n    build()(args=['--help'], prog_name='telemetry')\nexcept SystemExit: pass\n"
        "heavy = {'polars', 'asyncpg', 'numpy', 'pydantic', 'cryptography'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for entry in ENTRIES:
        assert entry.name in done.stdout
