"""Prints the configuration as a commented TOML file: every key, its meaning, what it may be, its default."""

import json
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from telemetry.config import Config

_HEADER: Final = """\
# Configuration of the telemetry service (TOML). Every key stands here with its default; unknown keys are refused.
# An environment variable wins over this file: TELEMETRY_BROKER__PORT=8883 sets port in [broker].
# Use it with: telemetry run --config telemetry.toml, or TELEMETRY_CONFIG=telemetry.toml
"""


def config_text(config: Config | None = None) -> str:
    """The file, with the defaults, or with the values of ``config`` where given.

    Loading the text gives an equal configuration. Keys without a value are commented out.
    """
    plain, sections = [_HEADER], []
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            values = section() if config is None else getattr(config, name)
            lines = [_entry(key, inner, getattr(values, key)) for key, inner in section.model_fields.items()]
            sections.append(f"# {field.description}\n[{name}]\n" + "\n".join(lines))
        else:
            plain.append(_entry(name, field, field.default if config is None else getattr(config, name)))
    return "\n".join(plain) + "\n" + "\n".join(sections)


def _entry(key: str, field: FieldInfo, value: Any) -> str:
    limits = _limits(field)
    comment = f"# {field.description}" + (f" ({limits})" if limits else "")
    if value is None:
        return f"{comment}\n# {key} = {_example(field)}\n"
    return f"{comment}\n{key} = {_toml(value)}\n"


def _limits(field: FieldInfo) -> str:
    """What the key may be, in words: ``1 to 65535``, ``one of "auto", "known"``."""
    if get_origin(field.annotation) is Literal:
        return "one of " + ", ".join(_toml(choice) for choice in get_args(field.annotation))
    lowest = highest = ""
    for limit in field.metadata:
        match limit:
            case Ge(ge):
                lowest = f"{ge}"
            case Gt(gt):
                lowest = f"more than {gt}"
            case Le(le):
                highest = f"{le}"
            case Lt(lt):
                highest = f"less than {lt}"
    if lowest and highest:
        return f"{lowest} to {highest}"
    if lowest:
        return lowest if lowest.startswith("more") else f"at least {lowest}"
    return f"at most {highest}" if highest else ""


def _example(field: FieldInfo) -> str:
    return '"/path/to/file"' if Path in get_args(field.annotation) else '""'


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False)  # TOML's basic strings escape as JSON does
