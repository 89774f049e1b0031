"""The package under its two names, `trainers.prompting` and `promptedclip`, and as a wheel."""

import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
import tomllib
import venv
from pathlib import Path

import pytest
from fresh import run_fresh
from other_checkout import run_in, write_checkout
from packaging.utils import canonicalize_name
from paths import GOLDEN, HALF_WRITTEN, ROOT

from trainers import prompting
from trainers.prompting import __version__
from trainers.prompting.dassl_parts import dassl_utils
from trainers.prompting.record.hashes import package_hash

FOLDER = ROOT / "trainers" / "prompting"
PATIENCE = 1200  # seconds for a command, also on a busy machine


def run(code, cwd, path=(), python=None):
    """Run code in another process; return its output, or the last line of its error."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
    code = textwrap.dedent(code)
    if python is None:
        done = run_fresh(code, cwd=cwd, env=env)
    else:
        done = subprocess.run([python, "-c", code], cwd=cwd, env=env,
                              capture_output=True, text=True, timeout=PATIENCE)  # fmt: skip
    return done.stdout if done.returncode == 0 else done.stderr.splitlines()[-1]


def copy(place):
    """Copy the package to a place."""
    # not the other bytecode, which takes a second
    ignored = shutil.ignore_patterns("*.safetensors", HALF_WRITTEN)
    shutil.copytree(FOLDER, place, ignore=ignored)


METHOD = """
    from {name} import Method, register
    from {name}.methods.coop import CoOp

    @register
    class Mine{number}(CoOp):
        pass
"""
BOTH = """
    import sys
    import {first}
    import {second}.method
    from {second} import list_methods
    from {first}.method import METHODS
    import a, b
    assert {second} is {first} and {second}.method is {first}.method
    assert {second}.method.__spec__.name == {first}.method.__name__ == "{first}.method"
    assert METHODS is {second}.method.METHODS and {{"Mine1", "Mine2"}} <= set(list_methods())
    assert len({{id(m.METHODS) for n, m in sys.modules.items() if n.endswith(".method")
                and hasattr(m, "METHODS")}}) == 1
    from {second}.errors import UserError
    assert UserError is {first}.UserError
    print(METHODS["ALIGN"].__module__)
