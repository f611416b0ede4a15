"""The facts of docs/families.md, derived from transformers' code: a column's name to a cell's words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.reference.family_models import T, TinyFamily, is_norm

OUTPUTS = ("o_proj", "out_proj", "dense", "c_proj")  # names of an attention's last projection
TOLERANCE = 1e-4  # float32 sums of some dozen terms near 1
ABSENT = "-"

Fact = Callable[[TinyFamily], str]
"""A column: the words of its cell, from a tiny model."""


def number(value: float) -> str:
    """1000000.0 -> 1,000,000; 1e-06 -> 1e-6; 0.0625 -> 0.0625"""
    if value == int(value):
        return f"{int(value):,}"
    mantissa, _, exponent = f"{value:.6g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def yes(value: bool) -> str:
    return "yes" if value else "no"


def same(a: Any, b: Any) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= TOLERANCE * (1 + b.abs().max()))


def every(layers: list[int], n: int) -> str:
    """Indices of layers, in words."""
    rest = [layer for layer in range(n) if layer not in layers]
    if not layers:
        return ABSENT
    if not rest:
        return "all"
    for period, ordinal in ((2, "2nd"), (4, "4th"), (6, "6th")):
        last = [layer for layer in range(n) if layer % period == period - 1]
        if layers == last:
            return f"every {ordinal}"
        if rest == last:
            return f"all but every {ordinal}"
    return "layers " + ", ".join(str(layer) for layer in layers)


# Blocks


def a_norm(tiny: TinyFamily) -> Any:
    """The last norm of the model."""
    return [module for module in tiny.model.modules() if is_norm(module)][-1]


def norm_kind(torch: Any, norm: Any) -> str:
    """What a constant added to its input does to its output, and whether it has a bias."""
    if norm.weight is None:
        return "ln, no weight"
    x = torch.randn(3, *norm.weight.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        kind = "ln" if same(norm(x + 1.0), norm(x)) else "rms"
    has_bias = getattr(norm, "bias", None) is not None
    return kind if has_bias == (kind == "ln") else f"{kind}, no bias"


def epsilon(norm: Any) -> str:
    names = ("variance_epsilon", "eps")
    return number(next(getattr(norm, name) for name in names if hasattr(norm, name)))


def adds_one(torch: Any, norm: Any) -> bool:
    """Whether a weight of zero leaves something of its input."""
    if norm.weight is None:
        return False
    x = torch.randn(3, *norm.weight.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        kept = norm.weight.clone()
        norm.weight.zero_()
        spread = norm(x).std(dim=0).max()
        norm.weight.copy_(kept)
    return bool(spread > TOLERANCE)


def block_norms(tiny: TinyFamily) -> list[Any]:
    """The calls of the last block's norms that are none of its attention's."""
    attention = f"block.{tiny.layers - 1}.{tiny.attention_name}."
    return [
        call
        for name, part in tiny.last_block_parts()
        if is_norm(part) and not f"block.{tiny.layers - 1}.{name}".startswith(attention)
        for call in [tiny.call(f"block.{tiny.layers - 1}.{name}")]
    ]


def branches(tiny: TinyFamily) -> dict[str, tuple[Any, Any]]:
    """The last block's two branches without norms: input and output."""
    block = f"block.{tiny.layers - 1}"
    attention = tiny.call(f"{block}.{tiny.attention_name}")
    if tiny.model_type == "opt":  # its layers stand in the block, in rows of (B T, C)
        fc1, fc2 = tiny.call(f"{block}.fc1"), tiny.call(f"{block}.fc2")
        shape = attention.input.shape
        mlp = (fc1.input.reshape(shape), fc2.output.reshape(shape))
    else:
        (call,) = [
            call
            for call in tiny.calls
            if call.name in (f"{block}.mlp", f"{block}.block_sparse_moe")
        ]
        mlp = (call.input, call.output)
    return {"attention": (attention.input, attention.output), "mlp": mlp}


def norm_places(tiny: TinyFamily) -> str:
    norms, last = block_norms(tiny), tiny.call(f"block.{tiny.layers - 1}").output
    if any(same(norm.output.reshape(last.shape), last) for norm in norms):
        return "after the sum"
    places = set()
    for start, end in branches(tiny).values():
        pre = any(same(norm.output.reshape(start.shape), start) for norm in norms)
        post = any(same(norm.input.reshape(end.shape), end) for norm in norms)
        places.add((pre, post))
    (place,) = places
    return {(True, False): "pre", (False, True): "post", (True, True): "pre and post"}[place]


def residual(tiny: TinyFamily) -> str:
    start = tiny.call(f"block.{tiny.layers - 1}").input
    (attention, _), (mlp, _) = branches(tiny).values()
    if same(attention, mlp):
        return "parallel, one norm"
    (feeding,) = [
        norm for norm in block_norms(tiny) if same(norm.output.reshape(mlp.shape), mlp)
    ] or [None]
    parallel = feeding is not None and same(feeding.input, start)
    return "parallel, two norms" if parallel else "serial"


