"""Every role against every table, partition, view, sequence and function of both databases.

What exists is read from the catalogs: a new object that nobody wrote down here fails, and so does a right that is
more or less than what is written. Partitions and whoever reads them stand for all of their kind.
"""

import re
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from telemetry.store.migrate import DATABASES, ROLES
from tests.support.store import PASSWORD, Store, batch, this_hour_us

SCHEMAS = ("vault", "consent", "readings", "audit", "access", "keys", "migrations", "public")
PARTITION = re.compile(r"^(readings\.(?:hot|late|series|sealed))_\d+$")

# Object → role:rights. On the whole relation upper case: S(elect), I(nsert), U(pdate), D(elete), T(runcate),
# X (anything else); on some columns lower case. Q: uses a sequence, E: executes a function.
EXPECTED: dict[str, dict[str, str]] = {
    "telemetry": {
        "access.account": "access:SIu",
        "access.ask()": "access:E",
        "access.attempt": "access:SIUD",
        "access.claim": "access:SID",
        "access.day_key": "access:SID",
        "access.invitation": "rights:Su access:Siu",
        "access.letterbox()": "access:E",
        "access.reached()": "",
        "access.recovery_code": "access:SID",
        "access.request": "rights:Su access:S",
        "access.reset": "access:SID",
        "access.session": "access:SIuD",
        "access.sign_up": "access:SID",
        "access.token": "access:SIuD",
        "access.withdraw_request()": "access:E",
        "access.alert_mail": "access:SID",
        "access.outbox": "access:SIuD",
        "access.webhook": "access:SIuD",
        "audit.event": "rights:Si operator:Si access:i",
        "audit.event_event_key_seq": "",
        "audit.read": "views:i rights:S",
        "audit.read_read_key_seq": "",
        "consent.active_grant": "views:S rights:S operator:S",
        "consent.alert_sight()": "views:E",
        "consent.alert_subjects()": "rollup:E",
        "consent.apply_grant_version()": "",
        "consent.apply_keeping_version()": "",
        "consent.bluetooth": "ingest:S rights:SIUD operator:SIU",
        "consent.bump_version()": "ingest:E rights:E operator:E",
        "consent.cell_population()": "rollup:E",
        "consent.cells_granted()": "rollup:E",
        "consent.change": "ingest:S rights:S operator:S",
        "consent.connection_code": "rights:SID",
        "consent.device": "ingest:SI rollup:s views:s rights:SIUD operator:SIu",
        "consent.dirty_owner": "rights:SIUD operator:SIu",
        "consent.gateway": "ingest:S rights:SIUD operator:SIu",
        "consent.grant_version": "rights:SI",
        "consent.grants_in_force()": "",
        "consent.hold_version()": "ingest:E rollup:E",
        "consent.kept_since()": "views:E",
        "consent.keeping": "rights:S operator:S",
        "consent.keeping_version": "rights:SI",
        "consent.label_day": "rollup:SIu",
        "consent.member": "rights:SIu access:s",
        "consent.objection": "views:S rights:SIu",
        "consent.objection_objection_key_seq": "",
        "consent.owner": "ingest:S views:s rights:SIUD operator:SI access:s",
        "consent.owner_plan": "rights:SIUD operator:S",
        "consent.plan_class": "ingest:S rollup:S views:S rights:SI operator:S",
        "consent.policy": "views:s rights:S operator:S",
        "consent.prune_changes()": "rights:E operator:E",
        "consent.receipt": "rights:SI",
        "consent.prune_requests()": "rights:E",
        "consent.reading_position()": "views:E",
        "consent.recipient": "views:s rights:S operator:SIu access:s",
        "consent.recipients_placed()": "rollup:E",
        "consent.relation": "views:S rights:SIu operator:S",
        "consent.renewed_since()": "views:E",
        "consent.request": "rights:SuD",
        "consent.request_block": "rights:SID",
        "consent.restriction": "views:S rights:SIu operator:S",
        "consent.seen_devices()": "",
        "consent.seen_names()": "views:E",
        "consent.sight()": "views:E",
        "consent.site": "ingest:S views:s rights:SIUD operator:SIu",
        "consent.site_label": "rollup:SIuD views:s rights:S",
        "consent.site_place": "rollup:s views:s rights:S operator:SIu",
        "consent.start_site()": "",
        "consent.state": "ingest:S rollup:S views:S rights:S operator:S",
        "consent.tell_of_bluetooth()": "",
        "consent.viewing_owner()": "views:E",
        "consent.viewing_purpose()": "views:E",
        "consent.viewing_recipient()": "views:E",
        "consent.viewing_scope()": "",
        "consent.written_since()": "",
        "migrations.applied": "operator:S",
        "readings.alert": "rollup:SIuD views:S",
        "readings.alert_rhythm": "rollup:SIuD",
        "readings.codec_state": "ingest:SIu",
        "readings.drop_expired_partitions()": "rollup:E",
        "readings.drop_series()": "rollup:E",
        "readings.ensure_partitions()": "ingest:E rollup:E",
        "readings.ensure_series()": "rollup:E",
        "readings.first_ranges()": "ingest:E",
        "readings.forget_codec_state()": "",
        "readings.forget_codec_states_of_owner()": "",
        "readings.hot": "rollup:S views:S",
        "readings.hot_*": "ingest:SIU",
        "readings.late": "ingest:SIU rollup:S views:S",
        "readings.late_*": "",
        "readings.make_partition()": "",
        "readings.quarantine": "ingest:sIu operator:Su",
        "readings.quarantine_quarantine_key_seq": "",
        "readings.rollup_pass": "rollup:SU operator:s",
        "readings.rollup_state": "rollup:SIUD",
        "readings.seal_hot()": "rollup:E",
        "readings.sealed_hour": "rollup:S",
        "readings.sequence": "ingest:SIU operator:S",
        "readings.series": "rollup:SIUD views:S",
        "readings.series_*": "",
        "vault.entry": "ingest:I rights:SIUD operator:SIu",
    },
    "keys": {
        "keys.kek": "views:S keys:SIuD",
        "keys.owner_key": "views:s keys:SIuD",
        "keys.recipient_key": "views:Si keys:SIuD",
        "keys.refuse_retiring_kek()": "",
        "keys.tell_of_recipient_key()": "",
        "migrations.applied": "",
    },
}

