import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rl_empathy.config.loading import difference, dump_run_file, load_run_file
from rl_empathy.config.run_file import RunFile
from rl_empathy.errors import ConfigError

MODEL = "model: {from_scratch: {}}\n"


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str | bytes, *overrides: str, name: str = "run.yaml") -> RunFile:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_run_file(name, overrides)


def problems(text: str | bytes, *overrides: str, name: str = "run.yaml") -> Sequence[str]:
    """The problems that loading reports, without the headline, whose count must agree."""
    with pytest.raises(ConfigError) as raised:
        load(text, *overrides, name=name)
    headline, *lines = str(raised.value).split("\n")
    assert headline == f"{len(lines)} problem(s) in the run file"
    assert all(line.startswith("  ") for line in lines)
    return [line[2:] for line in lines]


def test_every_problem_is_reported_at_once_in_the_order_of_the_lines() -> None:
    text = MODEL + "sft:\n  optimizer: {lerning_rate: 1}\n  batch_tokens: 0\ngrpo:\n  num_steps: abc\n"
    assert problems(text, "evaluate.num_prompts=-1") == [
        "run.yaml:3  sft.optimizer.lerning_rate: unknown key; did you mean `learning_rate`?",
        "run.yaml:4  sft.batch_tokens: Input should be greater than or equal to 1, got 0",
        "run.yaml:6  grpo.num_steps: Input should be a valid integer, unable to parse string as an integer, "
        "got 'abc'",
        "override 'evaluate.num_prompts=-1'  evaluate.num_prompts: "
        "Input should be greater than or equal to 1, got -1",
    ]


def test_a_key_of_another_section_is_suggested_with_its_section() -> None:
    assert problems(MODEL + "grpo: {learning_rate: 1}\n") == [
        "run.yaml:2  grpo.learning_rate: unknown key; did you mean `grpo.optimizer.learning_rate`?"
    ]
    assert problems(MODEL + "max_staleness: 0\n") == [
        "run.yaml:2  max_staleness: unknown key; did you mean `grpo.max_staleness`?"
    ]
    assert problems(MODEL + "data: {kl_cof: 0}\n") == [
        "run.yaml:2  data.kl_cof: unknown key; did you mean `grpo.kl_coef`?"
    ]


def test_the_valid_keys_are_listed_when_none_is_near() -> None:
    assert problems(MODEL + "cluster: {reward_model: {zzz: 1}}\n") == [
        "run.yaml:2  cluster.reward_model.zzz: unknown key; the keys here are num_cpus, num_gpus"
    ]


def test_a_misspelt_word_among_few_gets_the_nearest_one() -> None:
    text = MODEL + "sft: {optimizer: {schedule: cosin}}\nreward_modeling: {negatives: {hrad: 1}}\n"
    text += "rewards: {terms: [{kind: format, sees: answr}]}\ngrpo: {keep_groups: moved}\n"
    found = problems(text)
    assert found[0] == (
        "run.yaml:2  sft.optimizer.schedule: Input should be 'cosine' or 'constant', got 'cosin'; "
        "did you mean `cosine`?"
    )
    assert found[1].endswith("or 'question', got 'hrad'; did you mean `hard`?")
    assert found[2].endswith(
        "Input should be 'answer' or 'all' or a list, got 'answr'; did you mean `answer`?"
    )
    assert found[3].endswith("Input should be 'with_reward_spread' or 'all', got 'moved'"), "no word is near"


def test_the_python_name_of_schema_is_no_key() -> None:
    assert problems(MODEL + "output_schema: plain\n") == [
        "run.yaml:2  output_schema: unknown key; did you mean `schema`?"
    ]


def test_a_rule_between_keys_names_the_line_of_its_key() -> None:
    text = "# a comment\n" + MODEL + "\ngrpo:\n  groups_per_step: 8\n  updates_per_step: 3\n"
    assert problems(text) == [
        "run.yaml:6  grpo.updates_per_step: groups_per_step (8) must be a multiple of updates_per_step (3)"
    ]


def test_a_rule_between_sections_stands_at_the_key_that_is_given() -> None:
    assert problems(MODEL + "run: {deterministic: true}\n") == [
        "run.yaml:2  run.deterministic: run.deterministic (true) needs grpo.max_staleness 0, got 1; "
        "set grpo.max_staleness: 0, or run.deterministic: false"
    ]


