"""Boxes of a detector become masks."""

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement, InstanceData
from PIL import Image

from mmssl.promptable import build_sam
from mmssl.promptable.instances import PromptedInstanceSegmentor

SIZES = dict(image_encoder=dict(img_size=64, embed_dim=32, depth=2, num_heads=2, out_chans=32, window_size=3, global_attn_indexes=(1, )),
             mask_decoder=dict(transformer=dict(num_heads=4, mlp_dim=64), iou_head_hidden_dim=32))
BOXES = [[10., 10., 60., 50.], [0., 0., 30., 20.], [40., 40., 90., 80.]]


class Detector(BaseModel):
    """Finds the same boxes in every image, none in the second one of a batch."""

    def __init__(self):
        super().__init__(dict(type='mmengine.ImgDataPreprocessor', mean=[10., 20., 30.], std=[2., 4., 5.], bgr_to_rgb=True))
        self.layer = torch.nn.Conv2d(3, 1, 1)

    def predict(self, inputs, data_samples):
        for number, sample in enumerate(data_samples):
            boxes = torch.tensor(BOXES[:0 if number else 3])
            sample.pred_instances = InstanceData(bboxes=boxes, scores=torch.full((len(boxes), ), 0.5), labels=torch.zeros(len(boxes)))
        return data_samples

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return {'loss': self.layer(inputs).mean()} if mode == 'loss' else self.layer(inputs)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return PromptedInstanceSegmentor(Detector(), build_sam(SIZES), rate_masks=True, chunk=2).eval()


def samples(path=None):
    facts = dict(img_shape=(80, 100), ori_shape=(80, 100), **(dict(img_path=str(path)) if path else {}))
    return [BaseDataElement(metainfo=facts), BaseDataElement(metainfo=facts)]


def test_masks_are_those_of_the_sam_for_these_boxes(model, tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / 'x.png')
    bgr = torch.from_numpy(rgb[..., ::-1].copy()).permute(2, 0, 1)
    from_file, none = model.test_step(dict(inputs=[bgr, bgr], data_samples=samples(tmp_path / 'x.png')))
    masks = from_file.pred_instances.masks
    assert masks.shape == (3, 80, 100) and masks.dtype == torch.bool and none.pred_instances.masks.shape == (0, 80, 100)
    image = torch.nn.functional.interpolate(torch.from_numpy(rgb).permute(2, 0, 1)[None].float(), (51, 64), mode='bilinear', antialias=True)
    boxes = torch.tensor(BOXES) * torch.tensor([0.64, 51 / 80, 0.64, 51 / 80])
    expected, = model.sam([dict(image=image[0], original_size=(80, 100), boxes=boxes)], multimask_output=False)
    assert (masks == expected['masks'][:, 0]).float().mean() > 0.999
    assert torch.allclose(from_file.pred_instances.mask_scores, 0.5 * expected['iou_predictions'][:, 0], atol=1e-5)
    from_input, _ = model.test_step(dict(inputs=[bgr, bgr], data_samples=samples()))
    assert (from_input.pred_instances.masks == masks).float().mean() > 0.999  # the same pixels, normalised and back


def test_the_detector_alone_learns(model):
    model.train()
    model(torch.randn(2, 3, 8, 8), samples(), mode='loss')['loss'].backward()
    assert not model.sam.training and all(parameter.grad is None for parameter in model.sam.parameters())
    assert model.detector.layer.weight.grad is not None
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 1, 8, 8)


def test_errors():
    with pytest.raises(ValueError, match='Identity as a detector needs predict'):
        PromptedInstanceSegmentor(torch.nn.Identity(), build_sam(SIZES))
