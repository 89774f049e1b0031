"""Tests of `python -m benchmark download`, from a local server into the layout that runs read.

The file is long because every archive has a layout of its own.
"""

import hashlib
import json
import re
import subprocess

import pytest
import yaml
from dassl.data.datasets import DATASET_REGISTRY
from served import CLASSNAMES, PUBLIC, TREE, arrived, tar, under, zipped

import datasets  # noqa: F401 (registers the data sets)
from benchmark.data import archives, download
from benchmark.protocols.configs import GROUPS
from trainers.prompting.storage.files import hold_lock

REAL = yaml.safe_load(download.TABLE.read_text())
REPOSITORIES = ("grocery", "whurs19-images")


def reader(name):
    """Return the class that reads a data set."""
    config = download.read_tree(download.CONFIGS / "datasets" / f"{name}.yaml")
    return DATASET_REGISTRY.get(config["DATASET"]["NAME"])


def test_the_table_of_downloads_is_complete_and_consistent():
    origins = {}
    for name, entry in REAL.items():
        if name in REPOSITORIES:  # read as anyone's own images
            continue
        dataset = reader(name)
        assert entry["folder"] == dataset.dataset_dir
        sources = [download.Source(**file) for file in entry["files"]]
        given = {path for source in sources for path in source.gives}
        given |= {source.merges and dataset.image_dir for source in sources}
        own = name == "imagenet" or "images" in entry or dataset.several
        assert own or re.fullmatch(r"https://.*/[0-9a-f]{40}/.*\.zip", entry["copy"])
        assert "images" in entry or dataset.image_dir.split("/")[0] in given | {"", "images"}
        assert not dataset.split_file or dataset.split_file in given
        for source in sources:
            assert source.urls or source.drive
            assert bool(source.holds) == archives.is_archive(source.name)
            assert re.fullmatch(r"([0-9a-f]{64})?", source.sha256)
            assert re.fullmatch(r"([0-9a-f]{32})?", source.md5)
            assert re.fullmatch(r"([0-9a-f]{40})?", source.git_blob)
            if source.name in (dataset.split_file, "classnames.txt"):  # as if it came from CoOp
                assert len(source.urls) == 2 - ("images" in entry)
                assert source.sha256 or source.git_blob
                assert all(re.search("/[0-9a-f]{40}/", url) for url in source.urls)
            # A mirror is a single folder, so a name must mean one file.
            assert origins.setdefault(source.name, source) == source
    others = {"imagenet", "voc2007", "coco2014", *REPOSITORIES, *GROUPS["medical"]}
    assert len(REAL) == 30 and set(PUBLIC) == set(REAL) - others


def test_medical_images_are_the_users_to_get(server, get, table, tmp_path):
    split = {"train": [["a_b/1 (1).png", 1, "a b"], ["c/1.tif", 0, "c"]], "val": [], "test": []}
    server.files = {"split_BUSI.json": json.dumps(split).encode()}
    table({"busi": with_hashes_of(server.files, REAL["busi"])})
    ran = get("busi", "--mirror", server.url)
    folder = tmp_path / "data" / "BUSI"
    assert ran.code == 1 and f"put the folders of the classes into '{folder / 'BUSI'}'" in ran.err
    assert "BUSI.zip of https://huggingface.co/" in ran.err and REAL["busi"]["images"] in ran.err
    assert [path.name for path in folder.iterdir()] == ["split_BUSI.json"]
    assert get("busi", "--mirror", server.url).err == ran.err  # it does not get anything twice
    for image, *_ in split["train"]:
        (folder / "BUSI" / image).parent.mkdir(parents=True)
        (folder / "BUSI" / image).write_bytes(b"")
    assert get("busi").out == f"busi: is already complete in '{folder}'\n"
    assert [item.classname for item in reader("busi").read(folder)[0]] == ["a b", "c"]
    (folder / "split_BUSI.json").unlink()
    server.files["split_BUSI.json"] = b"{}"
    ran = get("busi", "--mirror", server.url)
    assert ran.code == 1 and "because its git_blob is" in ran.err


def with_hashes_of(files, entry):
    """Return an entry of the table with the hashes of made files instead of the public ones."""
    entry = yaml.safe_load(yaml.safe_dump(entry))
    for file in entry["files"]:
        body = files[file["name"]]
        for kind in {"md5", "sha256"} & set(file):
            file[kind] = hashlib.new(kind, body).hexdigest()
        if "git_blob" in file:
            file["git_blob"] = hashlib.sha1(b"blob %d\0%b" % (len(body), body)).hexdigest()
    return entry


