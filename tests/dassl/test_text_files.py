"""Text files of other programs: encodings, forms and orders of columns, and what errors say."""

import json
import os

import pytest

from dassl.config.name_lists import read_names, text_or_file
from dassl.config.yaml_files import read_yaml
from dassl.utils import read_json
from dassl.utils.text_files import read_entries, read_lines, read_text
from datasets.imagenet_classes import default_classnames
from datasets.imagenet_names import read_classnames
from trainers.common.text.descriptions import read_cupl
from trainers.common.text.templates import check_templates

LONG = [f"a rather long name of bird number {i}" for i in range(20)]
CATS = ["chat siamois", "chat café"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_names_are_read_in_any_encoding_and_with_any_line_ends(tmp_path, encoding, newline):
    file = tmp_path / "names.txt"
    file.write_bytes(newline.join([*CATS, ""]).encode(encoding))

    assert read_names(str(file), "--classnames") == CATS


def test_bytes_that_are_not_unicode_are_read_as_windows_1252_and_named(tmp_path, caplog):
    file = tmp_path / "names.txt"
    file.write_bytes(b"chat siamois\nchat caf\xe9\n")

    assert read_names(str(file), "--classnames") == CATS

    assert caplog.text.count(f"{file}, line 2, is not UTF-8: read as Windows-1252") == 1


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\0" * 40])
def test_a_file_that_is_not_text_is_named(tmp_path, content):
    file = tmp_path / "names.txt"
    file.write_bytes(content)

    with pytest.raises(ValueError, match="names.txt is not a text file"):
        read_text(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\3\4\x14\0\6\0\x08\xa4word/document.xml", "a zip archive or an Office document"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(60), "an Office document"),
        (rb"{\rtf1\ansi cat\par dog}", "a document with formats"),
        (b"%PDF-1.4\n", "a PDF file"),
        (b"\xef\xbb\xbf \n<!DOCTYPE HTML><title>404</title>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a Git LFS pointer"),
        (b"\x1f\x8b\x08\0cat", "compressed"),
    ],
)
def test_a_file_that_is_evidently_another_one_is_called_what_it_is(tmp_path, content, said):
    (tmp_path / "x.json").write_bytes(content)

    with pytest.raises(ValueError, match=f"x.json is {said}.*(Save|Download|Run|Unpack) "):
        read_json(tmp_path / "x.json")


def test_a_merge_conflict_is_named_with_its_line(tmp_path):
    (tmp_path / "x.yaml").write_text("a: 1\n<<<<<<< HEAD\nb: 1\n=======\nb: 2\n>>>>>>> other\n")

    with pytest.raises(ValueError, match="x.yaml, line 2: a merge conflict. Keep one side"):
        read_yaml(tmp_path / "x.yaml")


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_not_a_regular_file_is_not_opened(tmp_path, kind):
    (os.mkdir if kind == "folder" else os.mkfifo)(tmp_path / "names")
    path = tmp_path / "names"

    with pytest.raises(ValueError, match="names is not a regular file; expected a text file"):
        read_text(path)


@pytest.mark.parametrize("given", [",".join(LONG), "\n".join(LONG), ", ".join(LONG) + ","])
def test_text_longer_than_a_path_can_be_is_text(given):
    assert text_or_file(given, "--classnames") == LONG


@pytest.mark.parametrize(
    "given",
    [
        *('["tench", "red fox"]', "['tench','red fox']", '"tench","red fox"', "[tench, red fox]"),
        *("\ufefftench,red fox", "tench\u200b,\u2060red fox", "tench,\u200b,red fox"),
        *("\u200etench\u200f, red\u00a0fox", "\u202atench\u202c,\u2066red fox\u2069"),
        *("ten\u00adch,\u200dred fox\u200d", "(tench, red fox)", '{"0": "tench", "1": "red fox"}'),
        *('classes = ["tench", "red fox"]', "\u201ctench\u201d,\u00abred fox\u00bb"),
    ],
)
def test_what_surrounds_pasted_names_is_no_part_of_them(given):
    assert read_names(given, "--classnames") == ["tench", "red fox"]


