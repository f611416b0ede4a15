"""docs/families.md is one whole, and names what GGUF has."""

import gguf
import pytest

from tests.families_page import CODE, expand, stored_names, table
from xplm.models.families.table import FAMILIES

MODEL_TYPES = list(table("Blocks").rows)
GGUF = table("GGUF")
ARCHITECTURES = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}


@pytest.mark.parametrize("heading", ["Projections", "Positions"])
def test_the_tables_have_the_same_rows(heading):
    assert list(table(heading).rows) == MODEL_TYPES


def test_the_other_tables_have_rows_of_those_model_types():
    assert set(stored_names()) == set(MODEL_TYPES)
    assert set(table("Scales and caps").rows) < set(MODEL_TYPES)
    assert set(table("Experts").rows) < set(MODEL_TYPES)
    assert set(table("Latent attention").rows) < set(table("Experts").rows)


def test_every_family_of_the_library_is_there():
    assert set(FAMILIES) <= set(MODEL_TYPES)


def test_gguf_covers_each_model_type_once():
    named = [name for cells in GGUF.rows.values() for name in cells[0].split(", ")]
    assert sorted(named) == sorted(MODEL_TYPES)


@pytest.mark.parametrize("architecture", [name for name in GGUF.rows if name != "-"])
def test_an_architecture_has_a_name_for_each_stored_tensor(architecture):
    model_types, _, besides = GGUF.rows[architecture]
    names = gguf.get_tensor_name_map(ARCHITECTURES[architecture], 1)
    unnamed = set()
    for model_type in model_types.split(", "):
        for name in stored_names()[model_type]:
            one = name.replace(".N.", ".0.").replace(".experts.E.", ".experts.")
            if names.get_name(one) is None:
                unnamed.add(name.rpartition(".N.")[2])
    assert unnamed == {name for code in CODE.findall(besides) for name in expand(code)}


def test_layouts_have_the_architectures_and_row_orders_of_the_page():
    for family in FAMILIES.values():
        for layout in family.gguf[:1]:
            model_types, order, _ = GGUF.rows[layout.architecture]
            assert family.model_type in model_types.split(", ")
            assert layout.has_interleaved_rows == (order == "permuted")
