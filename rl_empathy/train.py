"""Run the stages of a run file: `python -m rl_empathy.train RUN.yaml [section.key=value …]`."""

from rl_empathy.cli import main

if __name__ == "__main__":
    main("train")
