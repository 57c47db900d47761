"""Floor 2: a group in, numbers out.

view        a group as a term sees it
terms/      one file a kind of term
scoring     terms to the rewards of a group: side by side, with deadlines and retries
combiners   the terms of a completion as one total
scores      what a term gave, read as one item a completion
parts       what a process has for its terms
"""
