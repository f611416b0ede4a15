"""The benchmark scripts: what they count, what they let pass, and that nothing measured is lost."""

import json
import math

import bench_shapes
import bench_train
import pytest
from bench import peers_rows, scaling
from bench import turns as turn_taking
from bench.gate import Choices, Reference, compare, near_tie
from bench.growth import fit_growth
from bench.peers_measure import BATCH, CONTEXTS, LIMITS, LONG, PROMPTS
from bench.peers_processes import COMPILED_BEFORE, NOT_COMPILED
from bench.peers_rows import judge
from bench.processes import MACHINE_VARIABLES, Worker, environment, run_to_end
from bench.train_processes import has_learned, judge_whole
from bench.turns import Log, Spread, of, ratio, repeated, spread, take_turns
from bench.verdicts import Row, row, table
from bench.weights import Sizes, measure_sizes, prefill_flop

from tests.paths import ROOT

SIZES = Sizes(
    read_numbers=100,
    hidden_numbers=60,
    head_numbers=40,
    cache_numbers=8,
    layers=2,
    attention_width=4,
    mlp_width=16,
    vocab_size=10,
    context=64,
)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(turn_taking, "SETTLE_SECONDS", 0.0)


def test_a_spread_is_median_and_quartiles():
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(3.0, 2.0, 4.0)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)
    assert all(math.isnan(value) for value in spread([1.0, math.nan, 2.0]))


def test_a_ratio_is_taken_within_each_turn():
    """The machine slows down tenfold half-way; the ratio of the medians would say 1.25, or 5."""
    turns = [{"a": {"s": a}, "b": {"s": b}} for a, b in [(2.0, 1.0), (4.0, 2.0), (20.0, 10.0)]]
    assert ratio(turns, "a", "b", "s") == Spread(2.0, 2.0, 2.0)
    assert of(turns, "a", "s").median == 4.0


def test_turns_go_forth_and_back_after_a_warm_up(tmp_path):
    order = []

    def system(name):
        return lambda turn: order.append((turn, name)) or {"s": 1.0}

    log = Log(tmp_path / "turns.jsonl", {})
    take_turns(log, "part", {name: system(name) for name in "ABC"}, 2)
    assert "".join(name for _, name in order) == "ABC" + "ABC" + "CBA"
    assert [turn for turn, _ in order] == [0, 0, 0, 0, 0, 0, 1, 1, 1]
    assert [list(turn) for turn in log.turns("part")] == [["A", "B", "C"]] * 2


def test_a_run_that_was_cut_off_goes_on_with_its_next_turn(tmp_path):
    path, calls = tmp_path / "turns.jsonl", []

    def measure(turn):
        calls.append(turn)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {"s": float(len(calls))}

    with pytest.raises(KeyboardInterrupt):
        take_turns(Log(path, {"threads": 2}), "part", {"A": measure}, 3, warm_up=False)
    with path.open("a") as file:
        file.write('{"part": "part", "fig')  # killed while it wrote
    log = Log(path, {"threads": 2})
    take_turns(log, "part", {"A": measure}, 3, warm_up=False)
    assert calls == [0, 1, 2, 2]
    assert [turn["A"]["s"] for turn in Log(path, {"threads": 2}).turns("part")] == [1.0, 2.0, 4.0]
    take_turns(log, "part", {"A": measure}, 3)  # all there: not even a warm-up
    assert len(calls) == 4


def test_measurements_under_other_settings_are_not_mixed(tmp_path, capsys):
    Log(tmp_path / "turns.jsonl", {"threads": 1})
    with pytest.raises(SystemExit) as exit:
        Log(tmp_path / "turns.jsonl", {"threads": 2})
    assert exit.value.code == 2
    assert "must have the same settings" in capsys.readouterr().err


def test_the_newest_note_counts(tmp_path):
    log = Log(tmp_path / "turns.jsonl", {})
    assert log.note("seed") is None
    log.add({"seed": 1})
    log.add({"seed": 2})
    assert log.note("seed") == 2


REFERENCE = Reference(
    prompt=[1],
    ids=[5, 6, 7, 8],
    runners_up=[1, 2, 3, 4],
    margins=[3.0, 0.1, 2.0, 1.0],
    deviation=2.0,
)


@pytest.mark.parametrize(
    ("ids", "differing"),
    [
        ([5, 6, 7, 8], []),
        ([5, 2, 7, 8], []),  # the reference's margin there is 0.1
        ([5, 6, 3, 8], [(0, 2)]),
        ([1, 2, 7, 8], [(0, 0)]),
    ],
)
def test_the_gate_judges_where_the_reference_was_sure(ids, differing):
    gate = compare([REFERENCE], [Choices(ids, [2.9, -0.1, 2.0, 1.0])], [0.5])
    assert gate.differing == differing
    assert gate.is_passed == (not differing)
    assert (gate.positions, gate.judged) == (4, 3)
    assert gate.error == pytest.approx(0.2)


