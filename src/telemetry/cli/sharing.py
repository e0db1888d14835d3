"""What the commands about sharing have in common: the store opened, and what is typed turned into settings."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import AwareDatetime, BaseModel, TypeAdapter, ValidationError

from telemetry.cli.common import database_dsn, format_key, parse_key
from telemetry.errors import InputError

if TYPE_CHECKING:
    from telemetry.config import Config
    from telemetry.model.sharing import Grant
    from telemetry.store.recipients import Recipients
    from telemetry.store.sharing import Sharing

M = TypeVar("M", bound=BaseModel)

OwnerArgument = Annotated[str, typer.Argument(help="The owner's key (o_…).")]
RecipientArgument = Annotated[str, typer.Argument(help="The recipient's handle, or its key (r_…).")]
RecipientOption = Annotated[str | None, typer.Option(help="Only this recipient's: handle, or key (r_…).")]


@asynccontextmanager
async def open_sharing(config: "Config") -> AsyncIterator["Sharing"]:
    """What owners settle, as the role that acts for them; what workers keep is compiled after each change."""
    from telemetry.privacy.receipts import ReceiptSigner
    from telemetry.store.connection import connector
    from telemetry.store.keystore import RECEIPT_SIGNING, open_keystore, role_password
    from telemetry.store.plans import recompile
    from telemetry.store.sharing import Sharing

    role, keystore = "telemetry_rights", open_keystore(config.data_dir)
    signer = ReceiptSigner(keystore.secret(RECEIPT_SIGNING))
    async with AsyncExitStack() as stack:
        connect = connector(database_dsn(config), user=role, password=role_password(keystore, role))
        connection = await connect()
        stack.push_async_callback(connection.close)
        hot_retention = timedelta(hours=config.retention.hot_hours)
        sharing = Sharing(connection, signer, partial(recompile, connection), hot_retention=hot_retention)
        yield sharing
        if sharing.behind is not None:
            typer.echo(f"in force; but what is kept is not compiled yet: {sharing.behind}", err=True)


@asynccontextmanager
async def open_recipients(config: "Config") -> AsyncIterator["Recipients"]:
    """Recipients, as the operator."""
    from telemetry.store.connection import connector
    from telemetry.store.keystore import open_keystore, role_password
    from telemetry.store.recipients import Recipients

    role, keystore = "telemetry_operator", open_keystore(config.data_dir)
    connection = await connector(database_dsn(config), user=role, password=role_password(keystore, role))()
    try:
        yield Recipients(connection)
    finally:
        await connection.close()


def which_recipient(text: str) -> int | str:
    """A key where it is written as one, a handle otherwise."""
    return parse_key("recipient", text) if text.startswith("r_") else text


async def recipient_key(sharing: "Sharing", text: str | None) -> int | None:
    """The key of the recipient that was named, if one was."""
    return None if text is None else (await sharing.recipient(which_recipient(text))).recipient_key


def duration(text: str | None) -> timedelta | None:
    """An ISO 8601 duration such as P30D or PT2H. Raises InputError."""
    if text is None:
        return None
    try:
        if text.startswith("P"):
            return TypeAdapter(timedelta).validate_python(text)
    except ValidationError:
        pass
    raise InputError("a duration is written like P30D or PT2H")


def instant(text: str | None) -> datetime | None:
    """An ISO 8601 instant with its offset from UTC. Raises InputError."""
    if text is None:
        return None
    try:
        if "T" in text:
            return TypeAdapter(AwareDatetime).validate_python(text)
    except ValidationError:
        pass
    raise InputError("an instant is written like 2026-11-02T12:00:00Z, with Z or an offset")


def checked(model: type[M], values: Mapping[str, Any]) -> M:
    """The model of these values. Raises InputError with what its checks say, and nothing of what was typed."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        told = dict.fromkeys(one["msg"].removeprefix("Value error, ") for one in error.errors(include_input=False))
        raise InputError("; ".join(told)) from None


def shown_grant(grant: "Grant") -> dict[str, Any]:
    """A version of a grant, for programs."""
    from telemetry.store.settings_file import plain_terms

    return {
        "grant": format_key("grant", grant.grant_key),
        "grant_key": grant.grant_key,
        "version": grant.version,
        "state": grant.state.value,
        "owner": format_key("owner", grant.owner_key),
        "recipient": format_key("recipient", grant.recipient_key),
        "epoch": grant.epoch,
        "policy": grant.policy,
        "recorded_at": grant.recorded_at,
        **plain_terms(grant.terms),
    }
