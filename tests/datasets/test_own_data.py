"""Sets of one's own: how folders and tables are read, named, split and checked."""

import importlib
import json
import logging
import os
import re
from pathlib import Path

import pytest
from dataset_trees import image_bytes, make_cfg, write_images

import train
from dassl.config.own_data import dataset_name, not_a_dataset, own_set, split_datasets
from dassl.data.datasets import build_dataset
from dassl.engine.command.cli import make_config, make_parser
from datasets.own.audit import audit
from datasets.own.divide import divide
from datasets.own.folder import list_folder
from datasets.own.read import read_own
from tools import check_data
from tools.protocol import make_requests, parse_args, plan_all, result_line
from tools.protocols import preflight

importlib.import_module("trainers")  # registers them
NAME = "OwnImages"


def tree(root, *classes, count=5):
    write_images(root, [f"{name}/{k}.jpg" for name in classes for k in range(count)])
    return root


def table(root, *lines, header="path,label"):
    root.mkdir(exist_ok=True)
    file = root / "birds.csv"
    file.write_text("\n".join([header, *lines]), encoding="utf-8")
    return file


def problem(listing):
    with pytest.raises(ValueError) as caught:
        listing.usable()
    return str(caught.value)


def config(*words):
    return make_config(make_parser().parse_args(["--trainer", "ZeroshotCLIP", *words]))


def plan(*words):
    return plan_all(make_requests(*parse_args(words)))


def sizes(listing):
    return {split: len(records) for split, records in divide(listing).splits.items()}


# ------------------------------------------------------------------ the command line
def test_a_folder_is_called_by_its_name_or_by_the_given_one(tmp_path):
    folder = tree(tmp_path / "My birds (2)", "a", "b")

    assert own_set(f"folder:{folder}").name == "My_birds_2"
    assert own_set(f"folder:{folder}=finches").name == "finches"
    assert dataset_name(f"folder:{folder}=finches") == "finches" and dataset_name("dtd") == "dtd"


def test_a_path_with_an_equals_sign_is_a_path(tmp_path):
    folder = tree(tmp_path / "size=large", "a", "b")

    assert own_set(f"folder:{folder}").root == folder
    assert own_set(f"folder:{folder}=big").name == "big"


@pytest.mark.parametrize("name", ["dtd", "toy_mine"])
def test_a_name_of_the_package_is_given_to_no_own_set(tmp_path, name):
    folder = tree(tmp_path / name, "a", "b")

    assert own_set(f"folder:{folder}").name == f"my_{name}"
    with pytest.raises(ValueError, match=f'"{name}" is a dataset of the package; .*=my_{name}'):
        own_set(f"folder:{folder}={name}")


def test_a_name_that_is_part_of_a_path_is_refused(tmp_path):
    with pytest.raises(ValueError, match='the name "b c" is part of paths; expected .* as =b_c'):
        own_set(f"folder:{tmp_path}=b c")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("folder:{0}/bird", r"there is no .*bird \(.* holds birds, x.csv\)\. Expected folder:PATH"),
        ("csv:{0}/birds", r"is a folder; expected a table .*--dataset folder:.*birds"),
        ("folder:{0}/x.csv", r"is a file; expected a folder .*--dataset csv:.*x.csv"),
        ("folder:", r"--dataset folder: names no place; expected folder:PATH"),
    ],
)
def test_a_wrong_path_says_what_is_there_and_what_to_type(tmp_path, given, message):
    (tmp_path / "birds").mkdir()
    (tmp_path / "x.csv").touch()

    with pytest.raises((ValueError, FileNotFoundError), match=message):
        own_set(given.format(tmp_path))


def test_a_path_in_place_of_a_dataset_is_told_how_to_be_named(tmp_path):
    (tmp_path / "birds").mkdir()
    (tmp_path / "x.csv").touch()

    folder, table = (not_a_dataset(str(tmp_path / name), ["dtd"]) for name in ("birds", "x.csv"))

    assert folder.endswith(f"to read its images: folder:{tmp_path}/birds")
    assert table.endswith(f"to read the images that it lists: csv:{tmp_path}/x.csv")
    assert not_a_dataset("dtt", ["dtd"]).startswith('Unknown dataset "dtt". Did you mean "dtd"?')


def test_several_datasets_stand_between_commas_and_a_path_may_hold_blanks():
    text = "dtd eurosat, folder:/my birds=finches,csv:x.csv"

    assert split_datasets(text) == ["dtd", "eurosat", "folder:/my birds=finches", "csv:x.csv"]


