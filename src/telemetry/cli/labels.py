"""`telemetry labels`: what recipients are shown as place, kept up with settings."""

from typing import Annotated

import typer

from telemetry.cli.common import ConfigOption, JsonOption, config_of, database_dsn, print_result, run_command

_ROLE = "telemetry_rollup"


def labels(
    once: Annotated[bool, typer.Option("--once", help="One round, then end.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Keep place labels: all of them once a day, new ones when settings change. The service does this by itself.

    For a host of its own, or (--once) to have it done now. A cell is shown only if it holds `place.k` homes.

    Example: telemetry labels --once
    """

    async def main() -> None:
        from telemetry.maintenance.labels import LabelKeeper, keep_labels
        from telemetry.observe import Observer
        from telemetry.store.connection import connector
        from telemetry.store.keystore import LABEL_SECRETS, open_keystore, role_password

        settings = config_of(config)
        password = role_password(open_keystore(settings.data_dir, allowed=LABEL_SECRETS), _ROLE)
        connect = connector(database_dsn(settings), user=_ROLE, password=password)
        if not once:
            await LabelKeeper(connect, Observer(), k=settings.place.k).run()
        connection = await connect()
        try:
            done = await keep_labels(connection, k=settings.place.k)
        finally:
            await connection.close()
        result = {"recipients": done.recipients, "written": done.written, "removed": done.removed}
        text = f"{done.written} labels written, {done.removed} removed, for {done.recipients} recipients"
        print_result(result, text, as_json=json)

    run_command(main())