@pytest.mark.parametrize("name", PUBLIC)
def test_a_data_set_arrives_and_is_read(name, server, get, table, tmp_path):
    server.files = PUBLIC[name]
    entry = with_hashes_of(PUBLIC[name], REAL[name])
    table({name: entry})
    ran = get(name, "--mirror", server.url)
    assert ran.code == 0, ran.err
    folder = tmp_path / "data" / entry["folder"]
    assert f"{name}: is complete in '{folder}'" in ran.out
    expected = {path for file in entry["files"] for path in download.Source(**file).gives}
    assert {path.name for path in folder.iterdir()} == expected  # and nothing else

    if name != "imagenetv2":  # its reader needs all thousand folders
        train, _, test = reader(name).read(folder)
        assert len(train) == len(test) == 2
    server.log.clear()
    assert get(name, "--mirror", server.url).out == f"{name}: is already complete in '{folder}'\n"
    assert not server.log


def test_archives_of_voc_join_in_one_folder(server, get, table, tmp_path):
    def archive(part, image):
        lists = under("VOCdevkit/VOC2007/ImageSets/Main", f"{part}.txt", content=image.encode())
        folders = [under(f"VOCdevkit/VOC2007/{x}", f"{image}.{x[0]}") for x in ("JPEG", "Anno")]
        return tar(lists | folders[0] | folders[1], "w")

    files = {"VOCtrainval_06-Nov-2007.tar": archive("trainval", "1"),
             "VOCtest_06-Nov-2007.tar": archive("test", "2")}  # fmt: skip
    server.files = files
    table({"voc2007": with_hashes_of(files, REAL["voc2007"])})
    folder = tmp_path / "data" / "VOCdevkit" / "VOC2007"
    (folder / "JPEG").mkdir(parents=True)
    (folder / "JPEG" / "1.J").write_text("the user's")
    assert get("voc2007", "--mirror", server.url).code == 0
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    lists = {f"ImageSets/Main/{part}.txt" for part in ("trainval", "test")}
    assert found == lists | {"JPEG/1.J", "JPEG/2.J", "Anno/1.A", "Anno/2.A"}
    assert (folder / "JPEG" / "1.J").read_text() == "the user's"
    assert get("voc2007", "--mirror", server.url).out.startswith("voc2007: is already complete")


HELLO = "ce013625030ba8dba906f756967f9e9ca394464a"  # what `git hash-object` prints for hello and \n


def test_a_split_file_comes_from_the_first_address_that_has_it(server, table, get, tmp_path):
    server.files = {"wrong/split.json": b"hallo\n", "right/split.json": b"hello\n"}
    urls = [f"{server.url}/{where}/split.json" for where in ("gone", "wrong", "right")]
    split = {"name": "split.json", "git_blob": HELLO}
    table({"toy": {"folder": "toy", "files": [split | {"urls": urls[:2]}]}})
    ran = get("toy")
    assert ran.code == 1 and "gone/split.json' answers 404" in ran.err
    assert "because its git_blob is" in ran.err and f"not {HELLO}; rerun to resume" in ran.err
    assert not (tmp_path / "data/toy/split.json").exists()
    copy = f"{server.url}/copy.zip"  # not asked for
    table({"toy": {"folder": "toy", "copy": copy, "files": [split | {"urls": urls}]}})
    server.log.clear()
    ran = get("toy")
    assert ran.code == 0 and (tmp_path / "data/toy/split.json").read_bytes() == b"hello\n"
    assert [(name.split("/")[0], status) for name, _, status in server.log] == [
        ("gone", 404), ("wrong", 200), ("right", 200),
    ]  # fmt: skip


WHOLE = {"set/" + name.removeprefix("top/"): content for name, content in TREE.items()}
WHOLE |= {"set/split.json": b"{}", "set/more.txt": b"not asked for"}


@pytest.fixture
def copied(server, table):
    """A data set whose split file is only in the copy, which breaks off once.

    As at Hugging Face, the response that redirects to the copy states its hash.
    """
    server.files = {"toy.tar.gz": tar(TREE), "whole.zip": zipped(WHOLE)}
    server.cuts["whole.zip"] = [600_000]
    digest = hashlib.sha256(server.files["whole.zip"]).hexdigest()
    server.redirects["resolve.zip"] = f"{server.url}/whole.zip"
    server.headers["resolve.zip"] = {"X-Linked-ETag": f'"{digest}"'}
    archive = {"name": "toy.tar.gz", "urls": [f"{server.url}/toy.tar.gz"]}
    split = {"name": "split.json", "urls": [f"{server.url}/gone.json"]}
    files = [archive | {"holds": {"images": "images"}}, split]
    table({"toy": {"folder": "toy", "copy": f"{server.url}/resolve.zip", "files": files}})