def test_a_config_names_the_set_and_takes_stored_views(tmp_path):
    folder = tree(tmp_path / "birds", "a", "b")
    words = ["--dataset", f"folder:{folder}=finches", "--template", "a {}.", "--template", "no {}."]

    cfg = config(*words)

    data = cfg.DATASET
    assert cfg.RUN.DATASET == "finches"
    assert dict(data, NAME=NAME, ROOT=str(folder)) == dict(data)
    assert Path(cfg.OUTPUT_DIR).parts[2] == "finches"
    assert cfg.DATASET.TEMPLATES == ("a {}.", "no {}.")
    assert (cfg.TRAIN.VIEWS, cfg.INPUT.UPRIGHT) == ("bank", True)
    assert config(*words, "--views", "fresh").TRAIN.VIEWS == "fresh"


def test_a_root_beside_an_own_set_is_refused(tmp_path):
    folder = tree(tmp_path, "a", "b")

    with pytest.raises(ValueError, match="--root x has no effect with --dataset folder:.*Leave it"):
        config("--dataset", f"folder:{folder}", "--root", "x")


def test_a_protocol_names_its_folders_after_the_set(tmp_path):
    folder = tree(tmp_path / "my birds", "a", "b")
    words = ["--trainer", "TaskRes", "--dataset", f"folder:{folder}=finches,dtd", "--seeds", "1"]

    runs = plan("fewshot", *words, "--root", "data", "--template", "a {}.")

    own = [run for run in runs if run.dataset.startswith("folder:")]
    assert {run.output_dir.parts[-4] for run in own} == {"finches"} and len(own) == 2
    for run in own:
        words = run.arguments()
        assert words[words.index("--dataset") + 1] == f"folder:{folder}=finches"
        assert "--root" not in words and words[words.index("--template") + 1] == "a {}."
    assert all("--root" in run.arguments() for run in runs if run not in own)


def test_class_names_are_refused_where_no_set_is_ones_own():
    with pytest.raises(ValueError, match="--classnames x.txt has no effect: .*folder:PATH"):
        plan("fewshot", "--trainer", "TaskRes", "--dataset", "dtd", "--classnames", "x.txt")


@pytest.mark.parametrize(
    ("trainer", "key", "value", "given"),
    [
        ("DMN", "TEXT_PROMPT", "tip", ("TRAINER.DMN.TEXT_PROMPT", "tip_cupl")),
        ("AMU", "AUX", "clip:toy/ViT", ("TRAINER.AMU.AUX", "moco_v3_rn50")),
    ],
)
def test_what_nobody_published_for_an_own_set_is_left_out_and_said(
    tmp_path, caplog, trainer, key, value, given, monkeypatch
):
    monkeypatch.setenv("VLTUNE_CACHE", str(tmp_path / "cache"))
    folder = tree(tmp_path / "birds", "a", "b")
    words = ["--dataset", f"folder:{folder}", "--trainer", trainer, "--backbone", "toy/ViT"]
    parsed = make_parser().parse_args([*words, "DATASET.NUM_SHOTS", "2"])

    assert make_config(parsed).TRAINER[trainer][key] == value
    assert f"TRAINER.{trainer}.{key} {value}" in caplog.text
    asked = make_parser().parse_args([*words, "DATASET.NUM_SHOTS", "2", *given])
    assert make_config(asked).TRAINER[trainer][key] == given[1]


# ------------------------------------------------------------------ folders
def test_folders_of_splits_are_found_however_they_are_spelt(tmp_path):
    tree(tmp_path / "Train", "cat", "dog/deep/er")
    tree(tmp_path / "validation", "cat", "dog", count=2)
    tree(tmp_path / "TEST", "cat", "dog", count=3)

    listing = list_folder(tmp_path)

    assert sizes(read_own(tmp_path)) == {"train": 10, "val": 4, "test": 6}
    assert {entry.label for entry in listing.entries} == {"cat", "dog"}


def test_a_missing_test_list_is_split_off_and_said(tmp_path):
    tree(tmp_path / "train", "cat", "dog", count=10)
    tree(tmp_path / "val", "cat", "dog", count=2)
    listing = read_own(tmp_path)

    assert sizes(listing) == {"train": 14, "val": 4, "test": 6}
    assert divide(listing).said == ["no test images: 6 of train are used as test"]
    assert divide(read_own(tmp_path)).splits == divide(listing).splits


