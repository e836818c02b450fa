"""Classifiers and segmentors as graphs from images to logits."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.apis.onnx_models.inputs import ImageInput
from mmssl.errors import UserError


class ClassifierGraph(nn.Module):
    """Logits of the classes of images.

    Args:
        classifier: An ImageClassifier of mmpretrain, in evaluation mode.

    Raises:
        UserError: The model has no head with a forward pass.
    """

    names = ('logits',)

    def __init__(self, classifier: Any):
        super().__init__()
        if type(classifier).__name__ != 'ImageClassifier' or not classifier.with_head:
            raise UserError(
                f'{type(classifier).__name__} is no classifier with a head; supported: ImageClassifier. '
                '`mmssl export backbone --to onnx` writes a backbone'
            )
        self.classifier = classifier
        self.input = ImageInput(classifier.data_preprocessor, next(classifier.parameters()).dtype)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) RGB from 0 to 255 to (B, C) logits, float32."""
        return self.classifier.head(self.classifier.extract_feat(self.input(image))).float()


class SegmentorGraph(nn.Module):
    """Logits of the classes of every pixel.

    Args:
        segmentor: An EncoderDecoder of mmseg or of this package, in evaluation mode.

    Raises:
        UserError: The segmentor, or its head, predicts in another way.
    """

    names = ('logits',)

    def __init__(self, segmentor: Any):
        from mmseg.models.decode_heads.decode_head import BaseDecodeHead

        super().__init__()
        if type(segmentor).__name__ != 'EncoderDecoder':
            raise UserError(
                f'{type(segmentor).__name__} cannot be exported to ONNX; supported: EncoderDecoder'
            )
        base: Any = BaseDecodeHead
        head = segmentor.decode_head
        own: Any = type(head)
        if own.predict is not base.predict or own.predict_by_feat is not base.predict_by_feat:
            raise UserError(
                f'decode_head is a {own.__name__}, which has a way of its own to predict; heads that '
                'return a logit for each class and pixel can be exported, such as GlobalConvHead, DUCHead, '
                'FCNHead, PSPHead, ASPPHead and UPerHead'
            )
        self.segmentor = segmentor
        self.input = ImageInput(segmentor.data_preprocessor, next(segmentor.parameters()).dtype)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) RGB from 0 to 255 to (B, C, H, W) logits, float32."""
        inputs = self.input(image)
        head = self.segmentor.decode_head
        logits = head(self.segmentor.extract_feat(inputs)).float()
        logits = F.interpolate(
            logits, size=inputs.shape[2:], mode='bilinear', align_corners=head.align_corners
        )
        return logits[:, :, : image.shape[2], : image.shape[3]]
