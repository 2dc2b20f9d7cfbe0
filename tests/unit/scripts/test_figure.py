"""The words in the README's picture keep off the edges of its boxes, also in the wide font of a machine without the named."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree as tree

import matplotlib as mpl
from PIL import ImageFont

from scripts.machine import ROOT

FONTS = Path(mpl.get_data_path()) / "fonts" / "ttf"
ROOM = 10
SVG = "{http://www.w3.org/2000/svg}"


def texts(node: tree.Element, above: Mapping[str, str]) -> Iterator[tuple[str, float, float, float]]:
    """(words, left, right, baseline) of every text below `node`."""
    given = {**above, **node.attrib}
    if node.tag == f"{SVG}text":
        mono, bold = "monospace" in given["font-family"], "bold" in given.get("font-weight", "")
        font = FONTS / f"DejaVuSans{'Mono' if mono else ''}{'-Bold' if bold else ''}.ttf"
        width = ImageFont.truetype(str(font), int(given["font-size"])).getlength(node.text or "")
        left = float(given["x"]) - (width / 2 if given.get("text-anchor") == "middle" else 0)
        yield node.text or "", left, left + width, float(given["y"])
    for child in node:
        yield from texts(child, {name: value for name, value in given.items() if name not in ("x", "y")})


def test_words_keep_off_the_edges_of_their_boxes() -> None:
    picture = tree.parse(ROOT / "docs" / "figures" / "kennel.svg").getroot()
    boxes = [[float(box.get(name, 0)) for name in ("x", "y", "width", "height")] for box in picture.iter(f"{SVG}rect")]
    inside, tight = 0, []
    for words, left, right, y in texts(picture, {}):
        x, top, width, height = min(
            (box for box in boxes if box[0] <= (left + right) / 2 <= box[0] + box[2] and box[1] < y < box[1] + box[3]),
            key=lambda box: box[2],
        )
        inside += width < 960
        if left < x + ROOM or right > x + width - ROOM or y > top + height - ROOM:
            tight.append(words)
    assert inside == 20
    assert tight == []
