"""Measures of completions on held-out prompts, for any number of models side by side.

measures      text measures: words, ROUGE-L, BLEU, Distinct-n, copying, grounding, character similarity
stop_words    words that say nothing of a post's subject
intervals     bootstrap over prompts: a mean, and a paired difference
completions   scored completions to values per measure and prompt
significance  a test over prompts, and what is left of it when many measures are looked at
report        one model's evaluation, differences between models, JSON
catalogue     what every measure is, and in which direction it is better
table         the table on the terminal: ten measures or all of them
"""