def test_train_alone_is_split_in_three(tmp_path):
    tree(tmp_path / "train", "cat", "dog", count=10)

    listing = read_own(tmp_path)

    assert sizes(listing) == {"train": 12, "val": 2, "test": 6}
    assert set(listing.names) == {"cat", "dog"}


def test_plain_class_folders_are_split_like_those_of_class_folder(tmp_path):
    tree(tmp_path, "cat", "dog", count=10)
    own = build_dataset(make_cfg(tmp_path, NAME))
    same = build_dataset(make_cfg(tmp_path, "ClassFolder"))

    for split in ("train_x", "val", "test"):
        one, two = ([i.impath for i in getattr(each, split)] for each in (own, same))
        assert one == two


def test_small_classes_keep_a_training_image_first_and_then_a_test_image(tmp_path):
    for count, name in enumerate(["one", "two", "three"], start=1):
        tree(tmp_path, name, count=count)

    splits = divide(read_own(tmp_path)).splits

    def count(split, name):
        return sum(record.classname == name for record in splits[split])

    assert [count("train", name) for name in ("one", "two", "three")] == [1, 1, 2]
    assert [count("test", name) for name in ("one", "two", "three")] == [0, 1, 1]


def test_a_folder_around_the_classes_is_stepped_into(tmp_path):
    tree(tmp_path / "birds" / "images", "cat", "dog")

    listing = read_own(tmp_path)

    assert set(listing.names) == {"cat", "dog"}
    assert listing.said[0] == "stepped into birds/images"


def test_the_same_classes_in_several_folders_are_domains(tmp_path):
    for domain in ("photo", "sketch", "Cartoon"):
        tree(tmp_path / domain, "cat", "dog")

    dataset = build_dataset(
        make_cfg(tmp_path, "OwnDomains", TARGET_DOMAINS=("sketch",), TRIAL_SEED=0)
    )
    pooled = build_dataset(make_cfg(tmp_path, NAME))

    assert dataset.domains == ["Cartoon", "photo", "sketch"]
    assert dataset.classnames == pooled.classnames == ["cat", "dog"]
    runs = plan("lodo", "--trainer", "ERM", "--dataset", f"folder:{tmp_path}", "--seeds", "1",
                "--recipe", "rn50", "--no-zeroshot")  # fmt: skip
    assert [run.output_dir.name for run in runs] == ["te_cartoon", "te_photo", "te_sketch"]


def test_a_domain_without_a_class_is_named(tmp_path):
    tree(tmp_path / "photo", "cat", "dog", "owl")
    tree(tmp_path / "sketch", "cat", "dog")

    with pytest.raises(ValueError, match="the domain sketch has no images of owl; expected every"):
        build_dataset(make_cfg(tmp_path, "OwnDomains", TARGET_DOMAINS=("sketch",), TRIAL_SEED=0))


def test_an_empty_class_folder_is_left_out_with_a_warning(tmp_path, caplog):
    tree(tmp_path, "cat", "dog")
    (tmp_path / "owl").mkdir()

    assert build_dataset(make_cfg(tmp_path, NAME)).classnames == ["cat", "dog"]
    assert "no images in owl: left out. Add images, or remove the folders" in caplog.text


def test_other_sub_folders_belong_to_the_class_above(tmp_path):
    tree(tmp_path / "cat", "2020", "2021")
    tree(tmp_path / "dog", "2020", "2021")

    listing = read_own(tmp_path)

    assert list(listing.names) == ["cat", "dog"] and len(listing.entries) == 20
    assert "images of sub-folders belong to the class above (cat, dog" in listing.said[1]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["train/a", "test/a", "other/b"], r"holds test, train beside other; expected either"),
        (["train/a", "Train/b", "test/a"], "holds Train and train; expected one of them. Merge"),
        (["val/a", "val/b"], "holds val and no train; .*--dataset folder:.*/val"),
        (["."], "holds 5 images and no class folders; expected <class>/.*folder:"),
        (["a/x.txt"], r"holds no images \(\*\.jpg, .*\) in class folders; expected"),
    ],
)
def test_a_tree_that_cannot_be_read_says_what_was_expected(tmp_path, classes, message):
    root = tmp_path / "d"
    for name in classes:
        if name.endswith(".txt"):
            (root / name).parent.mkdir(parents=True)
            (root / name).touch()
        else:
            tree(root, name)

    assert re.search(message, problem(read_own(root)))