def test_prompt_and_completion_must_fit_in_the_context_of_a_model_from_scratch() -> None:
    # 512 + 256 = 768 tokens by default
    assert load("model: {from_scratch: {context_tokens: 768}}\n").data.max_prompt_tokens == 512
    assert problems("model:\n  from_scratch:\n    context_tokens: 767\nrun: {stages: [grpo]}\n") == [
        "run.yaml:3  model.from_scratch.context_tokens: data.max_prompt_tokens (512) + "
        "grpo.sampling.max_completion_tokens (256) must fit in model.from_scratch.context_tokens (767); "
        "lower one of them, or set context_tokens: 768"
    ]
    assert load("model: {from_scratch: {context_tokens: 767}}\nrun: {stages: [sft]}\n").run.stages == ("sft",)


def test_a_rule_about_the_traces_stands_at_its_key_or_at_the_schema_that_breaks_it() -> None:
    schema = "schema:\n  name: think_answer\n"
    told = "data.missing_trace template writes the spans of chain_of_empathy (L1, L2, L3, L4); schema think_answer"
    (problem,) = problems(MODEL + schema + "data:\n  language: en\n  missing_trace: template\n")
    assert problem.startswith(f"run.yaml:6  data.missing_trace: {told}")
    (problem,) = problems(MODEL + schema)
    assert problem.startswith(f"run.yaml:2  schema: {told}")


def test_rules_are_told_of_together_and_beside_other_problems() -> None:
    text = MODEL + "grpo:\n  look_ahead: 100\n  updates_per_step: 3\nrun:\n  deterministic: true\n"
    text += "sft: {num_step: 3, batch_tokens: 0}\ncluster:\n  rollout_workers: {min: 2, max: 1}\n"
    found = [problem.partition(": ")[0] for problem in problems(text, "rewards.terms[0].weight=x")]
    assert found == [
        "run.yaml:3  grpo.look_ahead",
        "run.yaml:4  grpo.updates_per_step",
        "run.yaml:6  run.deterministic",
        "run.yaml:7  sft.batch_tokens",
        "run.yaml:7  sft.num_step",
        "run.yaml:9  cluster.rollout_workers.max",
        "run.yaml:9  cluster.rollout_workers.max",
        "override 'rewards.terms[0].weight=x'  rewards.terms[0].weight",
    ]


def test_a_rule_that_reads_a_wrong_or_misspelt_key_is_not_told_of() -> None:
    assert len(problems(MODEL + "grpo: {groups_per_step: x, updates_per_step: 3}\n")) == 1
    assert len(problems(MODEL + "grpo: {groups_per_stpe: 9, updates_per_step: 3}\n")) == 1
    assert len(problems(MODEL + "max_staleness: 0\nrun: {deterministic: true}\n")) == 1
    assert len(problems("model: {from_scrach: {}}\n")) == 1


def test_all_stages_that_there_are_not_are_named() -> None:
    (problem,) = problems(MODEL + "run: {stages: [sfft, gpro, zzz]}\n")
    assert (
        "no stage 'sfft'; did you mean sft? there is no stage 'gpro'; did you mean grpo? there is no"
        in problem
    )


def test_a_stage_of_ones_own_that_is_wrong_is_not_called_unknown_as_well() -> None:
    own = "run: {stages: [mine], own_stages: [{name: mine, fuction: a.b}]}\n"
    assert ["mine'" in problem for problem in problems(MODEL + own)] == [False, False]


def test_a_missing_section_is_a_problem_of_the_whole_file() -> None:
    assert problems("grpo: {num_steps: 2}\n") == ["run.yaml:1  model: this key is needed"]


def test_a_choice_of_types_is_told_as_one_problem() -> None:
    text = (
        MODEL
        + "rewards:\n  terms:\n    - kind: format\n    - {kind: judge, sees: 5, base_url: x, model: y}\n"
    )
    assert problems(text) == [
        "run.yaml:5  rewards.terms[1].sees: Input should be 'answer' or 'all' or a list, got 5"
    ]


