"""The parts of a reply, worked out by hand; however its text is cut into pieces, they are the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xplm.text.channel_reply import ChannelMarkers, ChannelSplitter
from xplm.text.reply_parts import Call, Part, join_calls, merge_parts
from xplm.text.tagged_reply import TagSplitter

MARKERS = ChannelMarkers("\ud800", "\ud801", "\ud802", "\ud803")
START, CHANNEL, MESSAGE, END = MARKERS


def tags(is_open=False):
    return TagSplitter("<think>", "</think>", is_open=is_open)


def run(splitter, pieces):
    return merge_parts([*(p for piece in pieces for p in splitter.push(piece)), *splitter.flush()])


def thought(text):
    return Part("reasoning", text)


def answer(text):
    return Part("content", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\nA sum.\n</think>\n\nFour.", [thought("A sum."), answer("Four.")]),
        ("\n<think>A</think>B", [thought("A"), answer("B")]),
        ("<think>\n\n</think>\n\nB\n\n", [answer("B\n\n")]),
        ("<think></think>", []),
        ("<think>\nA\n\nB\n", [thought("A\n\nB")]),
        ("<think>A</thin", [thought("A</thin")]),
        ("<think>A < B, </b>\n</think>C", [thought("A < B, </b>"), answer("C")]),
        ("<think>A</think>B <think>C</think>", [thought("A"), answer("B <think>C</think>")]),
        ("  Four.", [answer("  Four.")]),
        ("The tag <think> begins", [answer("The tag <think> begins")]),
        ("A</think>B", [answer("A</think>B")]),
        ("<thin", [answer("<thin")]),
        ("\n\n", [answer("\n\n")]),
        ("", []),
    ],
)
def test_a_thought_is_what_stands_between_tags_in_front(text, expected):
    assert run(tags(), [text]) == expected
    assert run(tags(), text) == expected


def test_a_thought_may_be_open_already():
    for pieces in ["\nA sum.\n</think>\n\nFour."], list("\nA sum.\n</think>\n\nFour."):
        assert run(tags(is_open=True), pieces) == [thought("A sum."), answer("Four.")]


def test_what_is_certain_comes_at_once():
    splitter = tags()
    pieces = ["<thi", "nk>", "\n", "A", " b\n", "c<", "/", "think>", "\n\n", "D", "e"]
    assert [splitter.push(piece) for piece in pieces] == [
        [], [], [], [thought("A")], [thought(" b")], [thought("\nc")], [], [], [], [answer("D")], [answer("e")],
    ]  # fmt: skip


def message(channel, text, role="assistant"):
    return f"{START}{role}{CHANNEL}{channel}{MESSAGE}{text}"


REPLY = (
    f"{CHANNEL}analysis{MESSAGE}Weather?{END}"
    + message("commentary", "Let me look.")
    + END
    + message("commentary to=functions.get_weather json", '{"place": "Ulm"}')
    + END
    + message("analysis", "Rain.")
    + END
    + message("final", "It rains.")
)
PARTS = [
    thought("Weather?"),
    answer("Let me look."),
    Part("call", "", "functions.get_weather"),
    Part("call", '{"place": "Ulm"}', "functions.get_weather"),
    thought("\n\nRain."),
    answer("\n\nIt rains."),
]


def flat(parts):
    return "|".join(f"{part.kind}:{part.text}" for part in merge_parts(parts))


def test_channels_are_parts():
    assert flat(run(ChannelSplitter(MARKERS), [REPLY])) == flat(PARTS)
    assert flat(run(ChannelSplitter(MARKERS), REPLY)) == flat(PARTS)
    assert join_calls(PARTS) == [Call("functions.get_weather", '{"place": "Ulm"}')]


def test_a_recipient_may_stand_in_front_of_the_channel():
    text = f" to=functions.f{CHANNEL}commentary{MESSAGE}{{}}{END}" + message(
        "analysis to=python", ""
    )
    parts = run(ChannelSplitter(MARKERS), [text])
    assert join_calls(parts) == [Call("functions.f", "{}"), Call("python", "")]


def test_a_reply_without_channels_is_content():
    assert run(ChannelSplitter(MARKERS), ["Four", "."]) == [answer("Four.")]
    assert run(ChannelSplitter(MARKERS), [f"{MESSAGE}Four."]) == [answer("Four.")]
    assert run(ChannelSplitter(MARKERS), [f"{CHANNEL}fin"]) == []


def pieces(*words):
    return st.lists(st.lists(st.sampled_from(words), max_size=9).map("".join), max_size=9)


@given(pieces("<think>", "</think>", "<", "/", "think>", "\n", "a"), st.booleans())
def test_how_tags_are_cut_makes_no_difference(texts, is_open):
    whole = "".join(texts)
    parts = run(tags(is_open), texts)
    assert parts == run(tags(is_open), [whole]) == run(tags(is_open), whole)
    if not is_open and not whole.lstrip().startswith("<think>"):
        assert "".join(part.text for part in parts) == whole


@given(pieces(*MARKERS, "a", " to=f ", "analysis", "final"))
def test_how_channels_are_cut_makes_no_difference(texts):
    whole = "".join(texts)
    parts = flat(run(ChannelSplitter(MARKERS), texts))
    assert parts == flat(run(ChannelSplitter(MARKERS), [whole]))
    assert parts == flat(run(ChannelSplitter(MARKERS), whole))
    assert not set(parts) & set(MARKERS)
