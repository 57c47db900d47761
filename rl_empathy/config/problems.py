"""All that is wrong with a run file at once, in its own words: the key, its line, the nearest valid word."""

import re
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rl_empathy.config.keys import KeyPath, dotted, dotted_keys, keys_at, kinds_at, parsed
from rl_empathy.config.nearest import nearest_word
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.sections.section import RULES_LATER, BrokenRule, Section
from rl_empathy.config.source import Problem, Source
from rl_empathy.errors import ConfigError

_PLAIN_MESSAGES = {
    "model_type": "Input should be a mapping of keys",
    "dict_type": "Input should be a mapping of keys",
    "tuple_type": "Input should be a list",
    "missing": "this key is needed",
}


def refusal(problems: Iterable[Problem]) -> ConfigError:
    """The error that tells of all problems, as a reader of the files meets them."""
    lines = [f"  {problem}" for problem in sorted(problems)]
    return ConfigError("\n".join([f"{len(lines)} problem(s) in the run file", *lines]))


def validated(source: Source) -> tuple[RunFile | None, list[Problem]]:
    """Make the run file of what a source gives, and look at all keys, values and rules between keys.

    Returns:
        The run file, None where it cannot be made, and what is wrong. A rule is told of beside other problems as long
        as none of them is about a key that it reads.
    """
    data, doubtful = deepcopy(source.data), _Doubtful(source)
    problems: list[Problem] = []
    while True:
        try:
            run_file = RunFile.model_validate(data, by_alias=True, by_name=False, context=RULES_LATER)
        except ValidationError as error:
            problems = problems or _validation_problems(error, source)
            if not doubtful.taken_out(error, data):
                return None, problems
        else:
            rules = [
                (path, rule) for path, rule in _broken_rules(run_file, ()) if doubtful.spares(path, rule)
            ]
            return run_file, [*problems, *(rule_problem(path, rule, source) for path, rule in rules)]


class _Doubtful:
    """Wrong keys and values: a rule that reads one of them would be about another value than the user meant."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._wrong: list[KeyPath] = []
        self._unknown: list[KeyPath] = []

    def taken_out(self, error: ValidationError, data: Any) -> bool:
        """Take what an error is about out of the data; False where there is nothing to take out."""
        is_less = False
        for details in error.errors(include_url=False):
            path, choice = _data_path(details, data)
            is_unknown = details["type"] == "extra_forbidden"
            (self._unknown if is_unknown else self._wrong).append(path)
            place = path[:-1] if details["type"] == "missing" else path if is_unknown else choice or path
            if path == ("model",) and details["type"] == "missing":
                data["model"] = {"from_scratch": {}}  # to look at the rest, any model will do
                is_less = True
            in_list = next((depth for depth, key in enumerate(place) if isinstance(key, int)), len(place))
            is_less |= _remove(data, place[:in_list])
        return is_less

    def spares(self, path: KeyPath, rule: BrokenRule) -> bool:
        """Whether all values that a rule of the section at `path` reads are as they are meant."""
        return not any(self._is_about(path + parsed(key)) for key in rule.keys)

    def _is_about(self, path: KeyPath) -> bool:
        if any(path[: len(wrong)] == wrong or wrong[: len(path)] == path for wrong in self._wrong):
            return True
        # A misspelt or misplaced key may be the one that is read; what is given under its own name is as it is meant.
        return self._source.gave(path) is None and any(
            unknown[-1] == path[-1] or _may_be_meant_for(unknown, path) for unknown in self._unknown
        )


def _may_be_meant_for(unknown: KeyPath, path: KeyPath) -> bool:
    """Whether an unknown key stands beside a key, or above it: a section that is misspelt."""
    *around, last = unknown
    return tuple(around) == path[: len(around)] if around else bool(nearest_word(last, [str(path[0])]))


def _remove(data: Any, path: KeyPath) -> bool:
    for key in path[:-1]:
        data = data.get(key) if isinstance(data, dict) else None
    return bool(path) and isinstance(data, dict) and data.pop(path[-1], data) is not data


def _broken_rules(section: Section, path: KeyPath) -> Iterator[tuple[KeyPath, BrokenRule]]:
    """The broken rules of a section and of those in it, each with the place of its section."""
    yield from ((path, rule) for rule in section.broken_rules())
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, Section):
            yield from _broken_rules(value, (*path, key))
        for number, entry in enumerate(value) if isinstance(value, tuple) else ():
            if isinstance(entry, Section):
                yield from _broken_rules(entry, (*path, key, number))


def rule_problem(path: KeyPath, rule: BrokenRule, source: Source) -> Problem:
    """It stands at the first of its keys that is given."""
    places = [path + parsed(key) for key in rule.keys]
    place = next((place for place in places if source.gave(place)), places[0])
    return Problem(source.origin(place), dotted(place), rule.text)


def _validation_problems(error: ValidationError, source: Source) -> list[Problem]:
    """Pydantic's errors, one for each place: the branches of a choice of types are told as one."""
    by_place: dict[KeyPath, list[tuple[KeyPath, ErrorDetails]]] = {}
    for details in error.errors(include_url=False):
        if details["type"] == "too_short" and len(details["input"]) >= details["ctx"]["min_length"]:
            continue  # counts the valid entries only; what is wrong with the others is told anyway
        path, choice = _data_path(details, source.data)
        by_place.setdefault(choice or path, []).append((path, details))
    problems = []
    for place, found in by_place.items():
        telling = [
            (path, details)
            for path, details in found
            if len(path) > len(place) or not details["type"].endswith(("_type", "_parsing", "literal_error"))
        ]
        if telling:
            problems += [_problem(path, [details], source) for path, details in telling]
        else:
            problems.append(_problem(place, [details for _, details in found], source))
    return problems