@pytest.mark.parametrize(
    ("term", "problem"),
    [
        ("{kind: formt}", "rewards.terms[0]: kind: there is no formt; did you mean format?"),
        (
            "{kind: x}",
            "there is no x; the kinds are format, embedding, function, trl_function, judge",
        ),
        ("{function: my.own}", "rewards.terms[0]: kind: this key is needed; the kinds are format, "),
        ("{kind: format, strict: 1}", "rewards.terms[0].strict: unknown key"),
        ("{kind: function}", "rewards.terms[0].function: this key is needed"),
        ("{kind: function, function: [1]}", "rewards.terms[0].function: Input should be a valid string"),
        (
            "{kind: function, function: a.b, arguments: 3}",
            "rewards.terms[0].arguments: Input should be a mapping",
        ),
        (
            "{kind: embedding, mode: Binary}",
            "rewards.terms[0].mode: Input should be 'binary', 'gated' or 'raw'",
        ),
        ("{kind: format, clip: [1, 0]}", "rewards.terms[0].clip: clip is [least, most], got [1.0, 0.0]"),
        (
            "{kind: function, function: a.vowels}, {kind: function, function: b.vowels}",
            "the terms are called vowels, vowels: give each a name of its own",
        ),
    ],
)
def test_a_reward_term_that_cannot_be_is_a_problem_before_anything_starts(term: str, problem: str) -> None:
    (found,) = problems(MODEL + f"rewards:\n  terms: [{term}]\n")
    assert problem in found


def test_a_declared_schema_is_checked_key_by_key() -> None:
    text = MODEL + "schema:\n  name: mine\n  spans:\n    - {name: answer, opne: x}\n"
    assert problems(text) == ["run.yaml:5  schema.spans[0].opne: unknown key; did you mean `open`?"]


def test_an_unknown_schema_is_reported_at_its_line() -> None:
    (problem,) = problems(MODEL + "schema: chain_of_empaty\n")
    assert problem.startswith("run.yaml:2  schema: unknown schema 'chain_of_empaty', known: chain_of_empathy")


def test_a_section_that_is_a_list_is_refused() -> None:
    assert problems(MODEL + "sft: [1]\n") == ["run.yaml:2  sft: Input should be a mapping of keys, got [1]"]


def test_a_key_given_twice_is_refused() -> None:
    assert problems(MODEL + "grpo:\n  num_steps: 1\n  num_steps: 2\n") == [
        "run.yaml:4  grpo.num_steps: this key was given before, in line 3"
    ]


def test_a_key_that_is_not_text_is_refused() -> None:
    assert problems(MODEL + "grpo: {1: 2}\n") == [
        "run.yaml:2  grpo.1: a key is text; put it in quotes if it is meant"
    ]


def test_merge_keys_are_not_duplicates() -> None:
    text = MODEL + "sft:\n  optimizer: &o {warmup_steps: 3}\ngrpo:\n  optimizer: {<<: *o, warmup_steps: 4}\n"
    assert load(text).grpo.optimizer.warmup_steps == 4


def test_a_section_given_in_part_keeps_the_defaults_of_its_place() -> None:
    whole = load(MODEL)
    for path in ("sft.optimizer", "reward_modeling.optimizer", "grpo.optimizer", "cluster.stage_worker"):
        section, name = path.split(".")
        key, value = ("num_gpus", 1) if name == "stage_worker" else ("learning_rate", 0.5)
        default = getattr(getattr(whole, section), name).model_dump()
        given = load(MODEL + f"{section}: {{{name}: {{{key}: {value}}}}}\n")
        assert getattr(getattr(given, section), name).model_dump() == default | {key: value}, path


def test_exponents_are_numbers_even_where_any_value_is_allowed() -> None:
    run_file = load(
        MODEL + "rewards: {terms: [{kind: function, function: my.reward, "
        "arguments: {a: 1e-6, b: -2E3, c: 'x1e-6'}}]}\n"
    )
    assert run_file.rewards.terms[0].arguments == {"a": 1e-6, "b": -2000.0, "c": "x1e-6"}


def test_not_a_number_and_infinity_are_refused() -> None:
    assert problems(MODEL + "grpo: {clip_high: .inf}\n") == [
        "run.yaml:2  grpo.clip_high: Input should be a finite number, got inf"
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "run.yaml  the file is empty; a run file gives at least `model`"),
        ("# nothing yet\n", "run.yaml  the file is empty; a run file gives at least `model`"),
        ("- 1\n", "run.yaml:1  a run file is a mapping of sections (run, model, …), this one is a list"),
        ("run\n", "run.yaml:1  a run file is a mapping of sections (run, model, …), this one is only 'run'"),
        ("run:\n\tname: x\n", "run.yaml:2  a tab, where YAML wants spaces"),
        (b"run:\n  name: \xff\n", "run.yaml:2  not UTF-8 text (byte 0xff); save the file as UTF-8"),
        ("run:\n  name: \x07\n", "run.yaml:2  a character that YAML does not allow: '\\x07'"),
        (
            "run: [1\n",
            "run.yaml:2  this is not YAML that can be read: expected ',' or ']', but got '<stream end>' "
            "(while parsing a flow sequence)",
        ),
        (
            "run: !!python/object:os.system x\n",
            "run.yaml:1  this is not YAML that can be read: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object:os.system'",
        ),
    ],
)
def test_a_file_that_is_no_run_file_says_why(content: str | bytes, problem: str) -> None:
    assert problems(content) == [problem]


