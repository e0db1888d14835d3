"""Problems as RFC 9457 has them: one table of what can go wrong, and what errors become.

A detail is our own text and never repeats what was given. Foreign, missing and withdrawn are the same problem.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from telemetry import errors

MEDIA_TYPE: Final = "application/problem+json"
_RETRY_S: Final = 2


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One kind of problem. ``text``: its page at /problems/{slug}."""

    slug: str
    status: int
    title: str
    text: str


_TYPES: Final = (
    ProblemType(
        "invalid-request",
        422,
        "The request is not valid",
        "A parameter or the body is missing, malformed or contradicts another. `errors` says where. What was given "
        "is not repeated.",
    ),
    ProblemType(
        "too-costly",
        422,
        "The answer could be too large",
        "Devices times fields times windows is more than one request may ask for. Ask for fewer fields, a shorter "
        "range, a coarser resolution or fewer devices, or use an export.",
    ),
    ProblemType(
        "not-authenticated",
        401,
        "Who asks is not known",
        "Send `Authorization: Bearer` with a token that is valid, or sign in. An unknown, an expired and a revoked "
        "token are not told apart.",
    ),
    ProblemType(
        "second-factor-needed",
        401,
        "A code is needed as well",
        "Address and password are right, and the account has a second factor. Send both again with `code`: the six "
        "digits that the authenticator shows, or a recovery code.",
    ),
    ProblemType(
        "not-permitted",
        403,
        "This is not for whoever asks",
        "The route is for another role, needs a right or scope that the account or token has not, or the request "
        "came from another site without its CSRF token. It does not depend on what was asked for.",
    ),
    ProblemType(
        "not-found",
        404,
        "There is nothing here",
        "It does not exist, or is not shared with whoever asks, or is not any more: which of these is not told.",
    ),
    ProblemType(
        "method-not-allowed", 405, "The method is not allowed", "`Allow` lists the methods that this address knows."
    ),
    ProblemType(
        "not-acceptable",
        406,
        "No accepted form can be given",
        "Nothing in `Accept`, or not what `format` names, is a form that this address can answer in.",
    ),
    ProblemType(
        "conflict",
        409,
        "The state of things does not allow it",
        "It exists already, has been decided, or contradicts what was settled. `detail` says what to do.",
    ),
    ProblemType(
        "solar-unconfirmed",
        409,
        "A solar curve would tell the place",
        "What is about to be shared tells the site's place within `error_km`, better than the place that is granted. "
        "Coarsen it, or send it again with `confirm_solar_km` set to exactly that number to say that this is known.",
    ),
    ProblemType(
        "precondition-failed",
        412,
        "It has changed meanwhile",
        "`If-Match` names another version than the current one. Read it again, then change it.",
    ),
    ProblemType(
        "precondition-required",
        428,
        "The version to be changed is not named",
        "Send `If-Match` with the ETag of what was read, so that nobody else's change is lost.",
    ),
    ProblemType("gone", 410, "The cursor has expired", "A cursor is honoured for a day. Begin anew without it."),
    ProblemType("too-large", 413, "The body is too large", "Send less at once."),
    ProblemType("unsupported-media-type", 415, "The body is of another type", "Send `Content-Type: application/json`."),
    ProblemType(
        "rate-limited",
        429,
        "Too much at once",
        "`RateLimit-Policy` says how much, `Retry-After` in how many seconds to ask again.",
    ),
    ProblemType("internal", 500, "Something is wrong here", "It was noted. `request_id` is its number in the log."),
    ProblemType(
        "unavailable", 503, "Not available now", "Something that the answer needs does not answer. Ask again shortly."
    ),
)
PROBLEMS: Final[Mapping[str, ProblemType]] = {problem.slug: problem for problem in _TYPES}

