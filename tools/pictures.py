"""Draw the pictures of the docs in one style: input first, then prediction, then truth; one font, one height.

    python tools/pictures.py --out docs/images                    # with the models in the package
    python tools/pictures.py --out docs/images --coco DIR         # also clicks on test images of COCO

Photographs are those of scikit-image and scikit-learn; DIR holds coco_mini and coco_light. Pictures of other
trained models (BCCD, CamVid) are drawn by ``mmssl visualize`` and ``mmssl test``, as their pages say.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

HEIGHT, GAP, HEADER, FONT = 240, 8, 30, 17
PHOTOS = ('astronaut', 'chelsea', 'coffee', 'rocket')
LEGEND = (('click on the object', (40, 200, 60)), ('click beside it', (230, 40, 40)))


def figure(
    rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], legend: Sequence[tuple] = ()
) -> Image.Image:
    """Arrange images in rows of one height, with titles above the columns and a legend below.

    Args:
        rows: For each row its images (H, W, 3) uint8; a column is as wide as its widest image.
        titles: A title per column.
        legend: (text, RGB color) of each entry.
    """
    scaled = [[_scaled(image) for image in row] for row in rows]
    widths = [max(row[column].width for row in scaled) for column in range(len(titles))]
    height = HEADER + len(rows) * (HEIGHT + GAP) + (HEADER if legend else 0)
    canvas = Image.new('RGB', (sum(widths) + GAP * (len(widths) + 1), height), 'white')
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=FONT)
    for number, row in enumerate(scaled):
        x = GAP
        for image, width in zip(row, widths, strict=True):
            canvas.paste(image, (x + (width - image.width) // 2, HEADER + number * (HEIGHT + GAP)))
            x += width + GAP
    x = GAP
    for title, width in zip(titles, widths, strict=True):
        draw.text((x + width / 2, HEADER / 2), title, fill='black', font=font, anchor='mm')
        x += width + GAP
    x, y = GAP, height - HEADER / 2
    for text, color in legend:
        draw.ellipse((x, y - 6, x + 12, y + 6), fill=color)
        draw.text((x + 20, y), text, fill='black', font=font, anchor='lm')
        x += 48 + font.getlength(text)
    return canvas


def _scaled(image: np.ndarray) -> Image.Image:
    width = round(image.shape[1] * HEIGHT / image.shape[0])
    return Image.fromarray(image).resize((width, HEIGHT), Image.Resampling.BICUBIC)


def save(image: Image.Image, path: Path) -> None:
    """Write a picture and print its name and size."""
    image.save(path, **({'quality': 88, 'subsampling': 0} if path.suffix == '.jpg' else {'optimize': True}))
    print(f'{path}: {image.width}x{image.height}, {path.stat().st_size // 1024} KiB')


def draw_reconstructions(photos: dict[str, np.ndarray], out: Path) -> None:
    """Draw what mae-mini reconstructs of a quarter of the patches."""
    from mmssl.apis.loading import load_mae
    from mmssl.checkpoint.packaged import automatic_file
    from mmssl.visualization.reconstruction import reconstruction_rows

    model = load_mae('mae-mini', automatic_file('mae-mini'))
    images = torch.stack([_square(photos[name], model.backbone.img_size[0]) for name in PHOTOS])
    noise = torch.rand(len(images), 144, generator=torch.Generator().manual_seed(1))
    rows = reconstruction_rows(model, images, noise)
    shown = [[_full_square(photos[name]), *row[1:]] for name, row in zip(PHOTOS, rows, strict=True)]
    save(figure(shown, ('input', 'what the model sees', 'prediction')), out / 'mae_mini.jpg')


def draw_attention(photos: dict[str, np.ndarray], out: Path) -> None:
    """Draw where the class token of dino-mini looks."""
    from mmssl.apis.loading import build_model
    from mmssl.checkpoint.packaged import automatic_file
    from mmssl.visualization.attention import attention_rows

    model, _ = build_model('dino-mini', automatic_file('dino-mini'))
    images = torch.stack([_square(photos[name], 240) for name in PHOTOS[:2]])
    rows, titles = attention_rows(model.eval(), images)
    save(figure(list(map(list, rows)), titles), out / 'attention_dino.jpg')


def draw_automatic(photos: dict[str, np.ndarray], out: Path) -> None:
    """Draw everything that sam-mini finds, two photographs in a row."""
    from mmssl.apis import PromptInferencer
    from mmssl.visualization.promptable import overlay_rles

    infer = PromptInferencer('sam-mini')
    tiles = []
    for name in PHOTOS:
        (result,) = infer(photos[name], image_format='RGB')
        segments = [record['segmentation'] for record in result['annotations']]
        tiles.append((photos[name], overlay_rles(photos[name], segments)))
    rows = [[*tiles[0], *tiles[1]], [*tiles[2], *tiles[3]]]
    save(figure(rows, ('input', 'masks', 'input', 'masks')), out / 'sam_automatic.jpg')


def draw_clicks(coco: Path, out: Path, names: Sequence[str]) -> None:
    """Draw test images with their objects, and the masks after one click and after five."""
    from mmssl.promptable.resize import ResizeLongestSide
    from mmssl.visualization.promptable import draw_prompts, overlay_masks

    model = _clicked_model()
    transform = ResizeLongestSide(model.img_size)
    rows = []
    for name in names:
        pixels, masks = _objects(coco, name)
        resized = transform.apply_image(pixels)
        inputs = torch.from_numpy(resized).permute(2, 0, 1)[None].float()
        inputs = (inputs - model.pixel_mean) / model.pixel_std
        with torch.no_grad():
            embedding = model.embed(inputs)
            done = model.simulation(model, embedding, torch.from_numpy(masks), resized.shape[:2])
        tiles = [pixels, overlay_masks(pixels, masks)]
        for key, count in (('first_masks', 1), ('last_masks', 5)):
            clicks = done['points'][:, :count].reshape(-1, 3).numpy()
            overlay = overlay_masks(pixels, done[key].numpy())
            tiles.append(draw_prompts(overlay, clicks[:, :2], clicks[:, 2]))
        rows.append(tiles)
    titles = ('input', 'truth', 'masks of one click each', 'of five clicks each')
    save(figure(rows, titles, LEGEND), out / 'sam_clicks.jpg')


def _clicked_model() -> torch.nn.Module:
    from mmssl.apis.sam import load_sam
    from mmssl.checkpoint.packaged import automatic_file
    from mmssl.promptable.training import InteractiveSAM

    sam = load_sam('sam-mini', automatic_file('sam-mini'))
    return InteractiveSAM(sam, ambiguous=('point',), clicks=dict(clicks=5, keep_masks=True)).eval()


def _objects(coco: Path, name: str, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return a test image (H, W, 3) and the masks (N, H, W) of its largest objects."""
    from mmssl.data.coco_masks import decode_segment

    for annotations, folder in (
        ('coco_mini/annotations/instances_val2017.json', 'coco_mini/val2017'),
        ('coco_light/instances_val2017.json', 'coco_light/images/val2017'),
    ):
        content = json.loads((coco / annotations).read_text(encoding='utf-8'))
        image = next((each for each in content['images'] if each['file_name'] == name), None)
        if image is not None:
            pixels = np.asarray(Image.open(coco / folder / name).convert('RGB'))
            objects = [
                each
                for each in content['annotations']
                if each['image_id'] == image['id'] and not each.get('iscrowd')
            ]
            largest = sorted(objects, key=lambda each: -each['area'])[:count]
            segments = [each['segmentation'] for each in largest]
            return pixels, np.stack([decode_segment(segment, pixels.shape[:2]) for segment in segments])
    raise FileNotFoundError(f'no test image {name} in {coco}')


def _full_square(photo: np.ndarray) -> np.ndarray:
    side = min(photo.shape[:2])
    top, left = ((length - side) // 2 for length in photo.shape[:2])
    return photo[top : top + side, left : left + side]


def _square(photo: np.ndarray, side: int) -> torch.Tensor:
    """Return the centre of a photograph as (3, side, side), 0 to 255."""
    square = Image.fromarray(_full_square(photo)).resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1)


def main() -> None:
    """Draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('docs/images'))
    parser.add_argument('--coco', type=Path, metavar='DIR')
    parser.add_argument('--clicks', nargs='+', metavar='FILE', help='test images of COCO for the clicks')
    args = parser.parse_args()
    from mmssl.data.demo import load_photos

    photos = load_photos()
    draw_reconstructions(photos, args.out)
    draw_attention(photos, args.out)
    draw_automatic(photos, args.out)
    if args.coco:
        draw_clicks(args.coco, args.out, args.clicks)


if __name__ == '__main__':
    main()
