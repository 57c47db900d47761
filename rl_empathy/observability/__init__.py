"""Floor 1: the record of a run.

ledger          what became of every prompt: ledger.jsonl
metrics         one object a step: metrics.jsonl
progress        what one sees on the terminal
run_directory   runs/<name>/: created private, locked, resumed
"""
