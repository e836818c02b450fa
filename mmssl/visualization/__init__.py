"""Figures of images, predictions, features and training runs. Import its modules by name."""