def test_a_missing_file_and_a_folder_say_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as missing:
        load_run_file("no.yaml")
    assert str(missing.value) == (
        f"1 problem(s) in the run file\n  no.yaml  there is no such file (looked from {tmp_path})"
    )
    with pytest.raises(ConfigError, match="this is a folder, not a run file"):
        load_run_file(tmp_path)


def test_an_empty_section_means_its_defaults() -> None:
    assert load(MODEL + "grpo:\nevaluate:\n  sampling:\n") == load(MODEL)


def test_the_name_of_the_run_is_the_name_of_the_file() -> None:
    assert load(MODEL, name="my first run.yaml").run.name == "my_first_run"
    assert load(MODEL, name="共情 试验.yaml").run.name == "共情_试验"
    assert load(MODEL + "run: {name: given}\n").run.name == "given"


@pytest.mark.parametrize("name", ["..", "a/b", "a b"])
def test_a_name_that_is_no_folder_name_is_refused(name: str) -> None:
    (problem,) = problems(MODEL + f"run: {{name: {name!r}}}\n")
    assert problem.startswith(f"run.yaml:2  run.name: {name!r} is to be a folder: letters, digits")


def test_a_name_that_is_too_long_for_a_folder_is_refused() -> None:
    (problem,) = problems(MODEL + f"run: {{name: {'心' * 100}}}\n")
    assert "it has 300 bytes, of which a folder's name may have 200" in problem


def test_a_stage_that_is_there_twice_is_refused() -> None:
    (problem,) = problems(MODEL + "run: {stages: [sft, grpo, sft]}\n")
    assert problem.startswith("run.yaml:2  run.stages: a stage is there twice: sft, grpo, sft")


def test_chinese_text_and_a_path_with_a_space_are_read_as_written() -> None:
    Path("my data").mkdir()
    Path("my data/求助.jsonl").touch()
    text = (
        MODEL
        + 'data: {train: "my data/求助.jsonl", language: zh, system_prompt: 你是一位善于共情的咨询师。}\n'
    )
    run_file = load(text)
    assert run_file.data.train == "my data/求助.jsonl"
    assert run_file.data.system_prompt == "你是一位善于共情的咨询师。"
    assert "你是一位善于共情的咨询师。" in dump_run_file(run_file)


def test_local_files_that_do_not_exist_are_problems(tmp_path: Path) -> None:
    text = "model:\n  path: ./no model\ndata:\n  train: 求助.jsonl\nreward_modeling: {encoder: /no/encoder}\n"
    assert problems(text) == [
        f"run.yaml:2  model.path: there is no './no model' (looked from {tmp_path})",
        f"run.yaml:4  data.train: there is no '求助.jsonl' (looked from {tmp_path})",
        "run.yaml:5  reward_modeling.encoder: there is no '/no/encoder'",
    ]
    assert load_run_file("run.yaml", check_paths=False).model.path == "./no model"


def test_hub_names_are_not_taken_for_files() -> None:
    run_file = load("model: {path: Qwen/Qwen3-0.6B}\ndata: {train: nbertagnolli/counsel-chat}\n")
    assert run_file.model.path == "Qwen/Qwen3-0.6B"


def test_the_home_folder_is_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m").mkdir()
    run_file = load("model: {path: ~/m}\nrun: {directory: ~/runs}\n")
    assert (run_file.model.path, run_file.run.directory) == (f"{tmp_path}/m", f"{tmp_path}/runs")


def test_overrides_come_after_the_file_in_their_order() -> None:
    run_file = load(
        MODEL + "grpo: {num_steps: 5, group_size: 4}\nrewards: {terms: [{kind: format}]}\n",
        "grpo.num_steps=6",
        "grpo.num_steps=7",
        "grpo.optimizer={learning_rate: 3e-6}",
        "rewards.terms=[{kind: embedding, name: answer, weight: 2}]",
        "run.stages=[grpo]",
        "data.system_prompt=a=b",
    )
    assert (run_file.grpo.num_steps, run_file.grpo.group_size) == (7, 4)
    assert run_file.grpo.optimizer.learning_rate == 3e-6
    assert [(term.name, term.weight) for term in run_file.rewards.terms] == [("answer", 2.0)]
    assert run_file.run.stages == ("grpo",)
    assert run_file.data.system_prompt == "a=b"


