"""The residual networks as `diagnose` is to see them, and how their training ended."""

import json

import keras
import numpy as np

from residual_networks import applications, towers, transformers  # noqa: F401
from residual_networks.findings import Findings
from residual_networks.network import NETWORKS
from residual_networks.training import BATCH, draw

SAMPLES = 256


def drawn(name, method, seed):
    """A network as a method draws it, samples and their labels, and its loss."""
    network = NETWORKS[name]
    data = network.data()
    part = np.random.default_rng(seed).choice(len(data[1]), SAMPLES, replace=False)
    x, y = keras.tree.map_structure(lambda each: each[part], data)
    model = network.build()
    draw(model, network, method, keras.tree.map_structure(lambda each: each[:BATCH], x), seed)
    return model, x, y, network.loss


def outcomes(path):
    """Of each network and method in a record of residual.py: how it ends at its best learning rate.

    It fails within 5 % of the loss of guessing, and trains below the middle of that and the best of all.
    """
    found = {}
    for name, record in json.loads(path.read_text())["networks"].items():
        runs = Findings(record)
        for method in runs.methods:
            loss = min(loss for _, loss in runs.curve(method))
            end = "fails" if loss > 0.95 * runs.guess else "trains" if loss < runs.middle else "between"
            found.setdefault(name, {})[method] = end
    return found
