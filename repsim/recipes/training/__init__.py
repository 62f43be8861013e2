"""What every recipe is run by: the loop, its state on disk, its scores, and many trainings at once."""
