"""Every command: `python -m rl_empathy train RUN.yaml`."""

from rl_empathy.cli import main

if __name__ == "__main__":
    main()
