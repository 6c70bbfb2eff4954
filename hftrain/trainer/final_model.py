"""The model as training left it, kept with the run for the trackers that ask for it."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from hftrain.errors import HftrainError

if TYPE_CHECKING:
    from hftrain.trainer.trainer import Trainer

logger = logging.getLogger(__name__)

NAME = "model"


def tell_final_model(trainer: Trainer) -> None:
    """Save the model into the run's folder and tell the trackers, if one takes it. All ranks must call this.

    With ``load_best_model_at_end`` it is the best one. A disk that refuses is a warning: training has ended well.
    """
    tracking, step = trainer._tracking, trainer.state.global_step
    is_taken = tracking is not None and tracking.takes_final_model()
    below = f"artifacts/{NAME}-{step}"
    place = os.path.join(tracking.folder(), *below.split("/")) if tracking is not None and is_taken else None
    place = trainer._running_engine().broadcast_object(place)
    if place is None:
        return
    try:
        trainer.save_model(place)
    except (OSError, HftrainError) as error:
        logger.warning("The final model cannot be saved into %s for the trackers (%s).", place, error)
        return
    if tracking is not None:
        data = {"name": NAME, "path": below, "is_final_model": True}
        tracking.report("artifact", step=step, epoch=trainer.state.epoch, data=data)
