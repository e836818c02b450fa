# ViTDet, https://arxiv.org/abs/2203.16527: Faster R-CNN on a ViT-B that MAE pre-trained, for boxes without
# masks; otherwise as mask-rcnn_vit-base-p16-mae_64xb1-184375i_coco-1024.py.
#
#   tools/dist_train.sh configs/vitdet/faster-rcnn_vit-base-p16-mae_64xb1-184375i_coco-1024.py 64 --data DIR
#
# Expected: no figure in the paper. Not measured here.
_base_ = './mask-rcnn_vit-base-p16-mae_64xb1-184375i_coco-1024.py'
model = dict(type='FasterRCNN', roi_head=dict(mask_roi_extractor=None, mask_head=None))
val_evaluator = dict(metric='bbox')
test_evaluator = dict(metric='bbox')
