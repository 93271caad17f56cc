"""How a network is trained and judged. One trainer for every network that archloom trains alone.

recipe.py         how: plain numbers              loop.py        `train`, epoch after epoch
optimization.py   what moves the weights          trainer.py     what one epoch does
trainable.py      whether model, task and         checkpoint.py  what is kept, to go on to the bit
                  recipe fit one another          scoring.py     accuracy and loss
precision.py      the type of the numbers
"""

from .loop import Epoch, train
from .optimization import build_optimizer, parameter_groups
from .precision import Precision, check_finite, precision_context
from .recipe import Recipe, learning_rate
from .scoring import evaluate, recalibrate_batchnorm, topk_of
from .trainable import check_trainable

__all__ = [
    "Epoch",
    "Precision",
    "Recipe",
    "build_optimizer",
    "check_finite",
    "check_trainable",
    "evaluate",
    "learning_rate",
    "parameter_groups",
    "precision_context",
    "recalibrate_batchnorm",
    "topk_of",
    "train",
]