# The first that fits. Errors that are not named here are defects of ours: 500.
_SLUG_OF: Final[tuple[tuple[type[errors.TelemetryError], str], ...]] = (
    (errors.NotAuthenticated, "not-authenticated"),
    (errors.NotPermitted, "not-permitted"),
    (errors.NotFound, "not-found"),
    (errors.NotAcceptable, "not-acceptable"),
    (errors.Conflict, "conflict"),
    (errors.CursorExpired, "gone"),
    (errors.RequestTooLarge, "too-large"),
    (errors.TooCostly, "too-costly"),
    (errors.RateLimited, "rate-limited"),
    (errors.InvalidRequest, "invalid-request"),
    (errors.NotVisible, "not-found"),
    (errors.NoLongerAvailable, "not-found"),
    (errors.PartyUnknown, "not-found"),
    (errors.SiteNotOwned, "not-found"),
    (errors.SolarUnconfirmed, "solar-unconfirmed"),
    (errors.GrantChanged, "precondition-failed"),
    (errors.RequestsBounded, "rate-limited"),
    (errors.SharingError, "conflict"),
    (errors.LoginRefused, "not-authenticated"),
    (errors.SecondFactorNeeded, "second-factor-needed"),
    (errors.TooManyTries, "rate-limited"),
    (errors.ProofUnknown, "invalid-request"),
    (errors.AccessBusy, "unavailable"),
    (errors.InputError, "invalid-request"),
    (errors.StoreUnavailable, "unavailable"),
    (errors.NotConfigured, "unavailable"),
    (errors.DeliveryUnavailable, "unavailable"),
    (errors.TargetUnknown, "not-found"),
    (errors.AddressRefused, "invalid-request"),
    (errors.DeliveryError, "conflict"),
)
_SLUG_OF_STATUS: Final = {
    400: "invalid-request",
    401: "not-authenticated",
    403: "not-permitted",
    404: "not-found",
    405: "method-not-allowed",
    406: "not-acceptable",
    413: "too-large",
    415: "unsupported-media-type",
    422: "invalid-request",
    503: "unavailable",
}


class ValidationFault(BaseModel):
    """One thing that is wrong with a request."""

    model_config = ConfigDict(extra="forbid")
    location: str = Field(description="where: a parameter's name, or the path in the body", examples=["query.from"])
    message: str = Field(description="what is expected there", examples=["Field required"])


class Problem(BaseModel):
    """RFC 9457."""

    model_config = ConfigDict(extra="forbid")
    type: str = Field(description="address of a page about this kind of problem", examples=["/problems/not-found"])
    title: str = Field(examples=["There is nothing here"])
    status: int = Field(ge=400, le=599, examples=[404])
    detail: str = Field(description="what to do about it", examples=["take the names that lists give"])
    request_id: str = Field(description="as in X-Request-Id, and `request` in the log", examples=["493018275566120"])
    errors: list[ValidationFault] = Field(default_factory=list, description="for invalid requests")
    error_km: float | None = Field(
        None, description="for solar-unconfirmed: within how many kilometres the place shows; confirm exactly this"
    )


class ProblemError(errors.RequestError):
    """A problem by its slug, for what has no error of its own."""

    def __init__(self, slug: str, message: str = "", *, remedy: str = "") -> None:
        super().__init__(message or PROBLEMS[slug].title, remedy=remedy)
        self.slug = slug


def slug_of(error: errors.TelemetryError) -> str:
    """Which problem an error is: ``internal`` where it is none of whoever asks."""
    if isinstance(error, ProblemError):
        return error.slug
    return next((slug for kind, slug in _SLUG_OF if isinstance(error, kind)), "internal")


def problem_response(
    request_id: str,
    slug: str,
    detail: str = "",
    *,
    faults: Iterable[ValidationFault] = (),
    headers: Mapping[str, str] | None = None,
    error_km: float | None = None,
) -> Response:
    """The answer for one problem."""
    problem = PROBLEMS[slug]
    body: dict[str, Any] = {
        "type": f"/problems/{slug}",
        "title": problem.title,
        "status": problem.status,
        "detail": detail or problem.text,
        "request_id": request_id,
    }
    if listed := [fault.model_dump() for fault in faults]:
        body["errors"] = listed
    if error_km is not None:
        body["error_km"] = error_km
    more = dict(headers or {})
    if problem.status == HTTPStatus.UNAUTHORIZED:
        more.setdefault("WWW-Authenticate", "Bearer")
    if slug == "unavailable":
        more.setdefault("Retry-After", str(_RETRY_S))
    return Response(orjson.dumps(body), problem.status, more, MEDIA_TYPE)


