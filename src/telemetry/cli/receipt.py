"""`telemetry receipt`: signed receipts of grants, and checking them."""

import json as json_text
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from telemetry.cli.common import ConfigOption, JsonOption, config_of, parse_key, print_result, reported, run_command
from telemetry.cli.sharing import open_sharing
from telemetry.errors import InputError

receipt = typer.Typer(help="Signed receipts of grants.", no_args_is_help=True)

_MAX_BYTES = 2**20


@receipt.command("show")
def show(
    grant: Annotated[str, typer.Argument(help="The grant's key (c_…).")],
    version: Annotated[int | None, typer.Option(help="Of this version; the newest without.", min=1)] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Print the receipt of a grant as the owner gets it: one line, signed. --json adds what it says.

    Example: telemetry receipt show c_00c0ffee00c0ffee > receipt.jws
    """

    async def main() -> None:
        from telemetry.privacy.receipts import verify_receipt

        settings = config_of(config)
        async with open_sharing(settings) as sharing:
            signed = await sharing.receipt(parse_key("grant", grant), version)
        record = verify_receipt(signed, _public_key(settings)) if json else {}
        print_result({"receipt": signed, "record": record}, signed, as_json=json)

    run_command(main())


@receipt.command("key")
def key(config: ConfigOption = None, json: JsonOption = False) -> None:  # noqa: ARG001 - a JWK is JSON
    """Print the public key that receipts of this installation are checked with, as a JWK.

    Example: telemetry receipt key > receipts.jwk
    """
    with reported():
        typer.echo(json_text.dumps(_public_key(config_of(config))))


@receipt.command("verify")
def verify(
    file: Annotated[Path, typer.Argument(help="The receipt; - reads standard input.", dir_okay=False)],
    key: Annotated[Path | None, typer.Option(help="The public key (a JWK); this installation's without.")] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Check a receipt's signature, and print what it says. Needs no database, and with --key no keys either.

    Example: telemetry receipt verify receipt.jws --key receipts.jwk
    """
    with reported():
        from telemetry.privacy.receipts import verify_receipt

        record = verify_receipt(_read(file), _key_of(key) if key else _public_key(config_of(config)))
        text = json_text.dumps(record, indent=2)
        print_result({"valid": True, "record": record}, f"valid\n{text}", as_json=json)


def _public_key(config: Any) -> dict[str, Any]:
    from telemetry.privacy.receipts import ReceiptSigner
    from telemetry.store.keystore import RECEIPT_SIGNING, open_keystore

    return ReceiptSigner(open_keystore(config.data_dir).secret(RECEIPT_SIGNING)).public_key


def _key_of(path: Path) -> dict[str, Any]:
    try:
        found = json_text.loads(_read(path))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError("the key is not a JWK", remedy="`telemetry receipt key` prints one")
    return found


def _read(path: Path) -> str:
    try:
        content = sys.stdin.buffer.read(_MAX_BYTES) if str(path) == "-" else path.read_bytes()[:_MAX_BYTES]
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the file: {getattr(error, 'strerror', None) or 'it is not text'}") from None
