"""keras_winit: weight initialization done right for Keras 3.

Importing registers every scheme, so that `kernel_initializer="winit>he_uniform"` works in any
layer and saved models reload with their initializers.
"""

import keras_winit.support.loading  # noqa: F401 - before anything else that loads Keras

# isort: split
from keras_winit.choose import Recommendation, for_activation, recommend
from keras_winit.listing import described
from keras_winit.models.anatomy.branch import Branches
from keras_winit.models.anatomy.branches import branches
from keras_winit.models.anatomy.layer_fans import layer_fans
from keras_winit.models.calibrating.calibrate import calibrate
from keras_winit.models.calibrating.calibration import Calibration
from keras_winit.models.comparing.compare import compare
from keras_winit.models.comparing.comparison import Comparison
from keras_winit.models.diagnosing.diagnose import diagnose
from keras_winit.models.diagnosing.report import Finding, Report
from keras_winit.models.initializing.fitting import for_layer
from keras_winit.models.initializing.initialize import initialize
from keras_winit.models.initializing.plan import Plan
from keras_winit.models.portable import portable
from keras_winit.models.recipes.recipe import recipes
from keras_winit.models.tracing.trace import Trace
from keras_winit.models.tracing.tracer import trace
from keras_winit.schemes import get, names
from keras_winit.schemes.basic import Constant, Ones, RandomNormal, RandomUniform, TruncatedNormal, Zeros
from keras_winit.schemes.bias import ChronoBias, PriorBias
from keras_winit.schemes.compose import PerGate, Scaled, Summed
from keras_winit.schemes.icnr import ICNR
from keras_winit.schemes.looks_linear import LooksLinear, LooksLinearBias
from keras_winit.schemes.orthogonal import DeltaOrthogonal, Orthogonal
from keras_winit.schemes.structured import Bilinear, Dirac, Identity, Sparse
from keras_winit.schemes.variance import (
    FanInUniform,
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    LecunNormal,
    LecunUniform,
    Siren,
    VarianceScaling,
)
from keras_winit.theory.fans import Fans, compute_fans
from keras_winit.theory.gains import gain

__version__ = "0.2.0"

__all__ = [
    "ICNR",
    "Bilinear",
    "Branches",
    "Calibration",
    "ChronoBias",
    "Comparison",
    "Constant",
    "DeltaOrthogonal",
    "Dirac",
    "FanInUniform",
    "Fans",
    "Finding",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Identity",
    "LecunNormal",
    "LecunUniform",
    "LooksLinear",
    "LooksLinearBias",
    "Ones",
    "Orthogonal",
    "PerGate",
    "Plan",
    "PriorBias",
    "RandomNormal",
    "RandomUniform",
    "Recommendation",
    "Report",
    "Scaled",
    "Siren",
    "Sparse",
    "Summed",
    "Trace",
    "TruncatedNormal",
    "VarianceScaling",
    "Zeros",
    "branches",
    "calibrate",
    "compare",
    "compute_fans",
    "diagnose",
    "for_activation",
    "for_layer",
    "gain",
    "get",
    "initialize",
    "layer_fans",
    "names",
    "portable",
    "recipes",
    "recommend",
    "trace",
]

__doc__ = __doc__ and described(__doc__, __all__, globals())  # python -OO has none
