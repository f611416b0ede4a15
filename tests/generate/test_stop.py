"""Stop texts: nothing of them is shown, however the text is cut into pieces."""

from hypothesis import given
from hypothesis import strategies as st

from xplm.generate.stop import StopFilter


def run(stop, pieces):
    stop_filter = StopFilter(stop)
    shown = "".join([stop_filter.push(piece) for piece in pieces])
    return shown + stop_filter.flush(), stop_filter.is_stopped


def test_what_may_begin_a_stop_text_is_held_back():
    stop_filter = StopFilter(["END"])
    assert [stop_filter.push(piece) for piece in ("a E", "N", "x E")] == ["a ", "", "ENx "]
    assert stop_filter.flush() == "E"
    assert not stop_filter.is_stopped


def test_a_stop_text_across_pieces_cuts_the_text():
    assert run(["END"], ["one E", "N", "D two"]) == ("one ", True)


def test_a_stop_text_may_overlap_itself():
    assert run(["aab"], ["a", "a", "a", "b"]) == ("a", True)


def test_without_stop_texts_nothing_is_held():
    assert StopFilter([]).push("abc") == "abc"


def test_the_match_that_ends_first_wins():
    assert run(["abc", "b"], ["abc"]) == ("a", True)
    assert run(["abc", "c"], ["xabc"]) == ("x", True)


texts = st.text("ab", max_size=12)


@given(st.lists(texts), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_how_the_text_is_cut_makes_no_difference(pieces, stop):
    assert run(stop, pieces) == run(stop, ["".join(pieces)])


@given(st.lists(texts), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_what_is_shown_is_the_text_before_a_stop(pieces, stop):
    shown, is_stopped = run(stop, pieces)
    text = "".join(pieces)
    assert text.startswith(shown)
    assert is_stopped == any(s in text for s in stop)
    assert not any(s in shown for s in stop)
    if not is_stopped:
        assert shown == text
