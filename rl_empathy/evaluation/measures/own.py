"""A measure of the user's: a function that evaluate.measures names."""

from collections.abc import Callable, Iterator
from typing import Any

from rl_empathy.config.run_file import RunFile
from rl_empathy.config.sections import OwnMeasureConfig
from rl_empathy.errors import ConfigError
from rl_empathy.evaluation.measures.measure import Described, Evaluated, Measured, ReadCompletion, of_each
from rl_empathy.types import Row
from rl_empathy.user_code import NotANumberError, load_function, number_of, raised, require_arguments


def own_measures(run_file: RunFile) -> list["OwnMeasure"]:
    """The measures of a run file.

    Raises:
        ConfigError: A function is not there, or does not take a completion and its row.
    """
    return [own_measure(config, run_file) for config in run_file.evaluate.measures]


def own_measure(config: OwnMeasureConfig, run_file: RunFile) -> "OwnMeasure":
    """One measure of a run file; raises as `own_measures`."""
    function = load_function(config.function, import_from=run_file.code_folders)
    require_arguments(function, config.function, ("completion", "row"), {})
    return OwnMeasure(config, function)


class OwnMeasure:
    """Calls function(completion, row) for every completion: a number, or None where it does not apply."""

    def __init__(self, config: OwnMeasureConfig, function: Callable[[ReadCompletion, Row], Any]) -> None:
        self.name, self._function, self._path = config.name, function, config.function
        self.DESCRIBED = {config.name: Described(config.better, config.meaning)}

    def measured(self, evaluated: Evaluated) -> Measured:
        def values(one: ReadCompletion, row: Row) -> Iterator[tuple[str, float]]:
            value = self.value(one, row)
            if value is not None:
                yield self.name, value

        return of_each(evaluated, values)

    def value(self, one: ReadCompletion, row: Row) -> float | None:
        """What the function says of a completion.

        Raises:
            ConfigError: It raises, or gives what is no number.
        """
        where = f"evaluate.measures: {self._path}, a completion of {row.id}"
        try:
            given = self._function(one, row)
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{where}: {raised(error)}") from error
        try:
            number = number_of(given)
        except NotANumberError as error:
            raise ConfigError(f"{where}: {error}, which is no number") from None
        if number is None and given is not None:
            raise ConfigError(f"{where}: it gave {given}; None says that it does not apply")
        return number