def test_a_test_class_that_training_does_not_have_is_named(tmp_path):
    tree(tmp_path / "train", "cat", "dog")
    tree(tmp_path / "test", "cat", "owl")

    with pytest.raises(ValueError, match="val or test has classes that train has not, owl; exp"):
        build_dataset(make_cfg(tmp_path, NAME))


@pytest.mark.parametrize(
    ("folders", "command"),
    [
        (["train_set/a", "train_set/b", "test_set/a", "test_set/b"], "mv .*test_set .*/test && mv"),
        (["1. Train/a", "1. Train/b", "2. Test/a", "2. Test/b"], "mv '.*/1. Train' .*/train"),
        (["train/a", "train/b", "dev/a", "dev/b", "eval/a", "eval/b"], "mv .*/dev .*/val && mv "),
        (["train/a", "train/b", "holdout/a", "holdout/b"], "mv .*/holdout .*/test"),
        (["train2017", "val2017"], "mv .*/train2017 .*/train && mv .*/val2017 .*/val"),
    ],
)
def test_splits_under_other_names_are_no_domains_and_no_classes(tmp_path, folders, command):
    tree(tmp_path, *folders)

    text = problem(read_own(tmp_path))

    assert "which seem to be splits; expected folders called train, val and test" in text
    assert re.search(f"Run: {command}", text)


def test_an_archive_in_the_place_of_images_is_to_be_unpacked(tmp_path):
    (tmp_path / "birds.tar.gz").touch()

    assert "holds birds.tar.gz and no class folders; expected" in (
        text := problem(read_own(tmp_path))
    )
    assert text.endswith("Unpack it first")


def test_names_that_cannot_be_seen_are_noted(tmp_path):
    tree(tmp_path, "cat\x07", "dog\u202e")

    note = audit(read_own(tmp_path)).notes[0]

    assert re.search(r"cannot be seen.*'cat\\x07', 'dog\\u202e'", note)


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    folder, scandir = tree(tmp_path, "cat", "dog") / "dog", os.scandir

    def refuse(path):
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)

    assert "dog cannot be listed (Permission denied); expected a folder that you may read. To " in (
        problem(read_own(tmp_path))
    )


def test_draws_of_shots_are_not_written_into_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("VLTUNE_CACHE", str(tmp_path / "cache"))
    folder = tree(tmp_path / "birds", "cat", "dog")

    first = build_dataset(make_cfg(folder, NAME, NUM_SHOTS=2))
    second = build_dataset(make_cfg(folder, NAME, NUM_SHOTS=2))

    assert sorted(path.name for path in folder.iterdir()) == ["cat", "dog"]
    assert len(list((tmp_path / "cache" / "draws").glob("birds-*/shot_2-seed_1.json"))) == 1
    assert [i.impath for i in first.train_x] == [i.impath for i in second.train_x]


# ------------------------------------------------------------------ tables
def test_a_table_gives_labels_splits_and_domains(tmp_path):
    tree(tmp_path, "x", count=6)
    lines = [f"x/{k}.jpg,{'cat' if k % 2 else 'dog'},{s},d{k % 2}" for k, s in enumerate(
        ["train", "train", "Valid", "valid", "testing", "test"])]  # fmt: skip
    file = table(tmp_path, *lines, header="path,label,split,domain")

    listing = read_own(tmp_path, table=str(file)).usable()

    assert sizes(listing) == {"train": 2, "val": 2, "test": 2}
    assert list(listing.names) == ["cat", "dog"] and listing.domains == ["d0", "d1"]
    cfg = config("--dataset", f"csv:{file}")
    assert dict(cfg.DATASET, TABLE=str(file)) == dict(cfg.DATASET)
    assert cfg.RUN.DATASET == "birds"
    assert build_dataset(make_cfg(tmp_path, NAME, TABLE=str(file))).num_classes == 2


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\r\npath;label\r\nx/0.jpg;cat, kitty\r\nx/1.jpg;dog\r\n",
        "path\tlabel\nx/0.jpg\tcat, kitty\nx/1.jpg\tdog\n",
        'path,label\nx\\0.jpg,"cat, kitty"\nx\\1.jpg,dog\n',
    ],
)
def test_a_table_that_a_windows_program_saved_is_read(tmp_path, text):
    tree(tmp_path, "x", count=2)
    file = table(tmp_path)
    file.write_bytes(text.encode())

    assert list(read_own(tmp_path, table=str(file)).usable().names) == ["cat, kitty", "dog"]


