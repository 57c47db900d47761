"""Twelve files as users have them, each with the settings that read it."""

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

WORDS = [
    "winter",
    "letter",
    "kitchen",
    "brother",
    "engine",
    "violin",
    "market",
    "ticket",
    "mirror",
    "harbour",
    "lantern",
    "blanket",
    "window",
    "ladder",
    "exam",
    "garden",
    "silence",
    "money",
    "river",
    "teacher",
    "doctor",
    "neighbour",
    "summer",
    "hospital",
    "promise",
    "wedding",
    "funeral",
    "daughter",
]
ZH_WORDS = [
    "冬天",
    "信件",
    "厨房",
    "哥哥",
    "发动机",
    "小提琴",
    "市场",
    "车票",
    "镜子",
    "港口",
    "灯笼",
    "毯子",
    "窗户",
    "梯子",
    "考试",
    "花园",
    "沉默",
    "金钱",
    "河流",
    "老师",
    "医生",
    "邻居",
]
NUM_ROWS = 24

Made = tuple[Path, list[str]]
"""A file or folder, and the settings beside `data.train`."""


def pairs(language: str = "en") -> list[tuple[str, str]]:
    """Posts with a reply each, no two of them alike."""
    dice, words = random.Random(0), WORDS if language == "en" else ZH_WORDS
    glue, said = (" ", "Müde: ") if language == "en" else ("，", "我很累：")
    found = []
    for number in range(NUM_ROWS):
        post, reply = (glue.join(dice.sample(words, 9)) for _ in range(2))
        found.append((f"{said}{post} {number}.", f"{said}{reply}. {post[:9]}?"))
    return found


def turns(post: str, reply: str, user: str, supporter: str, role: str, text: str) -> list[dict[str, Any]]:
    return [{role: user, text: post}, {role: supporter, text: reply}]


def lines(path: Path, objects: list[Any]) -> Path:
    path.write_text(
        "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in objects), encoding="utf-8"
    )
    return path


def sharegpt(folder: Path) -> Made:
    chats = [{"conversations": turns(*pair, "human", "gpt", "from", "value")} for pair in pairs()]
    path = folder / "chats.json"
    path.write_text(json.dumps(chats))
    return path, ["data.format=sharegpt"]


def messages(folder: Path) -> Made:
    chats = [{"messages": turns(*pair, "user", "assistant", "role", "content")} for pair in pairs()]
    return lines(folder / "chats.jsonl", chats), ["data.format=messages"]


def alpaca(folder: Path) -> Made:
    rows = [{"instruction": "Answer warmly.", "input": post, "output": reply} for post, reply in pairs()]
    path = folder / "alpaca.json"
    path.write_text(json.dumps(rows))
    return path, ["data.format=alpaca"]


def nested(folder: Path) -> Made:
    rows = [{"thread": {"body": post}, "answers": [{"text": reply}]} for post, reply in pairs()]
    columns = '{prompt: thread.body, answer: "answers[0].text"}'
    return lines(folder / "nested.jsonl", rows), ["data.format=columns", f"data.columns={columns}"]


def parquet(folder: Path) -> Made:
    posts, replies = zip(*pairs(), strict=True)
    path = folder / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"post": posts, "reply": replies}), path)
    return path, ["data.format=columns", "data.columns={prompt: post, answer: reply}"]


def excel(folder: Path) -> Made:
    path = folder / "von Excel.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, dialect="excel").writerows([("Post", "Reply"), *pairs()])
    return path, ["data.format=columns", "data.columns={prompt: Post, answer: Reply}"]


def semicolons(folder: Path) -> Made:
    path = folder / "tabelle.csv"
    with path.open("w", encoding="cp1252", newline="") as file:
        csv.writer(file, delimiter=";").writerows([("Frage", "Antwort"), *pairs()])
    columns = "data.columns={prompt: Frage, answer: Antwort}"
    return path, ["data.format=columns", columns, "data.delimiter=;", "data.encoding=cp1252"]


def esconv(folder: Path) -> Made:
    dialogues = [
        {
            "emotion_type": "sadness",
            "problem_type": "job crisis",
            "situation": post,
            "dialog": turns(post, reply, "seeker", "supporter", "speaker", "content"),
        }
        for post, reply in pairs()
    ]
    path = folder / "ESConv.json"
    path.write_text(json.dumps(dialogues))
    return path, ["data.format=esconv"]


def empathetic_dialogues(folder: Path) -> Made:
    header = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags"
    rows = [header]
    for number, pair in enumerate(pairs()):
        for place, text in enumerate(pair, start=1):
            written = text.replace(",", "_comma_")
            rows.append(f"hit:{number}_conv:{number},{place},lonely,{pair[0]},{place},{written},5|5|5_5|5|5,")
    path = folder / "train.csv"
    path.write_text("\n".join(rows) + "\n")
    return path, ["data.format=empathetic_dialogues"]


def psyqa(folder: Path) -> Made:
    rows = [
        {"question": post[:12], "description": post, "keywords": "工作", "questionID": number,
         "answers": [{"answer_text": reply, "has_label": False}]}
        for number, (post, reply) in enumerate(pairs("zh"))
    ]  # fmt: skip
    path = folder / "PsyQA_full.json"
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path, ["data.format=psyqa", "data.language=zh"]


def smile(folder: Path) -> Made:
    place = folder / "smile 中文"
    place.mkdir()
    for number, pair in enumerate(pairs("zh")):
        talk = turns(*pair, "client", "counselor", "role", "content")
        (place / f"{number}.json").write_text(json.dumps(talk, ensure_ascii=False), encoding="utf-8")
    return place, ["data.format=smile", "data.language=zh"]


def several_files(folder: Path) -> Made:
    place = folder / "parts"
    place.mkdir()
    rows = [{"prompt": post, "references": [{"text": reply}]} for post, reply in pairs()]
    for number in range(3):
        part = rows[number::3]
        lines(place / f"part_{number}.jsonl", [{"id": f"{number}-{i}", **row} for i, row in enumerate(part)])
    return place, []


USER_FILES: dict[str, Callable[[Path], Made]] = {
    make.__name__: make
    for make in (
        sharegpt, messages, alpaca, nested, parquet, excel, semicolons, esconv, empathetic_dialogues, psyqa, smile,
        several_files,
    )
}  # fmt: skip


def settings_of(name: str, folder: Path) -> list[str]:
    """Make a user's file, and what reads it."""
    path, settings = USER_FILES[name](folder)
    return [f"data.train={json.dumps(str(path), ensure_ascii=False)}", "data.held_out_prompts=4", *settings]
