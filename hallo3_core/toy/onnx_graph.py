"""Builds ONNX graphs by hand, node by node: small, without tracing, and byte-identical every time."""

from __future__ import annotations

import numpy as np

from ..errors import require

OPSET, IR = 13, 8  # old enough for InsightFace 0.7's onnxruntime


class Graph:
    """An ONNX graph builder: each call adds a node and returns its output's name; `note` describes the graph."""

    def __init__(self, note: str):
        self.onnx = require("onnx", "onnx", "writing toy face models")
        self.note = note
        self.nodes, self.constants = [], []

    def constant(self, values, dtype=np.float32) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def weights(self, values) -> str:
        """A constant stored in half precision and cast to float32 in the graph: half the file size."""
        return self("Cast", self.constant(values, np.float16), to=1)

    def __call__(self, operator: str, *inputs: str, outputs: int = 1, **attributes):
        names = [f"{operator.lower()}{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def serialised(self, shape: list, outputs: dict[str, list]) -> bytes:
        """The serialised model with one input of `shape` and the named outputs with their shapes."""
        helper, float32 = self.onnx.helper, self.onnx.TensorProto.FLOAT
        picture = helper.make_tensor_value_info("picture", float32, shape)
        results = [helper.make_tensor_value_info(name, float32, sizes) for name, sizes in outputs.items()]
        graph = helper.make_graph(self.nodes, "toy", [picture], results, self.constants, doc_string=self.note)
        about = dict(doc_string=self.note, producer_name="hallo3", ir_version=IR)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], **about)
        self.onnx.checker.check_model(model)
        return model.SerializeToString(deterministic=True)