def test_a_gate_that_sees_less_than_half_is_not_passed():
    choices = Choices([5, 6, 7, 8], REFERENCE.margins)
    assert compare([REFERENCE], [choices], [1.5]).is_passed  # two of four
    assert not compare([REFERENCE], [choices], [2.5]).is_passed


def test_ties_are_wider_in_narrower_formats():
    """By hand: 3 sqrt(2 (2 * 4 + 1)) 16 is 144 sqrt(2), and an F of 16 adds 4 2^-24."""
    scale = 144 * math.sqrt(2)
    assert near_tie(2.0**-8, 4, 16, 16.0) == pytest.approx(scale * (2.0**-8 + 4 * 2.0**-24))
    assert near_tie(2.0**-24, 4, 16, 16.0) == pytest.approx(scale * 5 * 2.0**-24)


@pytest.mark.parametrize(
    ("figure", "verdict"),
    [
        (Row("what", 1.5, ">=", 1.5), "| what | 1.5 | >= 1.5 | met |"),
        (Row("what", 1.4, ">=", 1.5), "| what | 1.4 | >= 1.5 | MISSED |"),
        (Row("what", math.nan, "<=", 1.5), "| what | nan | <= 1.5 | MISSED |"),
        (Row("what", 1.4), "| what | 1.4 |  |  |"),
        (row("what", Spread(2.0, 1.0, 3.0), "<", 2.0), "| what | 2 (1 to 3) | < 2 | MISSED |"),
    ],
)
def test_a_row_shows_its_verdict(figure, verdict):
    assert table([figure]).splitlines()[-1] == verdict


def test_exponents_are_those_of_powers():
    assert fit_growth({n: 3.0 * n**2 for n in (64, 128, 256, 512)}) == pytest.approx((2.0, 2.0))
    whole, upper = fit_growth({n: 100.0 + n for n in (16, 64, 256, 1024, 4096)})
    assert 0 < whole < upper < 1  # the part that does not grow weighs less there


def test_operations_of_a_prompt():
    """By hand, 3 tokens: weights 2 * 3 * 60; head 2 * 40; scores and values, 2 layers of 4 wide, 6 pairs, 4 each."""
    assert prefill_flop(SIZES, 3) == 360 + 80 + 2 * 4 * 6 * 4


def speeds(prefill, decode):
    return {"prefill_tokens_per_s": prefill, "decode_tokens_per_s": decode}


def no_turns():
    parts = ("fp32", "half", "long", "prompts", "context", "batch", "process", "compile")
    return {part: [] for part in parts}


def verdicts(turns):
    return {row.what: row.is_met for row in judge(turns, SIZES, 256) if row.sense}


@pytest.mark.parametrize(("faster", "is_met"), [(1.30, True), (1.20, False)])
def test_generation_is_judged_beside_llama_cpp(faster, is_met):
    limits = {"bytes_per_s": 400.0 * faster / 0.9, "flop_per_s": 1e9}  # so that the share is 0.9
    turn = {"xplm fp32": speeds(10.0 * faster, faster), "llama.cpp F32": speeds(10.0, 1.0)}
    turn |= {"transformers float32": speeds(1.0, 1.0), LIMITS: limits}
    prefill = is_met and faster >= 1.3
    assert verdicts(no_turns() | {"fp32": [turn, turn], "long": [turn]}) == {
        "decode, xplm fp32 / llama.cpp F32": is_met,
        "decode, xplm fp32 / bandwidth limit": True,
        "prefill 256, xplm fp32 / llama.cpp F32": prefill,
        f"prefill {LONG}, xplm fp32 / llama.cpp F32": prefill,
    }


@pytest.mark.parametrize(
    ("has_mkl", "features", "least"),
    [
        (False, set(), [1.2, 1.0, 1.2, 1.0]),
        (True, {"avx2"}, [1.2, 1.0, 1.4]),
        (True, {"avx512bf16"}, [1.2, 1.0, 1.4, 1.3]),
        (True, {"avx512bf16", "amx-bf16"}, [1.2, 1.0, 1.4, 2.5]),
    ],
)
def test_prompts_are_judged_by_what_is_installed_and_what_the_processor_has(
    monkeypatch, has_mkl, features, least
):
    monkeypatch.setattr(peers_rows, "mkl_file", lambda: "a file" if has_mkl else None)
    monkeypatch.setattr(peers_rows, "features", lambda: features)
    names = [f"{name}{by}" for by in (" openblas", "") for name in ("xplm fp32", "xplm bf16")]
    names += ["llama.cpp F32", "llama.cpp BF16"]
    speeds = {f"prefill_{n}_tokens_per_s": 1.0 for n in PROMPTS}
    turns = no_turns() | {"prompts": [dict.fromkeys(names, speeds)]}
    judged = [row for row in judge(turns, SIZES, 256) if row.sense]
    assert [row.limit for row in judged] == [limit for limit in least for _ in PROMPTS]
    assert not any(row.is_met for row in judged if row.limit > 1.0)


