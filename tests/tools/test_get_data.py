"""tools/get_data.py against a server on the loopback: no test leaves this machine."""

import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest
from dataset_trees import image_bytes
from download_server import serving
from torchvision.datasets import Flowers102

from dassl.utils import downloads
from dassl.utils.digests import DigestRecord
from tools import check_data, get_data
from tools.data_sources import arrange, drive, sources
from tools.data_sources.catalog import RECIPES, Recipe, split_file
from tools.data_sources.extras import EXTRAS
from tools.data_sources.selection import camera_places, remove_duplicates, sort_camera_images
from tools.data_sources.sources import Files, HubRepository, RemoteFile, Torchvision, is_named
from trainers.common.text.descriptions import CUPL_FILES

PACS = {f"kfold/{d}/cat/{k}.jpg" for d in ("art_painting", "photo") for k in range(5)}


def zip_of(names, content=b"x"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(names):
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(downloads, "ALLOWED", ("https://", "http://127.0.0.1:"))
    with serving({"/PACS.zip": zip_of(PACS, image_bytes())}) as server:
        yield server


@pytest.fixture
def pacs(server, monkeypatch):
    """PACS from the server: its first address is dead."""

    def use(*addresses):
        file = RemoteFile("PACS.zip", tuple(server.url + path for path in addresses), 0.001)
        recipe = Recipe(0.001, "none", (Files("a server", (file,)),), other_names={"kfold": "PACS"})
        monkeypatch.setitem(RECIPES, "pacs", recipe)

    return use


# --------------------------------------------------------------------- what there is
def test_every_real_dataset_but_imagenet_has_a_source():
    real = {n for n in check_data.known_datasets() if not n.startswith("toy_")}

    assert {*RECIPES} == real - {"imagenet", *check_data.OWN_DATA}


def test_every_address_is_encrypted():
    files = [
        f for r in RECIPES.values() for s in r.sources if isinstance(s, Files) for f in s.files
    ]
    files += [file for extra in EXTRAS.values() for file in extra.files]
    files += filter(None, (split_file(get_data.reader_of(name).__name__) for name in RECIPES))

    assert len(files) > 30
    assert [f for f in files for a in f.addresses if not a.startswith(("https://", "drive:"))] == []


def test_every_set_with_a_split_file_can_get_it():
    for name in RECIPES:
        reader = get_data.reader_of(name)
        has_split = any(piece.role == "split" for piece in reader.pieces(Path("data")))
        assert has_split == (split_file(reader.__name__) is not None), name


def test_the_cupl_files_are_those_that_dmn_reads():
    assert {file.name for file in EXTRAS["cupl"].files} == {*CUPL_FILES.values()}


def test_the_list_says_size_licence_and_sources_of_all(capsys):
    assert get_data.main(["--list"]) == 0

    said = capsys.readouterr().out
    assert all(name in said for name in [*RECIPES, *EXTRAS])
    assert (
        "18 GB" in said and "CC BY-SA 4.0" in said and "zhengli97/prompt_learning_dataset" in said
    )


def test_imagenet_is_explained_and_not_downloaded(tmp_path, capsys):
    assert get_data.main(["imagenet", "--root", str(tmp_path)]) == 1

    said = capsys.readouterr().err
    assert "register and accept its terms" in said and "DATASETS.md, section ImageNet" in said


def test_an_unknown_dataset_is_refused_with_the_known_ones(tmp_path, capsys):
    assert get_data.main(["cifar", "--root", str(tmp_path)]) == 2
    assert '"cifar" cannot be downloaded by this tool. It knows: caltech101' in (
        capsys.readouterr().err
    )


# --------------------------------------------------------------------- from download to tree
def test_a_dataset_is_ready_after_its_download(server, pacs, tmp_path, capsys):
    pacs("/PACS.zip")

    assert get_data.main(["pacs", "--root", str(tmp_path)]) == 0

    assert check_data.main(["pacs", "--root", str(tmp_path)]) == 0
    assert "domains: art_painting 5, photo 5" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == ["sha256.json"]


def test_a_dead_link_gives_way_to_the_next_address(server, pacs, tmp_path):
    pacs("/gone.zip", "/PACS.zip")

    assert get_data.main(["pacs", "--root", str(tmp_path)]) == 0
    assert [path for path, _ in server.requests] == ["/gone.zip", "/PACS.zip"]


def test_a_source_that_fails_gives_way_to_the_next(server, tmp_path, monkeypatch, capsys):
    page = RemoteFile("page.zip", (f"{server.url}/page.zip",), 0.001)
    file = RemoteFile("PACS.zip", (f"{server.url}/PACS.zip",), 0.001)
    server.files["/page.zip"] = "<html><title>We have moved</title></html>"
    found = Files("the first", (page,)), Files("the second", (file,))
    monkeypatch.setitem(RECIPES, "pacs", Recipe(0.001, "", found, other_names={"kfold": "PACS"}))

    assert get_data.main(["pacs", "--root", str(tmp_path)]) == 0
    assert "the first: " in (said := capsys.readouterr().err) and '"We have moved"' in said


def test_without_any_source_it_says_why_and_where_the_file_belongs(pacs, tmp_path, capsys):
    pacs("/gone.zip")

    assert get_data.main(["pacs", "--root", str(tmp_path)]) == 1

    said = capsys.readouterr().err
    assert "no source has sent it" in said and "/gone.zip answers 404 Not Found" in said
    assert f"it belongs to {tmp_path / 'downloads' / 'pacs' / 'files' / 'PACS.zip'}" in said


def test_an_archive_that_was_put_there_by_hand_is_used(server, pacs, tmp_path):
    pacs("/gone.zip")
    place = tmp_path / "downloads" / "pacs" / "files" / "PACS.zip"
    place.parent.mkdir(parents=True)
    place.write_bytes(server.files["/PACS.zip"])

    assert get_data.main(["pacs", "--root", str(tmp_path), "--keep"]) == 0
    assert server.requests == [] and place.is_file()


def test_what_is_in_place_is_not_fetched_again(server, pacs, tmp_path, capsys):
    pacs("/PACS.zip")
    (tmp_path / "PACS").mkdir()

    assert get_data.main(["pacs", "--root", str(tmp_path)]) == 0
    assert server.requests == [] and "pacs: in place" in capsys.readouterr().out


def test_a_download_of_another_shape_is_reported(server, pacs, tmp_path, capsys):
    pacs("/PACS.zip")
    server.files["/PACS.zip"] = zip_of(["elsewhere/photo/cat/0.jpg"])

    assert get_data.main(["pacs", "--root", str(tmp_path)]) == 1
    assert "has no PACS or kfold (folder of domain folders); it belongs to" in (
        capsys.readouterr().err
    )


def test_an_archive_that_leaves_its_folder_is_not_unpacked(server, pacs, tmp_path, capsys):
    pacs("/PACS.zip")
    server.files["/PACS.zip"] = zip_of(["../../PACS/photo/cat/0.jpg"])

    assert get_data.main(["pacs", "--root", str(tmp_path)]) == 1
    assert "leaves the folder" in capsys.readouterr().err


def test_a_full_disk_is_noticed_before_the_download(server, pacs, tmp_path, monkeypatch, capsys):
    pacs("/PACS.zip")
    usage = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr(get_data.shutil, "disk_usage", lambda folder: usage)

    assert get_data.main(["pacs", "--root", str(tmp_path)]) == 1

    assert "has 0.0 GB free; pacs needs about" in capsys.readouterr().err
    assert server.requests == []


def test_a_kind_of_source_that_a_set_lacks_is_refused(tmp_path, capsys):
    assert get_data.main(["pacs", "--source", "hub", "--root", str(tmp_path)]) == 1
    assert "--source hub: pacs has sources of the kind files" in capsys.readouterr().err


TORCHVISION = {  # what its classes leave in their folder
    "caltech101": ["caltech101/101_ObjectCategories/ant/a.jpg"],
    "oxford_pets": ["oxford-iiit-pet/images/a.jpg", "oxford-iiit-pet/annotations/trainval.txt",
                    "oxford-iiit-pet/annotations/test.txt"],
    "oxford_flowers": ["flowers-102/jpg/a.jpg", "flowers-102/imagelabels.mat"],
    "food101": ["food-101/images/pie/a.jpg", "food-101/meta/train.txt"],
    "fgvc_aircraft": [f"fgvc-aircraft-2013b/data/{name}" for name in (
        "images/a.jpg", "variants.txt", "images_variant_train.txt", "images_variant_val.txt",
        "images_variant_test.txt")],
    "dtd": ["dtd/dtd/images/banded/a.jpg", "dtd/dtd/labels/train1.txt"],
    "eurosat": ["eurosat/2750/River/a.jpg"],
    "sun397": ["SUN397/a/abbey/a.jpg", "SUN397/ClassName.txt"],
}  # fmt: skip


def test_torchvision_is_asked_for_what_it_has():
    has = {n for n, r in RECIPES.items() if any(isinstance(s, Torchvision) for s in r.sources)}

    assert has == {*TORCHVISION}


@pytest.mark.parametrize("name", TORCHVISION)
def test_downloads_of_torchvision_are_arranged_where_the_readers_look(tmp_path, name):
    for path in TORCHVISION[name]:
        place = tmp_path / "download" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    pieces = get_data.reader_of(name).pieces(tmp_path / "data")

    arrange.place(pieces, tmp_path / "download", {})

    needed = [piece for piece in pieces if piece.role == "needed"]
    assert needed and all(piece.find() for piece in needed)


@pytest.mark.skipif(
    not hasattr(Flowers102, "classes"), reason="this torchvision has no names of the flowers"
)
def test_flower_names_are_written_from_torchvision(tmp_path):
    path = tmp_path / "cat_to_name.json"

    arrange.write_flower_names(path)

    flowers = json.loads(path.read_text())
    assert len(flowers) == 102
    assert flowers["1"] == "pink primrose" and flowers["60"] == "pink-yellow dahlia"


# --------------------------------------------------------------------- sources
FORM = """<html><title>Google Drive - Virus scan warning</title>
<form id="download-form" action="{url}/PACS.zip" method="get"><input type="submit" value="Download">
<input type="hidden" name="id" value="abc"><input type="hidden" name="confirm" value="t">
</form></html>"""


def test_the_page_of_google_drive_about_large_files_is_confirmed(server, tmp_path, monkeypatch):
    monkeypatch.setattr(drive, "START", f"{server.url}/uc?id=")
    server.files["/uc"] = FORM.format(url=server.url)
    file = RemoteFile("PACS.zip", ("drive:abc",), 0.001)

    path = file.fetch(tmp_path, DigestRecord(tmp_path))

    assert path.read_bytes() == server.files["/PACS.zip"]
    assert [asked for asked, _ in server.requests] == ["/uc?id=abc", "/PACS.zip?id=abc&confirm=t"]


def test_a_quota_page_of_google_drive_says_what_to_do(server, tmp_path, monkeypatch):
    monkeypatch.setattr(drive, "START", f"{server.url}/uc?id=")
    server.files["/uc"] = "<html><title>Google Drive - Quota exceeded</title></html>"
    file = RemoteFile("PACS.zip", ("drive:abc",), 0.001)

    with pytest.raises(OSError, match=r"too many have downloaded it today\).*in a browser that is"):
        file.fetch(tmp_path, DigestRecord(tmp_path))


@pytest.fixture
def hub(server, monkeypatch):
    """The mirror, on the server, as a hub answers."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    content = server.files["/PACS.zip"]
    digest = hashlib.sha256(content).hexdigest()
    names = {"README.md": None, "pacs.zip": {"sha256": digest, "size": len(content)}}
    siblings = [{"rfilename": n, "size": 9, "blobId": "0", "lfs": lfs} for n, lfs in names.items()]
    commit = "c" * 40
    for lfs in filter(None, names.values()):
        lfs["pointerSize"] = 9
    listing = {"id": "some/mirror", "sha": commit, "siblings": siblings}
    server.files["/api/datasets/some/mirror"] = json.dumps(listing).encode()
    server.files[f"/datasets/some/mirror/resolve/{commit}/pacs.zip"] = content
    server.headers = {"X-Repo-Commit": commit}
    return HubRepository("some/mirror", endpoint=server.url)


def test_a_mirror_on_the_hub_is_asked_for_its_list(hub, server, tmp_path):
    hub.fetch(tmp_path / "pacs", DigestRecord(tmp_path), ["PACS"])

    assert (tmp_path / "pacs" / "pacs.zip").read_bytes() == server.files["/PACS.zip"]
    assert json.loads((tmp_path / "sha256.json").read_text())["pacs/pacs.zip"]["bytes"]


def test_a_file_of_another_digest_than_the_hub_publishes_is_refused(hub, server, tmp_path):
    (name,) = (path for path in server.files if path.endswith("pacs.zip"))
    server.files[name] = b"?" * len(server.files[name])

    with pytest.raises(OSError, match="has SHA-256 .*, some/mirror@c+ publishes"):
        hub.fetch(tmp_path / "pacs", DigestRecord(tmp_path), ["PACS"])


def test_a_mirror_without_the_dataset_says_what_it_has(hub, tmp_path):
    with pytest.raises(OSError, match=r"has no file for vlcs\. It has: README.md, pacs.zip"):
        hub.fetch(tmp_path, DigestRecord(tmp_path), ["vlcs"])


def test_a_hub_that_is_not_there_is_said_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(OSError, match="hub does not answer"):
        HubRepository("some/mirror").fetch(tmp_path, DigestRecord(tmp_path), ["pacs"])


@pytest.mark.parametrize("path", ["food101.zip", "Food-101.tar.gz", "food-101/images/a.zip"])
def test_files_of_a_mirror_are_known_by_their_names(path):
    assert is_named(path, ["food101", "food-101"])
    assert not is_named(path, ["food"])


def test_a_file_that_differs_from_the_first_download_is_refused(server, tmp_path):
    file = RemoteFile("PACS.zip", (f"{server.url}/PACS.zip",), 0.001)
    file.fetch(tmp_path, DigestRecord(tmp_path)).unlink()
    server.files["/PACS.zip"] = zip_of(["another"])

    with pytest.raises(OSError, match="when it first came from .*PACS.zip. Delete the file"):
        file.fetch(tmp_path, DigestRecord(tmp_path))


def test_a_file_that_is_much_larger_than_listed_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "SPARE", 10)
    file = RemoteFile("PACS.zip", (f"{server.url}/PACS.zip",), 1e-8)

    with pytest.raises(OSError, match="bytes; at most 30 are expected"):
        file.fetch(tmp_path, DigestRecord(tmp_path))


# --------------------------------------------------------------------- DomainBed's selections
CAMERAS = {
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "car"}],
    "images": [{"id": str(i), "file_name": f"{i}.jpg", "location": place}
               for i, place in enumerate(["38", 43, "99", "100"])],
    "annotations": [{"image_id": image, "category_id": category}
                    for image, category in (("0", 1), ("0", 1), ("1", 1), ("1", 2), ("2", 1),
                                            ("3", 3))],
}  # fmt: skip


def test_terra_incognita_keeps_four_locations_and_ten_classes(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(CAMERAS))
    images = tmp_path / "images"
    images.mkdir()
    for name in ("0.jpg", "1.jpg", "2.jpg", "3.jpg"):
        (images / name).write_bytes(b"x")

    places = camera_places([tmp_path / "a.json"])
    missing = sort_camera_images(images, places, tmp_path / "set")

    found = sorted(p.relative_to(tmp_path / "set").as_posix() for p in tmp_path.rglob("set/*/*/*"))
    assert found == ["location_38/cat/0.jpg", "location_43/cat/1.jpg", "location_43/dog/1.jpg"]
    assert missing == 0


def test_a_file_that_does_not_hold_camera_annotations_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{}")

    with pytest.raises(ValueError, match="a.json is not a file of camera trap annotations"):
        camera_places([tmp_path / "a.json"])


def test_domain_net_is_put_together_without_its_duplicates(tmp_path):
    for domain in arrange.DOMAINS:
        for name in ("a.jpg", "b.jpg"):
            path = tmp_path / arrange.UNPACKED / domain / "cat" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (tmp_path / "domain_net_duplicates.txt").write_text("real/cat/a.jpg\nreal/cat/gone.jpg\n")

    arrange.prepare_domain_net(tmp_path)

    found = [path.name for path in tmp_path.rglob("domain_net/real/cat/*")]
    assert found == ["b.jpg"]
    assert len([*tmp_path.rglob("domain_net/*/cat/*.jpg")]) == 11


@pytest.mark.parametrize("line", ["../../etc/passwd", "/etc/passwd"])
def test_a_list_of_duplicates_cannot_name_other_files(tmp_path, line):
    (tmp_path / "list.txt").write_text(line)

    with pytest.raises(ValueError, match="which is not in the dataset's folder"):
        remove_duplicates(tmp_path / "set", tmp_path / "list.txt")
