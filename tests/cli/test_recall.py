"""eval recall: answers given back word for word are counted."""

import json
from types import SimpleNamespace

from xplm.language_model import LanguageModel


def test_answers_given_back_are_counted(xplm, tiny_directory, tmp_path, monkeypatch):
    prompts, stops = [], []

    def generate(self, ids, *, stop_token_ids, **_):
        prompts.append(self.tokenizer.decode(ids))
        stops.append(stop_token_ids)
        return SimpleNamespace(text=" It is\nblue")

    monkeypatch.setattr(LanguageModel, "generate", generate)
    path = tmp_path / "chats.jsonl"
    lines = []
    for answer in ("It is blue", "It is red"):
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Sky?"},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": "Thanks."},
        ]
        lines.append(json.dumps(messages) + "\n")
    path.write_text("".join(lines))

    recall = ("eval", "recall", "--model", tiny_directory, "--data", path)
    out = xplm(*recall)
    assert out.code == 0
    assert prompts == ["system\nBe brief.\nuser\nSky?\nassistant\n"] * 2
    assert stops == [(1,)] * 2  # a turn's end, as in a chat
    assert out.stdout.splitlines() == [
        "Sky?",
        "  expected: It is red",
        "  got:       It is",
        "blue",
        "1 of 2 answers recalled word for word",
    ]
    out = xplm(*recall, "--least", 2, "--json")
    assert (out.code, out.json) == (1, {"recalled": 1, "asked": 2})


def test_a_file_without_chats_is_refused(xplm, tiny_directory, tmp_path):
    (tmp_path / "empty.jsonl").touch()
    out = xplm("eval", "recall", "--model", tiny_directory, "--data", tmp_path / "empty.jsonl")
    assert "must hold " in out.error
