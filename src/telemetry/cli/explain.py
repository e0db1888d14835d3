"""`telemetry explain`: what a recipient may see of an owner, in sentences."""

from telemetry.cli.common import ConfigOption, JsonOption, config_of, parse_key, print_result, run_command
from telemetry.cli.sharing import OwnerArgument, RecipientArgument, open_sharing, which_recipient


def explain_command(
    owner: OwnerArgument, recipient: RecipientArgument, config: ConfigOption = None, json: JsonOption = False
) -> None:
    """Say what a recipient may see of an owner: for which purpose, how fine, how far back, until when, what not.

    Example: telemetry explain o_00c0ffee00c0ffee example-installer
    """

    async def main() -> None:
        from telemetry.privacy.explain import Situation, explain

        key = parse_key("owner", owner)
        async with open_sharing(config_of(config)) as sharing:
            to, now = await sharing.recipient(which_recipient(recipient)), await sharing.now()
            situation = Situation(
                owner_key=key,
                handle=to.handle,
                now=now,
                grants=await sharing.grants(key, to.recipient_key),
                standing=await sharing.standing(key, to, now),
                keeping=await sharing.keeping(key),
                sites=await sharing.sites(key),
            )
        sentences = explain(situation)
        print_result({"sentences": sentences}, "\n".join(sentences), as_json=json)

    run_command(main())