def test_an_unavailable_file_is_taken_from_the_copy(copied, server, get, tmp_path):
    ran = get("toy")
    folder = tmp_path / "data/toy"
    assert ran.code == 0, ran.err
    assert sorted(path.name for path in folder.iterdir()) == ["images", "split.json"]
    assert arrived(folder) and (folder / "split.json").read_bytes() == b"{}"
    assert "gone.json' answers 404" in ran.out and "next, a copy of the whole data set" in ran.out
    size = re.escape(archives.tqdm.format_sizeof(len(server.files["toy.tar.gz"]), "B"))
    assert re.match(rf"toy: toy.tar.gz \({size}\), split.json \(size unknown\)\n", ran.out)
    asked = [(name, status) for name, _, status in server.log]
    assert asked == [("gone.json", 404), ("whole.zip", 200), ("whole.zip", 206)]  # no toy.tar.gz


def test_a_copy_with_another_hash_than_the_server_states_is_not_used(copied, server, get, tmp_path):
    server.headers["resolve.zip"] = {"X-Linked-ETag": f'"{"0" * 64}"'}
    ran = get("toy")
    assert ran.code == 1 and f"not {'0' * 64}" in ran.err
    assert (tmp_path / "data/toy/copy.zip.wrong").exists()
    assert not (tmp_path / "data/toy/images").exists()
    server.headers = {}  # another server states no hash: the stored one must be dropped
    server.cuts["whole.zip"] = [600_000, 0, 0, 0]
    assert get("toy").code == 1 and list((tmp_path / "data/toy").glob("copy.zip.*.part"))
    server.cuts, server.files["gone.json"] = {}, b"{}"
    assert get("toy").code == 0  # the copy is not needed; its part file is removed
    names = sorted(path.name for path in (tmp_path / "data/toy").iterdir())
    assert names == ["copy.zip.wrong", "images", "split.json"]


def test_a_copy_that_lacks_a_file_gives_the_others(copied, server, get, tmp_path):
    rest = {name: content for name, content in WHOLE.items() if "split" not in name}
    server.files["whole.zip"], server.headers = zipped(rest), {}
    ran = get("toy")
    assert ran.code == 1 and "copy.zip: the archive does not hold 'split.json'" in ran.err
    assert arrived(tmp_path / "data/toy")


def test_one_failure_does_not_stop_the_others(server, table, get):
    server.files = {"b.txt": b"b", "d.txt": b"d"}
    table({
        name: {"folder": name, "files": [{"name": f"{name}.txt", "urls": ["http://x/"]}]}
        for name in "abcd"
    })  # fmt: skip
    ran = get("a", "b", "c", "b", "d", "--mirror", f"{server.url}/")
    assert ran.code == 1
    assert ran.err.splitlines()[-1] == "not complete: a, c (of 4)"
    assert "b: is complete" in ran.out and "d: is complete" in ran.out


def test_imagenet_is_left_to_the_user(server, get, table, tmp_path):
    server.files = {"classnames.txt": CLASSNAMES}
    table({"imagenet": with_hashes_of(server.files, REAL["imagenet"])})
    ran = get("imagenet", "--mirror", server.url)
    folder = tmp_path / "data/imagenet"
    assert ran.code == 1 and (folder / "classnames.txt").read_bytes() == CLASSNAMES
    assert "https://image-net.org" in ran.err and f"into '{folder}' and rerun" in ran.err
    for part in ("train", "val"):
        (folder / "images" / part).mkdir(parents=True)
    assert get("imagenet").out == f"imagenet: is already complete in '{folder}'\n"


GROCERY = {
    "classes.csv": b"Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),"
    b"Iconic Image Path (str),Product Description Path (str)\n"
    b"Pink-Lady,0,Apple,0,/i/P.jpg,/i/P.txt\nRed-Delicious,1,Apple,0,/i/R.jpg,/i/R.txt\n"
    b"Sour-Milk,2,Sour-Milk,1,/i/S.jpg,/i/S.txt\n",
    "i/P.txt": b"Sweet\nand crisp. A pink lady is red.",
    "i/R.txt": b"Dark red.", "i/S.txt": b"Sour.",
    "train.txt": b"train/P/1.jpg, 0, 0\ntrain/R/1.jpg, 1, 0\ntrain/S/1.jpg, 2, 1\n",
    "val.txt": b"val/P/1.jpg, 0, 0\n",
    "test.txt": b"test/P/1.jpg, 0, 0\ntest/R/2.jpg, 1, 0\ntest/S/1.jpg, 2, 1\n",
} | under("train", "P/1.jpg", "R/1.jpg", "S/1.jpg") | under(
    "test", "P/1.jpg", "R/2.jpg", "S/1.jpg") | under("val", "P/1.jpg")  # fmt: skip


