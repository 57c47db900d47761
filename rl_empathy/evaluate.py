"""Evaluate models side by side: `python -m rl_empathy.evaluate RUN_OR_MODEL… [section.key=value …]`."""

from rl_empathy.cli import main

if __name__ == "__main__":
    main("evaluate")
