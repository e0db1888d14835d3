"""`telemetry config`: the configuration file, commented, or what a given file and the environment make of it."""

import json as json_module
import re

import typer

from telemetry.cli.common import ConfigOption, JsonOption, config_of, reported

_PASSWORD = re.compile(r"(?<=://)([^:/@\s\"]*):[^@/\s\"]*@")


def config(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Print a commented configuration file: every key, its meaning, what it may be, its default.

    With --config it holds that file's values, those from the environment included; passwords are left out.

    Example: telemetry config > telemetry.toml
    """
    with reported():
        from telemetry.config import Config
        from telemetry.config_text import config_text

        found = Config() if config is None else config_of(config)
        text = json_module.dumps(found.model_dump(mode="json"), indent=2) if json else config_text(found)
        typer.echo(_PASSWORD.sub(r"\1@", text), nl=json)
