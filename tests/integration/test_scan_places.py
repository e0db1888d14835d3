"""A scan of real places: a running PostgreSQL, its raw files, other files and a metrics page.

Each kind of place is tried with something to find (the positive control) and without.
"""

import os

import asyncpg
import pytest_asyncio

from telemetry.maintenance.canaries import Form
from telemetry.maintenance.scan import scan
from telemetry.maintenance.scan_places import BytesPlace, DatabasePlace, Exclusion, FilePlace
from tests.support.postgres import temporary_postgres

CANARIES = ["INV00000042", "gw-roof-17", "", "INV00000099"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server():
    async with temporary_postgres() as postgres:
        yield postgres


@pytest_asyncio.fixture
async def database(server):
    """A database of its own, gone afterwards."""
    admin = await asyncpg.connect(server.dsn())
    await admin.execute("create database planted")
    connection = await asyncpg.connect(server.dsn("planted"))
    yield connection
    await connection.close()
    await admin.execute("drop database planted")
    await admin.close()


def where(report):
    return {(finding.place.split(": ", 1)[-1], finding.canary, finding.form) for finding in report.findings}


async def test_nothing_is_found_where_nothing_is(tmp_path):
    (tmp_path / "log").write_text("INV00000043 and the like\n" * 1000)
    report = await scan([FilePlace("files", tmp_path)], CANARIES, self_test=True)
    assert report.clean
    assert report.control is True
    assert report.identifiers_found == 0
    assert list(tmp_path.iterdir()) == [tmp_path / "log"]


async def test_files_are_found_by_content_and_by_name(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.log").write_bytes(b"\x00" * 5_000_000 + "INV00000042".encode("utf-16-le"))
    (tmp_path / "gw-roof-17.log").write_text("nothing in it")
    report = await scan([FilePlace("files", tmp_path)], CANARIES)
    assert where(report) == {
        ("deep/a.log", 1, Form.UTF16),
        ("(a name that holds a canary)", 2, Form.TEXT),
    }
    assert "gw-roof-17" not in str(report.to_json())
    assert not report.clean


async def test_exclusions_are_printed_with_their_reason_and_links_are_not_followed(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    for folder in (inside, outside):
        (folder / "published.jsonl").write_text("INV00000042")
    (inside / "link").symlink_to(outside)
    os.mkfifo(inside / "pipe")
    (inside / "log").write_text("nothing")
    place = FilePlace("files", inside, [Exclusion(inside / "published.jsonl", "what the simulator published")])
    report = await scan([place], CANARIES)
    assert report.clean
    assert [(skip.place, skip.reason) for skip in report.skipped] == [
        ("files: published.jsonl", "what the simulator published")
    ]


async def test_what_cannot_be_read_is_not_clean(tmp_path):
    report = await scan([FilePlace("files", tmp_path / "missing")], CANARIES)
    assert not report.findings
    assert not report.clean
    dead = await scan([DatabasePlace("db", "postgresql://nobody@127.0.0.1:1/none")], CANARIES)
    assert not dead.clean

    def refuse():
        raise ConnectionRefusedError

    assert not (await scan([BytesPlace("metrics", refuse)], CANARIES)).clean


async def test_a_page_of_metrics(tmp_path):
    page = BytesPlace("metrics", lambda: b'telemetry_x{serial="INV00000099"} 1\n')
    report = await scan([page], CANARIES, self_test=True)
    assert report.control is True
    assert where(report) == {("metrics", 4, Form.TEXT)}


async def test_every_kind_of_column_of_every_schema(server, database):
    await database.execute(
        """
        create schema other;
        create table other.plain (id int, note text, raw bytea, tags text[], doc jsonb);
        insert into other.plain
            values (1, 'see inv00000042', 'gw-roof-17'::bytea, '{INV00000099}', '{"a": {"b": "INV00000042"}}');
        create table other.parted (at int, name text) partition by range (at);
        create table other.parted_1 partition of other.parted for values from (0) to (9);
        insert into other.parted values (1, 'gw-roof-17');
        create table other.long (body text);
        insert into other.long select repeat('x', 3000000) || 'INV00000042' || repeat('y', 3000000);
        comment on table other.plain is 'about INV00000099';
        create table other."INV00000042" (x int);
        alter table other.plain enable row level security;
        alter table other.plain force row level security;
        """
    )
    report = await scan([DatabasePlace("db", server.dsn())], CANARIES, self_test=True)
    assert report.complete
    assert report.control is True
    found = {(place.removeprefix("planted: "), canary, form) for place, canary, form in where(report)}
    assert found >= {
        ("other.plain.note", 1, Form.TEXT),
        ("other.plain.raw", 2, Form.HEX),
        ("other.plain.tags", 4, Form.TEXT),
        ("other.plain.doc", 1, Form.TEXT),
        ("other.parted_1.name", 2, Form.TEXT),
        ("other.long.body", 1, Form.TEXT),
        ("pg_catalog.pg_description.description", 4, Form.TEXT),
        ("pg_catalog.pg_class.relname", 1, Form.TEXT),
    }
    assert not any("INV00000042" in place for place, _, _ in found)


async def test_raw_files_still_hold_what_was_deleted(server, database):
    await database.execute("create table gone (name text); insert into gone values ('INV00000042')")
    await database.execute("delete from gone; checkpoint")
    tables = await scan([DatabasePlace("db", server.dsn())], CANARIES)
    assert not [finding for finding in tables.findings if finding.place.startswith("db: planted: public.gone")]
    files = await scan([FilePlace("cluster", server.place.cluster)], CANARIES)
    parts = {finding.place.removeprefix("cluster: ").split("/")[0] for finding in files.findings}
    assert {"base", "pg_wal"} <= parts


async def test_rows_hidden_by_row_security_make_the_scan_incomplete(server, database):
    await database.execute(
        """
        create role looker login password 'x';
        grant pg_read_all_data to looker;
        create table hidden (name text);
        alter table hidden enable row level security;
        insert into hidden values ('INV00000042');
        """
    )
    try:
        report = await scan([DatabasePlace("db", server.dsn("planted", "looker", "x"))], CANARIES)
    finally:
        await database.execute("drop table hidden; drop owned by looker; drop role looker")
    assert not report.complete
    assert "db: planted: public.hidden" in {skip.place for skip in report.skipped}
