"""Requests made from the OpenAPI document by schemathesis, sent over HTTP, and what answers them checked against it."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.api_town import Asker

CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
_PATIENCE_S: Final = 30
_GLANCE_S: Final = 0.5  # at a stream, which ends by itself never
_GOOD: Final = 2  # cases of each operation that should succeed, before the others
_METHODS: Final = ("get", "put", "post", "delete")


@dataclass
class Tally:
    """What was asked and answered."""

    cases: int = 0
    by_operation: Counter[str] = field(default_factory=Counter)
    by_status: Counter[int] = field(default_factory=Counter)
    succeeded: set[str] = field(default_factory=set)

    def told(self) -> str:
        """One line for people."""
        statuses = ", ".join(f"{status}: {count}" for status, count in sorted(self.by_status.items()))
        return f"{self.cases} cases of {len(self.by_operation)} operations; {statuses}"


@dataclass
class Fuzz:
    """``askers``: by operation, those that may, first; then those that may not. ``known``: by parameter, values that
    exist, put in place of generated ones two times in three; ``bodies``: the same by operation.
    """

    document: dict[str, Any]
    base: str
    askers: Callable[[str], Sequence[Asker]]
    known: Mapping[str, Sequence[Any]]
    bodies: Mapping[str, Any]
    number: int
    tally: Tally = field(default_factory=Tally)
    failures: dict[str, str] = field(default_factory=dict)

    def run(self, cases: int, *, last: Collection[str] = ()) -> None:
        """So many cases of every operation, of some of them at the end. Collects failures."""
        found: dict[str, Any] = {}
        for each in schemathesis.openapi.from_dict(_without_security(self.document)).get_all_operations():
            operation = each.ok()
            assert operation is not None, each
            found[operation.definition.raw["operationId"]] = operation
        for name in sorted(found, key=lambda name: name in last):
            self._operation(found[name], name, cases)

    def _operation(self, operation: Any, name: str, cases: int) -> None:
        modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
        strategy = st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])
        wild = not operation.definition.raw.get("parameters") and "requestBody" not in operation.definition.raw
        if wild:  # nothing to vary, and nothing to be invalid
            strategy = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
        calm = settings(
            max_examples=cases,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.quiet,
        )

        @seed(self.number)
        @calm
        @given(case=strategy, data=st.data())
        def one(case: Any, data: Any) -> None:
            self._case(case, name, data)

        one()

    def _case(self, case: Any, name: str, data: Any) -> None:
        asker = data.draw(st.sampled_from(self._weighted(name)))
        how = data.draw(st.sampled_from(("as made", "some known", "known alone")))
        # Drawn whether it is used or not: what is drawn must not hang on what was asked before.
        drawn = {where: self._drawn(case, where, data) for where in ("path_parameters", "query")}
        if self.tally.by_operation[name] < _GOOD:
            asker, how = self.askers(name)[0], "all known"
        if how != "as made":
            for where, values in drawn.items():
                self._settle(case, where, values, how)
            if name in self.bodies:
                case.body, case.media_type = self.bodies[name], "application/json"
        answer: requests.Response | None = None
        try:
            answer = case.call(
                base_url=self.base,
                headers=dict(asker.headers),
                timeout=_PATIENCE_S if name != "read_live" else _GLANCE_S,
                allow_redirects=False,
            )
            self.tally.cases += 1
            self.tally.by_operation[name] += 1
            self.tally.by_status[answer.status_code] += 1
            if answer.status_code < 300:
                self.tally.succeeded.add(name)
            # A stream's schema is of its text; it would be held against each event.
            skipped = [response_schema_conformance] if name == "read_live" else []
            case.validate_response(answer, checks=CHECKS, excluded_checks=skipped)
        except requests.exceptions.ReadTimeout:
            assert name == "read_live"
        except FailureGroup as group:
            for failure in group.exceptions:
                where = f"{name} {type(failure).__name__}"
                status = answer.status_code if answer is not None else None
                self.failures.setdefault(where, f"{asker.name}: {status}: {failure}\n{_curl(case)}")

    def _weighted(self, name: str) -> Sequence[Asker]:
        may, *others = self.askers(name)
        return [may] * 3 + others

    def _drawn(self, case: Any, where: str, data: Any) -> dict[str, tuple[Any, bool]]:
        """Of each parameter of which values are known, one of them, and whether it is used where it need not be."""
        names = [each.name for each in getattr(case.operation, where) if each.name in self.known]
        return {name: (data.draw(st.sampled_from(self.known[name])), data.draw(st.booleans())) for name in names}

    def _settle(self, case: Any, where: str, drawn: Mapping[str, tuple[Any, bool]], how: str) -> None:
        """Values that exist, so that what lies behind validation is reached; alone, or among others."""
        current = getattr(case, where)
        current = current if isinstance(current, dict) else {}
        declared = {each.name: each.is_required for each in getattr(case.operation, where)}
        chosen = {name: value for name, (value, used) in drawn.items() if declared[name] or how == "all known" or used}
        kept = {name: value for name, value in current.items() if how == "some known" or declared.get(name)}
        if declared:
            setattr(case, where, kept | chosen)


def _without_security(document: dict[str, Any]) -> dict[str, Any]:
    """Credentials are the askers'; none are made up."""
    bare: dict[str, Any] = json.loads(json.dumps(document))
    bare["components"].pop("securitySchemes", None)
    for methods in bare["paths"].values():
        for operation in methods.values():
            operation.pop("security", None)
    return bare


def _curl(case: Any) -> str:
    try:
        return str(case.as_curl_command())[:600]
    except Exception as error:
        return f"(no command: {type(error).__name__})"


def operations(document: Mapping[str, Any]) -> dict[str, str]:
    """Operation id → 'GET /path'."""
    return {
        operation["operationId"]: f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in _METHODS
    }
