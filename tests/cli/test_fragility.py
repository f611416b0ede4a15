import pytest
from rich.console import Console

from tests.cli.conftest import SEED
from tests.generate.tiny import tiny_model
from xplm.cli.fragility import Piece, bracketed, cut_pieces, marked
from xplm.generate.fragility import TokenFragility

FIRM, WEAK = TokenFragility(3.0, 1.0, 0), TokenFragility(0.5, 1.0, 0)


@pytest.fixture(scope="module")
def lm():
    return tiny_model(SEED)


def test_fragile_tokens_are_in_brackets_and_listed(xplm, tiny_directory, lm):
    flags = ("--model", tiny_directory, "--max-new-tokens", 20)
    out = xplm("generate", *flags, "Once", "--fragility")
    generation = lm.generate("Once", max_new_tokens=20)
    tokens = lm.fragility("Once", generation.token_ids)
    n_fragile = sum(token.is_fragile for token in tokens)
    assert 0 < n_fragile < 20

    assert out.code == 0
    before = lm.tokenizer.encode("Once")[-1]
    assert out.stdout.startswith(bracketed(cut_pieces(lm.tokenizer, generation, tokens, before)))
    text, _, report = out.stdout.rpartition("\n\n")
    assert text.replace("[", "").replace("]", "") == generation.text
    counted, heading, *rows = report.splitlines()
    assert counted.startswith(f"fragile: {n_fragile} of 20 tokens")
    assert heading.split() == ["token", "runner-up", "margin", "bound", "margin", "/", "bound"]
    assert [int(row.split()[0]) for row in rows] == [
        i for i, token in enumerate(tokens, start=1) if token.is_fragile
    ]
    assert "tokens/s" in out.stderr


def test_json_has_a_judgement_for_each_token(xplm, tiny_directory, lm):
    flags = ("--model", tiny_directory, "--max-new-tokens", 6, "--json", "--fragility")
    for policy in ("bf16", "fp16"):
        out = xplm("generate", *flags, "Once", "--against", policy)
        assert len(out.stdout.splitlines()) == 1
        ids = out.json["token_ids"]
        assert ids == lm.generate("Once", max_new_tokens=6).token_ids
        expected = lm.fragility("Once", ids, policy)
        found = out.json["fragility"]
        assert found["against"] == policy
        assert found["fragile_tokens"] == sum(token.is_fragile for token in expected)
        for token_id, token, shown in zip(ids, expected, found["tokens"], strict=True):
            assert (shown["token_id"], shown["rival"]) == (token_id, token.rival)
            assert (shown["margin"], shown["bound"]) == (token.margin, token.bound)
            assert (shown["ratio"], shown["fragile"]) == (token.ratio, token.is_fragile)


def test_several_prompts_and_chats_are_judged_too(xplm, tiny_directory, lm):
    flags = ("--model", tiny_directory, "--max-new-tokens", 5, "--json", "--fragility")
    both = xplm("generate", *flags, "Once", "Upon a").json["generations"]
    assert [reply["token_ids"] for reply in both] == [
        reply.token_ids for reply in lm.generate(["Once", "Upon a"], max_new_tokens=5)
    ]
    assert all(len(reply["fragility"]["tokens"]) == 5 for reply in both)

    chat = xplm("generate", *flags, "--chat", "--system", "Be kind.", "Hello").json
    assert chat["token_ids"] == lm.chat("Be kind.").send("Hello", max_new_tokens=5).token_ids
    assert all(token["margin"] > -1e-4 for token in chat["fragility"]["tokens"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--fragility", "--temperature", 0.5), "needs --temperature 0; got 0.5"),
        (("--fragility", "--num-beams", 2), "needs --num-beams 1; got 2"),
        (("--fragility", "--repetition-penalty", 1.2), "needs --repetition-penalty 1; got 1.2"),
        (("--fragility", "--against", "bf17"), 'got "bf17"'),
        (("--against", "bf16"), "--against needs --fragility"),
    ],
)
def test_what_has_no_greedy_choice_is_refused(xplm, tiny_directory, flags, message):
    assert message in xplm("generate", "--model", tiny_directory, "Once", *flags).error


def test_pieces_joined_are_the_text_and_a_character_is_as_fragile_as_its_bytes(lm):
    generation = lm.generate("Once", max_new_tokens=20)
    ids = lm.tokenizer.encode("aé b")
    generation = type(generation)("aé ", ids, [0.0] * len(ids), "stop", 1, generation.timings)
    tokens = [FIRM, WEAK, FIRM, FIRM, WEAK]  # é is two bytes, and the stop text cut the b off
    assert len(ids) == len(tokens)
    pieces = cut_pieces(lm.tokenizer, generation, tokens, None)
    assert "".join(piece.text for piece in pieces) == generation.text
    assert bracketed(pieces) == "a[é] "


def test_brackets_leave_white_space_outside():
    pieces = [Piece(" the", True), Piece("\n", True), Piece("sky", False), Piece("", True)]
    assert bracketed(pieces) == " [the][\n]sky"


def test_a_terminal_shows_marks_in_colour_and_no_control_characters():
    console = Console(force_terminal=True, color_system="standard", highlight=False)
    with console.capture() as capture:
        console.print(marked([Piece("a\x1b[2J", False), Piece(" b", True)]))
    text = capture.get()
    assert text.startswith("a[2J\x1b[1;30;43m b\x1b[0m")