@pytest.mark.parametrize(("seconds", "is_met"), [(1.29, True), (1.31, False)])
def test_a_longer_context_is_judged_by_the_bytes_that_it_adds(seconds, is_met):
    short, long = CONTEXTS
    added = (long - short) * SIZES.cache_numbers * 4  # bytes of float32, read in a second
    turn = {LIMITS: {"bytes_per_s": added}}
    for name in ("xplm fp32", "llama.cpp F32"):
        turn |= {f"{name} after {short}": {"token_s": 10.0}}
        turn |= {f"{name} after {long}": {"token_s": 10.0 + seconds}}
    assert list(verdicts(no_turns() | {"context": [turn]}).values()) == [is_met]


def test_several_sequences_are_judged_together():
    turn = {
        f"xplm fp32, {n} at once": {"decode_tokens_per_s": v} for n, v in ((1, 10), (BATCH, 39))
    }
    assert list(verdicts(no_turns() | {"batch": [turn]}).values()) == [False]


def test_processes_are_judged():
    def process(seconds, peak_bytes):
        return {"process_s": seconds, "peak_bytes": peak_bytes}

    turn = {
        "xplm, as pulled": process(1.4, 100),
        "xplm fp32": process(1.6, 120),
        "xplm bf16": process(1.0, 50),
        "llama.cpp F32": process(0.5, 100),
        "llama.cpp BF16": process(0.5, 50),
        "import xplm": {"process_s": 0.2},
    }
    missed = [what for what, met in verdicts(no_turns() | {"process": [turn]}).items() if not met]
    assert missed == [
        "first token, whole process, xplm fp32: seconds",
        "peak memory, xplm fp32 / llama.cpp F32",
    ]


def test_compiling_is_what_a_process_takes_longer():
    turn = {NOT_COMPILED: {"process_s": 34.0}, COMPILED_BEFORE: {"process_s": 3.0}}
    turns = [turn]
    (figure,) = judge(no_turns() | {"compile": turns}, SIZES, 256)
    assert (figure.value, figure.is_met) == (31.0, False)


def test_learning_is_judged_by_its_time_and_by_what_is_learned():
    turns = [{"xplm": {"process_s": s}, "torch": {"process_s": 100.0}} for s in (30.0, 33.0, 40.0)]
    assert judge_whole(turns, "shakespeare")[-1].value == 0.33
    turns = [{"xplm": {"process_s": 4.0, "recalled": n}} for n in (53, 51)]
    assert [row.is_met for row in judge_whole(turns, "facts") if row.sense] == [False, True]


@pytest.mark.parametrize(
    ("loss", "is_same"), [(4.0, True), (4.0003, True), (4.0005, False), (math.nan, False)]
)
def test_no_step_is_timed_before_the_first_losses_are_torchs(loss, is_same):
    losses = dict.fromkeys(bench_train.SYSTEMS, 4.0)
    assert bench_train.are_same(losses | {bench_train.XPLM: loss}, 1e-4) == is_same


@pytest.mark.parametrize(
    ("part", "has_mkl", "features", "judged"),
    [
        ("d384", False, set(), [(1.1, 0.95), (1.3, 1.35), (0.55, 0.95)]),
        ("d384", True, set(), [(1.1, 1.1), (1.3, 1.35), (0.55, 0.95)]),
        ("finetune", False, set(), [(1.1, 1.2)]),
        ("finetune", True, set(), [(1.1, 1.2)]),
        ("d384-bf16", True, set(), []),
        ("d384-bf16", True, {"amx-bf16"}, [(1.1, 0.9)]),
    ],
)
def test_steps_are_judged_beside_torchs(monkeypatch, part, has_mkl, features, judged):
    """Eager is 1.1 and compiled 1.3 times as slow as by the library that is chosen; by OpenBLAS, twice as fast."""
    monkeypatch.setattr(bench_train, "mkl_file", lambda: "a file" if has_mkl else None)
    monkeypatch.setattr(bench_train, "features", lambda: features)
    names = (*bench_train.SYSTEMS, bench_train.COMPILED)
    seconds = dict(zip(names, (1.0, 2.0, 3.0, 1.1, 1.3), strict=True))
    turns = [{name: {"step_s": value} for name, value in seconds.items()}]
    rows = [row for row in bench_train.judge_steps(turns, part) if row.sense]
    assert [(row.value, row.limit, row.is_met) for row in rows] == [
        (value, limit, value >= limit) for value, limit in judged
    ]