"""


@pytest.mark.parametrize("first", ["trainers.prompting", "promptedclip"])
def test_methods_written_with_either_name_are_in_one_registry(first, tmp_path):
    names = ["trainers.prompting", "promptedclip"]
    names.remove(first)
    copy(tmp_path / "installed" / "promptedclip")
    (tmp_path / "a.py").write_text(textwrap.dedent(METHOD.format(name=first, number=1)))
    (tmp_path / "b.py").write_text(textwrap.dedent(METHOD.format(name=names[0], number=2)))
    path = [tmp_path / "installed", ROOT]
    code = BOTH.format(first=first, second=names[0])
    assert run(code, tmp_path, path) == f"{first}.methods.align\n"


def test_without_a_trainers_folder_its_name_is_the_package(tmp_path):
    copy(tmp_path / "installed" / "promptedclip")
    code = """
        import promptedclip
        from trainers.prompting.errors import UserError
        assert UserError.__module__ == "promptedclip.errors"
        import trainers.nothing
    """
    found = run(code, tmp_path, [tmp_path / "installed"])
    assert found == "ModuleNotFoundError: No module named 'trainers.nothing'"


def test_in_a_checkout_of_the_family_the_installed_package_does_what_a_copied_folder_does(tmp_path):
    """The checkout has the two lines; a method written for the copied folder is found, too."""
    copy(tmp_path / "installed" / "promptedclip")
    checkout = tmp_path / "checkout"
    write_checkout(checkout, extend="promptedclip.extend_cfg(cfg)",
                   before="import promptedclip\nimport a")  # fmt: skip
    (checkout / "a.py").write_text(
        textwrap.dedent(METHOD.format(name="trainers.prompting", number=1))
    )
    first = f"import sys\nsys.path.append({str(tmp_path / 'installed')!r})\n"
    tiny = str(GOLDEN / "tiny_clip_seed0.safetensors")
    told, _ = run_in(checkout, ("CoOp", "small", ""), ("PromptedCoOp", tiny, ""),
                     ("Mine1", tiny, ""), first=first)  # fmt: skip
    ours = "promptedclip.trainer.trainer"
    assert told["CoOp"] == "trainers.coop"
    assert told["PromptedCoOp"] == told["Mine1"] == ours


@pytest.fixture
def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_wheel_has_every_folder(pyproject):
    stated = pyproject["tool"]["setuptools"]["packages"]
    ours = {
        ".".join(["promptedclip", *path.relative_to(FOLDER).parts])
        for path in [FOLDER, *FOLDER.rglob("*")]
        if path.is_dir() and path.name != "__pycache__"
    }
    other = ("promptedclip.dassl_lite", "promptedclip.configs")
    assert {name for name in stated if not name.startswith(other)} == ours
    assert len(stated) == len(set(stated)) and other[1] in stated


def test_the_wheel_has_every_config_file_of_a_method(pyproject):
    setuptools = pyproject["tool"]["setuptools"]
    place = ROOT / setuptools["package-dir"]["promptedclip.configs"]
    globs = setuptools["package-data"]["promptedclip.configs"]
    assert {file for one in globs for file in place.glob(one)} == set(place.rglob("*.*"))
    assert (place / "ALIGN" / "base2new.yaml").is_file()


def test_the_base_requirements_are_those_of_the_repository(pyproject):
    project = pyproject["project"]
    for extra in project["optional-dependencies"]:
        assert extra == canonicalize_name(extra), "pip 23.2 looks for the name as it is written"
    lines = [(ROOT / f"requirements{more}.txt").read_text() for more in ("", "-extra")]
    listed = set("\n".join(lines).splitlines())
    for group in (project["dependencies"], *project["optional-dependencies"].values()):
        assert set(group) <= listed


def test_without_dassl_the_parts_that_come_with_the_package_are_taken(tmp_path, monkeypatch):
    assert dassl_utils() is sys.modules["dassl.utils"]
    monkeypatch.setitem(sys.modules, "dassl", None)  # as if it were not installed
    with pytest.raises(ModuleNotFoundError, match="import of dassl halted"):
        dassl_utils()
    (tmp_path / "dassl_lite").symlink_to(ROOT / "dassl-lite" / "dassl")  # as a wheel has it
    monkeypatch.setattr(prompting, "__path__", [*prompting.__path__, str(tmp_path)])
    before = set(sys.modules)
    try:
        assert dassl_utils().__name__ == "trainers.prompting.dassl_lite.utils"
    finally:
        for name in set(sys.modules) - before:
            del sys.modules[name]


LOAD = """
    import sys
    sys.modules["dassl"] = None  # as if it were not installed
    import torch
    from PIL import Image
    from promptedclip import Method, build_method, list_backbones, list_methods, load_run
    from promptedclip import sinkhorn
    run = load_run("{run}")
    images = torch.stack([run.preprocess(Image.new("RGB", (40, 50), c)) for c in ("red", "blue")])
    assert isinstance(run.model, Method) and "ALIGN" in list_methods()
    print(len(run.classnames), tuple(run.model(images).shape), run.model.training)
"""


def make_run(folder):
    """Train for a few steps in a separate process, since training takes over the streams."""
    code = f"""
        import sys
        sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}, {str(ROOT / "dassl-lite")!r}]
        import tiny
        sys.exit(tiny.run({str(folder)!r}, "CoOp", {str(folder / "CoOp")!r}, 1))
    """
    run(code, ROOT)
    assert (folder / "CoOp" / "results.json").is_file()
    return folder / "CoOp"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A fresh environment with this project's wheel and the packages of the current environment.

    The wheel is made from the sdist, as `python -m build` does.
    """
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    (source / "tests").mkdir(parents=True)
    (source / "tests" / "test_of_the_repository.py").touch()
    files = [*ROOT.glob("*.md"), *(ROOT / name for name in ("CITATION.cff", "LICENSE",
             "MANIFEST.in", "pyproject.toml", "trainers", "configs", "dassl-lite"))]  # fmt: skip
    for place in files:
        if place.is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(place, source / place.name, ignore=ignore)
        else:
            shutil.copy(place, source)
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (sdist,) = folder.glob("promptedclip-*.tar.gz")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation",
                    "--wheel-dir", folder, sdist], check=True, timeout=PATIENCE)  # fmt: skip
    (wheel,) = folder.glob("promptedclip-*.whl")
    venv.create(folder / "venv")
    bin_folder = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python = bin_folder / "python"
    subprocess.run([*pip, "--python", python, "install", "-q", "--no-deps", "--no-index", wheel],
                   check=True, timeout=PATIENCE)  # fmt: skip
    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    others = {sysconfig.get_path("purelib"), *site.getsitepackages()}
    without = "import sys; sys.modules['dassl'] = sys.modules['yacs'] = None"  # it must work so
    lines = [*sorted(others), without]
    (Path(own) / "others.pth").write_text("\n".join(lines) + "\n")
    return bin_folder, folder