def of_telemetry_error(request: Request, error: Exception) -> Response:
    """Our own errors: the text is ours. What is not shown has one text, whatever the error said."""
    assert isinstance(error, errors.TelemetryError)  # noqa: S101 - registered for these alone
    slug = slug_of(error)
    request.scope["state"]["error"] = error if PROBLEMS[slug].status >= HTTPStatus.INTERNAL_SERVER_ERROR else None
    if slug in {"not-found", "internal", "unavailable"}:
        return problem_response(request_id_of(request), slug)
    faults: list[ValidationFault] = []
    headers: dict[str, str] = {}
    if isinstance(error, errors.InvalidRequest):
        faults = [ValidationFault(location=error.where, message=error.args[0])]
    if isinstance(error, errors.SolarUnconfirmed):
        detail = f"{error.args[0]}: {PROBLEMS[slug].text}"
        return problem_response(request_id_of(request), slug, detail, error_km=error.error_km)
    if isinstance(error, errors.RequestsBounded):
        headers = {"Retry-After": str(max(1, round(error.retry_after_s)))}
    if isinstance(error, errors.RateLimited):
        headers = error.headers | {"Retry-After": str(error.retry_after_s)}
    if isinstance(error, errors.TooManyTries):
        headers = {"Retry-After": str(error.retry_after_s)}
    return problem_response(request_id_of(request), slug, str(error), faults=faults, headers=headers)


def of_http_exception(request: Request, error: Exception) -> Response:
    """What the framework refuses: no route, no such method, a body that is no JSON."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for these alone
    slug = _SLUG_OF_STATUS.get(error.status_code, "internal" if error.status_code >= 500 else "invalid-request")
    headers = dict(error.headers or {})
    if allow := request.app.state.allowed.get(getattr(request.scope.get("route"), "name", "")):
        headers |= {"Allow": allow} if slug == "method-not-allowed" else {}
    return problem_response(request_id_of(request), slug, headers=headers)


def of_validation_error(request: Request, error: Exception) -> Response:
    """What does not fit the declared types."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for these alone
    faults = [fault for each in error.errors() if (fault := _fault(each))]
    return problem_response(request_id_of(request), "invalid-request", "see `errors`", faults=faults)


def of_anything(request: Request, error: Exception) -> Response:
    """A defect. It is logged by its class and place, never by its text."""
    request.scope["state"]["error"] = error
    return problem_response(request_id_of(request), "internal")


def _fault(each: Mapping[str, Any]) -> ValidationFault:
    """Where, and what is expected; never what was given, keys that are not known included."""
    location = [str(part) for part in each["loc"]]
    if each["type"] in {"extra_forbidden", "invalid_key"}:
        return ValidationFault(location=".".join(location[:-1]), message="a name that is not known")
    if each["type"] == "json_invalid":
        return ValidationFault(location="body", message="this is not JSON")
    return ValidationFault(location=".".join(location), message=str(each["msg"]).removeprefix("Value error, "))


def request_id_of(request: Request) -> str:
    """The request's own random number."""
    return str(request.scope["state"]["request_id"])


def responses(*slugs: str) -> dict[int | str, dict[str, Any]]:
    """For ``responses=`` of a route: these problems, declared with schema and example."""
    declared: dict[int | str, dict[str, Any]] = {}
    for slug in slugs:
        problem = PROBLEMS[slug]
        entry = declared.setdefault(problem.status, {"model": Problem, "description": "", "content": {}})
        titles = [text for text in (entry["description"], problem.title) if text]
        entry["description"] = "; ".join(titles)
        examples = entry["content"].setdefault(MEDIA_TYPE, {"examples": {}})["examples"]
        examples[slug] = {"value": _example(problem)}
    return declared


def _example(problem: ProblemType) -> dict[str, Any]:
    return {
        "type": f"/problems/{problem.slug}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.text,
        "request_id": "493018275566120",
    }