def test_columns_that_are_not_read_are_one_note(tmp_path):
    tree(tmp_path, "x", count=2)
    more = [f"c{n}" for n in range(999)]
    line = "," * len(more)
    file = table(
        tmp_path,
        f"x/0.jpg,cat,{line}",
        f"x/1.jpg,dog,{line}",
        header=f"path,label,,{','.join(more)}",
    )

    (note,) = read_own(tmp_path, table=str(file)).notes

    assert note.startswith("not read: the columns c0, c1, c2, c3, c4 and 994 more of birds.csv")


def test_a_table_may_name_images_anywhere(tmp_path):
    images = tree(tmp_path / "elsewhere", "x", count=4)
    lines = [f"{images}/x/{k}.jpg;{'cat' if k % 2 else 'dog'}" for k in range(4)]
    file = table(tmp_path / "tables", *lines, header="path;label")

    dataset = build_dataset(make_cfg(file.parent, NAME, TABLE=str(file)))

    assert all(Path(item.impath).is_file() for item in dataset.train_x)


@pytest.mark.parametrize(
    ("header", "lines", "message"),
    [
        ("", [], "birds.csv is empty; expected a header .*Write the columns path and label"),
        ("path,label", [], "has a header and no images; expected a header"),
        ("path,class", ["x/0.jpg,a"], "has the columns path, class; .* Write the column label"),
        ("path,label", ["x/0.jpg,0", "x/1.jpg,1"], 'the labels are numbers, as "0"; .*--classnam'),
        ("path,label", ["x/0.jpg,a", "x/9.jpg,b"], "line 3: there is no such image; expected a"),
        ("path,label", ["x/0.jpg,a", "x/0.jpg,b"], "line 3: the same image with another label"),
        ("path,label", ["x/0.jpg,a", "x/1.jpg,"], "line 3: no path or no label; expected both"),
        ("path,label,split", ["x/0.jpg,a,train", "x/1.jpg,b,"], "line 3: no split, while other"),
        ("path,label,split", ["x/0.jpg,a,tran", "x/1.jpg,b,test"], "line 2: an unknown split;"),
        (
            "path,label,split",
            ["x/0.jpg,a,train", "x/0.jpg,a,test"],
            "line 3: the same image in another split before; expected one split per image",
        ),
        ("path,label", ["x/0.jpg,Blue_Jay", "x/1.jpg,blue jay"], '"Blue_Jay" and "blue jay" have'),
    ],
)
def test_a_wrong_table_says_line_expectation_and_way_out(tmp_path, header, lines, message):
    tree(tmp_path, "x", count=2)
    file = table(tmp_path, *lines, header=header)

    assert re.search(message, problem(read_own(tmp_path, table=str(file))))


def test_a_table_that_is_not_text_is_refused_and_latin_letters_are_read(tmp_path, caplog):
    tree(tmp_path, "x", count=2)
    file = table(tmp_path)
    file.write_bytes(b"path,label\nx/0.jpg,caf\xe9\nx/1.jpg,tea\n")

    assert list(read_own(tmp_path, table=str(file)).names) == ["café", "tea"]
    assert "is not UTF-8: read as Windows-1252" in caplog.text
    file.write_bytes(bytes(range(256)) * 9)
    assert "is not a text file" in problem(read_own(tmp_path, table=str(file)))
    file.write_text(f"path,label\na.png,{'x' * 200_000}\n")
    assert "line 2: not a row of a table (field larger" in problem(
        read_own(tmp_path, table=str(file))
    )


def test_what_several_lines_lack_is_one_problem_and_the_others_are_counted(tmp_path):
    tree(tmp_path, "x", count=2)
    file = table(tmp_path, "x/0.jpg,a", "x/7.jpg,b", "x/8.jpg,b", "x/1.jpg,")

    text = problem(read_own(tmp_path, table=str(file)))

    assert "lines 3, 4: there is no such image" in text
    assert text.endswith(f"(1 more problems: python tools/check_data.py csv:{file})")


