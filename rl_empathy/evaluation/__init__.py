"""Measures of completions on held-out prompts, for any number of models side by side.

measures/     what is measured, one file a measure; what each is, and in which direction it is better
words         text as words; stop_words: those that say nothing of a post's subject
tfidf         likeness in letters
scored        a completion with what the scorers said of it
completions   scored completions to values per measure and prompt
intervals     bootstrap over prompts: a mean, and a paired difference
significance  a test over prompts, and what is left of it when many measures are looked at
report        one model's evaluation, differences between models, JSON
table         the table on the terminal: ten measures or all of them
"""
