"""Default deny, in every format: what a firmware adds tomorrow is withheld and counted, and changes nothing else."""

import base64
import json
from collections import Counter

import pytest

from device_sim.dialects.sparkplug import block, double, integer
from tests.support.golden import cases, load, payload, told

TOMORROW = "tomorrow"
SECRET = "Beispielgasse 12"


def named(*formats):
    return [pytest.param(case, id=f"{case.parent.name}/{case.name}") for case in cases(*formats)]


def added(before, after):
    return Counter(after["unlisted"]) - Counter(before["unlisted"])


@pytest.mark.parametrize("path", named("opendtu", "ahoydtu", "evcc"))
def test_a_new_topic_beside_each_that_is_known(path):
    """One scalar a topic: a sibling of every topic that made a row."""
    messages = load(path)
    before = told(messages)
    known = [messages[row["message"]]["topic"] for row in before["rows"]]
    new = [{"topic": f"{topic.rpartition('/')[0]}/{TOMORROW}", "text": "1.5"} for topic in known]
    new += [{"topic": f"{topic.rpartition('/')[0]}/{TOMORROW}", "text": SECRET} for topic in known]
    after = told(messages + new)
    assert after["rows"] == before["rows"]
    denied = after["withheld"].get("unlisted", 0) - before["withheld"].get("unlisted", 0)
    assert sum(added(before, after).values()) == denied
    unknown = [one for one in after["rejected"] if one[1] == "unknown_topic"]  # sealed: another format's, as it looks
    assert denied + len(unknown) == len(new)
    assert SECRET not in json.dumps(after)


def objects_in(value, path=()):
    if isinstance(value, dict):
        yield path
        for name, inner in value.items():
            yield from objects_in(inner, (*path, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from objects_in(inner, (*path, number))


def with_new_key(document, path, value):
    copy = json.loads(json.dumps(document))
    inner = copy
    for step in path:
        inner = inner[step]
    inner[TOMORROW] = value
    return copy


def document_of(message):
    return message.get("json", {})


NEW_VALUES = (1.5, SECRET, True, [1, SECRET], {"deep": {"er": SECRET}})


@pytest.mark.parametrize("path", named("tasmota", "shelly"))
def test_a_new_key_in_every_object(path):
    """JSON: a new key in each object of each message that made a row, wherever that is listed or not."""
    messages = load(path)
    before = told(messages)
    tried = 0
    for index in {row["message"] for row in before["rows"]}:
        document = document_of(messages[index])
        for place in objects_in(document):
            value = NEW_VALUES[tried % len(NEW_VALUES)]
            tried += 1
            changed = {**messages[index], "json": with_new_key(document, place, value)}
            after = told([*messages[:index], changed, *messages[index + 1 :]])
            assert after["rows"] == before["rows"]
            assert sum(added(before, after).values()) == (2 if isinstance(value, list) else 1)
            assert SECRET not in json.dumps(after)
    assert tried or not before["rows"]


def encoded(content):
    return base64.b64encode(content).decode()


def metric(name, value):
    return block(2, block(1, name.encode()) + value)


NEW_METRICS = (
    metric(TOMORROW, integer(4, 10) + double(13, 1.5)),
    metric(f"AC/{TOMORROW}", integer(4, 12) + block(15, SECRET.encode())),
    metric(TOMORROW, integer(4, 99) + block(18, SECRET.encode())),
    metric(TOMORROW, block(19, SECRET.encode())),
)
NEW_FIELDS = (integer(6, 7), block(7, SECRET.encode()), double(99, 1.5), block(5, SECRET.encode()))


@pytest.mark.parametrize("path", named("sparkplug-b"))
def test_a_new_metric_and_a_new_field_in_every_message(path):
    """Protobuf: a metric of another name, and a field that the schema does not have, in each that made a row."""
    messages = load(path)
    before = told(messages)
    for number, index in enumerate({row["message"] for row in before["rows"]}):
        for new in (NEW_METRICS[number % len(NEW_METRICS)], NEW_FIELDS[number % len(NEW_FIELDS)]):
            changed = {**messages[index], "base64": encoded(payload(messages[index]) + new)}
            after = told([*messages[:index], changed, *messages[index + 1 :]])
            assert after["rows"] == before["rows"]
            assert sum(added(before, after).values()) == 1
            assert SECRET not in json.dumps(after)


def test_a_new_field_within_a_metric_and_a_new_property():
    plain = integer(4, 10) + double(13, 1.5)
    text = integer(1, 12) + block(8, SECRET.encode())
    for more in (
        block(20, SECRET.encode()),
        integer(21, 5),
        block(8, block(8, SECRET.encode())),
        block(9, block(1, b"site") + block(2, text)),
    ):
        birth = integer(1, 1_777_636_800_000) + metric("ac_power_w", plain + more) + integer(3, 0)
        found = told([{"topic": "spBv1.0/G/NBIRTH/N", "base64": encoded(birth)}])
        assert found["rows"][0]["ac_power_w"] == 1.5
        assert sum(found["unlisted"].values()) == 1
        assert SECRET not in json.dumps(found)
