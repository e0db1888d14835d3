"""The settings file: YAML in which an operator sets many owners' settings at once, checked as a whole.

What stands in it for an owner is all that stands for that owner: a grant that an owner's ``grants`` leave out is
withdrawn. An owner without ``grants``, or without ``keeping``, keeps those as they are.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Self

import yaml
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from telemetry.errors import InputError
from telemetry.model.fields import KIND_BY_LABEL, DataClass
from telemetry.model.sharing import (
    FieldName,
    Grant,
    GrantTerms,
    Keeping,
    PlaceSetting,
    Resolution,
    SerialSetting,
    SharingPurpose,
)
from telemetry.model.shown import key_shown, shown_key

MAX_BYTES: Final = 64 * 2**20
_SHOWN_ERRORS: Final = 20
_OWNER: Final = re.compile(r"o_[0-9a-f]{16}")


def _iso_duration(value: object) -> object:
    """Only text such as P30D or PT2H: a bare number would be seconds to one and days to another."""
    if value is None or isinstance(value, timedelta) or (isinstance(value, str) and value.startswith("P")):
        return value
    raise ValueError("a duration is written like P30D or PT2H")


SiteKey = Annotated[str, Field(pattern=r"^s_[0-9a-f]{16}$")]
GrantKey = Annotated[str, Field(pattern=r"^c_[0-9a-f]{16}$")]
KindLabel = Annotated[str, Field(pattern=f"^({'|'.join(KIND_BY_LABEL)})$")]
Duration = Annotated[timedelta, BeforeValidator(_iso_duration)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileGrant(_Part):
    """One grant of the file. ``recipient``: a handle, or a key (r_…). ``grant``: the one to change, where several
    of this recipient and purpose stand.
    """

    recipient: Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9-]{2,63}|r_[0-9a-f]{16})$")]
    purpose: SharingPurpose
    grant: GrantKey | None = None
    classes: frozenset[DataClass] = frozenset()
    fields: frozenset[FieldName] = frozenset()
    sites: frozenset[SiteKey] | None = None
    kinds: frozenset[KindLabel] | None = None
    resolution: Resolution = Resolution.PT15M
    serial: SerialSetting = SerialSetting.WITHHELD
    place: PlaceSetting = PlaceSetting.WITHHELD
    extremes: bool = False
    history: Duration | None = None
    data_from: AwareDatetime | None = None
    start: AwareDatetime | None = None
    until: AwareDatetime | None = None
    confirm_solar_km: float | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _ = self.terms  # its checks are the grant's own
        return self

    @property
    def terms(self) -> GrantTerms:
        """What the grant allows."""
        given = {name: value for name, value in self if name not in {"recipient", "grant", "confirm_solar_km"}}
        sites = None if self.sites is None else frozenset(key_shown("site", site) for site in self.sites)
        kinds = None if self.kinds is None else frozenset(KIND_BY_LABEL[kind] for kind in self.kinds)
        return GrantTerms(**given | {"sites": sites, "kinds": kinds})


class FileOwner(_Part):
    """One owner's settings; what is left out stays."""

    keeping: Keeping | None = None
    grants: tuple[FileGrant, ...] | None = None


class SettingsFile(_Part):
    """The whole file, by owner (o_…)."""

    owners: dict[Annotated[str, Field(pattern=_OWNER.pattern)], FileOwner] = Field(min_length=1)


