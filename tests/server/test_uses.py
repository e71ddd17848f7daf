from __future__ import annotations

import asyncio

from server.uses import Uses
from tests.server.samples import run


def test_what_nobody_uses_is_free_at_once() -> None:
    run(Uses().until_free(object()))


def test_who_waits_goes_on_when_the_last_user_has_gone() -> None:
    async def scenario() -> None:
        uses, thing, other = Uses(), object(), object()
        with uses.hold(other), uses.hold(thing):
            with uses.hold(thing):
                waiting = asyncio.create_task(uses.until_free(thing))
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not waiting.done()
        await waiting
        await uses.until_free(thing)

    run(scenario())
