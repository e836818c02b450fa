# BEiT: BERT Pre-Training of Image Transformers, https://arxiv.org/abs/2106.08254: ViT-B/16, tokens of DALL-E,
# 300 epochs, bfloat16.
#
#   tools/dist_train.sh configs/beit/beit_vit-base-p16_8xb256-amp-coslr-300e_in1k.py 8 --data DIR
#   python tools/train.py configs/beit/beit_vit-base-p16_8xb256-amp-coslr-300e_in1k.py \
#       --data DIR --auto-scale-lr --cfg-options train_dataloader.batch_size=64
#
# DIR is any folder of images. The tokenizer is OpenAI's encoder.pkl (https://github.com/openai/DALL-E), to be
# put under data/dalle/; without a download: beit_vit-base-p16_8xb256-kmeans-amp-coslr-300e_in1k.py.
# Expected, ImageNet-1k: mmpretrain reports 83.1 top-1 after fine-tuning, for its own 300 epochs. Not measured
# here.
default_scope = 'mmpretrain'
_base_ = [
    '../_base_/datasets/images_beit_224.py',
    '../_base_/schedules/adamw_beit.py',
    '../_base_/runtime.py',
]
model = dict(
    type='mmssl.BEiT',
    backbone=dict(
        type='mmssl.BEiTViT',
        arch='base',
        img_size=224,
        patch_size=16,
        drop_path_rate=0.1,
        layer_scale_init_value=0.1,
    ),
    tokenizer=dict(type='mmssl.DALLEEncoder', checkpoint='data/dalle/encoder.pkl', num_tokens=8192),
    num_masked=75,
    min_masked=16,
)
