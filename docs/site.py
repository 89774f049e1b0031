"""Add the documents outside docs/ to the site; files and link targets stay as they are."""

from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
# documents, and the files that they link to
PATTERNS = [
    "*.md", "*.cff", "LICENSE", "docs/**/*.md", "docs/**/*.svg", "docs/site.*s",
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
