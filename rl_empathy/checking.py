"""What `train --check` prints: the resolved run file, the plan, the data as they are read, what looks like a slip."""

import os
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from rl_empathy.actors.cluster_address import is_local
from rl_empathy.config.advice import advice
from rl_empathy.config.loading import annotated_run_file
from rl_empathy.config.plan import Plan, make_plan
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.source import Source
from rl_empathy.errors import DataError, ResourceError
from rl_empathy.observability.memory import machine_bytes
from rl_empathy.types import Row

LIMIT = 0.01
"""A smaller share of posts that are too long is not worth a warning."""


def print_check(run_file: RunFile, source: Source, *, show: int) -> int:
    """Look at everything that a run would trip over, and print what was found; nothing is started.

    A cluster that the run would join is joined for a moment, and asked what it has.

    Args:
        run_file: The resolved run file.
        source: Where its values come from.
        show: Examples of what the model is trained on, at most.

    Raises:
        RlEmpathyError: Something would end the run.
    """
    plan = make_plan(run_file)
    print(annotated_run_file(run_file, source), end="")
    print("\n".join(f"# {line}" for line in plan.lines()))
    from rl_empathy.data.loading import load_data
    from rl_empathy.data.targets import with_targets
    from rl_empathy.engines.chat_sources import check_chat
    from rl_empathy.own_code import try_own_code
    from rl_empathy.rewards.terms import term_remarks

    data = with_targets(load_data(run_file.data, seed=run_file.run.seed), run_file)
    remarks = [
        *advice(run_file),
        *check_chat(run_file),
        *term_remarks(run_file.rewards),
        *_untaught(run_file, data.train),
    ]
    print(f"# data: {data.summary}")
    print("".join(f"# {line}\n" for line in try_own_code(run_file, data.train, source)), end="")
    print("".join(f"# {line}\n" for line in _lengths(run_file, [*data.train, *data.held_out])), end="")
    print("".join(f"# warning: {line}\n" for line in remarks), end="")
    if is_local(run_file.cluster.address):
        print("".join(f"# {line}\n" for line in _room_here(run_file.cluster.num_cpus, plan)), end="")
    else:
        from rl_empathy.orchestration.placement import look_at_cluster

        print("".join(f"# {line}\n" for line in look_at_cluster(run_file.cluster, plan)), end="")
    for row in sorted(data.train, key=lambda row: not row.references)[:show]:
        print("".join(f"# {line}\n" for line in _example(run_file, row)), end="")
    return 0


def _room_here(num_cpus: int | None, plan: Plan) -> Iterator[str]:
    """Whether this machine can carry out the plan, and how tight it is.

    Args:
        num_cpus: Logical CPUs of the local cluster; None: as many as the plan needs.
        plan: What the run will ask for.

    Raises:
        ResourceError: It cannot.
    """
    if num_cpus is not None and num_cpus < plan.total_cpus:
        raise ResourceError(
            plan.refusal([f"{plan.total_cpus:g} CPUs, of which cluster.num_cpus gives {num_cpus}"])
        )
    fits, memory = plan.memory_text(machine_bytes(), "this machine")
    if not fits:
        raise ResourceError(memory)
    yield from filter(None, [plan.cpus_text(len(os.sched_getaffinity(0))), memory])


def _lengths(run_file: RunFile, rows: Sequence[Row]) -> Iterator[str]:
    """How long the prompts are in tokens, where the tokenizer is at hand."""
    folder = Path(run_file.model.path or "").expanduser()
    if run_file.model.path is None or not folder.is_dir():
        yield "lengths in tokens are known when the tokenizer is made or fetched, at the start of the run"
        return
    from rl_empathy.data.conversations import prompt_messages
    from rl_empathy.engines.model_folders import load_tokenizer

    tokenizer, limit = load_tokenizer(folder), run_file.data.max_prompt_tokens
    texts = [
        "\n".join(message.content for message in prompt_messages(row, _instruction(run_file))) for row in rows
    ]
    counts = sorted(len(ids) for ids in tokenizer(texts)["input_ids"])
    long = sum(count > limit for count in counts)
    if long == len(counts) and {*run_file.run.stages} != {"reward_modeling"}:  # which reads no prompt
        raise DataError(
            f"every prompt is longer than data.max_prompt_tokens ({limit}): the shortest has {counts[0]:,} tokens "
            f"without the chat template, half of them up to {counts[len(counts) // 2]:,}"
        )
    yield (
        f"prompts have {counts[0]:,} to {counts[-1]:,} tokens without the chat template, half of them up to "
        f"{counts[len(counts) // 2]:,}"
    )
    if long > LIMIT * len(counts):
        yield (
            f"warning: {long} of {len(counts)} prompts are longer than data.max_prompt_tokens ({limit}) and would be "
            "left out"
        )


def _untaught(run_file: RunFile, rows: Sequence[Row]) -> Iterator[str]:
    """Spans of the form that no training row has."""
    schema = run_file.schema_declaration
    reasoning = [name for name in schema.span_names if name != schema.answer]
    if run_file.data.missing_trace == "none" and reasoning and not any(row.trace for row in rows):
        yield (
            f"no training row has a trace, and data.missing_trace is none: nothing but the instruction teaches "
            f"{', '.join(reasoning)}. A reply without them does not keep the form, and may have no answer, which "
            "scores 0; rl-empathy annotate has a teacher write traces"
        )


def _example(run_file: RunFile, row: Row) -> Iterator[str]:
    """A row as the model sees it, before its chat template, and what it is fine-tuned to write."""
    from rl_empathy.data.conversations import prompt_messages, target_text

    data = run_file.data
    yield f"example, row {row.id}:"
    for message in prompt_messages(row, _instruction(run_file)):
        yield from _part(message.role, message.content)
    schema = run_file.schema_declaration
    target = target_text(row, schema, language=data.language, missing_trace=data.missing_trace)
    yield from _part("target", target or "none: it has no reference, or no trace; see data.missing_trace")


def _instruction(run_file: RunFile) -> str:
    wanted = run_file.data.system_prompt
    return run_file.schema_declaration.instruction(run_file.data.language) if wanted is None else wanted


def _part(name: str, text: str) -> Iterator[str]:
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, 100) or [""]]
    yield from (f"  {name + ':' if number == 0 else '':10} {line}" for number, line in enumerate(lines))
