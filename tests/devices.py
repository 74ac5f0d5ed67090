"""A process with several devices: what `test_devices.py` asks of it, printed as JSON.

Devices are set up before a backend starts, and so in a process of their own.
"""

import json
import os
import re
import sys

# Compiled as XLA does by default, whatever the suite runs with: numbers are compared to the last bit.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import keras
import numpy as np
from keras import layers

import keras_winit as winit

DATA = np.random.default_rng(0).standard_normal((32, 16)).astype("float32")
LABELS = np.random.default_rng(1).standard_normal((32, 4)).astype("float32")


def model():
    stack = [
        layers.Dense(64, "relu", kernel_initializer=winit.HeUniform(seed=1)),
        layers.Dense(32, kernel_initializer=winit.Orthogonal(seed=2), bias_initializer=winit.Constant(0.5)),
        layers.Dense(24, kernel_initializer=winit.HeNormal(seed=keras.random.SeedGenerator(3))),
        layers.Dense(8, kernel_initializer=winit.TruncatedNormal(seed=4)),
        layers.Dense(4, kernel_initializer=winit.Scaled("lecun_normal", factor=0.5, seed=5)),
    ]
    return keras.Sequential([keras.Input((16,)), *stack])


def workflow(replicas):
    """A model's weights through its life; `replicas` gives a variable's copies on all devices."""
    net = model()
    net.compile(keras.optimizers.SGD(0.01), "mse")
    stages = {"built": snapshot(net)}
    winit.initialize(net, seed=1)
    stages["initialized"] = snapshot(net)
    winit.calibrate(net, DATA, seed=1, progress=False)
    stages["calibrated"] = snapshot(net)
    report = winit.diagnose(net, DATA, LABELS)
    net.fit(DATA, LABELS, batch_size=32, epochs=1, verbose=0)
    stages["trained"] = snapshot(net)
    copies = [[np.asarray(copy) for copy in replicas(variable)] for variable in net.variables]
    return {
        "stages": stages,
        "findings": [finding.code for finding in report.findings],
        "signals": [[row["path"], row["std"], row["gradient"]] for row in report.to_dict()["layers"]],
        "equal": all(np.array_equal(one, copy) for one, *rest in copies for copy in rest),
        "copies": min(len(found) for found in copies),
    }


def snapshot(net):
    return [np.asarray(keras.ops.convert_to_numpy(v.value), "float64").ravel().tolist() for v in net.weights]


def jax_workflow(kind):
    devices = keras.distribution.list_devices()
    if kind == "data":
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    elif kind == "model":
        mesh = keras.distribution.DeviceMesh((2, 4), ("batch", "model"), devices)
        places = keras.distribution.LayoutMap(mesh)
        places[".*kernel"] = (None, "model")
        places[".*bias"] = ("model",)
        keras.distribution.set_distribution(
            keras.distribution.ModelParallel(layout_map=places, batch_dim_name="batch")
        )
    shards = {}

    def replicas(variable):
        shards[variable.path] = [list(shard.data.shape) for shard in variable.value.addressable_shards]
        whole = variable.value.sharding.is_fully_replicated
        return [shard.data for shard in variable.value.addressable_shards][: None if whole else 1]

    return {**workflow(replicas), "shards": shards}


def tensorflow_workflow(kind):
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    if kind == "one":
        return workflow(lambda variable: [variable.value])
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        return workflow(lambda variable: variable._value.values)


