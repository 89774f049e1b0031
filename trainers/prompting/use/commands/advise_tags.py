"""The advice on images with several labels: the choice, its files, and what it says."""

import shlex
import time
from pathlib import Path
from typing import Any

from ...images.tables import SPLIT, write_table
from ...storage.files import write_whole


def advise_tags(
    args: Any, prog: str, encoded: Any, collection: Any, answers: Path, begun: float
) -> None:
    """Choose a CLIP and a method, write the run, its page and its answers, and say what they are.

    `answers` is the file of these; `begun` the monotonic time at which the command began.
    """
    from ...advice.page import candidates_of_tags, page_of_tags
    from ...advice.save import save_run
    from ...advice.tags import choose_tags

    spaces = [one.space(collection) for one in encoded]
    groups, names = collection.folds_apart(), collection.classnames
    choice = choose_tags(spaces, collection.labels, groups, names)
    space, seconds = spaces[choice.best.number], time.monotonic() - begun
    save_run(args.output, collection, choice, space, choice.fitted[0], "", seconds)
    write_tags(answers, collection, choice)
    print("\nmAP on images that they had not seen:")
    for name, score in candidates_of_tags(choice):
        print(f"  {name}: {score}%")
    predict = [*prog.split()[:-1], "predict", "--model-dir", str(args.output)]
    commands = {"Tag images": f"{shlex.join(predict)} IMAGE ..."}
    write_whole(args.output / "advice.html", page_of_tags(collection, choice, commands))
    print(f"\nWith pictures: '{args.output / 'advice.html'}'")
    print(f"All labels, those with most wrong tags first: '{answers}'")
    print("\n" + "\n".join(choice.sentences()))
    for title, command in commands.items():
        print(f"{title}: `{command}`")


def write_tags(file: Path, collection: Any, choice: Any) -> None:
    """Write labels, tags and scores of the labelled images, those with most wrong tags first."""
    names, files, order = collection.classnames, collection.names, [*choice.most_wrong()]
    rows = []
    for i in [*order, *sorted({*range(len(choice.rows))} - {*order})]:
        given, labels = (SPLIT.join(texts) for texts in choice.names(i, names))
        scores = (f"{x:.4g}" for x in choice.best.scores[i])
        rows.append([files[choice.rows[i]], labels, given, *scores])
    write_table(file, ("path", "labels", "tags", *names), rows)
