"""Every family of language models: the trainer computes what transformers computes, or refuses it by name."""

import pytest

from tests.architectures import FAMILIES, NOT_TRAINED, find, is_wrong


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_computed_as_transformers_does_or_refused(name, tmp_path):
    found = find(name, tmp_path)
    assert (found.refused is not None) == (name in NOT_TRAINED)
    assert NOT_TRAINED.get(name, "") in (found.refused or "")
    assert not is_wrong(found), found
