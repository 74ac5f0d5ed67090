"""What this package and its peers have, for the README; tests/test_peers.py looks at those at hand."""

# AutoInit is by Bingham and Miikkulainen 2021, arXiv:2109.08958, for Keras 2; LSUV the package `lsuv`.
PEERS = ("keras_winit", "Keras", "torch.nn.init", "jax.nn", "AutoInit", "LSUV")
COMPARISON = {
    "initializers": ("29", "16", "14", "15", "–", "–"),
    "a string in a Keras 3 layer": ("yes", "yes", "no", "no", "no", "no"),
    "fan_in of a depthwise kernel": ("exact", "× channels", "exact", "by axes", "some", "from data"),
    "fan_in of a transposed kernel": (
        "exact",
        "of outputs",
        "of outputs",
        "by axes",
        "some",
        "from data",
    ),
    "gain of an activation": ("any", "none", "5 in a table", "none", "any", "from data"),
    "chooses by activation, says why": ("yes", "no", "no", "no", "chooses", "no"),
    "a whole model": ("one call", "no", "`apply`", "no", "one call", "one call"),
    "query, key and value differ, given a seed": ("in whole models", "no", "yes", "yes", "–", "–"),
    "sets the scale from data": ("one pass", "no", "no", "no", "no", "passes per layer"),
    "finds what keeps a model from learning": ("yes", "no", "no", "no", "no", "no"),
    "trains 40 plain layers, of 12 activations": ("12", "2", "–", "–", "–", "4"),
    "orthogonal in bfloat16": ("yes", "no", "no", "no", "–", "–"),
    "backends of Keras 3": ("all", "all", "–", "–", "none", "none"),
}


def cell(row: str, peer: str) -> str:
    return COMPARISON[row][PEERS.index(peer)]
