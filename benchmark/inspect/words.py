"""The words of CLIP's vocabulary that are nearest to the learned textual contexts."""

from tabulate import tabulate

from trainers.prompting.errors import UserError

from .load import load_run, run_parser


def main(argv: list[str]) -> int:
    """Print, for every learned token of every textual prompt, its nearest words and distances."""
    parser = run_parser(
        "python -m benchmark words",
        f"{__doc__} Contexts of the first block, in its space: Euclidean distances. "
        "A word with a dash behind it is the beginning of longer words.",
    )
    parser.add_argument("--top", type=int, default=5, help="words for each token (default: 5)")
    args = parser.parse_args(argv)
    if args.top < 1:
        raise UserError(f"--top is {args.top} but must be at least 1")
    run = load_run(args)
    spec = run.model.spec
    if not spec.N:
        raise UserError(f"the run in '{args.model_dir}' has no textual prompts: nothing to read")
    contexts = text_contexts(run.model)
    titles = [f"Prompt {n + 1}" for n in range(len(contexts))]
    if spec.class_specific:
        titles = [f"Class '{name}'" for name in run.classnames]
    blocks = [
        f"{title}\n{table(nearest_words(run.model, context, args.top))}"
        for title, context in zip(titles, contexts, strict=True)
    ]
    print("\n\n".join(blocks))
    return 0


def text_contexts(model):
    """The learned tokens of the first block: (N, b, W), or (K, b, W) when they are per class.

    Those of CoCoOp are read before its network shifts them by an image; UPT's behind its mixer.
    """
    from trainers.prompting.model.learner import as_batch

    if model.spec.image_conditional:
        return as_batch(model.prompt_learner.ctx.detach())
    return model.prompt_learner().text[0].detach()


def nearest_words(model, context, top: int) -> list[list[tuple[str, float]]]:
    """For each token of a context (b, W) its `top` nearest words, with Euclidean distances."""
    import torch

    table = model.text_encoder.token_embedding.weight.detach()
    known = table.any(dim=1).nonzero()[:, 0]  # an embedded CLIP holds only the words it has seen
    distance = torch.cdist(context.float(), table[known].float(),
                           compute_mode="donot_use_mm_for_euclid_dist")  # fmt: skip
    best = distance.topk(min(top, len(known)), largest=False)
    return [
        [(word(model, int(known[i])), float(d)) for i, d in zip(ids, row, strict=True)]
        for ids, row in zip(best.indices, best.values, strict=True)
    ]


def word(model, token: int) -> str:
    """A token as a person reads it; a dash marks one that only begins words."""
    text = model.text_encoder.tokenizer.decode([token])
    return text.rstrip() if text.endswith((" ", "|>")) else f"{text}-"


def table(rows) -> str:
    """Lines of words with their distances, one for each token."""
    lines = [[i, *(f"{name} ({d:.4f})" for name, d in row)] for i, row in enumerate(rows, 1)]
    return tabulate(lines, tablefmt="plain", disable_numparse=True)
