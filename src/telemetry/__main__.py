"""`telemetry`: every command is one line below, and is imported when it is used."""

import importlib
import os
from typing import Any, Final, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group


class Entry(NamedTuple):
    """A command or a group of commands: ``where`` names a function or a typer.Typer as ``module:name``."""

    name: str
    where: str
    help: str
    panel: str


_RUN, _REGISTRY, _OPERATE = "Running", "Owners, sites and gateways", "Operating"
_SHARE = "Sharing"

ENTRIES: Final = (
    Entry("demo", "telemetry.cli.service:demo", "The whole system on this machine, with simulated homes.", _RUN),
    Entry("run", "telemetry.cli.service:run", "Run the service.", _RUN),
    Entry("api", "telemetry.cli.api:api", "Serve the HTTP API.", _RUN),
    Entry("owner", "telemetry.cli.registry:owner", "Add and list owners.", _REGISTRY),
    Entry("site", "telemetry.cli.handover:site", "Add, list and sell sites.", _REGISTRY),
    Entry("gateway", "telemetry.cli.gateway:gateway", "Enrol, revoke, list and set gateways.", _REGISTRY),
    Entry("device", "telemetry.cli.handover:device", "List and replace devices.", _REGISTRY),
    Entry("ble", "telemetry.cli.ble:ble", "Listen to Bluetooth devices that an owner permits.", _REGISTRY),
    Entry("import", "telemetry.cli.registry:import_file", "Import owners, sites and gateways from CSV.", _REGISTRY),
    Entry("recipient", "telemetry.cli.recipient:recipient", "Who may be granted something.", _SHARE),
    Entry("grant", "telemetry.cli.grant:grant", "What owners allow recipients to see.", _SHARE),
    Entry("explain", "telemetry.cli.explain:explain_command", "What a recipient may see, in sentences.", _SHARE),
    Entry("preview", "telemetry.cli.preview:preview", "The very rows that a recipient would get.", _SHARE),
    Entry("receipt", "telemetry.cli.receipt:receipt", "Signed receipts of grants.", _SHARE),
    Entry("settings", "telemetry.cli.settings:settings", "Many owners' settings as a file.", _SHARE),
    Entry("keeping", "telemetry.cli.keeping:keeping", "What may be stored of an owner.", _SHARE),
    Entry("member", "telemetry.cli.household:member", "People of an owner's household.", _SHARE),
    Entry("restriction", "telemetry.cli.household:restriction", "Show nothing of an owner, for a time.", _SHARE),
    Entry("token", "telemetry.cli.access:token", "Machines' tokens for the HTTP API.", _SHARE),
    Entry("account", "telemetry.cli.access:account", "People's accounts.", _SHARE),
    Entry("objection", "telemetry.cli.household:objection", "An owner's objection to a purpose.", _SHARE),
    Entry("keys", "telemetry.cli.keys:keys", "What is wrapped under which key, and replacing keys.", _OPERATE),
    Entry("labels", "telemetry.cli.labels:labels", "Keep what recipients are shown as place.", _OPERATE),
    Entry("migrate", "telemetry.cli.migrate:migrate", "Make keys, and bring the databases up to date.", _OPERATE),
    Entry("decode", "telemetry.cli.decode:decode", "Show what the service would make of a message.", _OPERATE),
    Entry("identify", "telemetry.cli.identify:identify", "Tell which formats a gateway speaks.", _OPERATE),
    Entry("conformance", "telemetry.cli.conformance:conformance", "Run golden cases of formats.", _OPERATE),
    Entry("config", "telemetry.cli.config:config", "Print a commented configuration file.", _OPERATE),
    Entry("doctor", "telemetry.cli.doctor:doctor", "Check this installation, and say what to mend.", _OPERATE),
    Entry("scan", "telemetry.cli.scan:scan", "Search all that was written for given strings.", _OPERATE),
    Entry("plan", "telemetry.cli.plan:plan", "What is kept of whom, and why.", _OPERATE),
    Entry("rollup", "telemetry.cli.maintenance:rollup", "Turn readings into windows of the series.", _OPERATE),
    Entry("retention", "telemetry.cli.maintenance:retention", "Coarsen and delete what is kept too long.", _OPERATE),
    Entry("alerts", "telemetry.cli.alerts:alerts", "Look for what is wrong with devices, and tell.", _OPERATE),
    Entry("quarantine", "telemetry.cli.quarantine:quarantine", "Messages that were not accepted.", _OPERATE),
)


class LazyCommand(TyperCommand):
    """Stands for a command in the list of commands, and imports it when it is called."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry.name, help=entry.help, rich_help_panel=entry.panel)
        self._entry = entry

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the real command: all that follows goes to that one."""
        return self.load().make_context(info_name, args, parent=parent, **extra)

    def load(self) -> Any:
        """The real command."""
        module, _, name = self._entry.where.partition(":")
        found = getattr(importlib.import_module(module), name)
        if isinstance(found, typer.Typer):
            return get_group(found)
        single = typer.Typer(add_completion=False)
        single.command(self._entry.name)(found)
        return get_command(single)


def build(entries: tuple[Entry, ...] = ENTRIES) -> TyperGroup:
    """The command line as one group."""
    return TyperGroup(
        name="telemetry",
        help="Home energy telemetry that keeps what owners allow, and nothing that says who they are.",
        commands={entry.name: LazyCommand(entry) for entry in entries},
        no_args_is_help=True,
        rich_markup_mode=None if typer.core.HAS_RICH is False else "rich",
    )


def main() -> None:
    """Run the command line."""
    # Preparing has a thread of its own and the database the other cores: polars' own threads would only take turns
    # with them (measured: a quarter less CPU a reading with one). Read once, when polars is imported.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    build()(prog_name="telemetry")


if __name__ == "__main__":
    main()
