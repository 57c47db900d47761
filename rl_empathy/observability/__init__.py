"""Floor 1: the record of a run.

ledger           what became of every prompt: ledger.jsonl
metrics          one object a step: metrics.jsonl
rollout_metrics  what the groups of a step look like
curves           the course of a stage's metrics, drawn in the terminal
progress         what one sees on the terminal
role_log         one log file a role
run_directory    runs/<name>/: created private, locked, resumed
earlier_attempts what an earlier attempt left there
disk             files and folders that are whole or as they were
run_lock         one living run a directory
"""
