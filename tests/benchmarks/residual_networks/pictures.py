"""Pictures of the residual benchmark: the last loss against the learning rate."""

from pathlib import Path

from residual_networks.findings import RECIPE

RESULTS = Path(__file__).parents[1] / "results"
STYLES = {
    "Keras' default": ("tab:gray", ":"),
    "PyTorch's rule": ("tab:red", ":"),
    "initialize": ("tab:orange", "--"),
    "calibrate": ("tab:blue", "-"),
    RECIPE: ("tab:green", "-."),
}
# A picture for the head of the README: residual networks of each kind, and a plain one.
SOME = {
    "post-norm 24": "transformer, post-norm, 24 layers",
    "ResNet50": "ResNet50, slim",
    "tower 100, no norm": "100 residual blocks, no normalization",
    "VGG19": "VGG19, slim",
}


def draw(found):
    """Write both pictures."""
    _draw(found, {name: name for name in found}, "residual", columns=5)
    if set(SOME) <= set(found):
        _draw(found, SOME, "overview", columns=4)


def _draw(found, titles, name, *, columns):
    import matplotlib.pyplot as plt

    lines = -(-len(titles) // columns)
    size = (13, 3.2 if lines == 1 else 2.5 * lines)
    figure, axes = plt.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.flat[len(titles) :]:
        axis.set_axis_off()
    for axis, (network, title) in zip(axes.flat, titles.items(), strict=False):
        for method in found[network].methods:
            colour, style = STYLES[method]
            rates, losses = zip(*found[network].curve(method), strict=True)
            axis.plot(rates, losses, style, color=colour, label=method, marker=".")
        axis.axhline(found[network].guess, color="black", linewidth=0.5)
        axis.set(xscale="log", ylim=(0, 1.3 * found[network].guess))
        axis.set_title(title, fontsize=10)
    axes[0, 0].legend(fontsize=7)
    figure.supxlabel("learning rate", fontsize=9)
    figure.supylabel("last loss", fontsize=9)
    path = RESULTS / f"{name}.png"
    figure.savefig(path, dpi=80)
    plt.close(figure)
    print(path)
