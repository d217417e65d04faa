"""The picture at the head of README.md, of tiles from examples/pictures: `python zoo.py`."""

import pathlib

from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
PICTURES = HERE.parents[1] / "examples" / "pictures"
SIDE, GAP, ROWS = 64, 2, 4


def tiles(name, side, places):
    """Tiles of a grid of pictures of some side, by row and column, as `SIDE` has them."""
    grid = Image.open(PICTURES / f"{name}.png").convert("RGB")
    for row, column in places:
        left, top = (GAP + place * (side + GAP) for place in (column, row))
        tile = grid.crop((left, top, left + side, top + side))
        yield tile.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def block(rows, columns):
    """Places of some rows and columns, column after column."""
    return [(row, column) for column in columns for row in rows]


def main():
    shown = [
        *tiles("resnet_gan_mnist", 28, block((0, 2, 4, 6), (0, 3, 6))),
        *tiles("resnet_gan_mnist", 28, block((1, 3, 5, 8), (1, 4))),
        *tiles("flow_matching_cifar10", 32, block((0, 1, 7, 8), (0, 3, 5, 7, 8, 9))),
        *tiles("pix2pix_coloured_emoji", 64, block(range(ROWS), (3, 5, 8))),
        *tiles("srgan_cifar10", 64, block(range(ROWS), (1, 4, 8, 11))),
    ]
    columns = len(shown) // ROWS
    size = [GAP + count * (SIDE + GAP) for count in (columns, ROWS)]
    picture = Image.new("RGB", size, "white")
    for number, tile in enumerate(shown):
        column, row = divmod(number, ROWS)
        picture.paste(tile, (GAP + column * (SIDE + GAP), GAP + row * (SIDE + GAP)))
    picture.save(HERE / "zoo.png", optimize=True)


if __name__ == "__main__":
    main()
