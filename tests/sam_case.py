"""A tiny Segment Anything with its config, and a few photographs of COCO with their masks."""

import json
from pathlib import Path

import torch
from PIL import Image

from mmssl.apis.sam import load_sam

CONFIG = """
default_scope = 'mmpretrain'
model = dict(
    type='mmssl.SAM',
    image_encoder=dict(
        type='mmssl.SAMImageEncoder', img_size=64, embed_dim=32, depth=2, num_heads=2, out_chans=32,
        window_size=3, global_attn_indexes=(1, )),
    mask_decoder=dict(transformer=dict(num_heads=4, mlp_dim=64), iou_head_hidden_dim=32))
"""
GENERATOR = dict(points_per_side=2, pred_iou_thresh=0.0, stability_score_thresh=0.0, box_nms_thresh=1.0)


def write_model(folder: Path) -> tuple[str, str]:
    """Write sam.py and sam.pth, whose masks are neither empty nor whole images; return their paths."""
    (folder / 'sam.py').write_text(CONFIG)
    model = load_sam(str(folder / 'sam.py'), 'random')
    torch.manual_seed(1)
    with torch.no_grad():
        model.mask_decoder.iou_prediction_head.layers[-1].bias.add_(0.5)
        for parameter in model.mask_decoder.output_hypernetworks_mlps.parameters():
            parameter.mul_(2.0)
    torch.save(model.state_dict(), folder / 'sam.pth')
    return str(folder / 'sam.py'), str(folder / 'sam.pth')


def write_photographs(data_root: Path, folder: Path, count: int) -> dict:
    """Write the first photographs of coco_mini with masks, a quarter as large; return their COCO content."""
    content = json.loads((data_root / 'coco_mini/annotations/instances_train2017.json').read_text())
    masks = [each for each in content['annotations'] if not each['iscrowd']]
    with_masks = {each['image_id'] for each in masks}
    images = [each for each in content['images'] if each['id'] in with_masks][:count]
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        picture = Image.open(data_root / 'coco_mini/train2017' / image['file_name']).convert('RGB')
        picture = picture.resize((image['width'] // 4, image['height'] // 4))
        picture.save(folder / image['file_name'])
        image.update(width=picture.width, height=picture.height)
    ids = {image['id'] for image in images}
    large = [each for each in masks if each['image_id'] in ids and each['area'] > 64**2]
    for each in large:
        each['segmentation'] = [[value / 4 for value in part] for part in each['segmentation']]
        each.update(bbox=[int(value / 4) for value in each['bbox']], area=each['area'] / 16)
    return dict(content, images=images, annotations=large)


def of_images(content: dict, names: list[str]) -> dict:
    """Return the part of a COCO content that is of some images."""
    images = [image for image in content['images'] if image['file_name'] in names]
    ids = {image['id'] for image in images}
    annotations = [each for each in content['annotations'] if each['image_id'] in ids]
    return dict(content, images=images, annotations=annotations)