# Shapes from which orthogonal matrices are made of parts: (label, name, arguments, shape). The wide ones
# are split along the longer side of their matrix.
LARGE = [
    ("large orthogonal", "orthogonal", {}, (520, 256)),
    ("large orthogonal, wide", "orthogonal", {"gain": 1.5}, (256, 512)),
    ("large orthogonal, wide, of a prime", "orthogonal", {}, (257, 1000)),
    ("large orthogonal, tall, of a prime", "orthogonal", {}, (1021, 256)),
    ("large orthogonal, tall, of a prime, with few columns a device", "orthogonal", {}, (1021, 320)),
    ("large orthogonal of many rows and columns", "orthogonal", {}, (1024, 1024)),
    ("large orthogonal of more rows", "orthogonal", {}, (4096, 1024)),
    ("large orthogonal of a convolution", "orthogonal", {}, (3, 3, 64, 256)),
    ("large experts", "orthogonal", {"input_axes": [1], "output_axes": [2]}, (3, 512, 256)),
    ("many heads", "orthogonal", {"input_axes": [1], "output_axes": [2]}, (12, 512, 64)),
    ("large delta_orthogonal", "delta_orthogonal", {}, (3, 3, 256, 512)),
    ("large looks_linear", "looks_linear", {"activation": "relu"}, (512, 1024)),
    ("large looks_linear of a convolution", "looks_linear", {"activation": "relu"}, (3, 3, 512, 1024)),
    ("large per_gate", "per_gate", {"initializer": "orthogonal"}, (256, 1024)),
    ("large per_gate of three", "per_gate", {"initializer": "orthogonal", "gates": 3}, (256, 768)),
    ("large per_gate of three, of rows that do not divide", "per_gate", {"gates": 3}, (300, 792)),
    ("per_gate of many", "per_gate", {"initializer": "orthogonal", "gates": 12}, (512, 768)),
    ("per_gate of he_normal", "per_gate", {"initializer": "he_normal"}, (256, 1024)),
    ("large icnr", "icnr", {"initializer": "orthogonal"}, (3, 3, 64, 1024)),
    ("scaled", "scaled", {"initializer": "orthogonal", "factor": 0.5}, (512, 256)),
    ("chrono_bias of a GRU", "chrono_bias", {"cell": "gru"}, (192,)),
]


def jax_layouts(_):
    """Every scheme by a layout: where its shards are, its numbers, and what its program holds."""
    import jax
    from cases import CASES

    from keras_winit.drawing import sharding

    programs = []

    def recorded(draw, layout, program=sharding.program):
        programs.append(program(draw, layout))
        return programs[-1]

    sharding.program = recorded
    seeded = [name for name in winit.names() if getattr(winit.get(name), "random", False)]
    answers = []
    cases = [(case.id, case.name, case.arguments, case.shapes[0]) for case in CASES]
    for label, name, arguments, given in [*cases, *LARGE]:
        seed = {"seed": 3} if name in seeded else {}
        scheme = winit.get({"class_name": f"winit>{name}", "config": {**seed, **arguments}})
        part = 8 * arguments.get("gates", 1)
        shape = (*given[:-1], part * -(-given[-1] // part))
        try:
            one = np.asarray(scheme(shape, dtype="float32"))
        except ValueError:  # it is for one shape alone
            shape = given
            one = np.asarray(scheme(shape, dtype="float32"))
        drawn = {}
        programs.clear()
        for count in (2, 8):
            mesh = jax.make_mesh((count,), ("x",), devices=jax.devices()[:count])
            axes = [None] * (len(shape) - 1) + ["x" if shape[-1] % count == 0 else None]
            layout = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
            drawn[count] = scheme(shape, dtype="float32", layout=layout)
        text = programs[-1].lower().compile().as_text() if programs else ""
        sizes = [[int(n) for n in found.split(",")] for found in re.findall(r"\b[fsu]32\[([\d,]+)\]", text)]
        answers.append(
            {
                "case": label,
                "whole": scheme.drawn_whole(shape),
                "split": "x" in axes,
                "programs": len(programs),
                "laid_out": drawn[8].sharding == layout,
                # Rows that are joined are padded, to be shared on the way.
                "share": (8 * -(-shape[-2] // 8) / shape[-2] if part > 8 and len(shape) > 1 else 1) / 8,
                "largest": max((int(np.prod(size)) for size in sizes), default=0) / int(np.prod(shape)),
                "near": bool(np.allclose(one, drawn[8], rtol=1e-5, atol=1e-7)),
                "same": [bool(np.array_equal(each, drawn[8])) for each in (one, drawn[2])],
            }
        )
    return answers


if __name__ == "__main__":
    print("JSON" + json.dumps(globals()[f"{keras.backend.backend()}_{sys.argv[1]}"](sys.argv[2])))
