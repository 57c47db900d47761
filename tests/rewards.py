"""Reward functions for tests, found by their dotted path like a user's own."""


def vowels(group, parsed):
    """Share of vowels: dense, cheap, and different for nearly every completion."""
    return [sum(letter in "aeiou" for letter in c.text) / max(1, len(c.text)) for c in group.completions]