@pytest.mark.parametrize(
    "given", ["missing.txt", "lists/birds.csv", "coco.yaml", "./names", "~/lists/names", "/x/names"]
)
def test_a_path_where_nothing_lies_is_not_taken_for_a_name(given):
    with pytest.raises(FileNotFoundError, match=f"--classnames {given}: there is no such file"):
        read_names(given, "--classnames")


FORMS = {
    "lines.txt": "tench\n\n  goldfish \nred fox\n",
    "numbered.txt": "0 tench\n1 goldfish\n2 red fox\n",
    "tabs.txt": "tench\t0\ngoldfish\t1\nred fox\t2\n",
    "orders.txt": "goldfish,2\ntench,1\nred fox,3\n",
    "synsets.txt": "n01440764 tench, Tinca\nn01443537 goldfish, Carassius\nn02119022 red fox, V\n",
    "clsloc.txt": "n01440764 1 tench\nn01443537 2 goldfish\nn02119022 3 red fox\n",
    "dict.txt": "{0: 'tench, Tinca tinca',\n 1: 'goldfish',\n 2: 'red fox'}\n",
    "list.txt": '["tench",\n"goldfish",\n"red fox",\n]\n',
    "one_line.txt": "tench, goldfish, red fox\n",
    "table.csv": "id,name,count\n7,tench,3\n8,goldfish,4\n9,red fox,5\n",
    "plain.csv": "0,tench\n1,goldfish\n2,red fox\n",
    "list.json": '["tench", "goldfish", "red fox"]',
    "index.json": '{"1": "goldfish", "0": "tench", "2": "red fox"}',
    "keras.json": '{"0": ["n1", "tench"], "1": ["n2", "goldfish"], "2": ["n3", "red fox"]}',
    "labels.json": '{"goldfish": 1, "tench": 0, "red fox": 2}',
    "cupl.json": '{"tench": ["A fish."], "goldfish": ["Gold."], "red fox": ["Red."]}',
    "semicolons.csv": "id;name\n0;tench\n1;goldfish\n2;red fox\n",
    "excel.csv": "sep=;\r\nid;name\r\n1;goldfish\r\n0;tench\r\n2;red fox\r\n",
    "header.txt": "id\tname\n0\ttench\n1\tgoldfish\n2\tred fox\n",
    "two_lines.csv": 'id,name\n0,tench\n1,goldfish\n2,"red\nfox"\n',
    "yolo.yaml": "path: ../d\nnc: 3\nnames: [tench, goldfish, red fox]\n",
    "ultralytics.yml": "names:\n  0: tench\n  1: goldfish\n  2: red fox\n",
    "coco.json": '{"images": [], "categories": [{"id": 2, "name": "goldfish"}, '
    '{"id": 1, "name": "tench"}, {"id": 7, "name": "red fox"}]}',
    "model.json": '{"model_type": "vit", "id2label": {"0": "tench", "1": "goldfish", '
    '"2": "red fox"}, "label2id": {"tench": 0, "goldfish": 1, "red fox": 2}}',
    "torchvision.json": '{"meta": {"categories": ["tench", "goldfish", "red fox"]}}',
    "lines.jsonl": '{"name": "tench"}\n{"name": "goldfish"}\n{"name": "red fox"}\n',
    "json.txt": '{"0": "tench",\n "1": "goldfish",\n "2": "red fox"}\n',
    "python.txt": 'CLASSES = [\n    "tench",\n    "goldfish",\n    "red fox",\n]\n',
    "points.txt": "1. tench\n2. goldfish\n3. red fox\n",
    "brackets.txt": "1) tench\n2) goldfish\n3) red fox\n",
    "cub.txt": "1 001.tench\n2 002.goldfish\n3 003.red fox\n",
    "equals.txt": "goldfish=1\ntench=0\nred fox=2\n",
    "arrows.txt": "0 -> tench\n1 -> goldfish\n2 -> red fox\n",
    "bullets.txt": "# Fish and others\n- tench\n- goldfish\n- red fox\n",
    "quoted_ids.txt": '"n01440764","tench"\n"n01443537","goldfish"\n"n02119022","red fox"\n',
}


