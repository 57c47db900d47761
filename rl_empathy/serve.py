"""Serve a released model: `python -m rl_empathy.serve RUN_OR_MODEL [--port 8000]`."""

from rl_empathy.cli import main

if __name__ == "__main__":
    main("serve")
