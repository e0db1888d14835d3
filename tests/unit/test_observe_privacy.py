"""Canaries go into every place that can be logged or counted; none comes out."""

import asyncio
import dataclasses
import io
import json
import logging
import sys
import threading
import warnings

import asyncpg
import pytest
import structlog
from prometheus_client import generate_latest

from telemetry.errors import StoreError, StoreUnavailable, TelemetryError
from telemetry.model.batch import Reason, Withheld
from telemetry.observe import Observer, events, install_logging, known_identifiers
from telemetry.observe.scrub import scrub_text
from telemetry.privacy.known import KnownIdentifiers

SERIAL = "INV00000042"
CANARIES = (
    SERIAL,
    "gw-roof-miller",
    "AA:BB:CC:DD:EE:FF",
    "48.137154",
    "11.576124",
    "192.168.7.23",
    "Müllerstraße",
)
JOINED = " ".join(CANARIES)


@pytest.fixture
def lines():
    """What is logged while the test runs."""
    stream = io.StringIO()
    undo = install_logging(level="debug", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    undo()


def assert_clean(told):
    text = told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)
    for canary in CANARIES:
        assert canary.lower() not in text.lower()


def foreign_error():
    """An exception as a database raises it: the text quotes a value, its cause quotes another."""
    try:
        try:
            raise OSError(111, f"connect to {JOINED}")  # noqa: TRY301
        except OSError as cause:
            raise asyncpg.UniqueViolationError(f"Key (serial)=({JOINED}) already exists.") from cause
    except asyncpg.UniqueViolationError as error:
        return error


class HiddenError(Exception):
    """Raised below under a class name that holds a canary."""


MADE_UP = type(f"Error{SERIAL}", (HiddenError,), {})


@pytest.mark.parametrize("event", events.EVENTS.values(), ids=lambda event: event.__name__)
def test_no_event_lets_a_canary_through_whatever_is_put_into_its_fields(lines, event):
    observer = Observer()
    fields = dataclasses.fields(event)
    for poison in (JOINED, {JOINED: 1}, [JOINED], foreign_error(), {(JOINED, JOINED): 2}, JOINED.encode()):
        observer._logged.clear()
        observer.log(event(**{field.name: poison for field in fields}))
    told = lines()
    assert len(told) == 6  # every one was logged
    assert all(line["event"] == event.name() for line in told)
    assert_clean(told)


def test_no_metric_takes_a_canary_as_label(lines):
    observer = Observer()
    observer.batch_committed(
        events.BatchCommitted(
            messages=1,
            payload_bytes=1,
            received=4,
            stored=0,
            duplicate=0,
            withheld={JOINED: 2},
            quarantined={JOINED: 2},
            withheld_values={(JOINED, JOINED): 1, (Withheld.PLACE, JOINED): 1},
            implausible={JOINED: 1},
        )
    )
    observer.write_failed(events.WriteFailed(1, 0.5, foreign_error()))
    assert_clean(generate_latest(observer.metrics.registry).decode())
    assert_clean(observer.snapshot())
    assert_clean(lines())
    assert observer.snapshot()["quarantined"] == 2


def test_an_error_is_told_by_class_code_and_place(lines):
    try:
        raise StoreUnavailable("the database does not answer", remedy="start it") from foreign_error()  # noqa: TRY301
    except StoreUnavailable as error:
        Observer().write_failed(events.WriteFailed(attempt=1, delay_s=0.5, error=error))
    [line] = lines()
    assert line["error"] == {
        "class": "StoreUnavailable",
        "text": "the database does not answer (start it)",
        "because": ["UniqueViolationError", "ConnectionRefusedError"],
        "sqlstate": "23505",
        "errno": "ECONNREFUSED",
    }
    assert line["level"] == "warning"


def test_chains_groups_and_made_up_classes_are_told_without_their_texts(lines):
    group = ExceptionGroup(JOINED, [MADE_UP(JOINED), ValueError(JOINED), StoreError(f"see {SERIAL} at 48.137154")])
    Observer().job_failed(events.JobFailed(events.Job.PARTITIONS, group))
    [line] = lines()
    assert line["error"]["class"] == "ExceptionGroup"
    assert line["error"]["because"] == ["Exception", "ValueError", "StoreError"]
    assert_clean(line)


@pytest.mark.parametrize("name", ["aiomqtt", "asyncpg", "asyncio", "mqtt", f"device.{SERIAL}", "telemetry.core"])
@pytest.mark.parametrize("level", [logging.INFO, 25, logging.WARNING, logging.ERROR, logging.CRITICAL, 60])
def test_library_records_keep_library_and_place_only(lines, name, level, request):
    logger = logging.getLogger(name)
    request.addfinalizer(lambda before=logger.level: logger.setLevel(before))
    logger.setLevel(logging.NOTSET)  # aiomqtt quietens its own when it is imported
    logger.log(level, f"connected to {JOINED}")  # noqa: G004
    logger.log(level, "received %s from %(x)s", {"x": JOINED})
    logger.log(level, "received %s", JOINED, extra={"serial": SERIAL})
    logger.log(level, "too %d many", JOINED)  # the standard handler prints the arguments of such a record
    logger.log(level, foreign_error())
    logger.log(level, "failed", exc_info=foreign_error())
    told = lines()
    assert len(told) == 6
    assert all(line["event"] == "library_log" for line in told)
    assert told[4]["error"]["sqlstate"] == told[5]["error"]["sqlstate"] == "23505"
    assert_clean(told)


def test_a_forged_record_gives_nothing_away(lines):
    record = logging.makeLogRecord(
        {
            "name": JOINED,
            "msg": JOINED,
            "levelno": 30,
            "pathname": f"/{SERIAL}.py",
            "module": SERIAL,
            "funcName": SERIAL,
        }
    )
    logging.getLogger().handle(record)
    assert_clean(lines())


