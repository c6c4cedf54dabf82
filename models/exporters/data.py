"""Make `models/data/` again from its sources: `python -m models.exporters.data --deb DIR --skimage DIR`.

DIR of --deb: where the Debian packages pocketsphinx-testdata, dataset-fashion-mnist and scowl are unpacked (`dpkg -x`).
DIR of --skimage: where the scikit-image wheel is unpacked. Needs Pillow.
"""

from __future__ import annotations

import gzip
import lzma
import shutil
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

DATA = Path(__file__).resolve().parent.parent / "data"
CLIPS = {"0880": "disposed", "0890": "selfish", "0930": "amiable"}
PICTURES = {"cat": "chelsea.png", "coffee": "coffee.png", "rocket": "rocket.jpg"}
PAGE = (
    "Emma Woodhouse, handsome, clever, and rich,",
    "with a comfortable home and happy disposition,",
    "seemed to unite some of the best blessings of",
    "existence; and had lived nearly twenty-one years",
    "in the world with very little to distress her.",
)


def center_crop(path: Path, short: int = 256, side: int = 224) -> np.ndarray:
    """The usual ImageNet view: shorter side to 256 by bicubic, middle 224 square; uint8 [224, 224, 3]."""
    picture = Image.open(path).convert("RGB")
    factor = short / min(picture.size)
    width, height = (round(edge * factor) for edge in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    return np.asarray(picture.crop((left, top, left + side, top + side)), np.uint8)


def page(height: int = 256, width: int = 640) -> np.ndarray:
    """Our own printed page: prose under uneven light, slightly blurred; uint8 grey [height, width]."""
    sheet = Image.new("L", (width, height), 255)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(24)  # Aileron, CC0, inside Pillow
    for number, line in enumerate(PAGE):
        pen.text((28, 24 + 42 * number), line, font=font, fill=20)
    ink = np.asarray(sheet.filter(ImageFilter.GaussianBlur(0.6)), np.float32) / 255
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    light = 0.95 - 0.45 * ((x - 0.3) ** 2 + (y - 0.2) ** 2)
    return np.clip(ink * light * 255, 0, 255).astype(np.uint8)


def mnist(path: Path, offset: int) -> np.ndarray:
    """The payload of an IDX file, uint8."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=offset)


@click.command()
@click.option("--deb", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--skimage", type=click.Path(exists=True, path_type=Path), required=True)
def main(deb: Path, skimage: Path) -> None:
    """Write speech clips, pictures, the page and the test pictures of Fashion-MNIST."""
    speech = deb / "usr/share/pocketsphinx/test/data/librivox"
    for number, name in CLIPS.items():
        shutil.copyfile(speech / f"sense_and_sensibility_01_austen_64kb-{number}.wav", DATA / f"speech_{name}.wav")
    pictures = {name: center_crop(skimage / "skimage/data" / file) for name, file in PICTURES.items()}
    np.savez_compressed(DATA / "pictures.npz", **pictures)
    np.savez_compressed(DATA / "page.npz", page=page(), lines=np.array(PAGE))
    fashion = deb / "usr/share/datasets/fashion-mnist"
    images = mnist(fashion / "t10k-images-idx3-ubyte.gz", 16)[: 500 * 784]
    labels = mnist(fashion / "t10k-labels-idx1-ubyte.gz", 8)[:500]
    # xz of one plain array: a third smaller than npz here.
    (DATA / "fashion_test.u8.xz").write_bytes(lzma.compress(labels.tobytes() + images.tobytes(), preset=9))
    lists = [deb / f"usr/share/dict/scowl/{kind}-words.10" for kind in ("english", "american")]
    found = {word.lower() for path in lists for word in path.read_text().split()} | {"a", "i"}
    kept = sorted(word for word in found if word.isascii() and word.isalpha())
    (DATA / "english.txt").write_text("\n".join(kept) + "\n")


if __name__ == "__main__":
    main()
