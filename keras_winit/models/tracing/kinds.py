"""Kinds of Keras' layers, by what they do to a signal."""

from keras import layers

CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
REVERSIBLE = (layers.ReversibleEmbedding,) if hasattr(layers, "ReversibleEmbedding") else ()  # an older Keras
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)

# The calls of layers whose output, before the activation, is their kernel times their input plus a bias.
LINEAR = {
    kind.call
    for kind in (
        *(layers.Dense, layers.EinsumDense, layers.Embedding),
        *(*REVERSIBLE, *CONVOLUTIONS, *DEPTHWISE, *SEPARABLE, *TRANSPOSED),
    )
}

# What gives a signal a scale of its own.
NORMALIZATIONS = (
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.GroupNormalization,
    layers.RMSNormalization,
    layers.UnitNormalization,
)
ACTIVATION_LAYERS = (
    layers.Activation,
    layers.ReLU,
    layers.LeakyReLU,
    layers.PReLU,
    layers.ELU,
    layers.Softmax,
)

_DROPOUTS = (layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D)
# What is random in training.
NOISE = (*_DROPOUTS, layers.GaussianDropout, layers.GaussianNoise, layers.AlphaDropout)
# What puts out as many numbers as it is given, at the same places.
SAME_SHAPE = (
    *(*NORMALIZATIONS, *NOISE, layers.ActivityRegularization),
    *(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU),
)
# What leaves each channel in its place and in proportion: twice the signal in, twice the signal out.
_SCALING = (
    *_DROPOUTS,
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D),
    *(layers.Cropping1D, layers.Cropping2D, layers.Cropping3D),
    *(layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D),
    *(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D),
    *(layers.GaussianDropout, layers.Identity),
)
AVERAGES = (layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D)
GLOBAL_AVERAGES = (
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
)
_GLOBAL_MAXIMA = (layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D)
_ADDING = (layers.AlphaDropout, layers.GaussianNoise, layers.ActivityRegularization)

# What leaves each channel in its place.
KEEP_CHANNELS = (*_SCALING, *AVERAGES, *_ADDING)
# What leaves only the channels, and takes all that lies between them together.
GLOBAL_POOLS = (*GLOBAL_AVERAGES, *_GLOBAL_MAXIMA)
# What a signal passes through in proportion, and about as large as it was.
PROPORTIONAL = (
    *(*_SCALING, *_GLOBAL_MAXIMA),
    *(layers.Flatten, layers.Reshape, layers.Permute, layers.RepeatVector, layers.InputLayer),
)
# The same of keras.ops in a functional model, by the names of their classes.
PROPORTIONAL_OPERATIONS = {
    *("Reshape", "Transpose", "Squeeze", "ExpandDims", "Swapaxes", "Moveaxis", "Ravel", "Flip"),
    *("GetItem", "MaxPool", "ConvertToTensor", "StopGradient", "Split", "Unstack", "Stack", "Cast"),
    *("Map", "VectorizedMap", "Scan", "WhileLoop", "ForiLoop", "Cond", "Switch"),
}
# What a signal passes through with its distribution more or less as it was.
TRANSPARENT = (
    *(*PROPORTIONAL, *AVERAGES, *GLOBAL_AVERAGES, *_ADDING),
    *(*NORMALIZATIONS, layers.Normalization),
)
TRANSPARENT_OPERATIONS = {*PROPORTIONAL_OPERATIONS, "Pad", "AveragePool"}
# What adds signals: of keras.layers and keras.ops, and of keras.applications' Inception-ResNet.
ADDING = {"Add", "Subtract", "Average", "CustomScaleLayer"}
# What puts out more places than it reads, in a row or an image.
ENLARGING = (
    *(layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D),
    *(*TRANSPOSED, layers.Resizing),
)
ENLARGING_OPERATIONS = {"ConvTranspose", "DepthToSpace", "Repeat", "Resize"}
# What passes one signal on as it is, where all else that it is given is no signal: a bias, a gain, a mask.
ELEMENTWISE_OPERATIONS = {"Add", "Subtract", "Multiply", "Divide", "TrueDivide"}
# What normalizes, of keras.ops.
NORMALIZING_OPERATIONS = {"BatchNorm", "LayerNorm", "RMSNorm", "Normalize"}
