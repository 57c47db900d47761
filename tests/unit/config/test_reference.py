from typing import Annotated, Literal

import pytest
from pydantic import Field

from rl_empathy.config.keys import dotted_keys
from rl_empathy.config.reference import reference_text, type_text


def test_every_key_is_on_the_page() -> None:
    lines = reference_text().splitlines()
    leaves = [key for key in dotted_keys() if not any(other.startswith(f"{key}.") for other in dotted_keys())]
    assert len(leaves) > 100
    missing = [key for key in leaves if not any(line.startswith(f"  {key}: ") for line in lines)]
    assert missing == []


def test_every_key_has_a_description() -> None:
    lines = reference_text().splitlines()
    bare = [
        line
        for line, after in zip(lines, [*lines[1:], ""], strict=True)
        if line.startswith("  ") and not line.startswith("      ") and not after.startswith("      ")
    ]
    assert bare == []


def test_an_entry_has_key_type_default_and_unit() -> None:
    assert (
        "\ngrpo - Stage grpo: group relative policy optimization (arXiv 2402.03300), asynchronous.\n"
        "  grpo.num_steps: int ≥ 1 = 100\n"
        "      Steps: one take of groups, its optimizer updates, one publish.\n"
    ) in reference_text()


def test_the_default_of_a_nested_key_is_that_of_its_section() -> None:
    text = reference_text()
    assert "  sft.optimizer.learning_rate: float > 0 = 2e-05\n" in text
    assert "  grpo.optimizer.learning_rate: float > 0 = 1e-06\n" in text


def test_a_key_without_a_default_is_marked() -> None:
    assert "  data.columns.prompt: text = (needed)\n" in reference_text()


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (bool, "true|false"),
        (Literal["a", "b"], "one of a|b"),
        (Annotated[int, Field(ge=1, le=9)], "int 1..9"),
        (Annotated[float, Field(gt=0)] | None, "float > 0 or null"),
        (tuple[str, ...], "list of text"),
        (dict[str, int | str], "mapping of text to int or text"),
    ],
)
def test_types_are_written_short(annotation: object, text: str) -> None:
    assert type_text(annotation) == text
