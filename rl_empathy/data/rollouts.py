"""Groups as JSON: for the reader of `rollouts/`, and for checkpoints."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rl_empathy.data.rows import row_from_dict, row_to_dict
from rl_empathy.schema import OutputSchema
from rl_empathy.types import (
    Completion,
    GroupRewards,
    Occurrence,
    PolicyVersion,
    Prompt,
    RolloutGroup,
    VersionSpan,
)


def rollout_lines(
    step: int, groups: Sequence[RolloutGroup], rewards: Sequence[GroupRewards], schema: OutputSchema
) -> Iterator[dict[str, Any]]:
    """One object a completion: text, spans, reward terms, token versions."""
    for group, reward in zip(groups, rewards, strict=True):
        for index, completion in enumerate(group.completions):
            parsed = schema.parse(completion.text, strict=True)
            yield {
                "step": step,
                "occurrence": list(group.prompt.occurrence),
                "row_id": group.prompt.row.id,
                "prompt": group.prompt.row.post,
                "text": completion.text,
                "spans": {name: span.text for name, span in parsed.spans.items()},
                "schema_errors": list(parsed.errors),
                "reward": reward.totals[index],
                "terms": {name: scores[index] for name, scores in reward.terms.items()},
                "finish_reason": completion.finish_reason,
                "tokens": len(completion.token_ids),
                "versions": [[str(s.version), s.start, s.end] for s in completion.version_spans],
            }


def group_to_json(group: RolloutGroup) -> dict[str, Any]:
    """A group as JSON that `group_from_json` reads back to an equal one (floats round-trip exactly)."""
    return {
        "occurrence": list(group.prompt.occurrence),
        "row": row_to_dict(group.prompt.row),
        "prompt": list(group.prompt.token_ids),
        "admitted": list(group.admitted),
        "completions": [
            {
                "token_ids": list(c.token_ids),
                "rollout_logprobs": list(c.rollout_logprobs),
                "versions": [[*s.version, s.start, s.end] for s in c.version_spans],
                "finish_reason": c.finish_reason,
                "text": c.text,
            }
            for c in group.completions
        ],
    }


def group_from_json(item: Mapping[str, Any]) -> RolloutGroup:
    """Read back what `group_to_json` wrote."""
    return RolloutGroup(
        prompt=Prompt(
            occurrence=Occurrence(*item["occurrence"]),
            row=row_from_dict(item["row"], "checkpoint"),
            token_ids=tuple(item["prompt"]),
        ),
        admitted=PolicyVersion(*item["admitted"]),
        completions=tuple(
            Completion(
                token_ids=tuple(c["token_ids"]),
                rollout_logprobs=tuple(c["rollout_logprobs"]),
                version_spans=tuple(
                    VersionSpan(PolicyVersion(attempt, number), start, end)
                    for attempt, number, start, end in c["versions"]
                ),
                finish_reason=c["finish_reason"],
                text=c["text"],
            )
            for c in item["completions"]
        ),
    )
