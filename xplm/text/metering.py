"""Charges written into a chat template, for what jinja2 has no hook for; `xplm.text.sandbox` says what they are for.

Each charge is a call of a filter that the sandbox defines:

    SPEND    subtracts a number from the budget, at every turn of a loop and every call of a macro
    BUILT    charges for a value and passes it on: literals, slices, and what is compared
    CONCAT   joins the operands of `~`, and charges for the text
"""

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

LOOP_COST = 64
MACRO_COST = 1024

# A space keeps these names out of a template's reach.
SPEND, BUILT, CONCAT = " spend", " built", " concat"


def write_charges(template: nodes.Template) -> nodes.Template:
    """The same template, charging for its loops, macros, literals, slices, comparisons and `~`."""
    metered: nodes.Template = _Meter().visit(template)
    return metered


class _Meter(NodeTransformer):
    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802, the visitor's protocol
        self.generic_visit(node)
        if node.test is None:
            node.body.insert(0, _spend_statement(node, LOOP_COST))
        else:  # the test runs for the items that it drops, too
            node.test = nodes.And(_spend(node, LOOP_COST), node.test)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:  # noqa: N802
        self.generic_visit(node)
        node.body.insert(0, _spend_statement(node, MACRO_COST))
        return node

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.CallBlock:  # noqa: N802
        self.generic_visit(node)
        node.body.insert(0, _spend_statement(node, MACRO_COST))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes), CONCAT)

    def visit_List(self, node: nodes.List) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, BUILT)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, BUILT)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, BUILT) if node.ctx == "load" else node

    def visit_Operand(self, node: nodes.Operand) -> nodes.Operand:  # noqa: N802
        self.generic_visit(node)
        node.expr = _filter(node.expr, BUILT)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, BUILT) if isinstance(node.arg, nodes.Slice) else node


def _filter(operand: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(operand, name, [], [], None, None)


def _spend(node: nodes.Node, cost: int) -> nodes.Filter:
    literal = sum(len(text.data) for text in node.find_all(nodes.TemplateData))
    return _filter(nodes.Const(cost + literal), SPEND)


def _spend_statement(node: nodes.Node, cost: int) -> nodes.ExprStmt:
    return nodes.ExprStmt(_spend(node, cost))
