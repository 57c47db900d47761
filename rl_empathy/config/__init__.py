"""Typed configuration: a run file in, one frozen object out. No torch, no Ray.

sections    the sections of a run file, with every default
run_file    the sections as one object, and the rules between them
keys        the keys of the run file, read off the types
source      run file and overrides as plain data that knows its lines
nearest     the nearest word to one that is misspelt
problems    what is wrong with a run file, with key, line and the nearest word
loading     load, dump and compare run files; all problems at once
reference   the page of all keys
model_size  parameters and shape of a model, without loading it
memory      what each role takes of memory, in parts
changes     a run that goes on with another run file: what becomes of its stages
stage_table what each stage is made from and what it gives
stage_plans what each stage does and holds
needs       what a stage needs of another one
own_stages  functions behind stages of the user's
advice      what is allowed and hardly meant
plan        stages, roles and resources, before anything is started
"""
