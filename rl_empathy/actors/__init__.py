"""Floor 3: engines with a mailbox. Plain classes; `orchestration/fleet.py` makes Ray actors of them."""
