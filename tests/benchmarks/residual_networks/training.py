"""Training by a step that is compiled once for a network, whatever the start and the learning rate."""

import math
import statistics

import jax
import keras
import numpy as np

import keras_winit as winit
from residual_networks.findings import METHODS, TIMES

# What each draws: None, that of the network's recipe; and `calibrate` measures.
SCHEMES = dict(zip(METHODS, ("configured", "torch", "auto", "auto", None), strict=True))
CALIBRATED = "calibrate"
BATCH = 64  # samples that `calibrate` sees
STEPS = 5  # whose mean loss is watched, to stop a run


class Trainer:
    """Trains one network from any start at any learning rate.

    Args:
        network: what is trained.
    """

    def __init__(self, network):
        self._network = network
        self._x, self._y = network.data()
        self._model = network.build()
        self._optimizer = network.optimizer()
        self._optimizer.build(self._model.trainable_variables)
        self._slots = [variable.value for variable in self._optimizer.variables]
        self._rate = [each.name for each in self._optimizer.variables].index("learning_rate")
        self._step = jax.jit(self._trained)
        self._drawn = {}  # a model for each method: what is drawn is recorded in its layers
        self._starts = {}

    def losses(self, method, rate, seed):
        """The loss of each step, up to where it is stopped."""
        trainable, others = self._start(method, seed)
        slots = list(self._slots)
        slots[self._rate] = jax.numpy.float32(rate)
        rng, count = np.random.default_rng(seed), len(self._y)
        losses = []
        for _ in range(self._network.steps):
            x, y = self._part(rng.choice(count, self._network.batch, replace=False))
            loss, trainable, others, slots = self._step(trainable, others, slots, x, y)
            losses.append(float(loss))
            if not statistics.fmean(losses[-STEPS:]) <= TIMES * losses[0]:
                break
        if self._step._cache_size() > 1:
            raise RuntimeError("The step was compiled again: something other than numbers has changed.")
        return losses

    def _part(self, index):
        return keras.tree.map_structure(lambda each: each[index], (self._x, self._y))

    def _trained(self, trainable, others, slots, x, y):
        """The loss, and what is trained, after one step."""

        def loss_of(trainable):
            outputs, after = self._model.stateless_call(trainable, others, x, training=True)
            return self._network.loss(y, outputs), after

        (loss, others), gradients = jax.value_and_grad(loss_of, has_aux=True)(trainable)
        trainable, slots = self._optimizer.stateless_apply(slots, gradients, trainable)
        return loss, trainable, others, slots

    def _start(self, method, seed):
        """The values of all variables that a method draws."""
        if (method, seed) not in self._starts:
            if method not in self._drawn:
                self._drawn[method] = self._network.build()
            model = self._drawn[method]
            draw(model, self._network, method, self._part(slice(BATCH))[0], seed)
            self._starts[method, seed] = tuple(
                [jax.numpy.array(variable.value) for variable in variables]
                for variables in (model.trainable_variables, model.non_trainable_variables)
            )
        return self._starts[method, seed]


def draw(model, network, method, data, seed):
    """Draw a network by a method; `calibrate` measures on the data."""
    if method == CALIBRATED:
        winit.calibrate(model, data, seed=seed, progress=False)
    else:
        winit.initialize(model, SCHEMES[method] or network.recipe, seed=seed)


def first_and_last(losses, steps):
    """The first loss, and the mean of the last eighth of the steps: None for a run that was stopped."""
    last = statistics.fmean(losses[-(steps // 8) :]) if len(losses) == steps else math.nan
    return round(losses[0], 5), round(last, 5) if math.isfinite(last) else None
