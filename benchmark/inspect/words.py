"""List the words of CLIP's vocabulary that are nearest to the learned textual contexts."""

from tabulate import tabulate

from trainers.prompting.errors import need

from ..cli import from_one
from .load import load_run, run_parser


def main(argv: list[str]) -> int:
    """Print the nearest words, with distances, of every learned token of every textual prompt."""
    parser = run_parser(
        "python -m benchmark words",
        f"{__doc__} Contexts of the first block are compared with word embeddings by Euclidean "
        "distance. A dash after a word marks the beginning of longer words.",
    )
    parser.add_argument("--top", type=from_one, default=5, help="words for each token (default: 5)")
    args = parser.parse_args(argv)
    run = load_run(args)
    contexts = text_contexts(run.model)
    need(
        contexts is not None,
        f"the run in '{args.model_dir}' has no textual prompts: choose a run that has",
    )
    titles = [f"Prompt {n + 1}" for n in range(len(contexts))]
    if run.model.text_encoder.class_specific:
        prompts = [f", prompt {n + 1}" for n in range(len(contexts))] if len(contexts) > 1 else [""]
        titles = [f"Class '{name}'{prompt}" for prompt in prompts for name in run.classnames]
        contexts = contexts.flatten(0, 1)
    blocks = [
        f"{title}\n{words_table(nearest_words(run.model, context, args.top))}"
        for title, context in zip(titles, contexts, strict=True)
    ]
    print("\n\n".join(blocks))
    return 0


def text_contexts(model):
    """Return the learned tokens of the first block: (N, b, W), or (N, K, b, W) if class-specific.

    For CoCoOp they are taken before its network shifts them by an image; for UPT, after its mixer.
    None without textual prompts.
    """
    text = model.contexts().text
    if text is None and "prompt_learner.ctx" in model.learned():  # they depend on the image
        text = [model.prompt_learner.ctx[None]]
    return text and text[0].detach()


def nearest_words(model, context, top: int) -> list[list[tuple[str, float]]]:
    """Return the `top` nearest words, with distances, of each token of a context (b, W)."""
    import torch

    table = model.text_encoder.token_embedding.weight.detach()
    rows = table.any(dim=1).nonzero()[:, 0]  # an embedded CLIP has only words of its training
    distance = torch.cdist(context.float(), table[rows].float(),
                           compute_mode="donot_use_mm_for_euclid_dist")  # fmt: skip
    best = distance.topk(min(top, len(rows)), largest=False)
    return [
        [(word(model, int(rows[i])), float(d)) for i, d in zip(ids, row, strict=True)]
        for ids, row in zip(best.indices, best.values, strict=True)
    ]


def word(model, token: int) -> str:
    """Return a token as text; a dash marks a token that only begins words."""
    text = model.text_encoder.tokenizer.decode([token])
    return text.rstrip() if text.endswith((" ", "|>")) else f"{text}-"


def words_table(rows) -> str:
    """Return a line for each token: its nearest words with their distances."""
    lines = [[i, *(f"{name} ({d:.4f})" for name, d in row)] for i, row in enumerate(rows, 1)]
    return tabulate(lines, tablefmt="plain", disable_numparse=True)