# ------------------------------------------------------------------ class names
@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("classnames.txt", "n1 brambling\nn2 robin\n"),
        ("classnames.txt", "n2: robin\nn1: brambling\n"),
        ("classnames.txt", "brambling\nrobin\n"),
        ("classnames.json", json.dumps({"n1": "brambling", "n2": "robin"})),
        ("classnames.json", json.dumps(["brambling", "robin"])),
        ("classnames.csv", "folder,name\nn1,brambling\nn2,robin\n"),
        ("classnames.csv", "sep=;\nn1;brambling\nn2;robin\n"),
        ("classnames.csv", "name,folder\nrobin,n2\nbrambling,n1\n"),
        ("classnames.csv", "0,n1,brambling\n1,n2,robin\n"),
        ("classnames.csv", "n1,,brambling\nn2,,robin\u200b\n"),
    ],
)
def test_a_file_beside_the_data_names_the_classes(tmp_path, file, text):
    tree(tmp_path, "n1", "n2")
    (tmp_path / file).write_text(text, encoding="utf-8")

    listing = read_own(tmp_path).usable()

    assert listing.names == {"n1": "brambling", "n2": "robin"}
    assert build_dataset(make_cfg(tmp_path, NAME)).classnames == ["brambling", "robin"]


def test_a_given_file_of_names_goes_before_the_one_beside_the_data(tmp_path):
    tree(tmp_path / "d", "n1", "n2")
    (tmp_path / "d" / "classnames.txt").write_text("n1 one\nn2 two\n")
    (tmp_path / "other.txt").write_text("n1 eins\nn3 drei\n")

    listing = read_own(tmp_path / "d", classnames=str(tmp_path / "other.txt"))

    assert listing.names == {"n1": "eins", "n2": "n2"}
    assert listing.notes == [
        "other.txt names classes without images: n3",
        "other.txt has no name for n2: called as they are",
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"classnames.txt": "n1 jay\nn2 Jay\n"}, 'Classes "n1" and "n2" have the same name; exp'),
        ({"classnames.csv": "0,jay\n1,owl\n"}, "names none of the 2 classes"),
        ({"classnames.txt": "n1 caf\u00e9\nn2 cafe\u0301\n"}, "have the same name"),
        ({"classnames.txt": "n1 jay\nn2 ja\u200by\n"}, "have the same name"),
        ({"classnames.txt": "only\n"}, "has 1 lines and names none of the 2 classes"),
        ({"classnames.json": "[1, 2]"}, "is of another form; expected .*folder"),
        ({"classnames.txt": "n1 a", "classnames.csv": "n1,a"}, "expected one of them. Delete"),
    ],
)
def test_wrong_files_of_names_are_refused(tmp_path, files, message):
    tree(tmp_path, "n1", "n2")
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    assert re.search(message, problem(read_own(tmp_path)))


def test_a_missing_file_of_names_is_named(tmp_path):
    tree(tmp_path, "a", "b")

    assert "x.txt: there is no such file; expected a line per class" in problem(
        read_own(tmp_path, classnames="x.txt")
    )


# ------------------------------------------------------------------ check_data
def test_check_data_lists_all_problems_of_an_own_set_at_once(tmp_path, capsys):
    root = tree(tmp_path / "birds", "blue_jay", "n01530575", count=6)
    tree(root, "single", count=1)
    (root / "empty").mkdir()
    content = image_bytes()
    for number, path in enumerate(sorted(root.rglob("*.jpg"))):
        path.write_bytes(content + bytes([number]))  # no two are the same
    (root / "blue_jay" / "copy.jpg").write_bytes((root / "n01530575" / "0.jpg").read_bytes())
    (root / "blue_jay" / "broken.jpg").write_bytes(b"no image")

    status = check_data.main([f"folder:{root}"])

    said = capsys.readouterr().out
    assert status == 1
    for text in (
        "blue_jay: train 4, val 2, test 2",
        "no images in empty: left out",
        "classes with one image (single)",
        "class names that look like ids, which the text encoder cannot read: n01530575. ",
        "the same image in several classes: blue_jay/copy.jpg = n01530575/0.jpg",
        "bad image: ",
        "too few for base-to-novel",
        "3 classes (chance 33.33%); images: train 8, val 3, test 4",
    ):
        assert text in said


def test_check_data_finds_copies_across_splits_and_splits_that_are_nearly_empty(tmp_path, capsys):
    tree(tmp_path / "train", "cat", "dog", "owl", count=4)
    tree(tmp_path / "test", "cat", count=1)

    check_data.main([f"folder:{tmp_path}"])

    said = capsys.readouterr().out
    assert "test is nearly empty (classes: 3, images: 1): one image is 100%" in said
    assert "the same image in several classes: " in said


