"""The printed configuration documents every key and loads to itself; a wrong key gets the right one named."""

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from telemetry.config import Config, keys, load_config
from telemetry.config_text import config_text
from telemetry.errors import ConfigurationError


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    monkeypatch.delenv("TELEMETRY_CONFIG", raising=False)


def written(tmp_path, text) -> Path:
    path = tmp_path / "telemetry.toml"
    path.write_text(text)
    return path


def test_the_printed_file_loads_to_the_defaults(tmp_path):
    assert load_config(written(tmp_path, config_text())) == Config()


def test_a_changed_configuration_is_printed_as_it_is(tmp_path):
    config = load_config(
        None,
        broker={"topics": ["gw/#", 'odd "topic" \\'], "username": "worker", "ca_file": "/etc/ca.pem"},
        pipeline={"tick_s": 0.5, "enrolment": "known"},
        observe={"log_file": "log/a.jsonl"},
        embedded=False,
        database={"dsn": "postgresql://host/telemetry"},
    )
    assert load_config(written(tmp_path, config_text(config))) == config


def test_every_key_is_there_with_its_meaning():
    text = config_text()
    section, documented = "", []
    previous = ""
    for line in text.splitlines():
        if head := re.fullmatch(r"\[(\w+)\]", line):
            section = f"{head[1]}."
        elif entry := re.fullmatch(r"(?:# )?(\w+) = .+", line):
            assert previous.startswith("# "), line
            documented.append(f"{section}{entry[1]}")
        previous = line
    assert documented == keys()


def test_every_field_has_a_description():
    def walk(model):
        for name, field in model.model_fields.items():
            assert field.description, name
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                walk(field.annotation)

    walk(Config)


def test_keys_without_a_value_can_be_uncommented(tmp_path):
    text = re.sub(r"^# (\w+ = )", r"\1", config_text(), flags=re.MULTILINE)
    values = tomllib.loads(text)
    assert {f"{a}.{b}" for a, part in values.items() if isinstance(part, dict) for b in part} <= set(keys())
    assert load_config(written(tmp_path, text)).broker.key_file == Path("/path/to/file")


def test_limits_are_told():
    text = config_text()
    assert "(1 to 65535)" in text
    assert '(one of "auto", "mosquitto", "rumqttd")' in text
    assert "(more than 0)" in text


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("[broker]\nprot = 1\n", "broker.prot: there is no such key; did you mean broker.port?"),
        ("[brokr]\nport = 1\n", "brokr: there is no such key; did you mean broker"),
        ("batch_messages = 1\n", "batch_messages: there is no such key; did you mean pipeline.batch_messages?"),
        ("[observe]\nzzz = 1\n", "observe.zzz: there is no such key"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(tmp_path, given, meant):
    with pytest.raises(ConfigurationError) as refused:
        load_config(written(tmp_path, given))
    assert meant in str(refused.value)


def test_a_refusal_never_quotes_what_was_given(tmp_path):
    text = '[database]\nconnections = "postgresql://user:made-up-password@host/"\n'
    with pytest.raises(ConfigurationError) as refused:
        load_config(written(tmp_path, text))
    assert "made-up-password" not in str(refused.value)
    assert refused.value.__cause__ is None
