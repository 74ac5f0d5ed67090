"""Layers of a user's own, which say nothing of their weights but what they compute with them.

Each names in `expected` the role of its weights in order, with the fans of kernels and embeddings; and
in `power` the variance of what it puts out after LeCun's scheme, for standard normal inputs.
"""

import math
from typing import NamedTuple

import keras
import numpy as np
from keras import layers, ops

IN, OUT, HEADS = 210, 130, 5


class Pair(NamedTuple):
    kernel: object


class Box:
    def __init__(self, kernel):
        self.kernel = kernel


class Own(layers.Layer):
    """A layer with weights of the shapes that it names."""

    given = (400, IN)
    shapes: tuple = ((IN, OUT),)
    power = 1.0
    tokens = 0  # how many kinds of tokens it takes; none for numbers

    def build(self, _shape):
        self.w, *rest = [self.add_weight(shape=shape) for shape in self.shapes]
        if rest:
            self.u = rest[0]
        if len(rest) > 1:
            self.b = rest[1]


class Matmul(Own):
    """x · w + u."""

    shapes = ((IN, OUT), (OUT,))
    expected = (("kernel", IN, OUT), ("bias", IN, OUT))

    def call(self, x):
        return ops.matmul(x, self.w) + self.u


class UnnamedKernel(layers.Layer):
    """An attribute called kernel, whose variable has no name."""

    given, power, tokens = (400, IN), 1.0, 0
    expected = (("kernel", IN, OUT),)

    def build(self, _shape):
        self.kernel = self.add_weight(shape=(IN, OUT))

    def call(self, x):
        return x @ self.kernel


class ForeignName(layers.Layer):
    """A gain that is called kernel, which is none."""

    given, power, tokens = (4000, 7), None, 0
    expected = (("gain",),)

    def build(self, _shape):
        self.kernel = self.add_weight(name="kernel", shape=(7,), initializer="ones")

    def call(self, x):
        return self.kernel * x


class TransposedUse(Own):
    """x · wᵀ, as with a table that is tied to the output."""

    shapes = ((OUT, IN),)
    expected = (("kernel", IN, OUT),)

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.w))


class Equalized(Own):
    """A constant in the computation, as StyleGAN's equalized learning rate."""

    expected = (("kernel", IN, OUT),)

    def call(self, x):
        return ops.matmul(x, self.w * (1 / math.sqrt(IN)))


class EqualizedConvolution(Own):
    """The same of a convolution, its constant in front."""

    given, shapes = (40, 9, 8, 70), ((3, 3, 70, OUT),)
    expected = (("kernel", 9 * 70, 9 * OUT),)

    def call(self, x):
        return ops.conv(x, 0.04 * self.w, padding="valid")


class EqualizedInput(Own):
    """The same constant on what the kernel reads, and as a tensor."""

    expected = (("kernel", IN, OUT),)

    def call(self, x):
        return ops.matmul(x / ops.sqrt(float(IN)), self.w)


class EqualizedOutput(Own):
    """And on what it puts out, behind the bias."""

    shapes = ((IN, OUT), (OUT,))
    expected = (("kernel", IN, OUT), ("bias", IN, OUT))

    def call(self, x):
        return (ops.matmul(x, self.w) + self.u) * np.float32(1 / math.sqrt(IN))


class Query(Own):
    """The same constant of an attention's query, which is to stay."""

    given, shapes = (60, 7, IN), ((IN, IN), (IN, IN))
    expected = (("kernel", IN, IN), ("kernel", IN, IN))

    def call(self, x):
        query = ops.matmul(x, self.w) * (1 / math.sqrt(IN))
        scores = ops.einsum("btd,bsd->bts", query, ops.matmul(x, self.u))
        return query * math.sqrt(IN) + 0 * ops.sum(scores)


class Scaled255(Own):
    """Data that is scaled, which is no equalized learning rate."""

    power = 255.0**-2
    expected = (("kernel", IN, OUT),)

    def call(self, x):
        return ops.matmul(x / 255.0, self.w)


class Vector(Own):
    """A kernel of one axis, as that of an attention's scores."""

    given, shapes = (200, 20_000), ((20_000,),)
    expected = (("kernel", 20_000, 1),)

    def call(self, x):
        return ops.tensordot(x, self.w, 1)


class Relations(Own):
    """A kernel for each kind of edge, looked up by its number."""

    given, shapes = (300, IN), ((3, IN, OUT),)
    expected = (("kernel", IN, OUT),)

    def call(self, x):
        kinds = ops.cast(x[:, 0] > 0, "int32") + ops.cast(x[:, 1] > 0, "int32")
        return ops.einsum("bi,bio->bo", x, ops.take(self.w, kinds, axis=0))


