"""`telemetry api`: the HTTP API as a process of its own."""

from telemetry.cli.common import ConfigOption, config_of, database_dsn, reported


def api(config: ConfigOption = None) -> None:
    """Serve the HTTP API until Ctrl-C or SIGTERM. The service runs apart from it (`telemetry run`).

    Example: telemetry api --config telemetry.toml
    """
    with reported():
        import uvloop

        from telemetry.api.service import serve
        from telemetry.observe import configure_logging

        settings = config_of(config)
        undo = configure_logging(settings.observe)
        try:
            uvloop.run(serve(settings, lambda database: database_dsn(settings, database)))
        finally:
            undo()
