"""Floor 0: pure functions. They know neither Ray, nor configurations, nor our data types.

advantages   rewards of a group -> advantages
kl           estimators of the divergence from the reference
ledger       the state machine of an occurrence
logprobs     hidden states -> log-probs of given tokens, without the full logits
losses       SFT, GRPO and reward-model losses
masking      sums and means over masked tokens
schedules    learning rate by step
"""
