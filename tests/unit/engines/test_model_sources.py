"""Starting models: a local one whose chat template or ends do not suit gets a folder of its own in the run."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from rl_empathy.config.sections import DataConfig, ModelConfig
from rl_empathy.data.conversations import completion_token_ids, prompt_token_ids
from rl_empathy.engines.chat_files import chat_notes
from rl_empathy.engines.model_sources import language_samples, starting_model, train_tokenizer
from rl_empathy.errors import ModelError
from rl_empathy.types import Message
from tests.programs import run_program
from tests.tiny_models import CHAT_TEMPLATE, make_parrot_model, make_tiny_model
from tests.unit.engines.test_chat_templates import make_gguf

DATED = "{{ strftime_now('%Y') }} " + CHAT_TEMPLATE


def start(model: Path, folder: Path, *, data: dict[str, str] | None = None, **changes: object) -> Path:
    return starting_model(
        ModelConfig(path=str(model), **changes),  # type: ignore[arg-type]
        folder,
        data=DataConfig(**data or {}),  # type: ignore[arg-type]
        texts=[],
        instruction="",
        delimiters=["<think>", "</think>"],
        seed=0,
        progress=lambda *_: None,
    )


def with_tokenizer(model: Path, **settings: object) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(model)
    for name, value in settings.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(model)
    return model


def test_a_local_model_that_suits_stays_where_it_is(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model")
    assert start(model, tmp_path / "base") == model


def test_fine_tuning_ends_on_the_token_that_the_template_writes_and_all_others_stop_too(
    tmp_path: Path,
) -> None:
    model = with_tokenizer(make_tiny_model(tmp_path / "model"), eos_token="<|pad|>")
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "do_sample": True}))
    base = start(model, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    end, pad = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|pad|>"])
    assert completion_token_ids(tokenizer, "Hi")[-1] == tokenizer.eos_token_id == end
    written = json.loads((base / "generation_config.json").read_text())
    assert written == {"eos_token_id": [end, pad], "do_sample": True}
    assert AutoTokenizer.from_pretrained(model).eos_token == "<|pad|>", "the user's model is not touched"
    assert (base / "model.safetensors").samefile(model / "model.safetensors")


def test_a_resume_on_another_day_writes_the_date_of_the_first(tmp_path: Path) -> None:
    model = with_tokenizer(make_tiny_model(tmp_path / "model"), chat_template=DATED)
    base = start(model, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert "strftime_now" not in tokenizer.chat_template
    assert "stays" in chat_notes(base)[0]
    files = {file.name: file.stat().st_mtime_ns for file in base.iterdir()}
    assert start(model, tmp_path / "base") == base
    assert {file.name: file.stat().st_mtime_ns for file in base.iterdir()} == files


def test_a_template_given_by_the_run_file_is_the_tokenizers(tmp_path: Path) -> None:
    model = with_tokenizer(make_tiny_model(tmp_path / "model"), chat_template=None)
    (model / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(ModelError, match=r"has no chat template; give model\.chat_template"):
        start(model, tmp_path / "base")
    assert not (tmp_path / "base").exists()
    base = start(model, tmp_path / "base", chat_template="roles", data={"system_prompt_role": "user"})
    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = prompt_token_ids(tokenizer, [Message(role="user", content="Hi")], system_prompt="Be kind.")
    assert tokenizer.decode(ids) == "User: Be kind.\n\nHi\n\nAssistant:"
    with pytest.raises(ModelError, match="was made for other settings of the chat template"):
        start(model, tmp_path / "base", chat_template="chatml")


def test_a_template_file_that_has_changed_since_is_noticed(tmp_path: Path) -> None:
    model, file = make_tiny_model(tmp_path / "model"), tmp_path / "own.jinja"
    file.write_text(CHAT_TEMPLATE)
    base = start(model, tmp_path / "base", chat_template=str(file))
    assert start(model, tmp_path / "base", chat_template=str(file)) == base
    moved = file.rename(tmp_path / "moved.jinja")
    assert start(model, tmp_path / "base", chat_template=str(moved)) == base
    file.write_text(CHAT_TEMPLATE + "{# changed #}")
    with pytest.raises(ModelError, match="was made for other settings of the chat template"):
        start(model, tmp_path / "base", chat_template=str(file))


def test_a_tokenizer_that_begins_with_bos_keeps_its_rule(tmp_path: Path) -> None:
    model = with_tokenizer(
        make_tiny_model(tmp_path / "model"), bos_token="<|pad|>", add_bos_token=True, chat_template=None
    )
    (model / "chat_template.jinja").unlink(missing_ok=True)
    base = start(model, tmp_path / "base", chat_template="roles")
    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = prompt_token_ids(tokenizer, [Message(role="user", content="Hi")])
    assert ids[0] == tokenizer("Hi")["input_ids"][0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1


def test_a_gguf_files_rule_of_the_bos_token_survives_its_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read by transformers, which passes the rule over, as another folder stands for here."""
    folder = with_tokenizer(make_tiny_model(tmp_path / "model"), bos_token="<|pad|>")
    file = make_gguf(tmp_path / "m.gguf", None, bos="<|pad|>", eos="<|im_end|>")
    for auto in (AutoModelForCausalLM, AutoTokenizer):

        def read(path: Path, *, gguf_file: str = "", own: Any = auto.from_pretrained, **settings: Any) -> Any:
            return own(folder if gguf_file else path, **settings)

        monkeypatch.setattr(auto, "from_pretrained", read)
    base = starting_model(
        ModelConfig(path=str(file), chat_template="roles"),
        tmp_path / "base",
        texts=[],
        instruction="",
        delimiters=[],
        seed=0,
        progress=lambda *_: None,
    )
    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = prompt_token_ids(tokenizer, [Message(role="user", content="Hi")])
    assert ids[0] == tokenizer("Hi")["input_ids"][0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.slow
def test_generation_stops_at_the_token_on_which_fine_tuning_ends(tmp_path: Path) -> None:
    model = with_tokenizer(make_parrot_model(tmp_path / "model", "abc def"), eos_token="<|pad|>")
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((model / name).read_text())
        (model / name).write_text(json.dumps(settings | {"eos_token_id": 2}))
    base = start(model, tmp_path / "base")
    done = run_program("tests.unit.engines.one_reply", str(base), timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    target = completion_token_ids(AutoTokenizer.from_pretrained(base), "abc def")
    assert json.loads(done.stdout.splitlines()[-1]) == [[target, "stop", "abc def"]] * 2


def test_a_model_made_on_the_spot_reads_the_names_of_its_tokens_in_a_text_as_text() -> None:
    texts = ["I wait <|end|> and <think> I wait"]
    tokenizer = train_tokenizer(texts, ["<think>"], vocabulary_size=300)
    (sample,) = language_samples(tokenizer, texts, most_tokens=100)
    (completion,) = sample.completions
    assert not {*tokenizer.all_special_ids} & {*completion[:-1]}
    assert tokenizer.decode(completion[:-1]) == texts[0]
