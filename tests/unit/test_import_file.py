"""Reading an import file: every mistake is named by line and column, and no value is quoted."""

from pathlib import Path

import pytest

from telemetry.errors import InputError
from telemetry.model.identity import DAY_US, Enrolment
from telemetry.store.importing import read_import

HEADER = "owner,owner_name,site,site_name,latitude,longitude,gateway,enrolment,device_limit,backfill_days\n"
GOOD = "1,CANARY Owner,a,CANARY Home,47.5,8.25,gw-canary-1,known,12,3650\n"


def written(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "homes.csv"
    path.write_text(text, encoding=encoding)
    return path


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(InputError) as caught:
        read_import(written(tmp_path, text))
    assert "canary" not in str(caught.value).lower()
    return str(caught.value)


def test_a_row_becomes_owner_site_and_gateway(tmp_path: Path):
    (row,) = read_import(written(tmp_path, HEADER + GOOD))
    assert (row.owner.name, row.site.name) == ("CANARY Owner", "CANARY Home")
    assert (row.site.latitude, row.site.longitude) == (47.5, 8.25)
    assert row.gateway is not None
    assert (row.gateway.name, row.gateway.enrolment) == ("gw-canary-1", Enrolment.KNOWN)
    assert (row.gateway.device_limit, row.gateway.backfill_us) == (12, 3650 * DAY_US)


def test_what_spreadsheets_write_is_read(tmp_path: Path):
    (row,) = read_import(written(tmp_path, (HEADER + GOOD).replace("\n", "\r\n"), "utf-8-sig"))
    assert row.owner.name == "CANARY Owner"


def test_only_four_columns_are_needed_and_a_site_may_have_no_gateway_yet(tmp_path: Path):
    (row,) = read_import(written(tmp_path, "site_name,site,owner_name,owner\nHome,a,Owner,1\n"))
    assert row.gateway is None


def test_new_stands_for_a_random_name(tmp_path: Path):
    rows = read_import(written(tmp_path, "owner,owner_name,site,site_name,gateway\n" + "1,O,a,H,new\n" * 2))
    assert [row.gateway and row.gateway.name for row in rows] == ["", ""]


def test_no_row_shows_its_values(tmp_path: Path):
    (row,) = read_import(written(tmp_path, HEADER + GOOD))
    assert "canary" not in repr(row).lower()
    assert "47.5" not in repr(row)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1,,a,H,,,,,,\n", "the owner's name is empty"),
        ("1,O,a,,,,,,,\n", "the site's name is empty"),
        (",CANARY,a,H,,,,,,\n", "owner is empty"),
        ("1,O,,CANARY,,,,,,\n", "site is empty"),
        ("1,O,a,H,CANARY,8,,,,\n", "latitude is not a number"),
        ("1,O,a,H,91,8,,,,\n", "latitude must lie in -90 to 90"),
        ("1,O,a,H,nan,8,,,,\n", "latitude must lie in"),
        ("1,O,a,H,47,,,,,\n", "go together"),
        ("1,O,a,H,,,CANARY!,,,\n", "a gateway's name has"),
        ("1,O,a,H,,,telemetry-worker,,,\n", "the service's own"),
        ("1,O,a,H,,,new,canary,,\n", "enrolment is neither"),
        ("1,O,a,H,,,new,,canary,\n", "device_limit is not a number"),
        ("1,O,a,H,,,new,,-1,\n", "the device limit must lie"),
        ("1,O,a,H,,,new,,,inf\n", "backfill_days is out of range"),
        ("1,O,a,H,,,new,,,-2\n", "backfill_days is out of range"),
        ("1,O,a,H,,,new,,,1,CANARY\n", "more values than columns"),
        ("1,Someone CANARY else,b,H,,,,,,\n", "says something else about its owner than line 2"),
        ("1,CANARY Owner,a,Another CANARY,,,,,,\n", "says something else about its site than line 2"),
        ("1,CANARY Owner,a,CANARY Home,47.5,8.25,gw-canary-1,,,\n", "occurs twice"),
    ],
)
def test_each_mistake_is_named_by_its_line(tmp_path: Path, line: str, said: str):
    message = refused(tmp_path, HEADER + GOOD + line)
    assert message.startswith("line 3: ")
    assert said in message
    assert "nothing was imported" in message


def test_all_mistakes_come_at_once_up_to_twenty(tmp_path: Path):
    message = refused(tmp_path, HEADER + GOOD + ",O,a,H,,,,,,\n" * 30)
    assert "line 3: " in message
    assert "line 22: " in message
    assert "line 23: " not in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "missing owner"),
        (HEADER, "no rows"),
        ("owner,owner_name\n1,CANARY\n", "missing site, site_name"),
        ("owner,owner_name,site,site_name,canary\n", "column 5 is not known"),
        ("owner,owner_name,site,site_name,owner\n", "column owner occurs twice"),
        ("canary;with;semicolons\n1;2;3\n", "missing owner"),
        ('owner,owner_name,site,site_name\n1,"CANARY\n', "not CSV"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path: Path, text: str, said: str):
    assert said in refused(tmp_path, text)


def test_a_missing_file_or_another_encoding_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="cannot read"):
        read_import(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="UTF-8"):
        read_import(written(tmp_path, HEADER + GOOD.replace("CANARY", "Ä"), "latin-1"))
