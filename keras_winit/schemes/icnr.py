"""A scheme that wraps another: repeated for all pixels of an upsampled block."""

import math
from typing import Any

from keras import layers, ops

from keras_winit.schemes.base import arguments_of, remade
from keras_winit.schemes.compose import Wrapper
from keras_winit.schemes.registry import register
from keras_winit.support.checks import Shape, as_int
from keras_winit.support.host import layer_being_built


@register(
    "icnr",
    formula="initializer for 1/factorᵈ of the outputs, repeated for each subpixel",
    source="Aitken et al. 2017, arXiv:1707.02937",
)
class ICNR(Wrapper):
    """A kernel before `depth_to_space` whose subpixels start equal: upsampling without checkerboards.

    The channels that become the pixels of one upsampled block get the same weights, in the order
    of `keras.ops.nn.depth_to_space`, so the layer starts as a nearest-neighbour resize. In a transposed
    convolution, which puts the pixels of a block beside one another by itself, its taps are repeated in
    space, as many as its strides; the taps that would reach over the edge of a block are zero.

    Args:
        initializer: what to draw: a name of a scheme, a config or an initializer.
        factor: the block size of the upsampling, a positive integer.
        {seed}
        {axes}

    Raises:
        ValueError: where the output channels do not divide by factor^(spatial rank); in a transposed
            convolution, where its strides are not the factor, its kernel is smaller, or it has an
            `output_padding`.

    Example:

    >>> import numpy as np
    >>> kernel = np.asarray(ICNR(factor=2, seed=0)((3, 3, 8, 12)))  # 12 = 3 channels · 2²
    >>> bool((kernel[..., :3] == kernel[..., 3:6]).all())
    True

    Source: A. Aitken, C. Ledig, L. Theis, J. Caballero, Z. Wang, W. Shi 2017, "Checkerboard artifact
    free sub-pixel convolution", arXiv:1707.02937.
    """

    ranks = (3, 5)

    def __init__(
        self,
        initializer: Any = "he_normal",
        factor: int = 2,
        seed: Any = None,
        *,
        input_axes: Any = None,
        output_axes: Any = None,
    ) -> None:
        self.factor = as_int("factor", factor, minimum=1)
        super().__init__(initializer, seed, input_axes=input_axes, output_axes=output_axes)
        self.blockwise = False  # subpixels go before groups

    def part(self, shape: Shape) -> Shape:
        """The shape of the kernel of one subpixel."""
        layer = _transposed_convolution()
        if layer is not None:
            return self._in_space(layer, shape)
        repeats = self.factor ** (len(shape) - 2)
        if shape[-1] % repeats:
            raise ValueError(
                f"ICNR needs output channels that divide by factor^{len(shape) - 2} = {repeats}. "
                f"Received: factor={self.factor} for shape={shape!r} with {shape[-1]} output channels."
            )
        return (*shape[:-1], shape[-1] // repeats)

    def draw(self, shape: Shape, dtype: str) -> Any:
        pixel = self.part(shape)
        layer = _transposed_convolution()
        if layer is not None:
            return self._repeated(layer, shape, dtype)
        kernel = self.inner()(pixel, dtype)
        return ops.tile(kernel, (1,) * (len(shape) - 1) + (shape[-1] // pixel[-1],))

    def _in_space(self, layer: Any, shape: Shape) -> Shape:
        """The shape of the kernel of a transposed convolution whose taps are to be repeated."""
        blocks = tuple((size - _start(layer, size)) // self.factor for size in shape[:-2])
        if any(each != self.factor for each in layer.strides) or not all(blocks):
            raise ValueError(
                f"In a transposed convolution ICNR repeats taps: its strides must be the factor, and its "
                f"kernel at least as large. Received: factor={self.factor} for {layer.name!r} with "
                f"strides={layer.strides} and kernel_size={layer.kernel_size}."
            )
        if layer.output_padding is not None:
            raise ValueError(
                f"ICNR needs the usual output of a transposed convolution. Received: {layer.name!r} with "
                f"output_padding={layer.output_padding}. Leave it None."
            )
        return (*blocks, *shape[-2:])

    def _repeated(self, layer: Any, shape: Shape, dtype: str) -> Any:
        *blocks, outputs, inputs = part = self._in_space(layer, shape)
        inner, taps = self.inner(), math.prod(blocks)
        arguments, rank = arguments_of(inner), len(part)
        if "fans" in arguments:  # each output reads one tap of each block
            inner = remade(inner, fans=[taps * inputs, taps * self.factor ** len(blocks) * outputs])
        elif "input_axes" in arguments:
            inner = remade(inner, input_axes=[*range(rank - 2), rank - 1], output_axes=[rank - 2])
        kernel = inner(part, dtype)
        for axis in range(len(blocks)):
            kernel = ops.repeat(kernel, self.factor, axis)
        before = [_start(layer, size) for size in shape[:-2]]
        after = [
            size - start - self.factor * count
            for size, start, count in zip(shape, before, blocks, strict=False)
        ]
        return ops.pad(kernel, [*zip(before, after, strict=True), (0, 0), (0, 0)])

    def expected_std(self, shape: Any) -> float | None:
        """The wrapped deviation; None in a transposed convolution, where it is that of some taps."""
        return None if _transposed_convolution() is not None else super().expected_std(shape)


def _transposed_convolution() -> Any:
    """The layer whose kernel is drawn, where it is a transposed convolution."""
    layer = layer_being_built()
    kinds = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
    return layer if isinstance(layer, kinds) else None


def _start(layer: Any, size: int) -> int:
    """The first tap, along an axis of a transposed convolution, that begins a block of its outputs."""
    stride = layer.strides[0]
    return 0 if layer.padding == "valid" else max(size - stride, 0) // 2 % int(stride)
