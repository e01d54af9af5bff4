"""Training: the loop, a new last layer, and fine-tuning on a data set."""