_RIGHTS = """
SELECT n.nspname || '.' || c.relname AS name, c.relkind = 'S' AS is_sequence,
    CASE WHEN c.relkind = 'S'
        THEN CASE WHEN has_sequence_privilege($2::name, c.oid, 'USAGE, SELECT, UPDATE') THEN 'Q' ELSE '' END
        ELSE concat(
            CASE WHEN has_table_privilege($2::name, c.oid, 'SELECT') THEN 'S'
                WHEN has_any_column_privilege($2::name, c.oid, 'SELECT') THEN 's' END,
            CASE WHEN has_table_privilege($2::name, c.oid, 'INSERT') THEN 'I'
                WHEN has_any_column_privilege($2::name, c.oid, 'INSERT') THEN 'i' END,
            CASE WHEN has_table_privilege($2::name, c.oid, 'UPDATE') THEN 'U'
                WHEN has_any_column_privilege($2::name, c.oid, 'UPDATE') THEN 'u' END,
            CASE WHEN has_table_privilege($2::name, c.oid, 'DELETE') THEN 'D' END,
            CASE WHEN has_table_privilege($2::name, c.oid, 'TRUNCATE') THEN 'T' END,
            CASE WHEN has_any_column_privilege($2::name, c.oid, 'REFERENCES')
                OR has_table_privilege($2::name, c.oid, 'TRIGGER, MAINTAIN') THEN 'X' END
        )
    END AS held
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = ANY ($1::text[]) AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
UNION ALL
SELECT n.nspname || '.' || p.proname || '()', false,
    CASE WHEN has_function_privilege($2::name, p.oid, 'EXECUTE') AND has_schema_privilege($2::name, n.oid, 'USAGE')
        THEN 'E' ELSE '' END
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname = ANY ($1::text[])
ORDER BY 1
"""


async def rights_of(connection: Any, role: str) -> dict[str, str]:
    """Every object → what the role may do with it, by the server's own account; '' for nothing."""
    found: dict[str, str] = {}
    for row in await connection.fetch(_RIGHTS, list(SCHEMAS), role):
        name = PARTITION.sub(r"\1_*", row["name"])
        assert found.setdefault(name, row["held"]) == row["held"], f"{name} differs from others of its kind"
    return found


