"""Every command and script that computes says where: --device and --backend."""

import runpy
import sys

import pytest
import typer

from tests.paths import ROOT
from xplm.cli.main import make_app

COMPUTE_NOTHING = {"pull", "models", "models remove", "convert"}
NUMPY_ALONE = {"explain", "grade"}  # examples and checks in float64
BACKEND_IS_IN_ITS_SIDES = {"parity"}  # --test torch:bf16
SCRIPTS_THAT_DO_NOT = {
    "bench_peers",  # llama.cpp, on the CPU
    "bench_products",  # OpenBLAS and MKL
    "torch_twin",  # PyTorch
    "make_tiny_models",  # PyTorch
    "check_wheel",  # computes nothing
    "compile_kernels",  # NumPy's
    "bench_invariant",  # likewise
}


def commands(node=None, name=""):
    """Every command by its words."""
    node = node or typer.main.get_command(make_app())
    children = getattr(node, "commands", {})
    found = {} if children and not node.invoke_without_command else {name: node}
    for word, child in children.items():
        found |= commands(child, f"{name} {word}".strip())
    return found


def test_commands_take_a_device_and_a_backend():
    found = commands()
    assert found.keys() > COMPUTE_NOTHING | NUMPY_ALONE | BACKEND_IS_IN_ITS_SIDES
    without = set()
    for name, command in found.items():
        flags = {flag for parameter in command.params for flag in parameter.opts}
        if not {"--device", "--backend"} <= flags:
            without.add(name)
    assert without == COMPUTE_NOTHING | NUMPY_ALONE | BACKEND_IS_IN_ITS_SIDES


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted((ROOT / "scripts").glob("*.py"))
        if path.stem not in SCRIPTS_THAT_DO_NOT
    ],
    ids=lambda path: path.stem,
)
def test_scripts_take_a_device_and_a_backend(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "--device" in shown
    assert "--backend" in shown
