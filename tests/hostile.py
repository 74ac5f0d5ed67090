"""Input that nobody means well: what it is made of, what may come of it, and what a model is to keep."""

import json
import math
import time

import keras
import numpy as np
import pytest
from helpers import array
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import keras_winit as winit

# A test runs twice: shortly, always with the same examples, and for long, each time with others.
EFFORT = pytest.mark.parametrize(
    "effort", [1, pytest.param(10, marks=pytest.mark.slow)], ids=["short", "long"]
)


def hunting(examples, effort):
    """Settings for so many examples, or as many times more."""
    return settings(
        max_examples=examples * effort,
        derandomize=effort == 1,
        database=None,
        deadline=None,  # `answer` has one of its own
        suppress_health_check=list(HealthCheck),
    )


def answer(call, *arguments, **options):
    """What a call returns; None for a documented error, which has to come within a second."""
    start, worked = time.perf_counter(), time.thread_time()
    try:
        return call(*arguments, **options)
    except (TypeError, ValueError) as error:
        # A second of this thread's own: others may hold the processor. Some wait without working.
        assert time.thread_time() - worked < 1, error
        assert time.perf_counter() - start < 8, error
        assert 10 < len(str(error)) < 20_000
        return None


def assert_valid(tensor, shape):
    assert tuple(tensor.shape) == tuple(shape)
    assert np.isfinite(array(tensor)).all()


def state(model):
    """All that must be as before: weights, seeds and optimizer bit by bit, and every configuration."""
    variables = [*model.variables, *getattr(getattr(model, "optimizer", None), "variables", ())]
    values = [(v.name, str(v.dtype), tuple(v.shape), array(v).tobytes()) for v in variables]
    patched = [sorted(set(vars(layer)) & {"call"}) for layer in model._flatten_layers()]
    losses = [len(layer._losses) for layer in model._flatten_layers()]
    config = json.dumps(keras.saving.serialize_keras_object(model), sort_keys=True, default=repr)
    return values, patched, losses, config


_HUGE = [10**400, -(10**400), 10**4000, 2**31, 2**32, 2**63, 2**64, -1, 0]
_ODD = [math.nan, math.inf, -math.inf, 5e-324, -5e-324, 1e-200, 1e200, 1.7e308, 3.4e38, 1e39, 65505.0, 1 + 0j]
_SCRIPTS = [
    "",
    "Ωμέγα",
    "权重",
    "ウェイト",
    "وزن",
    "🙂",
    "\ud800",
    "\u202egninraw",
    "x" * 1000,
    "a\nb",
    "winit>nonsense",
]
_FOREIGN = [
    {"class_name": "system", "module": "os", "config": "true", "registered_name": None},
    {"class_name": "function", "module": "os", "config": "system", "registered_name": "system"},
    {"class_name": "__lambda__", "config": {"value": "4wEAAAA="}},
    {"class_name": "__tensor__", "config": {}},
    {"class_name": "__slice__", "config": {}},
    {"class_name": "__keras_tensor__", "config": {}},
    {"class_name": "function", "config": "relu"},
    {"class_name": 3, "config": {}},
    {"class_name": [], "config": {}},
    {"class_name": "winit>nonsense", "config": {}},
    {"class_name": "winit>he_normal", "config": 3},
    {
        "class_name": "SeedGenerator",
        "module": "keras.random",
        "config": {"seed": "3"},
        "registered_name": None,
    },
    {
        "class_name": "SeedGenerator",
        "module": "keras.random",
        "config": {"seed": -1},
        "registered_name": None,
    },
    {"class_name": "Dense", "module": "keras.layers", "config": {"units": 3}, "registered_name": None},
    {"class_name": "Constant", "config": {"value": "no number"}},
]

numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from(_HUGE),
    st.sampled_from(_ODD),
    st.booleans(),
    st.integers(-3, 9),
)
words = st.one_of(st.text(max_size=8), st.sampled_from(_SCRIPTS), st.sampled_from(winit.names(aliases=True)))
_leaves = st.one_of(
    st.none(),
    numbers,
    numbers,
    words,
    st.binary(max_size=3),
    st.sampled_from(_FOREIGN),
    st.builds(object),
    st.just(np.array([1.0, 2.0])),
    st.just(np.float32(0.5)),
    st.just(float),
    st.just(len),
)
_keys = st.one_of(
    words, st.sampled_from(["class_name", "config", "module", "registered_name"]), st.integers(0, 3)
)
# Anything at all.
junk = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, min_size=1, max_size=3).map(tuple),
        st.dictionaries(_keys, inner, max_size=3),
    ),
    max_leaves=5,
)


def itself():
    """A list, and a config of a wrapper, that hold themselves."""
    held, config = [], {"class_name": "winit>scaled", "config": {}}
    held.append(held)
    config["config"]["initializer"] = config
    return held, config


def deep(depth):
    """A config of a wrapper around a wrapper, so many times."""
    config = {"class_name": "winit>he_normal", "config": {}}
    for _ in range(depth):
        config = {"class_name": "winit>scaled", "config": {"initializer": config}}
    return config