def _data_path(details: ErrorDetails, data: Any) -> tuple[KeyPath, KeyPath | None]:
    """Where in the data an error is, without pydantic's names of union branches; and where the union is."""
    path: KeyPath = ()
    choice: KeyPath | None = None
    of_a_kind: KeyPath | None = None
    for depth, key in enumerate(details["loc"], start=1):
        if isinstance(data, dict) and path[-1:] != (key,) and data.get("kind") == key and of_a_kind != path:
            of_a_kind = path  # this is the kind, by which pydantic chose; a key of the same name may follow
            continue
        if (isinstance(data, dict) and key in data) or (isinstance(data, list) and isinstance(key, int)):
            data = data[key]  # type: ignore[index]
        elif not (depth == len(details["loc"]) and details["type"] == "missing"):
            choice = path if choice is None else choice
            continue
        path = (*path, key)
    return path, choice


def _problem(path: KeyPath, choices: list[ErrorDetails], source: Source) -> Problem:
    details = choices[0]
    if details["type"] == "extra_forbidden":
        text = f"unknown key; {_suggestion(path)}"
    elif details["type"] == "missing":
        text = _PLAIN_MESSAGES["missing"]
    elif details["type"] in ("union_tag_invalid", "union_tag_not_found"):
        kinds = kinds_at(path)
        wrong = details.get("ctx", {}).get("tag")
        near = nearest_word(wrong, kinds)
        said = "kind: this key is needed" if wrong is None else f"kind: there is no {wrong}"
        text = f"{said}; " + (f"did you mean {near}?" if near else f"the kinds are {', '.join(kinds)}")
    elif details["type"] == "value_error":
        text = details["msg"].removeprefix("Value error, ")
    else:
        first, *others = dict.fromkeys(_PLAIN_MESSAGES.get(each["type"], each["msg"]) for each in choices)
        text = " or ".join([first, *(message.removeprefix("Input should be ") for message in others)])
        text += f", got {_shortened.repr(details['input'])}"
        if near := nearest_word(details["input"], _words(choices)):
            text += f"; did you mean `{near}`?"
    return Problem(source.origin(path), dotted(path) or "(top level)", text)


def _words(choices: Sequence[ErrorDetails]) -> Iterator[str]:
    """The words of which a value must be one, where it must."""
    for details in choices:
        if details["type"] == "literal_error":
            yield from re.findall(r"'([^']+)'", details.get("ctx", {})["expected"])


_shortened = reprlib.Repr()
_shortened.maxlevel, _shortened.maxstring, _shortened.maxother = 3, 60, 60


def _suggestion(path: KeyPath) -> str:
    """The nearest valid key of the same section, else of any section, else all keys of the section."""
    wrong, around = str(path[-1]), path[:-1]
    here = keys_at(around)
    if near := nearest_word(wrong, here, cutoff=0.75):
        return f"did you mean `{near}`?"
    elsewhere = [key for key in dotted_keys() if key.rpartition(".")[2] == wrong]
    if elsewhere:
        return f"did you mean {_any_of(_nearest(elsewhere, around))}?"
    if near := nearest_word(wrong, here):
        return f"did you mean `{near}`?"
    leaves = {key.rpartition(".")[2] for key in dotted_keys()}
    if near := nearest_word(wrong, leaves, cutoff=0.8):
        elsewhere = [key for key in dotted_keys() if key.rpartition(".")[2] == near]
        return f"did you mean {_any_of(_nearest(elsewhere, around))}?"
    return f"the keys here are {', '.join(here)}"


def _nearest(keys: list[str], around: KeyPath) -> list[str]:
    """Those of the same section where there are any, at most three."""
    own = [key for key in keys if around and key.startswith(f"{around[0]}.")]
    return (own or keys)[:3]


def _any_of(keys: list[str]) -> str:
    quoted = [f"`{key}`" for key in keys]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
