"""Evaluation of frozen features (k-NN, linear probing) and of segmentations."""

from mmssl.evaluation import automatic, boundary, clicks, confusion, segmentation
from mmssl.evaluation.features import extract_features, preserve_rng
from mmssl.evaluation.knn import knn_accuracy, knn_classify, knn_scores
from mmssl.evaluation.labelled import image_loader, labelled_images, labelled_loader
from mmssl.evaluation.linear import linear_probe

__all__ = [
    'automatic',
    'boundary',
    'clicks',
    'confusion',
    'extract_features',
    'image_loader',
    'knn_accuracy',
    'knn_classify',
    'knn_scores',
    'labelled_images',
    'labelled_loader',
    'linear_probe',
    'preserve_rng',
    'segmentation',
]
