"""How good features are: k-NN and linear probing on features that are computed once."""

from mmssl.evaluation.features import extract_features, preserve_rng
from mmssl.evaluation.knn import knn_accuracy, knn_classify, knn_scores
from mmssl.evaluation.labelled import image_loader, labelled_images, labelled_loader
from mmssl.evaluation.linear import linear_probe

__all__ = ['extract_features', 'image_loader', 'knn_accuracy', 'knn_classify', 'knn_scores', 'labelled_images',
           'labelled_loader', 'linear_probe', 'preserve_rng']
