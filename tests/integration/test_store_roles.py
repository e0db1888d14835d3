"""Roles and what they hold: nobody but the migrations' owner owns anything, PUBLIC holds nothing."""

from datetime import UTC, datetime

import asyncpg
import pytest

from telemetry.model.fields import CATALOGUE, FieldKind
from telemetry.store.migrate import DATABASES, ROLES
from tests.support.store import Store, batch, this_hour_us

OURS = ("vault", "consent", "readings", "audit", "keys", "migrations", "public")


class TestSchema:
    async def test_the_columns_of_readings_are_the_catalogue(self, store: Store) -> None:
        admin = await store.admin()
        expected = [
            ("ts", "timestamp with time zone"),
            ("device_key", "bigint"),
            ("plan_version", "bigint"),
            *((f.name, "bigint" if f.kind is FieldKind.STATUS else "double precision") for f in CATALOGUE),
        ]
        for table, rest in (("hot", []), ("late", [("received_hour", "timestamp with time zone")])):
            rows = await admin.fetch(
                "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute"
                " WHERE attrelid = $1::text::regclass AND attnum > 0 ORDER BY attnum",
                f"readings.{table}",
            )
            assert [tuple(row) for row in rows] == expected + rest

    async def test_no_login_role_owns_anything_or_is_more_than_a_role(self, store: Store) -> None:
        admin = await store.admin()
        rows = await admin.fetch(
            "SELECT rolname, rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication AS mighty,"
            " rolcanlogin,"
            " (SELECT count(*) FROM pg_class WHERE relowner = r.oid AND relpersistence <> 't') AS owns,"
            " (SELECT count(*) FROM pg_auth_members WHERE member = r.oid) AS member_of"
            " FROM pg_roles r WHERE rolname = ANY($1) OR rolname = 'telemetry_owner'",
            list(ROLES),
        )
        assert len(rows) == len(ROLES) + 1
        for row in rows:
            login = row["rolname"] != "telemetry_owner"
            assert (row["mighty"], row["rolcanlogin"], row["member_of"]) == (False, login, 0)
            assert not login or row["owns"] == 0

    async def test_public_holds_nothing(self, store: Store) -> None:
        for database in DATABASES:
            admin = await store.admin(database)
            rows = await admin.fetch(
                "SELECT object FROM ("
                " SELECT datname::text AS object, coalesce(datacl, acldefault('d', datdba)) AS acl"
                "   FROM pg_database WHERE datname = current_database()"
                " UNION ALL SELECT nspname, coalesce(nspacl, acldefault('n', nspowner)) FROM pg_namespace"
                "   WHERE nspname = ANY($1)"
                " UNION ALL SELECT relname, coalesce(relacl, acldefault('r', relowner)) FROM pg_class c"
                "   JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = ANY($1)"
                "   AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f')"
                " UNION ALL SELECT proname, coalesce(proacl, acldefault('f', proowner)) FROM pg_proc p"
                "   JOIN pg_namespace n ON n.oid = pronamespace WHERE nspname = ANY($1)"
                ") AS objects CROSS JOIN LATERAL aclexplode(acl) AS privilege WHERE privilege.grantee = 0",
                list(OURS),
            )
            assert [row["object"] for row in rows] == []

    async def test_definer_functions_pin_their_search_path(self, store: Store) -> None:
        admin = await store.admin()
        loose = await admin.fetch(
            "SELECT proname FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace"
            " WHERE nspname = ANY($1) AND prosecdef"
            " AND NOT coalesce(proconfig::text, '') LIKE '%search_path=pg_catalog, pg_temp%'",
            list(OURS),
        )
        assert loose == []


