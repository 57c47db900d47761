"""Floor 2: a group in, numbers out.

interface   what a reward function is, and how terms become the rewards of a group
scores      what a reward function gave, read as one score a completion
form        does the completion keep the output schema
answer      how well the answer fits the question, under the embedding reward model
"""