class SideBySide(Own):
    """Three kernels, joined before the signal comes."""

    shapes = ((IN, OUT), (IN, 90), (IN, 20))
    expected = (("kernel", IN, OUT + 110),) * 3

    def call(self, x):
        return ops.matmul(x, ops.concatenate([self.w, self.u, self.b], axis=-1))


class Named(layers.Layer):
    """Weights in a named tuple, and in an object of one's own."""

    given, power, tokens = (400, IN), 1.0, 0
    expected = (("kernel", IN, OUT), ("kernel", OUT, 90))

    def build(self, _shape):
        first, second = self.add_weight(shape=(IN, OUT)), self.add_weight(shape=(90, OUT))
        self.pair, self.box = Pair(first), Box(second)

    def call(self, x):
        return ops.matmul(ops.matmul(x, self.pair.kernel), ops.transpose(self.box.kernel))


class Demodulated(Own):
    """StyleGAN2's convolution: the kernel meets the signal, and its square the style."""

    given, shapes = (20, 8, 8, 60), ((3, 3, 60, OUT),)
    expected = (("kernel", 9 * 60, 9 * OUT),)

    def call(self, x):
        style = 1 + 0 * ops.mean(x, axis=(1, 2))
        size = ops.rsqrt(ops.einsum("hwio,bi->bo", ops.square(self.w), ops.square(style)))
        return ops.conv(x, self.w) + 0 * size[:, None, None, :] + 0 * ops.mean(x)


class Tensordot(Own):
    """Two axes of units."""

    shapes = ((IN, HEADS, 26),)
    expected = (("kernel", IN, HEADS * 26),)

    def call(self, x):
        return ops.tensordot(x, self.w, axes=1)


class FourProjections(Own):
    """Query, key, value and output of an attention in one variable, each taken from it by its number."""

    given, shapes = (60, 7, IN), ((4, IN, HEADS, 26),)
    expected = (("kernel", IN, HEADS * 26),)

    def call(self, x):
        query, key, value = (ops.einsum("btd,dhk->bthk", x, self.w[index]) for index in range(3))
        weights = ops.softmax(ops.einsum("bthk,bshk->bhts", query, key))
        mixed = ops.einsum("bhts,bshk->bthk", weights, value)
        ops.einsum("bthk,dhk->btd", mixed, self.w[3])
        return ops.concatenate([query, key, value], -1)


class Split(Own):
    """Query, key and value side by side in one matrix."""

    given, shapes = (60, 7, IN), ((IN, 3 * OUT),)
    expected = (("kernel", IN, OUT),)

    def call(self, x):
        query, key, value = ops.split(ops.matmul(x, self.w), 3, axis=-1)
        return ops.stack([query, key, value])


class LowRank(Own):
    """(x · w) · u."""

    shapes = ((IN, 90), (90, OUT))
    expected = (("kernel", IN, 90), ("kernel", 90, OUT))

    def call(self, x):
        return ops.matmul(ops.matmul(x, self.w), self.u)


class ProductFirst(LowRank):
    """x · (w · u): both factors are known before the signal comes."""

    def call(self, x):
        return ops.matmul(x, ops.matmul(self.w, self.u))


class Graph(Own):
    """A graph convolution: neighbours are joined, then their features."""

    given = (30, 12, IN)
    expected = (("kernel", IN, OUT),)

    def call(self, x):
        ring = np.roll(np.eye(12, dtype="float32"), 1, axis=1)
        return ops.matmul(ring, ops.matmul(x, self.w))


class GraphWithBias(Own):
    """The same with an adjacency that is given, a bias and an activation behind."""

    given, power = (30, 12, IN), None
    shapes = ((IN, OUT), (OUT,))
    expected = (("kernel", IN, OUT), ("bias", IN, OUT))
    follows = "relu"

    def call(self, x):
        adjacency = ops.softmax(ops.einsum("bif,bjf->bij", x, x))
        return ops.relu(ops.matmul(adjacency, ops.matmul(x, self.w)) + self.u)


class GraphAttention(Own):
    """Weights of the neighbours by a softmax of what two vectors make of them."""

    given, power = (30, 12, IN), None
    shapes = ((IN, OUT), (OUT, 1), (OUT,))
    expected = (("kernel", IN, OUT), ("kernel", OUT, 1), ("bias", IN, OUT))
    follows = "elu"

    def call(self, x):
        hidden = ops.matmul(x, self.w)
        scores = ops.matmul(hidden, self.u)
        weights = ops.softmax(ops.leaky_relu(scores + ops.transpose(scores, (0, 2, 1))))
        return ops.elu(ops.einsum("bij,bjf->bif", weights, hidden) + self.b)


