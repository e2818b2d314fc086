"""Half precision of captured programs, as explicit casts in their graphs.

Only linear layers and convolutions, which take most of the time and have almost all weights, compute in half precision.
Everything between them stays in float32: norms, softmax, attention scores, NMS and box arithmetic. So do the two operators of
this package, and the layers that predict their sampling points: bfloat16 would round a location in a feature map of 200 columns
by half a pixel.

``torch.autocast`` is not used: it becomes a region of the graph, which other formats cannot express.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Graph, Node

_ATEN = torch.ops.aten
_LAYERS = (
    _ATEN.linear.default,
    _ATEN.conv2d.default,
    _ATEN.conv2d.padding,
    _ATEN.conv_transpose2d.input,
)


def round_layers(program: ExportedProgram, dtype: torch.dtype, stays: Callable[[str], bool]) -> int:
    """Compute the linear layers and convolutions of a program in half precision, with sums as the runtime accumulates them.

    Their weights are stored in that dtype; their inputs are cast to it, and their outputs back to float32. The program is
    modified in place.

    Args:
        program: in float32.
        dtype: ``torch.float16`` or ``torch.bfloat16``.
        stays: whether the layer of a parameter, given by its name, stays in float32.

    Returns:
        The number of layers that were converted.
    """
    graph = program.graph
    names = {**program.graph_signature.inputs_to_parameters, **program.graph_signature.inputs_to_buffers}
    layers = {
        node: None
        for node in graph.nodes
        if node.target in _LAYERS and not any(stays(names.get(argument.name, "")) for argument in _operands(node))
    }
    # A parameter that other nodes read as well, or that is sliced first, stays in float32 and is cast in the graph.
    stored = [node for node in graph.nodes if node.name in names and node.users and all(user in layers for user in node.users)]
    for parameter in stored:
        program.state_dict[names[parameter.name]] = _rounded(program.state_dict[names[parameter.name]], dtype)
        parameter.meta["val"] = parameter.meta["val"].to(dtype)
    casts: dict[Node, Node] = {node: node for node in stored}
    for layer in layers:
        for argument in _operands(layer):
            if argument not in casts:
                casts[argument] = _cast_after(graph, argument, dtype)
            layer.replace_input_with(argument, casts[argument])
        output = layer.meta["val"]
        layer.meta["val"] = output.to(dtype)
        back = _cast_after(graph, layer, output.dtype)
        layer.replace_all_uses_with(back, delete_user_cb=lambda user, back=back: user is not back)
    program.graph_module.recompile()
    return len(layers)


def _operands(layer: Node) -> list[Node]:
    """The tensors that a layer multiplies and adds."""
    return [argument for argument in layer.args if isinstance(argument, Node) and isinstance(argument.meta["val"], Tensor)]


def _rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    rounded = tensor.detach().to(dtype)
    return torch.nn.Parameter(rounded, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else rounded


def _cast_after(graph: Graph, node: Node, dtype: torch.dtype) -> Node:
    after = node
    while after.next.op == "placeholder":
        after = after.next  # placeholders come before all other nodes
    with graph.inserting_after(after):
        cast = graph.call_function(_ATEN.to.dtype, (node, dtype))
    cast.meta["val"] = node.meta["val"].to(dtype)
    return cast
