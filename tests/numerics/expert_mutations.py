"""Mistakes to plant in routers, expert products and their gates."""

from tests.numerics.mutations import K, L, Mutation

EXPERTS = [
    Mutation(
        "weights divided by their sum on the way back alone",
        f"{K}/router.py",
        "w = w / (xp.sum(w, axis=1, keepdims=True, dtype=island) + SMALLEST)",
        "w = w",
        "op router",
    ),
    Mutation(
        "the sum that weights are divided by taken as a constant",
        f"{K}/router.py",
        "(dchosen - xp.sum(dchosen * r, axis=1, keepdims=True)) / total",
        "dchosen / total",
        "op router",
    ),
    Mutation(
        "softmax over the chosen, where it runs over all",
        f"{K}/router.py",
        "w = xp.take_along_axis(p, chosen, axis=1)",
        "w = softmax_fwd(xp.take_along_axis(z, chosen, axis=1), island=island)[0]",
        "op router",
    ),
    Mutation(
        "softmax's sum lost in the router",
        f"{K}/router.py",
        "dp - xp.sum(dp * p, axis=1, keepdims=True) if is_softmax",
        "dp if is_softmax",
        "op router",
    ),
    Mutation(
        "a gradient through the choice: all experts get that of the chosen",
        f"{K}/router.py",
        "is_chosen = saved.chosen[:, :, None] == experts",
        "is_chosen = saved.chosen[:, :, None] >= experts",
        "op router",
    ),
    Mutation(
        "the router's factor forgotten on the way back",
        f"{K}/router.py",
        "dchosen = saved.factor * dww",
        "dchosen = dww",
        "op router",
    ),
    Mutation(
        "every expert's rows begin at the first",
        f"{K}/expert_linear.py",
        "            begin += count",
        "            begin += 0",
        "op expert_linear",
    ),
    Mutation(
        "rows go back through their own weights, transposed gradients of another expert's",
        f"{K}/expert_linear.py",
        "dweight = xp.stack([found[e][1] if e in found",
        "dweight = xp.stack([found[max(found)][1] if e in found",
        "op expert_linear",
    ),
    Mutation(
        "a row's gradient lacks its weight",
        f"{K}/expert_sum.py",
        "return cast(drows * w[:, None], rows.dtype)",
        "return cast(drows, rows.dtype)",
        "op expert_sum",
    ),
    Mutation(
        "rows go back to tokens in the order of the experts",
        f"{K}/expert_sum.py",
        "owner = xp.argsort(xp.reshape(places, (-1,)))",
        "owner = xp.reshape(places, (-1,))",
        "op expert_sum",
    ),
    Mutation(
        "a clamped gate keeps its gradient",
        f"{K}/clamped_swiglu.py",
        "dgate = xp.where(cast(gate, g.dtype) <= limit, dgate, nothing)",
        "dgate = dgate",
        "op clamped_swiglu",
    ),
    Mutation(
        "one gate for a row gets the mean over it",
        f"{K}/sigmoid_gate.py",
        "product = xp.sum(product",
        "product = xp.mean(product",
        "op sigmoid_gate",
    ),
    Mutation(
        "tokens get no gradient from the router",
        f"{L}/experts.py",
        "dx = dx + _route_bwd(rt, spec, name, dweights, dx, saved.routing, grads)",
        "_route_bwd(rt, spec, name, dweights, dx, saved.routing, grads)",
        "layer mlp",
    ),
    Mutation(
        "weights multiply what experts read, on the way back what they wrote",
        f"{L}/experts.py",
        "rows = xp.take(tokens, owners, axis=0)",
        "rows = xp.take(tokens * weights[:, :1], owners, axis=0)",
        "layer mlp",
    ),
    Mutation(
        "the correction is in the weights, too",
        f"{L}/experts.py",
        "weights, router_saved = rt.ops.router_fwd(\n        logits,",
        "weights, router_saved = rt.ops.router_fwd(\n"
        '        logits + params.get(f"{name}.{CORRECTION}", 0.0) * logits,',
        "layer mlp",
    ),
    Mutation(
        "the shared MLP passes no gradient to the token",
        f"{L}/experts.py",
        "dx = dx + _shared_bwd(rt, spec, name, dyr, saved.shared, grads)",
        "_shared_bwd(rt, spec, name, dyr, saved.shared, grads)",
        "layer mlp",
    ),
]
