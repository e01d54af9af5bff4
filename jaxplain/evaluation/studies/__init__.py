"""The papers' protocols over a data set; explainers come in as arguments."""