@pytest.mark.parametrize("features", [set(), {"avx512bf16"}])
def test_steps_in_bfloat16_are_taken_by_default_where_the_processor_has_it(monkeypatch, features):
    monkeypatch.setattr(bench_train, "features", lambda: features)
    assert ("d384-bf16" in bench_train.default_parts()) == bool(features)
    assert {"d384", "d288", "d128", "finetune"} <= set(bench_train.default_parts())


@pytest.mark.parametrize(
    ("sweep", "size"), [("decode", 16), ("prefill", 16), ("width", 64), ("depth", 1)]
)
def test_every_sweep_has_a_point(monkeypatch, sweep, size):
    monkeypatch.setattr(scaling, "repeated", lambda run: ([run()], 48.0))
    options = {
        "sweep": sweep,
        "size": size,
        "seed": 0,
        "model": "",
        "kernels": "portable",
        "device": "cpu",
        "backend": None,
    }
    name, measure = scaling.make_point(options)
    assert name == f"{sweep} {size}"
    assert measure(0)["seconds"] == (48.0 / scaling.DECODED if sweep == "decode" else 48.0)


def test_what_is_short_is_repeated_and_takes_the_mean(monkeypatch):
    ticks = iter([0.0, 0.2, 0.4, 0.9, 0.9])  # at the start, after each of three, at the end
    monkeypatch.setattr(turn_taking, "perf_counter", lambda: next(ticks))
    losses = iter("abcd")
    results, seconds = repeated(lambda: next(losses))
    assert results == ["a", "b", "c"]
    assert seconds == pytest.approx(0.3)


def test_a_loss_is_learned_once_a_whole_line_says_so(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    assert not has_learned(metrics, 1.88)
    lines = [json.dumps({"val_loss": loss}) + "\n" for loss in (None, 2.0, 1.88)]
    metrics.write_text("".join(lines)[:-1])
    assert not has_learned(metrics, 1.88)
    metrics.write_text("".join(lines))
    assert has_learned(metrics, 1.88)


def test_a_systems_environment_lets_blas_choose(monkeypatch):
    for name in MACHINE_VARIABLES:
        monkeypatch.setenv(name, "Haswell")
    variables = environment(2)
    assert not set(MACHINE_VARIABLES) & set(variables)
    assert variables["NUMBA_NUM_THREADS"] == variables["OPENBLAS_NUM_THREADS"] == "2"


SERVER = """
import sys
sys.path.insert(0, sys.argv[1])
from bench.processes import own_stdout, serve
answers = own_stdout()
print("what a library has to say")
serve(answers, "doubles", lambda request: 2 * request if request else sys.exit(3))
"""


def test_a_worker_answers_whatever_is_printed_in_it():
    worker = Worker(["-c", SERVER, str(ROOT / "scripts")], 1)
    assert (worker.description, worker.ask(21), worker.ask([1])) == ("doubles", 42, [1, 1])
    worker.stop()


def test_a_worker_that_ends_ends_the_run(capfd):
    worker = Worker(["-c", SERVER, str(ROOT / "scripts")], 1)
    with pytest.raises(SystemExit) as exit:
        worker.ask(0)
    assert exit.value.code == 2
    assert "error: exit code 3 of" in capfd.readouterr().err


TWO_COMMANDS = """
import json, sys
sys.path.insert(0, sys.argv[1])
from bench.processes import run_to_end
commands = (["-c", ""], ["-c", "held = b'1' * 200_000_000"])
print("other lines")
print(json.dumps([run_to_end(command, 1).peak_bytes for command in commands]))
"""


def test_a_commands_memory_is_told():
    """In a process of its own: this one may hold more than the commands."""
    small, large = run_to_end(["-c", TWO_COMMANDS, str(ROOT / "scripts")], 1).result
    assert small < 200_000_000 < large


def test_shapes_that_are_compared_are_of_about_150_million_parameters_and_of_their_families():
    configs = bench_shapes.make_configs()
    for config in configs.values():
        assert 1.3e8 < measure_sizes(config).read_numbers < 1.6e8
    windows = [block.mixer.window for block in configs["Gemma 3"].blocks]
    assert windows == 3 * [*[512] * 5, None]
