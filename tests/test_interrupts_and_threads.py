"""Interrupted anywhere, a model or a file is whole; in threads, weights are those of serial use."""

import gc
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
from cases import BY_NAME
from helpers import BACKEND, array, run_python
from hostile import EFFORT, hunting, state
from hypothesis import given
from hypothesis import strategies as st

import keras_winit as winit
from keras_winit.__main__ import main
from keras_winit.models.running import undo
from keras_winit.models.running.undo import undo_on_failure
from keras_winit.models.running.watching import intercepted, untouched

PACKAGE = str(Path(winit.__file__).parent)
THREADS = 6


def build(seed=0):
    """A model with statistics, random layers, gates and an optimizer, every name of its own."""
    layers = keras.layers
    inputs = keras.Input((4, 6), name="in")
    x = layers.LSTM(3, return_sequences=True, seed=seed, name="lstm")(inputs)
    x = layers.Dropout(0.5, seed=seed, name="drop")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Dense(
        5, "relu", kernel_initializer="winit>he_normal", activity_regularizer="l2", name="hidden"
    )(x)
    model = keras.Model(inputs, layers.Dense(2, name="out")(x), name="model")
    model.compile(keras.optimizers.Adam(name="adam"), keras.losses.MeanSquaredError())
    model.optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(seed)
    model.set_weights([rng.random(w.shape) if w.dtype.kind == "f" else w for w in model.get_weights()])
    return model


DATA = np.random.default_rng(0).normal(size=(8, 4, 6)).astype("float32")
OPERATIONS = {
    "initialize": lambda model: winit.initialize(model, seed=1),
    "initialize torch": lambda model: winit.initialize(model, "torch", seed=1),
    "calibrate": lambda model: winit.calibrate(model, DATA, seed=1),
    "calibrate keep": lambda model: winit.calibrate(model, scheme="keep", seed=1),
    "diagnose": lambda model: winit.diagnose(model, DATA, DATA[:, :, :2]),
    "portable": winit.portable,
}


class Interrupt:
    """Raises KeyboardInterrupt at the n-th place where Python may: as a function begins or a built-in ends.

    Only places in this package count, and with `around` those of the managers of its contexts.
    """

    def __init__(self, at, *, around=False):
        self.left = at
        self.files = (PACKAGE, contextmanagers()) if around else (PACKAGE,)

    def __call__(self, frame, event, argument):
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(self.files):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    def during(self, call, *arguments):
        """Whether the call was interrupted."""
        try:
            sys.setprofile(self)
            try:
                call(*arguments)
            finally:
                sys.setprofile(None)
        except KeyboardInterrupt:
            return True
        return False


def contextmanagers():
    import contextlib

    return contextlib.__file__


@EFFORT
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_interrupt_leaves_a_model_as_it_was_or_done(operation, effort):
    """Nothing between: and as it was, wherever the operation changes nothing in the end."""
    run = OPERATIONS[operation]
    counter = Interrupt(-1)
    done = build()
    assert not counter.during(run, done)
    places, after = -1 - counter.left, state(done)
    models = [build()]
    before = state(models[0])
    found = {"as it was": 0, "done": 0}

    @hunting(10 if operation == "portable" else 25, effort)
    @given(
        at=st.one_of(st.integers(1, places), st.integers(max(1, places - 60), places)),
        around=st.booleans(),
    )
    def attempt(at, around):
        if not Interrupt(at, around=around).during(run, models[0]):
            models[0] = build()
            return
        now = state(models[0])
        if now != before:  # Python may not have thrown away yet what waits in a context
            gc.collect()
            now = state(models[0])
        if now == before:
            found["as it was"] += 1
        else:
            models[0] = build()  # before what may fail: Hypothesis goes on with it
            assert now == after, f"interrupted at {at} of {places}"
            found["done"] += 1

    attempt()
    assert found["as it was"] > 5 * found["done"], found
    if BACKEND == "tensorflow":
        import tensorflow as tf

        gc.collect()  # a context that an interrupt left may wait in a cycle
        assert not tf.config.functions_run_eagerly()


