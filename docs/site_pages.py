"""Build the site: add the documents outside docs/, and to the page of methods what classes say.

Files and link targets stay as they are. Needs no PyTorch: classes are read, not imported.
"""

import ast
import inspect
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
# documents, and the files that they link to
PATTERNS = [
    "*.md", "*.cff", "LICENSE", "docs/**/*.md", "docs/**/*.svg", "docs/*.jpg", "docs/site.*s",
    "docs/katex/*.*s", "docs/katex/LICENSE", "docs/katex/fonts/*",
    "assets/README.md", "assets/*.txt", "dassl-lite/README.md", "examples/*.py", "examples/*.ipynb",
    "scripts/*.sh", "trainers/prompting/**/*.py",
    "trainers/prompting/embedded/*.txt", "benchmark/report/*.py",
]  # fmt: skip


def on_files(files, config):
    """Replace the files of docs/ by those of the repository."""
    for file in files.documentation_pages() + files.media_files():
        if file.abs_src_path and Path(file.abs_src_path).is_relative_to(config.docs_dir):
            files.remove(file)
    for path in sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern)):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, **_):
    """Put the docstring and the config files of each method into its section."""
    return with_docstrings(markdown) if page.file.src_uri == "docs/all_methods.md" else markdown


def with_docstrings(markdown):
    """Return the page of all methods with the text of each class below its line."""
    titles = re.findall(
        r"^## (\d+)\.(.+)$", (ROOT / "docs" / "methods.md").read_text("utf-8"), re.M
    )
    anchors = {
        number: re.sub(r"[^\w -]", "", f"{number}{title}".lower()).replace(" ", "-")
        for number, title in titles
    }
    pages = []
    for section in re.split(r"^(?=##)", markdown, flags=re.MULTILINE):
        if not section.startswith("### "):
            pages.append(section)
            continue
        name = section.split(maxsplit=2)[1]
        file = re.search(r"\(\.\./(trainers/prompting/methods/\w+\.py)\)", section)[1]
        tree = ast.parse((ROOT / file).read_text("utf-8"))
        kind = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
        text = inspect.cleandoc(ast.get_docstring(kind) or "").partition("\n")[2]
        text = re.sub(
            r"docs/methods\.md,\s+section\s+(\d+)",
            lambda match: f"[section {match[1]}](methods.md#{anchors[match[1]]})",
            text,
        )
        configs = sorted(path.stem for path in (ROOT / "configs/trainers" / name).glob("*.yaml"))
        pages.append(
            f"{section.rstrip()}\n{text}\n\nConfig files in `configs/trainers/{name}/`: "
            + ", ".join(f"`{config}`" for config in configs)
            + ".\n\n"
        )
    return "".join(pages)