def test_train_and_val_without_test_are_not_two_classes(tmp_path, capsys):
    tree(tmp_path / "train", "cat", "dog", count=8)
    tree(tmp_path / "val", "cat", "dog", count=2)

    assert check_data.main([f"folder:{tmp_path}"]) == 0

    said = capsys.readouterr().out
    assert "no test images: 4 of train are used as test" in said
    assert "2 classes (chance 50.00%); images: train 12, val 4, test 4" in said


def test_check_data_says_once_that_an_image_of_a_table_is_missing_or_has_two_labels(
    tmp_path, capsys
):
    tree(tmp_path, "cat", "dog", count=2)
    lines = "path,label", "cat/0.jpg,cat", "dog/0.jpg,dog", "dog/0.jpg,cat", "gone.jpg,cat"
    (tmp_path / "birds.csv").write_text("\n".join(lines))

    assert check_data.main([f"csv:{tmp_path / 'birds.csv'}"]) == 1

    said = capsys.readouterr().out
    assert "birds.csv, line 5: there is no such image" in said and "bad image: No image" not in said
    assert "birds.csv, line 4: the same image with another label" in said
    assert "dog/0.jpg = dog/0.jpg" not in said


def test_check_data_names_a_wrong_place(capsys):
    assert check_data.main(["folder:/nowhere/birds"]) == 2

    assert "there is no /nowhere/birds. Expected folder:PATH" in capsys.readouterr().err


# ------------------------------------------------------------------ what is said and refused
def test_fewer_than_two_new_classes_are_not_tested(tmp_path):
    tree(tmp_path, "a", "b", "c")

    with pytest.raises(ValueError, match="the 3 classes leave 1 new ones.*expected at least 4"):
        build_dataset(make_cfg(tmp_path, NAME, SUBSAMPLE_CLASSES="new"))


def test_base_to_novel_with_too_few_classes_does_not_start(tmp_path):
    spec = f"folder:{tree(tmp_path, 'a', 'b', 'c')}"
    runs = [["--dataset", spec, "DATASET.SUBSAMPLE_CLASSES", "base"]]

    assert preflight.data_problems([spec], "data") == []
    text = preflight.data_problems([spec], "data", halved=preflight.halved(runs))[0]
    assert "leave 1 new ones" in text and f"tools/check_data.py {spec}" in text


def test_a_toy_backbone_on_photographs_is_warned_about(tmp_path, caplog):
    folder = tree(tmp_path / "birds", "a", "b")

    config("--dataset", f"folder:{folder}", "--backbone", "toy/ViT")
    assert "trained on drawings of the toy world: its accuracies on birds say nothing" in (
        caplog.text
    )
    caplog.clear()
    config("--dataset", "toy_objects", "--backbone", "toy/ViT")
    assert "drawings" not in caplog.text


@pytest.fixture(scope="module")
def fresh_run(tmp_path_factory):
    """One run with fresh views: its results, and what was logged."""
    folder = tmp_path_factory.mktemp("run")
    tree(folder / "birds", "a", "b")
    words = ["--trainer", "TaskRes", "--dataset", f"folder:{folder}/birds", "--seed", "1"]
    words += ["--backbone", "toy/ViT", "--views", "fresh", "--output-dir", str(folder / "out")]
    opts = ["DATASET.NUM_SHOTS", "2", "OPTIM.MAX_EPOCH", "2", "DATALOADER.NUM_WORKERS", "0"]
    logged = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        results = train.main([*words, *opts])
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return results, "\n".join(logged)


def test_fresh_views_are_priced_before_they_are_encoded(fresh_run):
    _, logged = fresh_run

    assert re.search(
        r"Fresh views: 4 images × 2 epochs = 8 encodings, about 0:00:\d\d; --views bank encodes "
        r"4 × 10 and keeps them",
        logged,
    )


def test_the_chance_level_stands_beside_the_accuracy(fresh_run):
    results, logged = fresh_run

    assert results["dataset"] == "birds" and results["chance"] == 50
    assert re.search(r"accuracy [\d.]+%, macro_f1 [\d.]+%, chance 50.00%", logged)
    assert "% (chance 50.00%)" in result_line(results)
