"""Kinds of Keras' layers, by what they do to a signal."""

from keras import layers

CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
REVERSIBLE = (layers.ReversibleEmbedding,) if hasattr(layers, "ReversibleEmbedding") else ()  # an older Keras
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)

_KERNELS = (*REVERSIBLE, *CONVOLUTIONS, *DEPTHWISE, *SEPARABLE, *TRANSPOSED)
# The calls of layers that put out, before the activation, their kernel times their input plus a bias.
LINEAR = {kind.call for kind in (layers.Dense, layers.EinsumDense, layers.Embedding, *_KERNELS)}

NORMALIZATIONS = (
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.GroupNormalization,
    layers.RMSNormalization,
    layers.UnitNormalization,
)
_ACTIVATIONS = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU)
ACTIVATION_LAYERS = (*_ACTIVATIONS, layers.Softmax)

_DROPOUTS = (layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D)
# What is random in training.
NOISE = (*_DROPOUTS, layers.GaussianDropout, layers.GaussianNoise, layers.AlphaDropout)
SAME_SHAPE = (*NORMALIZATIONS, *NOISE, *_ACTIVATIONS, layers.ActivityRegularization)
_UPSAMPLING = (layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D)
# What leaves each channel in its place, and in proportion: twice the signal in, twice out.
_SCALING = (
    *(*_DROPOUTS, *_UPSAMPLING, layers.GaussianDropout, layers.Identity),
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D),
    *(layers.Cropping1D, layers.Cropping2D, layers.Cropping3D),
    *(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D),
)
AVERAGES = (layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D)
GLOBAL_AVERAGES = (
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
)
_GLOBAL_MAXIMA = (layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D)
_ADDING = (layers.AlphaDropout, layers.GaussianNoise, layers.ActivityRegularization)

KEEP_CHANNELS = (*_SCALING, *AVERAGES, *_ADDING)
GLOBAL_POOLS = (*GLOBAL_AVERAGES, *_GLOBAL_MAXIMA)
# What a signal passes through in proportion, about as large as it was.
PROPORTIONAL = (
    *(*_SCALING, *_GLOBAL_MAXIMA),
    *(layers.Flatten, layers.Reshape, layers.Permute, layers.RepeatVector, layers.InputLayer),
)
# The same of keras.ops, by the names of their classes.
PROPORTIONAL_OPERATIONS = {
    *("Reshape", "Transpose", "Squeeze", "ExpandDims", "Swapaxes", "Moveaxis", "Ravel", "Flip"),
    *("GetItem", "MaxPool", "ConvertToTensor", "StopGradient", "Split", "Unstack", "Stack", "Cast"),
    *("Map", "VectorizedMap", "Scan", "WhileLoop", "ForiLoop", "Cond", "Switch"),
}
# What more or less leaves a signal its distribution.
TRANSPARENT = (*PROPORTIONAL, *AVERAGES, *GLOBAL_AVERAGES, *_ADDING, *NORMALIZATIONS, layers.Normalization)
TRANSPARENT_OPERATIONS = {*PROPORTIONAL_OPERATIONS, "Pad", "AveragePool"}
# What adds signals; the last is of keras.applications' Inception-ResNet.
ADDING = {"Add", "Subtract", "Average", "CustomScaleLayer"}
ENLARGING = (*_UPSAMPLING, *TRANSPOSED, layers.Resizing)
ENLARGING_OPERATIONS = {"ConvTranspose", "DepthToSpace", "Repeat", "Resize"}
# What passes one signal on as it is where the rest is no signal: a bias, a gain, a mask.
ELEMENTWISE_OPERATIONS = {"Add", "Subtract", "Multiply", "Divide", "TrueDivide"}
NORMALIZING_OPERATIONS = {"BatchNorm", "LayerNorm", "RMSNorm", "Normalize"}