def test_an_override_with_a_mapping_leaves_its_neighbours() -> None:
    run_file = load(MODEL + "sft: {num_steps: 3, batch_tokens: 99}\n", "sft={num_steps: 4}")
    assert (run_file.sft.num_steps, run_file.sft.batch_tokens) == (4, 99)


def test_an_override_reaches_an_entry_of_a_list_as_errors_spell_it() -> None:
    given = MODEL + "rewards: {terms: [{kind: format}, {kind: embedding, name: answer, mode: gated}]}\n"
    for text in (given, MODEL):  # the default has two terms, too
        terms = load(text, "rewards.terms[1].weight=2", "rewards.terms[0]={weight: 3}").rewards.terms
        assert [(term.kind, term.name, term.weight) for term in terms] == [
            ("format", "format", 3.0),
            ("embedding", "answer", 2.0),
        ]
    assert load(given, "rewards.terms[1].weight=2").rewards.terms[1].model_dump()["mode"] == "gated"
    assert load(MODEL, "run.stages[3]=grpo", "run.stages[2]=evaluate").run.stages[2:] == ("evaluate", "grpo")


def test_an_override_that_misses_an_entry_is_told_how_to_reach_it() -> None:
    for key, instead in (("1", 1), ("answer", 1), ("mine", "0…1")):
        assert problems(MODEL, f"rewards.terms.{key}.weight=2") == [
            f"override 'rewards.terms.{key}.weight=2'  rewards.terms.{key}.weight: rewards.terms is a list: "
            f"write rewards.terms[{instead}].weight=…, or give it as a whole"
        ]
    assert problems(
        MODEL, "rewards.terms[2].weight=2", "grpo[0]=1", "sft.num_steps[0]=1", "run.stages[x]=1"
    ) == [
        "override 'rewards.terms[2].weight=2'  rewards.terms[2].weight: rewards.terms has "
        "entries rewards.terms[0] to rewards.terms[1]",
        "override 'grpo[0]=1'  grpo[0]: grpo is no list",
        "override 'sft.num_steps[0]=1'  sft.num_steps[0]: sft.num_steps is no list",
        "override 'run.stages[x]=1'  write section.key=value",
    ]
    assert problems(MODEL, "rewards.terms[1].wieght=2") == [
        "override 'rewards.terms[1].wieght=2'  rewards.terms[1].wieght: unknown key; did you mean `weight`?"
    ]


def test_overrides_that_are_wrong_are_reported_with_the_others() -> None:
    text = MODEL + "grpo: {num_steps: x}\nrewards: {terms: [{kind: format}]}\n"
    overrides = ["foo", "grpo.group_siz=4", "rewards.terms.0.weight=2", "schema.name=x", "sft.num_steps=[1"]
    overrides += ["rewards.terms=[{wieght: 1, kind: format}]"]
    assert problems(text + "schema: plain\n", *overrides) == [
        "run.yaml:2  grpo.num_steps: Input should be a valid integer, unable to parse string as an integer, "
        "got 'x'",
        "override 'foo'  write section.key=value",
        "override 'grpo.group_siz=4'  grpo.group_siz: unknown key; did you mean `group_size`?",
        "override 'rewards.terms.0.weight=2'  rewards.terms.0.weight: "
        "rewards.terms is a list: write rewards.terms[0].weight=…, or give it as a whole",
        "override 'schema.name=x'  schema.name: schema holds one value, not keys",
        "override 'sft.num_steps=[1'  sft.num_steps: this is not YAML that can be read: "
        "expected ',' or ']', but got '<stream end>' (while parsing a flow sequence)",
        "override 'rewards.terms=[{wieght: 1, kind: format}]'  rewards.terms[0].wieght: "
        "unknown key; did you mean `weight`?",
    ]


def test_the_result_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(MODEL).run.name = "other"


