# BEiT (https://arxiv.org/abs/2106.08254) without a download: ViT-B/16, 300 epochs, the tokens are 8192
# k-means centroids of the patches of your own images.
#
#   mmssl tokenizer fit --data DIR --out data/tokenizer_8192.pth
#   tools/dist_train.sh configs/beit/beit_vit-base-p16_8xb256-kmeans-amp-coslr-300e_in1k.py 8 --data DIR
#
# Expected: there is no figure for this tokenizer, neither in the paper nor measured here; tokens of pixels
# carry less meaning than DALL-E's.
_base_ = './beit_vit-base-p16_8xb256-amp-coslr-300e_in1k.py'
model = dict(
    tokenizer=dict(
        _delete_=True,
        type='mmssl.KMeansTokenizer',
        checkpoint='data/tokenizer_8192.pth',
        num_tokens=8192,
        patch_size=16,
    )
)
# one image: the transformer and the tokenizer take the same patches
train_pipeline = [
    dict(type='mmssl.LoadBEiTViews', scale=224, second_scale=None, crop_ratio_range=(0.08, 1.0), jitter=0.4),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