@pytest.mark.parametrize("name", FORMS)
def test_public_forms_of_name_lists_give_the_same_names(tmp_path, name):
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8")

    assert read_names(str(tmp_path / name), "--classnames") == ["tench", "goldfish", "red fox"]


@pytest.mark.parametrize(
    ("name", "text", "held"),
    [
        ("n.txt", "cat\x07\ndog\n", r"'cat\\x07' is not a class name, it holds '\\x07'"),
        ("n.txt", "cat\u2028dog\nowl\n", r"it holds '\\u2028'"),
        ("n.txt", "cat\tfelis\ndog\tcanis\n", r"'cat\\tfelis' is not a class name"),
        ("n.md", "| id | name |\n|---|---|\n| 0 | cat |\n", r"it holds '\|'"),
        ("n.pbtxt", 'item {\n  id: 1\n  name: "cat"\n}\n', "'item {' is not a class name"),
        ("n.txt", "nc: 2\nnames: ['cat', 'dog']\n", r"it holds '\['"),
        ("n.txt", b"Z\x81rich\nK\x94ln\n", "it holds '\ufffd'.* in UTF-8"),
        ("n.csv", "class\n0\n1\n", "its column class holds numbers, not class names"),
        ("n.json", '{"error": "not found", "status": 404}', "holds no class names"),
        ("n.json", '{"cat": true, "dog": false}', "holds no class names"),
        ("n.json", '[["cat", "dog"]]', "holds no class names"),
    ],
)
def test_what_cannot_be_a_class_name_is_refused_with_the_name(tmp_path, name, text, held):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(ValueError, match=f"{name}:? .*{held}"):
        read_names(str(tmp_path / name), "--classnames")


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_names_in_what_is_not_a_regular_file_are_refused(tmp_path, kind):
    path = tmp_path / "names"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to(tmp_path / "nowhere")

    with pytest.raises(ValueError, match="--classnames .*names is not a regular file"):
        read_names(str(path), "--classnames")


@pytest.mark.parametrize("text", ["species 0\nspecies 1\nspecies 2\n", "7 up\n9 lives\n"])
def test_numbers_that_belong_to_names_stay(tmp_path, text):
    (tmp_path / "n.txt").write_text(text)

    assert read_names(str(tmp_path / "n.txt"), "--classnames") == text.splitlines()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("n.csv", "id,name\n0,tench\n1,gold,fish\n", r'n.csv, line 3: "1,gold,fish" is not a row'),
        ("n.csv", 'id,name\n0,"a\nb"\n1,c,d\n', 'n.csv, line 4: "1,c,d" is not a row of 2'),
        ("n.csv", 'id,name\n0,"' + "a" * 200_000, "n.csv, line 2: not a row of a table"),
        ("n.json", '[1, 2]', "n.json holds no class names: expected a list of names"),
        ("n.json", '{"a": [}', r"n.json is not valid JSON: .*line 1 column"),
        ("n.json", "[" * 100_000, "n.json is not valid JSON: it is nested too deeply"),
    ],
)  # fmt: skip
def test_errors_name_the_file_and_the_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)

    with pytest.raises(ValueError, match=message):
        read_names(str(tmp_path / name), "--classnames")


