"""Reads the tensors of an ONNX file under the names of the model that it was exported from.

The file is a Protocol Buffers message. Its exporter keeps the names of embeddings, norms and biases, but renames the
matrices that it multiplies by; whose matrix one is, the bias tells that is added to the product.
"""

from collections.abc import Iterator
from pathlib import Path

import torch

GRAPH = 7  # of a model
NODE, INITIALIZER = 1, 5  # of a graph
INPUT, OUTPUT, OPERATOR = 1, 2, 4  # of a node
DIMENSION, KIND, NAME, RAW = 1, 2, 8, 9  # of a tensor
FLOAT = 1


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """Read a number whose bytes end with the first below 128: (number, where it ends)."""
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the fields of a message: (number, value), a whole number or bytes."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        else:
            size, at = {1: (8, at), 2: varint(data, at), 5: (4, at)}[key & 7]
            value, at = data[at : at + size], at + size
        yield key >> 3, value


def only(data: memoryview, *numbers: int) -> list:
    """Return the values of the fields of these numbers, texts decoded."""
    values = [value for number, value in fields(data) if number in numbers]
    return [value if isinstance(value, int) else bytes(value).decode() for value in values]


def read_onnx(path: Path) -> dict[str, torch.Tensor]:
    """Return the float tensors, matrices as a linear layer keeps them: (out, in)."""
    (graph,) = (value for number, value in fields(memoryview(path.read_bytes())) if number == GRAPH)
    tensors, producer, biases = {}, {}, {}
    for number, message in fields(graph):
        if number == INITIALIZER and only(message, KIND) == [FLOAT]:
            (raw,) = (value for inner, value in fields(message) if inner == RAW)
            tensors[only(message, NAME)[0]] = torch.frombuffer(bytearray(raw), dtype=torch.float32).view(
                only(message, DIMENSION)
            )
        elif number == NODE:
            inputs, outputs, operator = only(message, INPUT), only(message, OUTPUT), only(message, OPERATOR)[0]
            producer[outputs[0]] = (operator, inputs)
            if operator == "Add":
                biases |= {name: inputs for name in inputs if name.endswith(".bias")}
    for bias, summands in biases.items():
        for operator, inputs in (producer[name] for name in summands if name in producer):
            if operator == "MatMul" and inputs[1] in tensors:
                tensors[bias.removesuffix("bias") + "weight"] = tensors.pop(inputs[1]).T.contiguous()
    return tensors
