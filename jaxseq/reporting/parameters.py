"""How many parameters a run's model has."""

from pathlib import Path

import jax

from jaxseq.errors import UserError
from jaxseq.training.experiment import read_experiment
from jaxseq.training.finetune import initializer


def count_parameters(run_dir: Path) -> int | None:
    """The parameters of the model in a run's config, none of which is made.

    None where the config is damaged, or is not one that this version of the code understands.
    """
    try:
        experiment = read_experiment(run_dir)
        init = initializer(experiment.task, experiment.model, experiment.finetune)
        shapes = jax.eval_shape(lambda: init(jax.random.key(0)))
    except (UserError, TypeError, ValueError, LookupError, AttributeError):
        return None  # of a config from elsewhere any part may be wrong
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))