def read_settings(path: Path) -> SettingsFile:
    """Read and check a settings file.

    Raises:
        InputError: every fault with its line; what stands there is not quoted.

    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"the file is larger than {MAX_BYTES // 2**20} MiB", remedy="split it by owners")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the file: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None
    return parse_settings(text)


def parse_settings(text: str) -> SettingsFile:
    """The same from text."""
    lines: dict[tuple[object, ...], int] = {}
    try:
        node = yaml.compose(text, Loader=_Loader)
        content = None if node is None else _plain(node, (), lines)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"line {line}: {error.problem if isinstance(error, _Refused) else 'not YAML'}") from None
    except yaml.YAMLError:
        raise InputError("the file holds characters that YAML does not allow") from None
    try:
        return SettingsFile.model_validate(content)
    except ValidationError as error:
        told = sorted({(_line(one["loc"], lines), _message(one)) for one in error.errors(include_input=False)})
        more = f"; and {len(told) - _SHOWN_ERRORS} more" if len(told) > _SHOWN_ERRORS else ""
        shown = "; ".join(f"line {line}: {message}" for line, message in told[:_SHOWN_ERRORS])
        raise InputError(f"{shown}{more}", remedy="nothing was changed") from None


def written(owners: Mapping[int, tuple[Keeping, list[tuple[Grant, str, float | None]]]]) -> str:
    """A settings file of what stands: owner → keeping, and grants with handle and error confirmed."""
    content = {
        shown_key("owner", owner): {
            "keeping": plain_keeping(keeping),
            "grants": [
                {"recipient": handle, "grant": shown_key("grant", grant.grant_key)}
                | plain_terms(grant.terms)
                | ({} if confirmed_km is None else {"confirm_solar_km": confirmed_km})
                for grant, handle, confirmed_km in grants
            ],
        }
        for owner, (keeping, grants) in owners.items()
    }
    text: str = yaml.safe_dump({"owners": content}, sort_keys=False, width=120)
    return text


def plain_terms(terms: GrantTerms) -> dict[str, Any]:
    """Terms as they stand in the file; what is not set is left out."""
    plain = terms.model_dump(mode="json", exclude_none=True) | {
        "classes": sorted(terms.classes),
        "fields": sorted(terms.fields),
        "sites": None if terms.sites is None else [shown_key("site", site) for site in sorted(terms.sites)],
        "kinds": None if terms.kinds is None else sorted(kind.label for kind in terms.kinds),
    }
    return {name: _text(value) for name, value in plain.items() if value not in (None, [], False)}


def plain_keeping(keeping: Keeping) -> dict[str, Any]:
    """Keeping settings as they stand in the file."""
    plain = keeping.model_dump(mode="json", exclude_none=True)
    for name in ("classes", "fields", "never"):
        if name in plain:
            plain[name] = sorted(plain[name])
    return {name: value for name, value in plain.items() if name == "classes" or value not in ([], {})}


def _text(value: Any) -> Any:
    return [str(one) for one in value] if isinstance(value, list) else value


class _Refused(yaml.MarkedYAMLError):
    """YAML that would say something else than it seems to."""


class _Loader(yaml.SafeLoader):
    """No instants (they are checked as text), no merge keys, and nothing refers to something else."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as in the class it derives from
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":merge"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.get_event().start_mark  # type: ignore[no-untyped-call]
            raise _Refused(problem="references (*name) are not allowed", problem_mark=mark)
        return super().compose_node(parent, index)


_TAGS: Final = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "null", "bool", "int", "float", "str"))


def _plain(node: yaml.Node, path: tuple[object, ...], lines: dict[tuple[object, ...], int]) -> Any:
    """The node's value, with the line of every path below it."""
    lines[path] = node.start_mark.line + 1
    if node.tag not in _TAGS:
        raise _Refused(problem="this tag is not allowed", problem_mark=node.start_mark)
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in found:
                raise _Refused(problem="this key stands twice, or is no plain key", problem_mark=key.start_mark)
            found[key.value] = _plain(value, (*path, key.value), lines)
            lines[*path, key.value] = key.start_mark.line + 1
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_plain(one, (*path, index), lines) for index, one in enumerate(node.value)]
    return _scalar(node)


def _scalar(node: yaml.Node) -> Any:
    loader = _Loader("")
    try:
        return loader.construct_object(node)
    except ValueError:  # such as !!int of a word
        raise _Refused(problem="this tag is not allowed", problem_mark=node.start_mark) from None
    finally:
        loader.dispose()


def _line(location: tuple[object, ...], lines: Mapping[tuple[object, ...], int]) -> int:
    """The line of the innermost part that the file holds."""
    return next((lines[path] for path in _shorter(location) if path in lines), 1)


def _shorter(location: tuple[object, ...]) -> Iterator[tuple[object, ...]]:
    # pydantic adds parts of its own, as `[key]` for a key of a mapping.
    location = tuple(part for part in location if part != "[key]")
    for end in range(len(location), -1, -1):
        yield location[:end]


def _message(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "this key is not known here"
    if error["type"] == "string_pattern_mismatch":
        return "this is not of the form expected"
    message: str = error["msg"]
    return message.removeprefix("Value error, ").split("\n", maxsplit=1)[0]