@pytest.mark.parametrize("operation", ["initialize", "calibrate"])
@pytest.mark.parametrize("method", ["assign", "draw", "call"])
def test_an_interrupt_in_keras_or_a_scheme_changes_nothing(operation, method, monkeypatch):
    model = build()
    before = state(model)
    owner, name = {
        "assign": (type(model.variables[0]), "assign"),
        "draw": (winit.Orthogonal, "draw"),
        "call": (keras.layers.Dense, "call"),
    }[method]
    original = getattr(owner, name)
    interrupted = 0
    for at in range(30):
        counter = iter(range(at, -1, -1))

        def once(*arguments, _counter=counter, **options):
            if next(_counter, None) == 0:
                raise KeyboardInterrupt
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, once)
        try:
            OPERATIONS[operation](model)
        except (KeyboardInterrupt, ValueError):
            interrupted += 1
        else:
            break
        finally:
            monkeypatch.setattr(owner, name, original)
        assert state(model) == before
    assert interrupted > 1 or (operation, method) in [("initialize", "call"), ("initialize", "draw")]


@pytest.mark.parametrize("first", [0, 1])
def test_blocks_that_end_in_any_order_leave_nothing(first):
    """An interrupt in what leaves an inner block throws that away only after the one around it."""
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    blocks = [intercepted({layer: lambda call, x, number=i: number}) for i in range(2)]
    for number, block in enumerate(blocks):
        block.__enter__()
        assert layer.call(None) == number
    blocks.pop(first).__exit__(None, None, None)
    assert layer.call(None) == 1 - first
    blocks.pop().__exit__(None, None, None)
    assert "call" not in vars(layer)