class Covariance(Own):
    """What two kernels put out, multiplied: an activation behind it is neither's."""

    given, power = (30, 12, IN), None
    shapes = ((IN, OUT), (IN, 7))
    expected = (("kernel", IN, OUT), ("kernel", IN, 7))
    follows = "linear"

    def call(self, x):
        return ops.relu(ops.einsum("bti,btj->bji", ops.matmul(x, self.w), ops.matmul(x, self.u)))


class SelfAttention(Own):
    """A query and a key, which no activation follows: their product is another thing."""

    given, power = (30, 12, IN), None
    shapes = ((IN, OUT), (IN, OUT), (IN, OUT))
    expected = (("kernel", IN, OUT),) * 3
    follows = "linear"

    def call(self, x):
        query, key, value = (ops.matmul(x, each) for each in (self.w, self.u, self.b))
        weights = ops.softmax(ops.einsum("bif,bjf->bij", query, key))
        return ops.einsum("bij,bjf->bif", weights, value)


class Bilinear(Own):
    """xᵀ · w · y, a number for each matrix in w."""

    given, shapes = (900, 60), ((40, 60, 60),)
    expected = (("kernel", 3600, 40),)

    def call(self, x):
        return ops.einsum("bi,kij,bj->bk", x, self.w, ops.flip(x, axis=0))


class Experts(Own):
    """A mixture of experts: the axis that counts them is in the signal too."""

    given, shapes = (50, 4, 6, IN), ((4, IN, OUT),)
    expected = (("kernel", IN, OUT),)

    def call(self, x):
        return ops.einsum("becd,edf->becf", x, self.w)


class HandWrittenLSTM(Own):
    """The gates of an LSTM: what comes from the inputs, and what comes from the state."""

    given, shapes = (300, 2, IN), ((IN, 4 * 70), (70, 4 * 70), (4 * 70,))
    expected = (("kernel", IN, 70), ("kernel", 70, 70), ("bias", IN, 4 * 70))
    power = 2.0

    def call(self, x):
        state = x[:, 0, :70]
        gates = ops.matmul(x[:, 1], self.w) + ops.matmul(state, self.u) + self.b
        write, forget, new, read = ops.split(gates, 4, axis=-1)
        cell = ops.sigmoid(forget) * state + ops.sigmoid(write) * ops.tanh(new)
        return gates + 0 * ops.tile(ops.sigmoid(read) * ops.tanh(cell), (1, 4))


class Convolution(Own):
    """Without borders."""

    given, shapes = (40, 9, 8, 70), ((3, 2, 70, OUT),)
    expected = (("kernel", 6 * 70, 6 * OUT),)

    def call(self, x):
        return ops.conv(x, self.w, padding="valid")


class GroupedConvolution(Own):
    """Two groups, stride two."""

    given, shapes = (40, 9, 9, 70), ((3, 3, 35, OUT),)
    expected = (("kernel", 9 * 35, 9 * OUT / 8),)

    def call(self, x):
        return ops.conv(x, self.w, strides=2, padding="valid")


class Depthwise(Own):
    """Each channel has kernels of its own."""

    given, shapes = (30, 9, 8, 400), ((3, 3, 400, 2),)
    expected = (("kernel", 9, 18),)

    def call(self, x):
        return ops.depthwise_conv(x, self.w, padding="valid")


class Separable(Own):
    """A depthwise and a pointwise kernel."""

    given, shapes = (30, 9, 8, 300), ((3, 3, 300, 1), (1, 1, 300, 200))
    expected = (("kernel", 9, 9), ("kernel", 300, 200))

    def call(self, x):
        return ops.separable_conv(x, self.w, self.u, padding="valid")


class TransposedConvolution(Own):
    """Stride two, kernel four."""

    given, shapes = (20, 8, 8, 70), ((4, 4, OUT, 70),)
    expected = (("kernel", 16 * 70 / 4, 16 * OUT),)

    def call(self, x):
        return ops.conv_transpose(x, self.w, strides=2, padding="valid")[:, 3:-3, 3:-3]


