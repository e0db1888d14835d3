"""For whoever runs the service: figures, recipients and their first tokens. Nothing here is about anybody's home."""

from datetime import timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Path, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from telemetry.access.principal import Principal, Role, Scope
from telemetry.access.records import Holder
from telemetry.access.tokens import DEFAULT_LIFETIME, MAX_LIFETIME, MachineTokens
from telemetry.api.context import Context, context_of
from telemetry.api.formats import json_response
from telemetry.api.principals import operator
from telemetry.api.problems import responses
from telemetry.api.terms import check_lists
from telemetry.model.sharing import RecipientKind, SharingPurpose
from telemetry.model.shown import key_shown, shown_key
from telemetry.observe.metrics import package_version
from telemetry.store import operations, plans
from telemetry.store.quarantine import QuarantineStore
from telemetry.store.recipients import Recipients

router = APIRouter(prefix="/operator", tags=["operators"])

Ctx = Annotated[Context, Depends(context_of)]
Reader = Annotated[Principal, operator()]
Runner = Annotated[Principal, operator(Scope.MANAGE)]
RecipientKey = Annotated[str, Path(pattern=r"^r_[0-9a-f]{16}$", description="as the list names it")]
_HANDLE = Field(pattern=r"^[a-z0-9][a-z0-9-]{2,63}$", description="names no person, and is never given again")


class _Shown(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Health(_Shown):
    """How the service does."""

    version: str = Field(description="of this process")
    now: AwareDatetime = Field(description="of the database")
    migrations: int = Field(description="applied")
    migrations_known: int = Field(description="that this version knows")
    plan_version: int
    owners_to_compile: int = Field(description="whose settings are in force and not compiled yet")
    compiling_since: AwareDatetime | None = Field(description="the oldest of these")
    rolled_up_to: AwareDatetime | None = Field(description="windows up to then are computed; null before the first")
    rollup_lag_s: float | None
    workers: int = Field(description="connections of ingest")
    connections: dict[str, int] = Field(description="to the database, by role")


class WrittenHour(_Shown):
    """Readings of one hour, as the database counts rows since its statistics began. ``late``: by hour of receipt."""

    hour: AwareDatetime
    kind: Literal["hot", "late"]
    readings: int


class Ingest(_Shown):
    """What is registered and what comes in."""

    owners: int
    sites: int
    gateways: int
    devices: int
    gateways_counting: int = Field(description="whose messages are numbered, so that gaps show")
    hours: list[WrittenHour]


class QuarantineCount(_Shown):
    """Messages that could not be accepted. ``seen``: how often they came."""

    reason: str
    codec: str
    state: Literal["held", "recovered", "discarded"]
    messages: int
    readings: int
    seen: int


class Quarantine(_Shown):
    """By reason, the most frequent first."""

    counts: list[QuarantineCount]


class RecipientKept(_Shown):
    """A recipient. ``owners``: how many share something with it."""

    recipient: str
    handle: str
    kind: RecipientKind
    created_at: AwareDatetime
    closed_at: AwareDatetime | None
    owners: int


class RecipientsKept(_Shown):
    """All of them, in the order of their handles."""

    recipients: list[RecipientKept]


class RecipientAsked(BaseModel):
    """A recipient to be added."""

    model_config = ConfigDict(extra="forbid")
    handle: Annotated[str, _HANDLE]
    kind: RecipientKind


class RecipientAdded(_Shown):
    """The new recipient."""

    recipient: str


class RecipientClosed(_Shown):
    """Nothing granted to it counts any more."""

    owners: int = Field(description="how many had granted it something")


class TokenAsked(BaseModel):
    """A recipient's token."""

    model_config = ConfigDict(extra="forbid")
    recipient: Annotated[str, Field(pattern=r"^r_[0-9a-f]{16}$")]
    scopes: frozenset[Scope] = Field(frozenset({Scope.READ}), min_length=1)
    purposes: frozenset[SharingPurpose] | None = Field(None, min_length=1, description="bound to these; all without")
    lifetime_days: int = Field(DEFAULT_LIFETIME.days, ge=1, le=MAX_LIFETIME.days)

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, values: Any) -> Any:
        check_lists(cls, values)
        return values