def test_a_record_of_a_library_says_where(lines):
    loop = asyncio.new_event_loop()
    loop.call_exception_handler({"message": JOINED, "exception": foreign_error()})
    loop.close()
    [line] = lines()
    assert line["library"] == "asyncio"
    assert line["place"].startswith("base_events.py:")
    assert line["error"]["class"] == "UniqueViolationError"
    assert_clean(line)


def test_warnings_and_uncaught_exceptions_pass_the_gate(lines, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        install = warnings.showwarning
        warnings.warn(f"odd value {JOINED}", RuntimeWarning, stacklevel=1)
        install(f"odd value {JOINED}", RuntimeWarning, f"{SERIAL}.py", 1)
    error = foreign_error()
    sys.excepthook(type(error), error, error.__traceback__)
    thread = threading.Thread(target=lambda: (_ for _ in ()).throw(ValueError(JOINED)).__next__(), name=SERIAL)
    hook = threading.excepthook
    thread.run = lambda: hook(threading.ExceptHookArgs((ValueError, ValueError(JOINED), None, thread)))
    thread.start()
    thread.join()
    told = lines()
    assert [line["event"] for line in told] == ["library_log", "library_log", "uncaught", "uncaught"]
    assert told[0]["error"]["class"] == "RuntimeWarning"
    assert_clean(told)
    assert_clean(capfd.readouterr().err)


def test_who_logs_past_the_observer_is_scrubbed(lines):
    log = structlog.get_logger()
    log.info(JOINED)
    log.info("batch_committed", serial=SERIAL, stored=3, level=SERIAL, suppressed=SERIAL)
    log.info(f"batch_committed {SERIAL}", stored=3)  # noqa: G004
    try:
        raise ValueError(JOINED)  # noqa: TRY301
    except ValueError:
        log.exception("uncaught", stack_info=True)
    told = lines()
    assert told[1]["stored"] == 3
    assert told[1]["scrubbed_fields"] >= 1
    assert told[3]["error"]["class"] == "ValueError"
    assert_clean(told)


def test_numbers_and_reasons_come_through(lines):
    event = events.BatchCommitted(
        messages=2,
        payload_bytes=300,
        received=10,
        stored=8,
        duplicate=1,
        quarantined={Reason.TOO_DEEP: 1},
        withheld_values={(Withheld.PLACE, "ac_power_w"): 3},
        write_s=0.25,
    )
    Observer().batch_committed(event)
    warned, line = lines()
    assert warned["event"] == "readings_quarantined"
    assert warned["quarantined"] == {"too_deep": 1}
    assert line["event"] == "batch_committed"
    assert line["stored"] == 8
    assert line["write_s"] == 0.25
    assert line["withheld_values"] == {"place.ac_power_w": 3}


def test_repetitive_events_are_logged_rarely_and_say_how_many_were_left_out(lines):
    now = [0.0]
    observer = Observer(monotonic=lambda: now[0])
    for _ in range(5):
        observer.broker_lost(events.BrokerLost(delay_s=1.0))
    now[0] = 11.0
    observer.broker_lost(events.BrokerLost(delay_s=1.0))
    first, second = lines()
    assert "suppressed" not in first
    assert second["suppressed"] == 4


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("the plan's current version is 12", "the plan's current version is 12"),
        ("no answer after 30 s (90% of 120)", "no answer after 30 s (90% of 120)"),
        ("device INV00000042 unknown", "device […] unknown"),
        ("place 48.137154, 11.576124", "place […] […]"),
        ("from 192.168.7.23:1883", "from […]"),
        ("mac AA:BB:CC:DD:EE:FF", "mac AA:BB:CC:DD:EE:FF"),
        ("mac 0A:BB:CC:DD:EE:FF and '…quoted…'", "mac […] and […]"),
        ("number 123456789", "number […]"),
    ],
)
def test_our_own_texts_lose_what_looks_like_an_identifier(text, kept):
    assert scrub_text(text) == kept


def test_identifiers_that_were_seen_leave_the_texts_of_errors_however_they_are_written(lines):
    """A name without digits looks like any word: only who has seen it can tell."""
    known = KnownIdentifiers(["gw-roof-miller", "AA:BB:CC:DD:EE:FF"])
    texts = ["refused gw/gw-roof-miller/x", "GW_ROOF_MILLER", "gw%2Droof%2dmiller is", "mac aa-bb-cc-dd-ee-ff gone"]
    for text in texts[:2]:
        assert scrub_text(text) == text
    with known_identifiers(known.replaced):
        assert [scrub_text(text) for text in texts] == ["refused gw/[…]/x", "[…]", "[…] is", "mac […] gone"]
        observer = Observer()
        for text in texts:
            observer._logged.clear()
            observer.job_failed(events.JobFailed(events.Job.SCAN, StoreError(text, remedy=text)))
    assert scrub_text(texts[0]) == texts[0]
    told = json.dumps(lines()).lower()
    assert len(lines()) == len(texts)
    assert "miller" not in told
    assert "aa-bb" not in told


def test_nothing_is_written_before_logging_is_configured(capfd):
    Observer().write_failed(events.WriteFailed(1, 0.5, foreign_error()))
    assert capfd.readouterr() == ("", "")


def test_undo_restores_logging():
    root = logging.getLogger()
    before = (root.handlers[:], sys.excepthook, warnings.showwarning)
    install_logging(stream=io.StringIO())()
    assert (root.handlers[:], sys.excepthook, warnings.showwarning) == before


def test_the_error_hierarchy_holds_texts_of_our_own_only():
    assert str(TelemetryError("what", remedy="do this")) == "what (do this)"
