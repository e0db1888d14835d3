"""A gateway is revoked while it publishes: a running worker stores nothing of it from that moment on."""

import asyncio

from tests.support.system import System, system


async def stored_of(found: System, gateway_key: int) -> int:
    return await found.fetchval(
        "SELECT count(*) FROM readings.hot JOIN consent.device USING (device_key) WHERE gateway_key = $1",
        gateway_key,
    )


async def test_a_revoked_gateway_is_refused_at_once_and_the_others_go_on(seed: int) -> None:
    async with system(seed=seed) as found:
        revoked, other = await found.enrol(2)
        leaving = found.fleet([revoked], messages_per_second=50)
        staying = found.fleet([other], messages_per_second=50)
        await found.worker.until_committing(50)

        async with found.administration() as admin:
            gateway_key = await admin.gateway_named(revoked.username)
            await admin.revoke_gateway(gateway_key)
        at_once = await stored_of(found, gateway_key)  # no transaction may commit under the old plan any more
        assert at_once > 0

        async with asyncio.timeout(60):
            while not await found.fetchval(
                "SELECT count(*) FROM readings.quarantine WHERE gateway_key = $1 AND reason = 'revoked_gateway'",
                gateway_key,
            ):
                await asyncio.sleep(0.05)
        await staying.until(staying.figures.acknowledged + 1_000)
        await leaving.finish()
        await staying.finish()
        await found.settle()

        assert found.worker.starts == 1
        assert await stored_of(found, gateway_key) == at_once
        (held,) = await found.fetch(
            "SELECT count(*) AS messages, sum(readings)::bigint AS readings, array_agg(DISTINCT reason) AS reasons"
            " FROM readings.quarantine WHERE gateway_key = $1",
            gateway_key,
        )
        assert held["reasons"] == ["revoked_gateway"]
        assert held["readings"] + at_once == leaving.summary.figures.published
        report = await found.check(staying)
        assert report.exact, report
