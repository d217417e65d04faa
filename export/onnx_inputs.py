"""ONNX files for runtimes that know no inputs which may be left out.

The files of an artifact have an initializer for each option of sampling, by the name of its input.
onnxruntime-web and Triton do not take such inputs; what they are given is made here from the
artifact's file, and computes what that computes.
"""


def required(model):
    """Changes an `onnx.ModelProto` in place: every option is an input that must be given."""
    inputs = {value.name for value in model.graph.input}
    _keep(model.graph.initializer, lambda tensor: tensor.name not in inputs)
    return model


def constant(model):
    """Changes an `onnx.ModelProto` in place: no option is an input, each is its default."""
    defaults = {tensor.name for tensor in model.graph.initializer}
    _keep(model.graph.input, lambda value: value.name not in defaults)
    return model


def _keep(repeated, condition):
    kept = [item for item in repeated if condition(item)]
    del repeated[:]
    repeated.extend(kept)
