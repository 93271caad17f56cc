"""How a network is trained and judged. One trainer for every network that archloom trains alone.

recipe.py        how it is trained: plain numbers
trainable.py     whether model, task and recipe fit one another
loop.py          `train`: epoch after epoch
trainer.py       what one epoch does
optimization.py  what moves the weights
precision.py     the type of the numbers
scoring.py       metrics and loss
statistics.py    BatchNorm's running statistics, and statistics taken anew
checkpoint.py    what is kept, so that a training goes on to the bit
"""

from ..metrics import topk_of
from ..run import load_checkpoint
from .loop import Epoch, train
from .optimization import build_optimizer, parameter_groups
from .precision import Precision, check_finite, precision_context
from .recipe import Recipe, learning_rate
from .scoring import GAP, by_chance, doubt, evaluate
from .statistics import recalibrate_batchnorm
from .trainable import check_single_images, check_trainable, way_out_of_single_images

__all__ = [
    "GAP",
    "Epoch",
    "Precision",
    "Recipe",
    "build_optimizer",
    "by_chance",
    "check_finite",
    "check_single_images",
    "check_trainable",
    "doubt",
    "evaluate",
    "learning_rate",
    "load_checkpoint",
    "parameter_groups",
    "precision_context",
    "recalibrate_batchnorm",
    "topk_of",
    "train",
    "way_out_of_single_images",
]
