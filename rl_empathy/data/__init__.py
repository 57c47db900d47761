"""Counselling text in, typed rows out, and traces added to them.

rows.py            our own JSON lines <-> `types.Row`
sources.py         where text comes from: a file, a folder of dialogues, the bundled set, a hub name
records.py         the records of a table, each with its line; a damaged one costs itself
json_records.py    the objects of JSON files, likewise
formats/           one reader a layout
text.py            cleaning, folding for comparison, shortening for error texts
markup.py          HTML as the reader of a page sees it
conversations.py   conversations and targets to token ids; text is never structure
targets.py         rows whose fine-tuning target cannot be written, before anything starts
triplets.py        a question with a right and a wrong answer; corruptions.py spoils answers
risk.py            lexicon of acute risk, and the fixed safe reply
loading.py         read, screen, de-duplicate, filter, split by prompt: `load_data`
split.py           training and held-out prompts; near_copies.py: what a split must not part
prompts.py         rows as prompts, and the endless stream of them
rollouts.py        groups as JSON
echoes.py          replies that only echo the post, for the reward model to tell
description.py     what `rl-empathy data` prints
teachers.py        teachers of traces, and what they are asked
templates.py       the offline template teacher; its words are in template_phrases.py and …_zh.py
annotation.py      traces for a whole file: `annotate_file`
bundled/           an original synthetic set, English and Chinese
"""