@pytest.mark.slow
def test_the_sdist_has_what_the_wheel_is_made_from_and_no_tests(installed):
    (sdist,) = installed[1].glob("promptedclip-*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"CHANGELOG.md", "CITATION.cff", "LICENSE", "trainers/prompting/method.py"} <= names
    assert not [name for name in names if name.startswith("tests")]


@pytest.mark.slow
def test_the_wheel_is_installed_and_used_outside_of_the_repository(installed):
    bin_folder, folder = installed
    python = bin_folder / "python"
    where = "import promptedclip as p, trainers.prompting as t; print(p.__file__, t is p)"
    place, same = run(where, folder, python=python).split()
    assert str(folder / "venv") in place and same == "True"
    assert (Path(place).parent / "configs" / "ALIGN" / "base2new.yaml").is_file()
    code = "from promptedclip.record.hashes import package_hash as h; print(h())"
    assert run(code, folder, python=python).strip() == package_hash()
    trained = make_run(folder / "run")
    assert run(LOAD.format(run=trained), folder, python=python) == "4 (2, 4) False\n"
    emoji = "import promptedclip as p; print(p.load_clip('emoji').visual.input_resolution)"
    assert run(emoji, folder, python=python) == "64\n"

    def command(*words):
        env = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
        done = subprocess.run([bin_folder / "promptedclip", *map(str, words)], cwd=folder, env=env,
                              capture_output=True, text=True, timeout=PATIENCE)  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    assert command("--version")[1] == f"promptedclip {__version__}\n"
    image = next((folder / "run" / "tiny_colours").glob("test_forest_*.png"))
    code, out, err = command("predict", "--model-dir", trained, image, "--format", "json")
    assert code == 0, err
    record = json.loads((trained / "results.json").read_text())
    assert len(json.loads(out)[0]["classes"]) == record["num_classes"]
    code, out, err = command("info", trained)
    assert code == 0 and f"{record['accuracy']:.2f}%" in out, err
    code, _, err = command("export", "--model-dir", trained, "--output", "x.safetensors")
    assert code == 0 and (folder / "x.safetensors").is_file(), err
    code, _, err = command("predict", "--model-dir", "nowhere", image)
    assert code == 2 and err == (
        "promptedclip predict: 'nowhere' holds no run to load, as there is no such "
        "folder: give the output folder of one run\n"
    )
    code, out, err = command("emoji", "data")
    assert code == 0 and (folder / "data" / "caltech-101").is_dir(), err
    for name in ("animal bird", "drink"):
        place = folder / "my_images" / name
        place.mkdir(parents=True)
        images = folder / "data/caltech-101/101_ObjectCategories" / name.replace(" ", "_")
        for i, image in enumerate(sorted(images.iterdir())[:8]):
            shutil.copy(image, place / f"{i}.webp")
    words = "my_images", "--output", "output/mine", "--backbones", "emoji"
    code, out, err = command("advise", *words)  # with relative paths
    assert code == 0 and "Take " in out and "python train.py" in out, err
    code, out, err = command("predict", "--model-dir", "output/mine", image)
    assert code == 0 and out.startswith(f"{image}: "), err
    code, _, err = command("predcit")
    assert code == 2 and "did you mean 'predict'" in err
