"""The remedies of findings, applied to the networks that fail, which are then trained."""

import hashlib
from functools import partial

import keras
from trainability import BATCH, METHODS, TASKS

import keras_winit as winit
from diagnosed.training import LOSS, compiled, network, trained


def remedied(task, cell, methods, seed):
    """What the remedies of a cell's failing networks do, and how the networks then train.

    Each remedy of each network is applied by itself; networks that it makes equal to the last bit are
    looked at and trained once.
    """
    (x, y), new = TASKS[task][0]()
    model, known, found = network(task, cell, x), {}, {}
    for method in METHODS:  # in their order, as a layer's own initializer is replaced
        METHODS[method](model, x[:BATCH], seed)
        if method not in methods:
            continue
        before = [array.copy() for array in model.get_weights()]
        findings = [each for each in winit.diagnose(model, x, y, LOSS).findings if each.severity != "note"]
        found[method] = []
        for place, finding in enumerate(findings):
            if place:  # as drawn, and recorded, before: an earlier remedy has left another record
                METHODS[method](model, x[:BATCH], seed)
                model.set_weights(before)
            helped = with_remedy(finding.remedy, model, x[:BATCH], y[:BATCH], seed)
            key = hashlib.sha256(b"".join(each.tobytes() for each in helped.get_weights())).hexdigest()
            if key not in known:
                after = winit.diagnose(helped, x, y, LOSS)
                codes = [each.code for each in after.findings if each.severity != "note"]
                accuracy = trained(compiled(helped), (x, y), new, seed)
                known[key] = {"ok": after.ok, "left": codes, "accuracy": accuracy}
            told = {"finding": finding.code, "severity": finding.severity, "remedy": finding.remedy}
            found[method].append(told | known[key])
    keras.backend.clear_session()
    return found


def with_remedy(remedy, model, x, y, seed):
    """The model with what a remedy says done: the call between its backquotes, or normalizations added."""
    calls = [part for part in remedy.split("`")[1::2] if part.startswith(("initialize", "calibrate"))]
    if calls:
        known = {name: partial(getattr(winit, name), seed=seed) for name in ("initialize", "calibrate")}
        known |= {"model": model, "data": x, "labels": y, "loss": LOSS}
        eval(calls[0], {"__builtins__": {}}, known)
        return model
    if "BatchNormalization" not in remedy:
        raise ValueError(f"Nothing is known about the remedy {remedy!r}.")
    *hidden, last = (type(layer).from_config(layer.get_config()) for layer in model.layers)
    inner = [part for layer in hidden for part in _behind_its_kernel(layer)]
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input(model.input_shape[1:]), *inner, last])


def _behind_its_kernel(layer):
    """A layer with a normalization behind its kernel, before its activation."""
    if not hasattr(layer, "kernel_initializer"):
        return [layer]
    activation, layer.activation = layer.activation, keras.activations.linear
    layer.kernel_initializer, layer.use_bias = keras.initializers.GlorotUniform(), False
    return [layer, keras.layers.BatchNormalization(), keras.layers.Activation(activation)]