def test_json_and_yaml_are_read_in_any_encoding(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf" + b'{"a": "caf\xc3\xa9"}')
    (tmp_path / "x.yaml").write_bytes("a: café\r\n".encode("utf-16"))

    assert read_json(tmp_path / "x.json") == read_yaml(tmp_path / "x.yaml") == {"a": "café"}


def test_templates_may_be_given_as_a_file(tmp_path):
    file = tmp_path / "templates.txt"
    text = '"a photo of a {}.",\r\n"art of the {}, in blue.",\r\n"the origami {}"\r\n'
    file.write_text(text, encoding="utf-8-sig")

    found = check_templates([str(file), "a {}."])

    sentences = ["a photo of a {}.", "art of the {}, in blue.", "the origami {}"]
    assert read_entries(file) == sentences and found == [*sentences, "a {}."]


def test_lines_know_where_they_stand(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\r\n a b\r\n\r\nc\x0bd")

    lines = read_lines(tmp_path / "x.txt")

    assert [(line.number, line.text) for line in lines] == [(2, "a b"), (4, "c\x0bd")]


# --------------------------------------------------------------------- ImageNet's names
LISTS = {
    "coop": "{wnid} {name}",
    "tabs": "{wnid}\t{name}",
    "last": "{name},{wnid}",
    "kaggle": "{wnid} {name}, another name",
    "clsloc": "{wnid} {number} {snake}",
    "labels": "{number},{wnid},{name}",
}


def imagenet_list(path, form, names):
    rows = enumerate(zip(default_classnames(), names), start=1)
    lines = [
        LISTS[form].format(wnid=wnid, name=name, number=number, snake=name.replace(" ", "_"))
        for number, (wnid, name) in rows
    ]
    path.write_text("\r\n".join(lines), encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("form", LISTS)
def test_every_public_order_of_columns_gives_imagenets_names(tmp_path, form):
    published = default_classnames()
    file = imagenet_list(tmp_path / "classnames.txt", form, published.values())

    found = read_classnames(file)

    assert {wnid: name.replace("_", " ") for wnid, name in found.items()} == published


@pytest.mark.parametrize("form", ["coop", "kaggle"])
def test_a_list_whose_names_belong_to_other_ids_is_refused(tmp_path, form):
    names = list(default_classnames().values())
    file = imagenet_list(tmp_path / "classnames.txt", form, [*names[1:], names[0]])

    with pytest.raises(ValueError, match=r"disagrees with ImageNet on \d+ of 1000 class names"):
        read_classnames(file)


def test_an_id_with_two_names_is_refused_and_an_odd_name_is_said(tmp_path, caplog):
    file = tmp_path / "classnames.txt"
    file.write_text("n01440764 tench\nn01443537 goldfish\nn02119022 red f\nn02119022 red fox\n")

    with pytest.raises(ValueError, match='line 4: "n02119022 red fox" is not "n02119022 red f"'):
        read_classnames(file)
    file.write_text("n01440764 ten\nn01443537 goldfish\nn02119022 red fox\n")

    assert read_classnames(file)["n01440764"] == "ten"
    assert 'line 1: "ten" is not what ImageNet calls n01440764, "tench" (1 such' in caplog.text


@pytest.mark.parametrize("line", ["tench", "n01440764", "n01440764 \t", "01440764 tench"])
def test_a_line_without_id_or_name_is_shown(tmp_path, line):
    file = tmp_path / "classnames.txt"
    file.write_text(f"n01443537 goldfish\n{line}\n")

    with pytest.raises(ValueError, match='classnames.txt, line 2: .* is not "wnid class name"'):
        read_classnames(file)


# --------------------------------------------------------------------- CuPL
@pytest.mark.parametrize("key", ["Sea or Lake", "sea_or_lake", "SEA OR LAKE", "Sea or Lake, water"])
def test_cupl_sentences_are_found_whatever_the_spelling(tmp_path, key):
    file = tmp_path / "cupl.json"
    file.write_text(json.dumps({key: ["A lake."], "Forest": ["Trees.", "Wood."]}))

    assert read_cupl(file, ["Forest", "Sea_or_Lake"]) == [["Trees.", "Wood."], ["A lake."]]


def test_cupl_names_that_differ_by_case_alone_are_not_mixed_up(tmp_path):
    file = tmp_path / "cupl.json"
    file.write_text(json.dumps({"Crane": ["A bird."], "crane": ["A machine."]}))

    assert read_cupl(file, ["crane"]) == [["A machine."]]
    with pytest.raises(KeyError, match="has no sentences for 1 of 1 classes"):
        read_cupl(file, ["CRANE"])
