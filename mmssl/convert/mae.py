"""Checkpoints of facebookresearch/mae: pre-training, fine-tuning and linear probing."""

from mmssl.convert.keymap import Family, Row, weights_and_biases
from mmssl.convert.timm_vit import ENCODER, HEAD, NORM, POOL_NORM, block_rows

# D embedding of the decoder, E its hidden dimension, O values of a patch
DECODER = [
    Row('mask_token', 'neck.mask_token', '1 1 D'),
    Row('decoder_pos_embed', 'neck.decoder_pos_embed', '1 T D'),
    *weights_and_biases('decoder_embed', 'neck.decoder_embed', 'D C', 'D'),
    *block_rows('decoder_blocks', 'neck.decoder_blocks', 'D', 'E'),
    *weights_and_biases('decoder_norm', 'neck.ln1', 'D', 'D'),
    *weights_and_biases('decoder_pred', 'neck.decoder_pred', 'O D', 'O'),
]
# main_linprobe.py has a batch norm without parameters before the classifier, ClsBatchNormNeck in mmpretrain
PROBE = [
    Row('head.0.running_mean', 'neck.bn.running_mean', 'C'),
    Row('head.0.running_var', 'neck.bn.running_var', 'C'),
    Row('head.0.num_batches_tracked', 'neck.bn.num_batches_tracked', ''),
    *weights_and_biases('head.1', 'head.fc', 'K C', 'K'),
]

FAMILY = Family(
    name='mae',
    wrapper='model',
    layouts={
        'pre-training': [*ENCODER, *NORM, *DECODER],
        'encoder': [*ENCODER, *NORM],
        'fine-tuned, average pooling': [*ENCODER, *POOL_NORM, *HEAD],
        'fine-tuned, class token': [*ENCODER, *NORM, *HEAD],
        'linear probe, class token': [*ENCODER, *NORM, *PROBE],
        'linear probe, average pooling': [*ENCODER, *POOL_NORM, *PROBE],
    },
)
