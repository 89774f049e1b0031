"""Photograph a page of the advice and a report, light and dark, for README.

    python docs/make_pictures.py ADVICE.html REPORT.html

Needs Chromium. The pages come from the commands in README, on groceries and emoji.
"""

import io
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

MOST = 150_000  # bytes of a picture
SIZES = {"advice": (1000, 1290), "report": (1120, 930)}  # of the window, in pixels
SCHEMES = {"dark": 0, "light": 1}  # Chromium's preferredColorScheme


def photograph(page: Path, size: tuple[int, int], scheme: int) -> Image.Image:
    """Return what Chromium shows of a page in a window of this size."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        flags += [f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={shot}"]
        flags += [f"--window-size={size[0]},{size[1]}", page.absolute().as_uri()]
        subprocess.run(["chromium", *flags], check=True, capture_output=True)
        return Image.open(io.BytesIO(shot.read_bytes())).convert("RGB")


def main(pages: list[str]) -> None:
    """Write docs/advice_light.jpg and the three others."""
    if len(pages) != len(SIZES):
        sys.exit(__doc__)
    for page, (name, size) in zip(pages, SIZES.items(), strict=True):
        for scheme, number in SCHEMES.items():
            target = Path(__file__).with_name(f"{name}_{scheme}.jpg")
            shot = photograph(Path(page), size, number)
            for quality in range(90, 20, -10):
                shot.save(target, quality=quality, optimize=True)
                if target.stat().st_size <= MOST:
                    break
            print(target, target.stat().st_size)


if __name__ == "__main__":
    main(sys.argv[1:])
