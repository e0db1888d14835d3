"""`telemetry alerts find` and `deliver` on an installation."""

from tests.support.installation import installation


async def test_commands_do_one_round_and_delivery_is_off_until_configured() -> None:
    async with installation() as here:
        found = await here.telemetry("alerts", "find", "--once", "--json")
        assert (found.code, found.json["ran"], found.json["devices"]) == (0, True, 0)
        off = await here.telemetry("alerts", "deliver", "--once")
        assert off.code == 2
        assert "webhooks.enabled" in off.err
        here.config.write_text(here.config.read_text() + "[webhooks]\nenabled = true\n")
        done = await here.telemetry("alerts", "deliver", "--once")
        assert (done.code, done.out.split()[0]) == (0, "0")
