"""Constants of the embedded images and CLIP, as made at commit 979570e."""

# Emoji sets and icon sets whose pictures the CLIP was trained on. No data set has any of them.
PRETRAINING = {
    "noto", "twemoji", "fluent-emoji-flat", "noto-v1", "fxemoji", "fluent-emoji-high-contrast",
    "fa6-solid", "fluent", "game-icons", "healthicons", "icon-park-outline", "icon-park-solid",
    "icon-park-twotone", "iconoir", "lucide", "material-symbols", "mdi", "mingcute", "ph", "solar",
    "tabler",
}  # fmt: skip
# SHA-256 of the CLIP, and of the list of emoji that it was trained without, in any style
CLIP = "faa25e55890f0d7a27e6d5fea357022a605c26b132af9c2925c26108655cc7a5"
WITHHELD = "81bb662626413a908272b3dc1729cc2d256ae7b1cdc969d9c145b5b5556f4e7c"

DATASETS = (
    "emoji", "emoji_blur", "emoji_fog", "emoji_hue", "emoji_dither", "emoji_motion", "emoji_night",
    "emoji_pixels",
)  # fmt: skip
SHARES = {"train": 0.42, "val": 0.14, "test": 0.44}  # of the emoji in each part

ARTISTS = ("openmoji", "fluent_3d", "emojione", "symbola")
BY_ARTIST = [f"emoji_{name.removesuffix('_3d')}_{half}" for name in ARTISTS for half in "ab"]
CLASSES = [
    "bird, fish and bug", "book and mail", "building", "clothing", "computer, phone and light",
    "event and game", "ground transport", "hand and body", "happy face", "mammal",
    "office and writing", "person", "place", "plant and fruit", "prepared food", "sad face",
    "sign and warning", "sky and weather", "sport", "sweet food and drink", "symbol",
    "tool and household",
]  # fmt: skip
BASE = {  # base classes of each split
    "a": [
        "building", "clothing", "computer, phone and light", "ground transport", "hand and body",
        "happy face", "office and writing", "prepared food", "sad face", "sky and weather", "sport",
    ],
    "b": [
        "bird, fish and bug", "book and mail", "building", "clothing", "event and game",
        "happy face", "mammal", "person", "prepared food", "sign and warning", "symbol",
    ],
}  # fmt: skip
