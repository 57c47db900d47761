"""What the project asks package registries for is what its constraints hold."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(
    re.findall(
        r"^([\w.\-]+)==([^\s;]+)",
        (ROOT / "cluster/constraints.txt").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
)
EXTRAS = PROJECT["optional-dependencies"]


@pytest.mark.parametrize("extra", sorted(EXTRAS.keys() - {"gpu"}))
def test_an_extra_can_be_installed_beside_everything_else(extra):
    for text in (*PROJECT["dependencies"], *EXTRAS[extra]):
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        assert name in PINS, f"{text} is not in cluster/constraints.txt: does it resolve?"
        assert requirement.specifier.contains(PINS[name].split("+")[0], prereleases=True), text


def test_on_gpus_and_on_cpus_the_engine_is_of_the_same_version():
    gpu, cpu = (Requirement(EXTRAS[extra][0]) for extra in ("gpu", "cpu"))
    assert gpu.specifier == cpu.specifier