class Fourier(Own):
    """Features of sines and cosines."""

    expected = (("kernel", IN, OUT),)

    def call(self, x):
        phase = ops.matmul(x, self.w)
        return ops.concatenate([ops.sin(phase), ops.cos(phase)], -1) * 0 + ops.tile(phase, (1, 2))


class LookUp(Own):
    """Rows of a table."""

    given, tokens, shapes = (400, 9), 500, ((500, OUT),)
    expected = (("embedding", 1, OUT),)

    def call(self, tokens):
        return ops.take(self.w, tokens, axis=0)


class OneHot(LookUp):
    """The same by a product."""

    def call(self, tokens):
        return ops.matmul(ops.one_hot(tokens, 500), self.w)


class TiedTable(Own):
    """A table that is read, and then read the other way round."""

    given, tokens, shapes = (200, 9), 500, ((500, OUT),)
    expected = (("embedding", OUT, 500),)
    power = 1 + (OUT - 1) / 500  # one of its rows is the one that was read

    def call(self, tokens):
        found = ops.take(self.w, tokens, axis=0)
        found = found * ops.rsqrt(ops.mean(ops.square(found), axis=-1, keepdims=True) + 1e-6)
        return ops.matmul(found, ops.transpose(self.w))


class InAList(layers.Layer):
    """Weights in a list."""

    given, power, tokens = (400, IN), 1.0, 0
    expected = (("kernel", IN, OUT), ("kernel", OUT, IN))

    def build(self, _shape):
        self.stack = [self.add_weight(shape=shape) for shape in ((IN, OUT), (OUT, IN))]

    def call(self, x):
        for kernel in self.stack:
            x = ops.dot(x, kernel)
        return x


class Mapped(Own):
    """Inside a compiled loop."""

    given = (400, 3, IN)
    expected = (("kernel", IN, OUT),)

    def call(self, x):
        return ops.map(lambda signal: ops.matmul(signal, self.w), ops.swapaxes(x, 0, 1))


@keras.saving.register_keras_serializable("own_layers")
class OwnDense(layers.Dense):
    """A Dense layer with a call of its own."""

    given, power, tokens = (400, IN), 1.0, 0
    expected = (("kernel", IN, OUT), ("bias", IN, OUT))

    def __init__(self, units=OUT, **options):
        super().__init__(units, **options)

    def call(self, x):
        return super().call(x)


class Norm(layers.Layer):
    """A normalization with a gain and an offset."""

    given, power, tokens = (400, IN), None, 0
    expected = (("gain",), ("other",))

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")
        self.offset = self.add_weight(shape=(shape[-1],), initializer="zeros")

    def call(self, x):
        size = ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-6)
        return self.scale * (x * size) + self.offset


class Positions(layers.Layer):
    """Positions that are added, a token that is put in front, and latents that are projected."""

    given, power, tokens = (40, 7, 30), None, 0
    expected = (("other",), ("other",), ("other",), ("kernel", 30, 20))

    def build(self, shape):
        normal = keras.initializers.RandomNormal(stddev=0.02)
        self.places = self.add_weight(shape=shape[1:], initializer=normal)
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="zeros")
        self.latents = self.add_weight(shape=(5, shape[-1]), initializer=normal)
        self.project = self.add_weight(shape=(shape[-1], 20))

    def call(self, x):
        count = ops.shape(x)[0]
        x = ops.concatenate([ops.tile(self.token, (count, 1, 1)), x + self.places], axis=1)
        asked = layers.Identity()(self.latents)
        return ops.matmul(x, self.project) + ops.sum(asked)


LAYERS = (
    *(Matmul, UnnamedKernel, ForeignName, TransposedUse, Equalized, EqualizedConvolution, Tensordot),
    *(EqualizedInput, EqualizedOutput, Query, Scaled255, Vector, Relations, SideBySide, Named),
    *(FourProjections, Split, LowRank, ProductFirst, Graph, Bilinear, Experts, HandWrittenLSTM),
    *(Convolution, GroupedConvolution, Depthwise, Separable, TransposedConvolution, Fourier),
    *(GraphWithBias, GraphAttention, SelfAttention, Covariance),
    *(LookUp, OneHot, TiedTable, InAList, Mapped, OwnDense, Norm, Positions),
)


def model_of(kind):
    """A model of one such layer."""
    inputs = keras.Input(kind.given[1:], dtype="int32" if kind.tokens else "float32")
    return keras.Model(inputs, kind()(inputs))


def inputs_for(kind):
    rng = np.random.default_rng(0)
    if kind.tokens:
        return rng.integers(0, kind.tokens, kind.given).astype("int32")
    return rng.standard_normal(kind.given, "float32")
