"""The command `jaxplain pfv`: Principal Feature Visualisation (Bakken et al. 2020) and its uses.

One file per form, in `jaxplain.cli.features`.
"""

from __future__ import annotations

from typing import Any

from jaxplain.cli import method_options, options
from jaxplain.cli.features import mistake, show, transfer, untrained

#: Form -> its file, its help, its figures in the paper, and its description.
_FORMS = {
    "show": (
        show,
        "images in one basis",
        "Figs. 2, 6 and 7",
        "Draws the principal features of images, or of images drawn at random from each class of a "
        "data set. All are in one basis, so that like colours are like features.",
    ),
    "untrained": (
        untrained,
        "trained and random weights",
        "Fig. 3",
        "The sanity check: draws the principal features of each image by itself, with the trained "
        "weights and with random ones, and prints how much the two have in common.",
    ),
    "mistake": (
        mistake,
        "a misclassified image beside others",
        "Fig. 5",
        "Compares a misclassified image with correct ones of its class and of the class it was "
        "taken for: which features does it lack, and which mislead?",
    ),
    "transfer": (
        transfer,
        "which classes will be confused",
        "Fig. 8",
        "Predicts which classes of a data set the network's features will confuse, from one image "
        "of each class; then trains a new last layer on images of one class each, and counts the "
        "confusions.",
    ),
}


def add_commands(commands: Any) -> None:
    """Adds the command."""
    pfv = commands.add_parser(
        "pfv",
        help="principal features of images as colours, and what they tell (Bakken et al. 2020)",
        description="Principal Feature Visualisation: the directions in which the features of "
        "images differ, as colours. Needs no class.",
    )
    forms = pfv.add_subparsers(title="forms", metavar="FORM", required=True)
    for name, (module, text, figures, description) in _FORMS.items():
        form = forms.add_parser(
            name, help=f"{text} ({figures})", description=f"{description} {figures} of the paper."
        )
        module.add_options(form)
        options.add_model(form, classes="--model-classes")  # --classes are the data set's
        method_options.add_options(form)
        form.set_defaults(command=module.run)
