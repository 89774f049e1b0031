"""Metrics of a batch."""


def compute_accuracy(output, target, topk=(1,)):
    """Return the percentage of targets among the k largest outputs, a tensor (1,) for each k.

    `output` is (B, K), or a tuple that starts with it; `target` is (B,).
    """
    if isinstance(output, (tuple, list)):
        output = output[0]
    ranked = output.topk(max(topk), dim=1).indices
    hits = ranked == target.view(-1, 1)
    return [hits[:, :k].sum().float().mul(100 / len(target)).view(1) for k in topk]