def qk_norm(tiny: TinyFamily) -> str:
    """Its kind, and whether it sees a head or the whole projection."""
    attention = tiny.attention(tiny.layers - 1)
    name = f"block.{tiny.layers - 1}.{tiny.attention_name}"
    names = [
        child
        for child, module in attention.named_children()
        if child in ("q_norm", "q_layernorm") and any(is_norm(part) for part in module.modules())
    ]
    if not names:
        return ABSENT
    norm, width = attention.get_submodule(names[0]), head_width(attention)
    if hasattr(norm, "norms"):  # a list, one for each head
        return f"{norm_kind(tiny.torch, norm.norms[0])}, own of each head"
    if norm.weight.ndim == 2:  # (H, D)
        return f"{norm_kind(tiny.torch, norm)}, own of each head"
    seen = tiny.call(f"{name}.{names[0]}").input.shape[-1]
    return f"{norm_kind(tiny.torch, norm)}, {'head' if seen == width else 'whole'}"


def head_width(attention: Any) -> int:
    """Width of a query head."""
    names = ("qk_head_dim", "head_dim", "head_size")
    return next(getattr(attention, name) for name in names if hasattr(attention, name))


# Scales and caps


def ratio(a: Any, b: Any) -> float:
    """r with a = r b."""
    r = float((a * b).sum() / (b * b).sum())
    assert same(a, r * b)
    return r


def factor(r: float) -> str:
    return ABSENT if abs(r - 1.0) < TOLERANCE else number(float(f"{r:.4g}"))


def embedding_scale(tiny: TinyFamily) -> str:
    r = ratio(*embedded(tiny))
    return "√C" if abs(r - tiny.config.hidden_size**0.5) < TOLERANCE else factor(r)


def embedded(tiny: TinyFamily) -> tuple[Any, Any]:
    """What the first block reads, without learned positions, and the embedding's rows."""
    rows = tiny.model.get_input_embeddings().weight[tiny.ids].detach()
    start = tiny.call("block.0").input
    table, first = position_table(tiny)
    return (start if table is None else start - table[first : first + T], rows)


def position_table(tiny: TinyFamily) -> tuple[Any, int]:
    """The table of learned positions, and the row of position 0."""
    for name, module in tiny.model.named_modules():
        if name.endswith("wpe"):
            return module.weight.detach(), 0
        if name.endswith("embed_positions"):
            return module.weight.detach(), module.offset
    return None, 0


def branch_scale(tiny: TinyFamily) -> str:
    """The block adds r (attention + mlp), each after its norm if it has one."""
    call, norms = tiny.call(f"block.{tiny.layers - 1}"), block_norms(tiny)
    ends = []
    for _, end in branches(tiny).values():
        after = [norm.output for norm in norms if same(norm.input.reshape(end.shape), end)]
        ends.append(after[0] if after else end)
    if norm_places(tiny) == "after the sum":
        return ABSENT
    return factor(ratio(call.output - call.input, ends[0] + ends[1]))


def logit_scale(tiny: TinyFamily) -> tuple[str, str]:
    """The scale and the cap between the head and the logits."""
    raw, logits = tiny.call("head").output, tiny.call("model").output
    cap = getattr(tiny.config, "final_logit_softcapping", None)
    if cap is not None and same(logits, cap * (raw / cap).tanh()):
        return ABSENT, number(cap)
    return factor(ratio(logits, raw)), ABSENT


def attention_scale(tiny: TinyFamily) -> str:
    attention = tiny.attention(tiny.layers - 1)
    scale = attention.inv_norm_factor if tiny.model_type == "falcon" else attention.scaling
    if abs(scale - head_width(attention) ** -0.5) < 1e-9:
        return "D^-½"
    root = scale**-2.0
    return (
        f"{number(round(root))}^-½"
        if abs(root - round(root)) < 1e-6 and root > 1
        else number(scale)
    )


def attention_cap(tiny: TinyFamily) -> str:
    """The key's value, if the logits depend on it."""
    cap = getattr(tiny.config, "attn_logit_softcapping", None)
    if cap is None:
        return ABSENT
    other = tiny.like(attn_logit_softcapping=0.01)
    return ABSENT if same(other.call("model").output, tiny.call("model").output) else number(cap)


def clip(tiny: TinyFamily) -> str:
    """The bound on q, k and v, if the logits depend on it."""
    bound = getattr(tiny.config, "clip_qkv", None)
    if bound is None:
        return ABSENT
    other = tiny.like(clip_qkv=None)
    differ = not same(other.call("model").output, tiny.call("model").output)
    return number(bound) if differ else ABSENT


# Projections


