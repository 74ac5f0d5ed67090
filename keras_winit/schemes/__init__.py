"""What a weight is drawn from. Importing registers every scheme, in the order of the documentation."""

from keras_winit.schemes import (  # noqa: F401, I001
    basic,
    variance,
    orthogonal,
    looks_linear,
    structured,
    compose,
    icnr,
    bias,
)
from keras_winit.schemes.base import Scheme
from keras_winit.schemes.registry import get, names, scheme_class

__all__ = ["Scheme", "get", "names", "scheme_class"]