class TokenIssued(_Shown):
    """The only time that the token is shown."""

    token: str = Field(description="its name", examples=["t_00c0ffee00c0ffee"])
    secret: str = Field(description="what requests send; stored nowhere")
    expires_at: AwareDatetime


@router.get("/health", response_model=Health)
async def read_fleet_health(_principal: Reader, context: Ctx) -> Response:
    """Workers, lags and versions."""
    async with context.pools.operator.connection() as connection:
        told = await operations.health(connection)
    lag = None if told["rolled_up_to"] is None else (told["now"] - told["rolled_up_to"]).total_seconds()
    workers = told["connections"].get("ingest", 0)
    return json_response(told | {"version": package_version(), "rollup_lag_s": lag, "workers": workers})


@router.get("/ingest", response_model=Ingest)
async def read_ingest(_principal: Reader, context: Ctx) -> Response:
    """How many are registered, and how many readings came by the hour."""
    async with context.pools.operator.connection() as connection:
        return json_response(await operations.ingest(connection))


@router.get("/quarantine", response_model=Quarantine)
async def read_quarantine(_principal: Reader, context: Ctx) -> Response:
    """What could not be accepted, counted by reason."""
    async with context.pools.operator.connection() as connection:
        return json_response({"counts": await QuarantineStore(connection).summary()})


@router.get("/recipients", response_model=RecipientsKept)
async def list_recipients(_principal: Reader, context: Ctx) -> Response:
    """All recipients, closed ones included."""
    async with context.pools.operator.connection() as connection:
        rows = await Recipients(connection).list()
    for row in rows:
        row["recipient"] = shown_key("recipient", row.pop("recipient_key"))
    return json_response({"recipients": rows})


@router.post("/recipients", status_code=201, response_model=RecipientAdded, responses=responses("conflict"))
async def add_recipient(_principal: Runner, context: Ctx, asked: Annotated[RecipientAsked, Body()]) -> Response:
    """A new recipient, to whom owners may grant something."""
    async with context.pools.operator.connection() as connection:
        key = await Recipients(connection).add(asked.handle, asked.kind)
    answer = json_response({"recipient": shown_key("recipient", key)})
    answer.status_code = 201
    return answer


@router.post("/recipients/{recipient}/close", response_model=RecipientClosed, responses=responses("not-found"))
async def close_recipient(recipient: RecipientKey, _principal: Runner, context: Ctx) -> Response:
    """From now on nothing granted to it counts. There is no way back."""

    async def recompile(owners: object) -> None:
        async with context.pools.sharing.connection() as rights:
            await plans.recompile(rights, owners)  # type: ignore[arg-type]  # keys of owners

    async with context.pools.operator.connection() as connection:
        owners = await Recipients(connection, recompile).close(key_shown("recipient", recipient))
    return json_response({"owners": owners})


@router.post("/tokens", status_code=201, response_model=TokenIssued, responses=responses("not-found"))
async def issue_token(_principal: Runner, context: Ctx, asked: Annotated[TokenAsked, Body()]) -> Response:
    """A token for a recipient's machine. It is told once."""
    holder = Holder(Role.RECIPIENT, recipient_key=key_shown("recipient", asked.recipient))
    issued = await MachineTokens(context.pools.access).issue(
        holder,
        asked.scopes,
        purposes=asked.purposes,
        lifetime=timedelta(days=asked.lifetime_days),
        by_operator=True,
    )
    told = {
        "token": shown_key("token", issued.token.token_key),
        "secret": issued.secret,
        "expires_at": issued.token.expires_at,
    }
    answer = json_response(told)
    answer.status_code = 201
    return answer