def input_bias(tiny: TinyFamily) -> str:
    return biased([part for name, part in linears(tiny).items() if name not in OUTPUTS])


def output_bias(tiny: TinyFamily) -> str:
    return biased([part for name, part in linears(tiny).items() if name in OUTPUTS])


def linears(tiny: TinyFamily) -> dict[str, Any]:
    """The projections of an attention by name."""
    parts = tiny.attention(tiny.layers - 1).named_children()
    return {
        name: part
        for name, part in parts
        if "Linear" in type(part).__name__ or type(part).__name__ == "Conv1D"
    }


def is_gated(tiny: TinyFamily) -> bool:
    names = [name for name, _ in tiny.mlp(tiny.layers - 1).named_parameters()]
    return any("gate_up_proj" in name or "gate_proj" in name for name in names)


def is_tied(tiny: TinyFamily) -> bool:
    head, embedding = tiny.model.get_output_embeddings(), tiny.model.get_input_embeddings()
    return head.weight is embedding.weight


def default_head_width(tiny: TinyFamily) -> str:
    """D where the configuration says nothing of it: a number, or C / H."""
    if tiny.keys:
        return number(head_width(tiny.attention()))
    cls, widths = type(tiny.config), []
    for scale in (1, 2):
        hidden = scale * cls().hidden_size
        heads = cls().num_attention_heads
        config = cls(
            num_hidden_layers=1,
            hidden_size=hidden,
            num_key_value_heads=heads,
            vocab_size=8,
            pad_token_id=None,
        )
        with tiny.torch.device("meta"):
            model = tiny.transformers.AutoModelForCausalLM.from_config(config)
        (part,) = [
            part
            for name, part in model.named_modules()
            if name.endswith(f"0.{tiny.attention_name}")
        ]
        widths.append((head_width(part), hidden // heads))
    if all(width == share for width, share in widths):
        return "C/H"
    return number(widths[0][0])


def biased(parts: list[Any]) -> str:
    has = {getattr(part, "bias", None) is not None for part in parts}
    return "some" if len(has) == 2 else yes(has.pop())


def mlp_has_bias(tiny: TinyFamily) -> bool:
    """Whether a layer of an MLP, or the experts, add one; a router's is not meant."""
    mlp = tiny.mlp(tiny.layers - 1)
    names = [name for name, _ in mlp.named_parameters() if "router" not in name]
    if tiny.model_type == "opt":
        names = [name for name in names if name.startswith("fc")]
    return any(name.endswith("bias") for name in names)


def activation(tiny: TinyFamily) -> str:
    """The name under which transformers has the function that the MLP calls."""
    mlp = tiny.mlp(tiny.layers - 1)
    clamped = [part for part in mlp.modules() if hasattr(part, "limit")]
    if clamped:
        (part,) = clamped
        return f"silu of {number(part.alpha)} x, clamped at {number(part.limit)}"
    names = ("act_fn", "activation_fn", "act")
    function = next(
        getattr(part, name) for part in mlp.modules() for name in names if hasattr(part, name)
    )
    x = tiny.torch.linspace(-4.0, 4.0, 81)
    table = tiny.transformers.activations.ACT2FN
    known = ("silu", "gelu", "gelu_pytorch_tanh", "relu", "relu2")
    (name,) = [name for name in known if (function(x) - table[name](x)).abs().max() < 1e-6]
    return {"gelu_pytorch_tanh": "gelu tanh", "relu2": "relu²"}.get(name, name)


BLOCKS: dict[str, Fact] = {
    "norm": lambda tiny: norm_kind(tiny.torch, a_norm(tiny)),
    "eps": lambda tiny: epsilon(a_norm(tiny)),
    "1 + w": lambda tiny: "yes" if adds_one(tiny.torch, a_norm(tiny)) else ABSENT,
    "places": norm_places,
    "residual": residual,
    "QK norm": qk_norm,
}
SCALES: dict[str, Fact] = {
    "× embedding": embedding_scale,
    "× branch": branch_scale,
    "× logits": lambda tiny: logit_scale(tiny)[0],
    "attention scale": attention_scale,
    "attention cap": attention_cap,
    "logit cap": lambda tiny: logit_scale(tiny)[1],
    "clip": clip,
    "sinks": lambda tiny: "yes" if hasattr(tiny.attention(), "sinks") else ABSENT,
}
PROJECTIONS: dict[str, Fact] = {
    "head width": default_head_width,
    "q, k, v bias": input_bias,
    "o bias": output_bias,
    "MLP bias": lambda tiny: yes(mlp_has_bias(tiny)),
    "head bias": lambda tiny: yes(tiny.model.get_output_embeddings().bias is not None),
    "activation": activation,
    "gated": lambda tiny: yes(is_gated(tiny)),
    "tied": lambda tiny: yes(is_tied(tiny)),
}