HOT = "readings.hot_{hour:%Y%m%d%H}"
SERIES = "readings.series_{hour:%Y%m}"
DENIED = {
    "ingest": [
        "SELECT * FROM vault.entry",
        "SELECT * FROM readings.hot",
        "INSERT INTO readings.hot (ts, device_key, plan_version) VALUES (now(), 1, 1)",
        "DELETE FROM readings.late",
        "DELETE FROM readings.sequence",
        "SELECT sealed FROM readings.quarantine",
        "UPDATE readings.quarantine SET state = 'discarded'",
        "SELECT readings.drop_expired_partitions(2)",
        "SELECT readings.make_partition('hot', now())",
        "UPDATE consent.state SET version = 9",
        "SELECT * FROM readings.rollup_state",
        "SELECT * FROM readings.rollup_pass",
        "SELECT * FROM readings.series",
        f"SELECT * FROM {SERIES}",
        "SELECT readings.seal_hot(now() - interval '9 hours', 2)",
        "SELECT readings.ensure_series(ARRAY[now()])",
        "SELECT readings.drop_series(now())",
        "SELECT * FROM migrations.applied",
        "CREATE TABLE public.mine ()",
        "CREATE SCHEMA mine",
        "SET ROLE telemetry_owner",
        f"DELETE FROM {HOT}",
        f"TRUNCATE {HOT}",
    ],
    "rollup": [
        "SELECT * FROM vault.entry",
        f"SELECT * FROM {HOT}",
        "SELECT * FROM readings.quarantine",
        "SELECT consent.bump_version()",
        f"SELECT * FROM {SERIES}",
        f"INSERT INTO {SERIES} SELECT * FROM {SERIES}",
        f"DELETE FROM {SERIES}",
        "DELETE FROM readings.hot",
        "UPDATE readings.late SET ac_power_w = 1",
        "SELECT serial_blind FROM consent.device",
        "SELECT cell7 FROM consent.site_place",
        "SELECT * FROM consent.site",
        "SELECT * FROM consent.active_grant",
        "CREATE TEMPORARY TABLE mine ()",
    ],
    "views": [
        "SELECT * FROM vault.entry",
        f"SELECT * FROM {HOT}",
        "INSERT INTO readings.late (ts, device_key, plan_version, received_hour) VALUES (now(), 1, 1, now())",
        "SELECT serial_blind FROM consent.device",
        "SELECT cell7 FROM consent.site_place",
        "SELECT * FROM audit.read",
        "SELECT * FROM consent.grants_in_force()",
        f"SELECT * FROM {SERIES}",
        "SELECT readings.seal_hot(now() - interval '9 hours', 2)",
        "SELECT * FROM readings.quarantine",
        "CREATE TEMPORARY TABLE mine ()",
    ],
    "rights": [
        "SELECT * FROM readings.hot",
        f"SELECT * FROM {HOT}",
        f"SELECT * FROM {SERIES}",
        "CREATE TEMPORARY TABLE mine ()",
    ],
    "operator": [
        "SELECT * FROM readings.hot",
        f"SELECT * FROM {HOT}",
        f"DELETE FROM {HOT}",
        "SELECT * FROM readings.series",
        f"SELECT * FROM {SERIES}",
        "SELECT readings.drop_series(now())",
        "DELETE FROM readings.quarantine",
        "UPDATE readings.quarantine SET digest = ''",
        "UPDATE readings.sequence SET highest = 0",
        "CREATE TEMPORARY TABLE mine ()",
    ],
}


@pytest.mark.parametrize("role", DENIED)
async def test_what_each_role_must_not_do(store: Store, role: str) -> None:
    await store.sink().write(batch({"ts": this_hour_us(), "device_key": 1, "ac_power_w": 1.0}))
    await (await store.connect("rollup")).execute("SELECT readings.ensure_series(ARRAY[now()])")
    connection = await store.connect(role)
    hour = datetime.fromtimestamp(this_hour_us() / 1e6, UTC)
    allowed = []
    for statement in DENIED[role]:
        try:
            await connection.execute(statement.format(hour=hour))
        except asyncpg.InsufficientPrivilegeError:
            continue
        allowed.append(statement)
    assert allowed == []


@pytest.mark.parametrize("role", ["rollup", "rights", "operator", "ingest"])
async def test_only_the_roles_of_keys_and_views_reach_the_database_of_keys(store: Store, role: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(store.postgres.dsn("keys", f"telemetry_{role}", "made-up"))