async def is_allowed(connection: Any, statement: str) -> bool:
    """Whether the server lets the session plan and begin a statement; it is not carried out."""
    try:
        await connection.execute(f"EXPLAIN {statement}")
    except asyncpg.InsufficientPrivilegeError:
        return False
    except asyncpg.PostgresError as error:
        assert error.sqlstate.startswith(("42", "55", "0A")), error  # noqa: PT017 - after the rights were checked
    return True


@pytest_asyncio.fixture
async def filled(store: Store) -> Store:
    """With a partition of every kind."""
    admin = await store.admin()
    await store.sink().write(batch({"ts": this_hour_us(), "device_key": 1, "ac_power_w": 1.0}))
    await admin.execute("SELECT readings.ensure_series(ARRAY[now()])")
    return store


@pytest.mark.parametrize("database", DATABASES)
async def test_what_every_role_may_do_is_written_down(filled: Store, database: str) -> None:
    admin = await filled.admin(database)
    held = {role: await rights_of(admin, role) for role in ROLES}
    found = {
        name: " ".join(f"{_short(role)}:{held[role][name]}" for role in ROLES if held[role][name])
        for name in held[ROLES[0]]
    }
    # Sealed hours exist only where some were sealed.
    assert {name: text for name, text in found.items() if name != "readings.sealed_*"} == EXPECTED[database]


def _short(role: str) -> str:
    return role.removeprefix("telemetry_")


def _attempts(name: str) -> dict[str, str]:
    return {
        "S": f"SELECT FROM {name}",
        "I": f"INSERT INTO {name} DEFAULT VALUES",
        "D": f"DELETE FROM {name}",
        "T": f"TRUNCATE {name}",
    }


@pytest.mark.parametrize("role", ROLES)
async def test_every_role_is_tried_against_every_table_and_partition(filled: Store, role: str) -> None:
    for database in DATABASES:
        if role == "telemetry_keys" and database == "telemetry":
            continue  # refused at the door, see below
        if database == "keys" and not any(f"{_short(role)}:" in text for text in EXPECTED[database].values()):
            continue
        admin = await filled.admin(database)
        held = await rights_of(admin, role)
        connection = await filled.role(_short(role), database)()
        filled.connections.append(connection)
        tables = await admin.fetch(
            "SELECT n.nspname || '.' || c.relname AS name FROM pg_class AS c JOIN pg_namespace AS n"
            " ON n.oid = c.relnamespace WHERE n.nspname = ANY ($1::text[]) AND c.relkind IN ('r', 'p', 'v', 'm')",
            list(SCHEMAS),
        )
        assert len(tables) > 2
        for table in tables:
            rights = held[PARTITION.sub(r"\1_*", table["name"])]
            for right, statement in _attempts(table["name"]).items():
                if right == "T":
                    continue  # cannot be planned without being done
                # Either names no column: a right on any of them will do.
                expected = right in rights or (right in "SI" and right.lower() in rights)
                assert await is_allowed(connection, statement) == expected, (role, statement)


async def test_doors_between_databases_are_closed(filled: Store) -> None:
    for role in ROLES:
        for database in DATABASES:
            texts = EXPECTED[database].values()
            knocked = asyncpg.connect(filled.postgres.dsn(database, role, PASSWORD))
            if any(f"{_short(role)}:" in text for text in texts):
                await (await knocked).close()
            else:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await knocked


async def test_ingest_can_open_nothing_that_is_sealed() -> None:
    sealed = {"vault.entry", "readings.quarantine", "keys.owner_key", "keys.recipient_key", "keys.kek"}
    tables = {**EXPECTED["telemetry"], **EXPECTED["keys"]}
    for name in sealed:
        rights = dict(part.split(":") for part in tables[name].split()).get("ingest", "")
        assert not set(rights) & set("SD"), name


async def test_ingest_reads_no_sealed_column(filled: Store) -> None:
    connection = await filled.connect("ingest")
    for statement in ("SELECT sealed FROM vault.entry", "SELECT sealed FROM readings.quarantine"):
        assert not await is_allowed(connection, statement)
