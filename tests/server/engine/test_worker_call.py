from __future__ import annotations

import weakref
from functools import partial

import pytest

from server.engine.worker_call import WorkerCall


class Thing:
    pass


def test_what_a_function_holds_is_free_by_the_time_of_its_result() -> None:
    thing = Thing()
    seen, known = list[bool](), weakref.ref(thing)
    call = WorkerCall(partial(isinstance, thing, Thing))
    del thing
    call.future.add_done_callback(lambda _: seen.append(known() is None))
    call.run()
    assert call.future.result() is True
    assert seen == [True]


def test_an_error_is_for_whoever_waits_and_a_cancelled_call_is_not_made() -> None:
    failing = WorkerCall(lambda: 1 // 0)
    failing.run()
    with pytest.raises(ZeroDivisionError):
        failing.future.result()
    made = list[int]()
    cancelled = WorkerCall(lambda: made.append(1))
    cancelled.future.cancel()
    cancelled.run()
    assert made == []