def test_a_dumped_run_file_loads_again_to_an_equal_object() -> None:
    run_file = load(
        MODEL + "schema: {name: mine, inside: \"\\n\", spans: [{name: answer, open: '# 回答'}]}\n",
        "rewards.terms=[{kind: function, function: my.f, "
        "arguments: {a: '1e-6', b: 'yes', c: true, d: 3, f: 2024-01-02, g: [1, {h: null}]}}]",
    )
    dumped = dump_run_file(run_file)
    assert load(dumped, name="other.yaml") == run_file
    keys = [line.partition(":")[0] for line in dumped.splitlines() if re.match("[a-z]", line)]
    assert keys == ["run", "model", "data", "schema", "sft", "reward_modeling", "rewards", "grpo", "evaluate", "serve",
                    "cluster", "logging"]  # fmt: skip
    assert "!!" not in dumped


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(text="a\x85b\u2028c\rd")
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_the_dump(text: str) -> None:
    run_file = load(MODEL)
    run_file = run_file.model_copy(update={"data": run_file.data.model_copy(update={"system_prompt": text})})
    assert load(dump_run_file(run_file)) == run_file


def test_difference_has_one_line_a_changed_key() -> None:
    old = load(MODEL + "grpo: {num_steps: 40}\n")
    overrides = ["grpo.num_steps=60", "data.language=zh", "run.stages=[grpo]", "model.from_scratch=null"]
    overrides += [
        "model.path=a/b",
        "rewards.terms=[{kind: format}, {kind: embedding, name: answer, weight: 0.5}]",
    ]
    new = load(MODEL, *overrides)
    lines = difference(old, new)
    assert lines.pop(2).startswith('model.from_scratch: {"hidden_size": 256, ')
    assert lines == [
        'run.stages: ["sft", "reward_modeling", "grpo", "evaluate"] -> ["grpo"]',
        'model.path: null -> "a/b"',
        'data.language: "en" -> "zh"',
        "rewards.terms[1].weight: 1.0 -> 0.5",
        "grpo.num_steps: 40 -> 60",
    ]
    assert difference(old, old) == []


def test_an_evaluation_may_decode_greedily_and_no_temperature_is_one_that_vllm_changes() -> None:
    greedy = load(MODEL, "evaluate.sampling.temperature=0").evaluate
    assert (greedy.completions_per_prompt, greedy.num_completions) == (8, 1)
    assert load(MODEL).evaluate.num_completions == 8
    assert problems(MODEL, "grpo.sampling.temperature=0")
    for section in ("grpo", "evaluate"):
        assert "0.01" in problems(MODEL, f"{section}.sampling.temperature=0.001")[0]


def test_an_override_of_one_place_of_an_alias_leaves_the_other_as_it_was(tmp_path: Path) -> None:
    shared = (
        "model: {from_scratch: {}}\nsft: {optimizer: &o {learning_rate: 1.0e-4}}\ngrpo: {optimizer: *o}\n"
    )
    (tmp_path / "run.yaml").write_text(shared)
    run_file = load_run_file(tmp_path / "run.yaml", ["sft.optimizer.learning_rate=3.0e-4"])
    assert run_file.sft.optimizer.learning_rate == 3e-4
    assert run_file.grpo.optimizer.learning_rate == 1e-4


@pytest.mark.parametrize("model", ["", "model: 3\n", "log: {}\nmodel: {from_scratch: {}}\n"])
def test_without_a_model_or_with_an_unknown_section_the_rules_are_told_all_the_same(
    tmp_path: Path, model: str
) -> None:
    (tmp_path / "run.yaml").write_text(f"{model}run: {{deterministic: true}}\ngrpo: {{max_staleness: 2}}\n")
    with pytest.raises(ConfigError, match=r"2 problem\(s\)[\s\S]*deterministic"):
        load_run_file(tmp_path / "run.yaml")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "rewards.terms[1].kind=fucntion",
            r"override 'rewards\.terms\[1\]\.kind=fucntion'  rewards\.terms\[1\]: kind",
        ),
        (
            "rewards.terms[7].weight=1",
            r"rewards\.terms has entries rewards\.terms\[0\] to rewards\.terms\[1\]",
        ),
        ("run.own_stages[0].name=x", r"run\.own_stages has no entries"),
        ("rewards.terms.nope.weight=1", r"write rewards\.terms\[0…1\]\.weight=…, or give it as a whole"),
        ("rewards.terms[-1].weight=1", "entries are counted from 0, never from the end"),
    ],
)
def test_an_override_of_an_entry_that_is_wrong_says_so_of_itself(
    tmp_path: Path, override: str, told: str
) -> None:
    (tmp_path / "run.yaml").write_text(
        "model: {from_scratch: {}}\nrewards: {terms: [{kind: format}, {kind: format, name: b}]}\n"
    )
    with pytest.raises(ConfigError, match=told):
        load_run_file(tmp_path / "run.yaml", [override])
