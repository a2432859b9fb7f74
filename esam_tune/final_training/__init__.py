"""Training of a chosen setting, with the one reading of the test split."""

from esam_tune.final_training.folder import default_name, training_folder
from esam_tune.final_training.plan import TrainOptions
from esam_tune.final_training.run import train_chosen

__all__ = ["TrainOptions", "default_name", "train_chosen", "training_folder"]