WHURS19 = {
    "classes.txt": b"port\nrailwaystation\n", "class_changes.txt": b"port\nrailway station\n",
    **under("images", *(f"{of}_{i}.jpg" for of in ("port", "railwaystation") for i in "123")),
}  # fmt: skip


@pytest.fixture
def from_repository(server, table, get, tmp_path):
    """A function that downloads a data set whose repository's folder has these files.

    Its archive, with `others` in it, is refused until the table has the folder's name to git.
    """

    def call(name, folder, files, **others):
        entry = json.loads(json.dumps(REAL[name]))
        (archive,) = entry["files"]
        tree = {f"{folder}/{path}": body for path, body in files.items()} | others
        server.files = {archive["name"]: zipped({f"top/{path}": x for path, x in tree.items()})}
        table({name: entry})
        ran = get(name, "--mirror", server.url)
        ((short, right),) = archive["tree"].items()
        assert ran.code == 1 and f"not {right}, to git" in ran.err
        found = re.search(f"'{short}' of the archive is ([0-9a-f]{{40}})", ran.err)[1]
        assert found == written_by_git(tmp_path / "git", files)
        archive["tree"][short] = found
        table({name: entry})
        assert get(name, "--mirror", server.url).code == 0
        given = {path.name for path in (tmp_path / "data" / name).iterdir()}
        assert given == {*archive["holds"], archive["name"]}  # which the first call has left there
        return tmp_path / "data" / name

    return call


def test_whurs19_becomes_class_folders(from_repository):
    other = {"results/WHURS19": b""}
    folder = from_repository("whurs19-images", "datasets/WHURS19", WHURS19, **other)
    train, val, test = DATASET_REGISTRY.get("ImageFolder").read(folder / "images")
    assert [len(part) for part in (train, val, test)] == [4, 0, 2]
    assert [item.classname for item in test] == ["port", "railway station"]
    assert "no licence of the photographs is stated" in REAL["whurs19-images"]["note"]


def test_groceries_become_class_folders_with_sentences(from_repository):
    folder = from_repository("grocery", "dataset", GROCERY)
    train, val, test = DATASET_REGISTRY.get("ImageFolder").read(folder / "grocery")
    assert [item.classname for item in test] == ["Pink Lady", "Red Delicious", "Sour Milk"]
    assert len(train) + len(val) == 4
    train, val, test = DATASET_REGISTRY.get("ImageFolder").read(folder / "grocery_coarse")
    assert [item.classname for item in test] == ["Apple", "Apple", "Sour Milk"]
    sentences = json.loads((folder / "grocery_coarse/sentences.json").read_text())
    assert sentences == {
        "Apple": [
            "Pink Lady: Sweet and crisp.",
            "A pink lady is red.",
            "Red Delicious: Dark red.",
        ],
        "Sour Milk": ["Sour Milk: Sour."],
    }


def written_by_git(folder, files):
    """Return the tree id that git gives to files."""
    for name, body in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    for words in (["init", "-q"], ["add", "-A"], ["write-tree"]):
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)
    return done.stdout.strip()


def test_an_existing_archive_is_used_and_kept(server, toy, get, tmp_path):
    archive = tmp_path / "data/toy/toy.tar.gz"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(body := tar(TREE))
    toy(body, md5="0" * 32)
    assert f"'{archive}' is not the expected file, move it away: its md5 is" in get("toy").err
    toy(body, md5=hashlib.md5(body).hexdigest())
    ran = get("toy")
    assert ran.code == 0 and arrived(archive.parent)
    assert f"'{archive}' is not needed any more" in ran.out
    assert archive.exists() and not server.log


def test_existing_files_are_not_changed(toy, get, tmp_path):
    toy(tar(TREE | {"top/labels.txt": b"new"}), holds={"images": "images", "labels": "labels.txt"})
    mine = tmp_path / "data/toy/images/mine.jpg"
    mine.parent.mkdir(parents=True)
    mine.touch()
    assert get("toy").code == 0
    assert list(mine.parent.iterdir()) == [mine]
    assert (tmp_path / "data/toy/labels").read_bytes() == b"new"


def test_a_second_download_into_a_folder_is_refused(server, toy, get, tmp_path):
    toy(tar(TREE))
    folder = tmp_path / "data/toy"
    folder.mkdir(parents=True)
    with hold_lock(folder.with_name(".toy.lock")):
        ran = get("toy")
    assert ran.code == 1 and f"another download is running in '{folder}'" in ran.err
    assert not server.log and get("toy").code == 0


def test_an_unknown_data_set_is_one_sentence(get):
    ran = get("eurosta")
    sentence = "There is no data set 'eurosta': did you mean 'eurosat'?"
    assert ran.code == 2 and sentence in ran.err and ran.err.count("\n") == 1