def test_what_a_pass_put_aside_does_not_come_back_after_all_is_taken_back():
    """Python may throw away an interrupted block only after the one around it."""
    model = build()
    before, norm, blocks = state(model), model.get_layer("norm"), []
    moving, other = norm.moving_mean, norm.moving_variance

    def interrupted():
        with undo_on_failure(in_memory=True) as undo:
            undo.assign(moving, moving + 1)
            blocks.append(untouched(model, undo))
            blocks[0].__enter__()
            moving.assign(moving + 1)
            other.assign(other + 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    blocks[0].gen.close()
    assert state(model) == before


def test_a_second_interrupt_waits_until_all_is_taken_back(monkeypatch):
    model = build()
    before = state(model)
    kind = type(model.variables[0])
    original, count = kind.assign, iter(range(10**6))

    def twice(*arguments, **options):
        if next(count) in (4, 6):
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(kind, "assign", twice)
    with pytest.raises(KeyboardInterrupt):
        winit.initialize(model, seed=1)
    monkeypatch.undo()
    assert next(count) > 7
    assert state(model) == before


def test_a_full_disk_while_a_model_is_drawn_changes_nothing(monkeypatch):
    """The old values of a large model go to a temporary file: what it does not take is not drawn either."""
    monkeypatch.setattr(undo, "_SMALL", 0)
    monkeypatch.setattr(undo, "_HELD", 0)
    resource = pytest.importorskip("resource")
    for size in (0, 10, 100, 300, 1000):
        model = build()
        before, limits = state(model), resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            with pytest.raises(OSError):
                winit.initialize(model, seed=1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert state(model) == before


@pytest.mark.parametrize("held", [0, 40, 10**6])
def test_old_values_come_back_from_memory_and_from_a_file(held, monkeypatch):
    """A failure at the last weight, with none, some or all of the old values held in memory."""
    monkeypatch.setattr(undo, "_SMALL", 0)
    monkeypatch.setattr(undo, "_HELD", held)

    def fails(shape, dtype=None):
        raise RuntimeError("in the midst")

    model = build()
    before = state(model)
    with pytest.raises(RuntimeError, match="in the midst"):
        winit.initialize(model, {model.weights[-1].path: fails, ".*": "he_normal"}, seed=1)
    assert state(model) == before


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("shape", [(7, 5), (13,), (2, 3, 4)], ids=str)
def test_values_of_half_precision_come_back_from_a_file_by_parts(dtype, shape, monkeypatch):
    monkeypatch.setattr(undo, "_SMALL", 0)
    monkeypatch.setattr(undo, "_PART", 6)
    variable = keras.Variable(np.random.default_rng(0).normal(size=shape), dtype=dtype)
    before = array(variable)
    parts = len(list(undo._readable(undo.exact_value(variable))))
    assert (parts > 1) is (BACKEND == "jax" and dtype != "float32")
    with undo.taken_back() as changes:
        changes.assign(variable, keras.ops.zeros(shape, dtype))
        assert not array(variable).any()
    np.testing.assert_array_equal(array(variable), before)


@EFFORT
@pytest.mark.parametrize("command", ["initialize", "calibrate", "portable"])
def test_an_interrupted_command_leaves_the_file_whole(command, effort, tmp_path):
    path = tmp_path / "model.keras"
    build().save(path)
    old = path.read_bytes()
    options = [] if command == "portable" else ["--seed", "1"]
    counter = Interrupt(-1)
    assert not counter.during(main, [command, str(path), str(path), *options])
    places = -1 - counter.left
    new = [array(v).tobytes() for v in keras.models.load_model(path).variables]

    @hunting(6, effort)
    @given(
        at=st.one_of(st.integers(1, places), st.integers(max(1, places - 40), places)), around=st.booleans()
    )
    def attempt(at, around):
        path.write_bytes(old)
        Interrupt(at, around=around).during(main, [command, str(path), str(path), *options])
        gc.collect()
        assert [item.name for item in tmp_path.iterdir()] == [path.name]
        if path.read_bytes() != old:
            assert [array(v).tobytes() for v in keras.models.load_model(path).variables] == new

    attempt()


# Real signals, at times that nobody chooses.
_SIGNALLED = """
import random, signal, sys, time
import keras, numpy as np
from pathlib import Path
from keras_winit.__main__ import main
path, trials = Path(sys.argv[1]), int(sys.argv[2])
old = path.read_bytes()
command = ["initialize", str(path), str(path), "--seed", "1"]
start = time.perf_counter()
main(command)
main(command)
seconds = (time.perf_counter() - start) / 2
new = [np.asarray(w) for w in keras.models.load_model(path).get_weights()]
signal.signal(signal.SIGALRM, signal.default_int_handler)
interrupted = 0
for _ in range(trials):
    path.write_bytes(old)
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.001, seconds))
        main(command)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupted += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    if path.read_bytes() != old:
        found = keras.models.load_model(path).get_weights()
        assert all(map(np.array_equal, found, new)), "neither old nor new"
    assert list(path.parent.iterdir()) == [path], list(path.parent.iterdir())
print("interrupted", interrupted)
"""


@pytest.mark.slow  # how many signals come in time depends on how busy the machine is
@EFFORT
def test_signals_leave_the_file_whole(effort, tmp_path):
    path = tmp_path / "model.keras"
    build().save(path)
    finished = run_python("-c", _SIGNALLED, str(path), str(15 * effort))
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert int(finished.stdout.split()[-1]) > 2


def together(work, items):
    """What the work makes of each item, all of them begun at once in threads of their own."""
    ready = threading.Barrier(len(items))

    def one(item):
        ready.wait()
        return work(item)

    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(one, items))


@pytest.mark.parametrize("name", winit.names())
def test_one_scheme_called_from_many_threads_draws_the_same(name):
    arguments = dict(BY_NAME[name].arguments)
    seed = {"seed": 3} if "seed" in winit.get(name).get_config() else {}
    scheme = winit.get(name, **{**arguments, **seed})
    shape = (8,) if name == "chrono_bias" else (3, 3, 4, 8)
    expected = array(scheme(shape))
    for found in together(lambda _: [array(scheme(shape)) for _ in range(4)], range(THREADS)):
        for tensor in found:
            np.testing.assert_array_equal(tensor, expected)


@EFFORT
def test_models_made_in_threads_have_the_weights_of_serial_use(effort):
    def made(item):
        how, seed = item
        model = build()
        if how == "calibrate":
            winit.calibrate(model, DATA, seed=seed)
            winit.diagnose(model, DATA)
        else:
            winit.initialize(model, {"lstm": "torch", ".*": "auto"}, seed=seed)
        return [array(variable) for variable in model.variables]

    items = [(how, seed) for seed in (0, 0, 7) for how in ("initialize", "calibrate")]
    expected = [made(item) for item in items]
    for _ in range(2 * effort):
        for (how, seed), one, other in zip(items, together(made, items), expected, strict=True):
            for found, wanted in zip(one, other, strict=True):
                if how == "initialize":
                    np.testing.assert_array_equal(found, wanted, err_msg=f"{how} {seed}")
                else:  # a sum over a batch may be split otherwise
                    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6, err_msg=f"{how} {seed}")
    if BACKEND == "tensorflow":
        import tensorflow as tf

        gc.collect()  # a context that an interrupt left may wait in a cycle
        assert not tf.config.functions_run_eagerly()


def test_large_weights_drawn_in_threads_are_those_of_serial_use():
    schemes = [winit.HeUniform(seed=1), winit.HeNormal(seed=1), winit.Orthogonal(seed=1)] * 2
    expected = [array(scheme((700, 800))) for scheme in schemes]
    for found, wanted in zip(together(lambda s: array(s((700, 800))), schemes), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
