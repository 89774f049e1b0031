"""Draw captions of pre-training pictures, which say what a picture shows and often how it looks."""

import torch

from trainers.prompting.backbones.openai_clip import clip

PROMPT = "a photo of a {}."
NEUTRAL = {  # templates that are true of every picture, with their shares
    PROMPT: 0.6,
    "a picture of a {}.": 0.1,
    "a photo of the {}.": 0.1,
    "{}.": 0.2,
}
LOOKS = {  # templates that are true only of some pictures
    "emoji": ["an emoji of a {}.", "a cartoon of a {}."],
    "icon": ["an icon of a {}.", "a symbol of a {}."],
    "line": ["a line drawing of a {}.", "an outline of a {}.", "a sketch of a {}."],
    "solid": ["a silhouette of a {}.", "a solid icon of a {}."],
    "two-tone": ["a two-tone icon of a {}."],
    "flat": ["a flat picture of a {}."],
    "shaded": ["a shaded picture of a {}."],
    "glossy": ["a glossy 3d picture of a {}.", "a shiny {}."],
    "small": ["a photo of a small {}.", "a small {}."],
    "large": ["a close-up photo of a {}.", "a large {}."],
    "turned": ["a rotated photo of a {}.", "a tilted {}."],
    "on white": ["a {} on a white background."],
    "on dark": ["a {} on a dark background."],
    "on colour": ["a {} on a coloured background."],
}
LOOK_NAMES = list(LOOKS)
LOOK_SHARE = 0.4  # share of captions that say how the picture looks
FILLINGS = {"subgroup": 0.15, "name": 0.6, "alias": 0.05, "tag": 0.16, "both": 0.04}


class Captions:
    """Draws random captions, and knows the pictures that each caption is true of.

    A caption is a template with a filling, such as the name of an emoji.

    Attributes:
        ids: (V,) the ids of CLIP's vocabulary that captions use, sorted.
        truth: (F, E) bool, True if filling f is true of emoji e.
    """

    def __init__(self, emoji, vocabulary):
        self.emoji = emoji
        true_of: dict[str, set] = {}
        self.options = []
        for e, item in enumerate(emoji):
            options = {
                "subgroup": [item["subgroup"]],
                "name": [item["name"]],
                "alias": [item["unicode_name"]]
                + [short.replace("_", " ") for short in item["short_names"]],
                "tag": item["tags"] or [item["name"]],
                "both": [f"{item['name']}, a kind of {item['subgroup']}"],
            }
            self.options.append(options)
            for fillings in options.values():
                for filling in fillings:
                    true_of.setdefault(filling, set()).add(e)
        self.number = {filling: f for f, filling in enumerate(true_of)}
        self.truth = torch.zeros(len(true_of), len(emoji), dtype=torch.bool)
        for filling, members in true_of.items():
            self.truth[self.number[filling], list(members)] = True
        self.cache = {}
        templates = [*NEUTRAL, *(template for look in LOOKS.values() for template in look)]
        # BPE splits text word by word, so these are the ids of all captions
        words = clip.tokenize([*self.number, *templates], truncate=True)
        self.ids = words.unique()[1:]  # 0 is padding
        self.row = torch.zeros(vocabulary, dtype=torch.long)
        self.row[self.ids] = torch.arange(len(self.ids))

    def tokens(self, texts):
        """Return rows of the compact embedding table (len(texts), 77), and EOS positions."""
        for text in texts:
            if text not in self.cache:
                ids = clip.tokenize(text, truncate=True)[0]
                self.cache[text] = (self.row[ids], int(ids.argmax()))
        rows, ends = zip(*(self.cache[text] for text in texts), strict=True)
        return torch.stack(rows), torch.tensor(ends)

    def draw(self, index, looks, rng):
        """Draw a caption for each picture.

        Args:
            index: (B,) emoji of the pictures.
            looks: (B, len(LOOKS)) bool, the looks of each picture.
            rng: random numbers.

        Returns:
            Tokens (B, 77), positions of EOS (B,), and truth (B, B) bool, True if caption j is true
            of picture i.
        """
        kinds = rng.choice(list(FILLINGS), size=len(index), p=list(FILLINGS.values()))
        neutral = rng.choice(list(NEUTRAL), size=len(index), p=list(NEUTRAL.values()))
        says_look = rng.random(len(index)) < LOOK_SHARE
        texts, fillings = [], []
        look_of = torch.full((len(index),), len(LOOKS))  # the last column is true of every picture
        for i, e in enumerate(index.tolist()):
            options = self.options[e][kinds[i]]
            filling = options[rng.integers(len(options))]
            if not any(c.isalnum() for c in filling):  # a tag like ":)" may have no word
                filling = self.options[e]["name"][0]
            template = neutral[i]
            if says_look[i]:
                look = int(rng.choice(looks[i].nonzero().flatten().numpy()))
                options = LOOKS[LOOK_NAMES[look]]
                template, look_of[i] = options[rng.integers(len(options))], look
            texts.append(template.format(filling))
            fillings.append(self.number[filling])
        everything = torch.ones(len(index), 1, dtype=torch.bool)
        truth = self.truth[torch.tensor(fillings)][:, index].T
        truth = truth & torch.cat([looks, everything], 1)[:, look_of]
        return *self.tokens(texts), truth
