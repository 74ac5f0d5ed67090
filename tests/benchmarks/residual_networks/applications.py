"""Networks of keras.applications, made slimmer."""

from functools import partial

import keras
from keras import applications
from keras.src.applications.convnext import ConvNeXt
from keras.src.applications.efficientnet import EfficientNet

from residual_networks.images import pixels
from residual_networks.network import NETWORKS, Network, adam

OPTIONS = {"weights": None, "input_shape": (32, 32, 3), "classes": 10, "classifier_activation": None}
COLOURED = partial(pixels, 32, 3)


def slimmer(make, times):
    """The network with so many times fewer filters, and units in hidden layers."""
    model = make(**OPTIONS)
    config = model.get_config()
    for each in config["layers"]:
        each.pop("build_config", None)  # its shapes are those of the wide one
        given = each["config"]
        if "filters" in given:
            given["filters"] //= times
        if each["class_name"] == "Dense" and given["units"] > 10:
            given["units"] //= 2 * times
    return keras.Model.from_config(config)


def efficient():
    return EfficientNet(
        *(0.35, 1.0, 32),
        dropout_rate=0.0,
        drop_connect_rate=0.0,
        name="efficientnet",
        weights_name="",
        **OPTIONS,
    )


def convnext():
    return ConvNeXt(
        *((3, 3, 9, 3), (16, 32, 64, 128)),
        name="convnext",
        include_preprocessing=False,
        weights_name="",
        **OPTIONS,
    )


NETWORKS["ResNet50"] = Network(partial(slimmer, applications.ResNet50, 4), COLOURED, "zero_gamma")
NETWORKS["ResNet50V2"] = Network(partial(slimmer, applications.ResNet50V2, 4), COLOURED, "zero_gamma")
NETWORKS["MobileNetV2"] = Network(
    lambda: applications.MobileNetV2(alpha=0.35, **OPTIONS), COLOURED, "zero_gamma"
)
# It divides by 255 and normalizes by itself.
NETWORKS["EfficientNetB0"] = Network(efficient, partial(pixels, 32, 3, mean=127.5, std=64.0), "zero_gamma")
NETWORKS["ConvNeXt"] = Network(convnext, COLOURED, "depth_scaled", adam, range(-7, -2))
NETWORKS["VGG19"] = Network(partial(slimmer, applications.VGG19, 4), COLOURED, None, residual=False)
