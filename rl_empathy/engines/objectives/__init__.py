"""What an update makes small, one file an objective; the training engine knows no other part of an algorithm.

objective   what the engine asks of an objective, and what it gives it
sft         likelihood of the completions
grpo        clipped surrogate with a correction for older weights, and a KL term
"""
