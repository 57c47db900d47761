"""Reward functions for tests, found by their dotted path like a user's own."""

import time


def vowels(view):
    """Share of vowels: dense, cheap, and different for nearly every completion."""
    return [sum(letter in "aeiou" for letter in c.text) / max(1, len(c.text)) for c in view.completions]


def unreliable(view):
    """More than 0, but for some prompts it raises, gives what is no number, or has a score for one completion only."""
    scores = [1 + share for share in vowels(view)]
    match view.occurrence.index % 8:
        case 3 if view.occurrence.index > 8:  # one that never worked would end the run
            raise ConnectionError("the judge does not answer")
        case 5:
            return [float("nan"), *scores[1:]]
        case 7:
            return [scores[0]] + [None] * (len(scores) - 1)
    return scores


def slow(view):
    """Like `vowels`, but groups queue for it."""
    time.sleep(0.3)
    return vowels(view)


def stubborn(view):
    """Like `vowels`, but for the sixth prompt it never ends."""
    if view.occurrence.index == 5:
        time.sleep(3600)
    return vowels(view)
