"""The error of a call that returns several objects is heard, whoever waits. With real Ray: tests/ray/test_calls.py."""

from concurrent.futures import Future

import pytest

from rl_empathy.errors import VoidedError
from rl_empathy.orchestration.fleet import references
from rl_empathy.orchestration.fleet.references import hear_errors


class Reference:
    """Stands for a reference to an object of Ray, which prints an error that nobody has asked for."""

    def __init__(self) -> None:
        self.result: Future[object] = Future()
        self.num_asked = 0

    def future(self) -> "Future[object]":
        self.num_asked += 1
        return self.result


@pytest.mark.parametrize("fails", [True, False])
def test_every_object_of_a_call_that_fails_is_asked_for_and_of_no_other(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "ObjectRef", Reference)
    header, payload = Reference(), Reference()
    hear_errors(header, payload)  # type: ignore[arg-type]
    if fails:
        header.result.set_exception(VoidedError("a load gave it up"))
    else:
        header.result.set_result("a header")
    assert (header.num_asked, payload.num_asked) == (1, int(fails)), "a payload that is there is not fetched"
