"""VL2V-ADiP end to end: stages, white box, baselines, black-box teachers, deployment."""

import sqlite3
import threading
import urllib.error

import pytest
import torch
from step_world import (
    CLASSES,
    accuracies,
    make_domains,
    make_teacher,
    step_args,
    step_config,
    step_run,
)
from tiny_open_clip import tiny_open_clip

import datasets  # noqa: F401
import trainers  # noqa: F401
from clip import load_backbone
from dassl.data.pixels import normalise, unit_pixels
from dassl.engine import build_trainer
from dassl.engine.command.cli import make_config, make_parser
from dassl.engine.command.run import run
from dassl.engine.steps.domains import ResizedImages
from dassl.engine.steps.files import load_network, network_of
from dassl.modeling.heads import (
    Student,
    StudentClassifier,
    TextHead,
    build_student,
    empty_student,
    import_official,
)
from dassl.modeling.networks import full_name
from dassl.utils import load_checkpoint, read_image
from tools import export
from tools.teacher_server import TeacherHandler, TeacherServer
from trainers.common.teachers.deploy import load_deployed
from trainers.common.teachers.http import HttpTeacher, ResponseCache
from trainers.common.teachers.new_classes import replace_classes
from trainers.common.teachers.teacher import (
    CallableTeacher,
    ClipTeacher,
    Renormalise,
    class_embeddings,
    prompt_names,
    prompt_templates,
    run_templates,
)
from trainers.miro import tap_outputs
from trainers.vl2v_adip import VL2VAlign, kd_losses

OWN_TEMPLATES = ("DATASET.TEMPLATES", "('a red {}', '{}')")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def domains(tmp_path_factory):
    return make_domains(tmp_path_factory.mktemp("domains"))


@pytest.fixture(scope="module")
def distilled(domains, tmp_path_factory):
    """A run of both stages: (folder, results)."""
    folder = tmp_path_factory.mktemp("run")
    words = ("INPUT.TRANSFORMS", "('random_flip','normalize')", "STEPS.N", "31", "STEPS.FREQ", "10")
    return folder, step_run(domains, folder, "VL2VADiP", *words, "OPTIM.LR", "3e-3")


# --------------------------------------------------------------------- the two stages
def test_both_stages_run_and_the_student_follows_the_teacher(distilled):
    folder, results = distilled

    assert results["metrics"]["test"]["accuracy"] > 60
    rows = {"training-domain validation", "SWAD", "SWAD (inD)", "test", "teacher queries"}
    assert rows <= set(results["metrics"])
    for stage in ("align", "distill"):
        present = {path.name for path in (folder / stage).iterdir()}
        expected = {"config.yaml", "log.txt", "metrics.jsonl", "results.json", "best", "swad"}
        assert expected <= present


def test_align_moves_the_projection_only_and_distill_the_student_only(distilled):
    folder = distilled[0]
    align = load_checkpoint(str(folder / "align" / "best"))["state_dict"]
    distill = load_checkpoint(str(folder / "distill" / "best"))["state_dict"]
    swad = load_checkpoint(str(folder / "align" / "swad"))["state_dict"]

    for key in align:
        if key.startswith(("projection.", "head.")):
            assert torch.equal(align[key], distill[key])
        elif "running" not in key and "num_batches" not in key:
            assert torch.equal(align[key], swad[key])
    assert not torch.equal(align["projection.weight"], swad["projection.weight"])
    key = "student.network.conv1.weight"
    assert not torch.equal(align[key], distill[key])


def test_no_gradient_enters_the_frozen_student_of_align(domains, tmp_path):
    trainer = build_trainer(step_config(domains, tmp_path, "VL2VAlign"))
    batch = next(iter(trainer.train_loader_x))
    images, labels = trainer.parse_batch_train(batch)[:2]

    trainer.losses(images, labels)["loss"].backward()

    grads = {name for name, p in trainer.network.named_parameters() if p.grad is not None}
    assert grads == {"projection.weight", "projection.bias"}
    assert trainer.network.student(images).grad_fn is None


def test_an_interrupted_stage_goes_on_where_it_was(domains, tmp_path, monkeypatch):
    monkeypatch.setenv("VLTUNE_RESUME_SECONDS", "0")
    whole = step_run(domains, tmp_path / "whole", "VL2VADiP")
    from trainers.vl2v_adip import VL2VDistill

    class Killed(Exception):
        pass

    def die(self):
        if self.epoch == 2:
            raise Killed
        super(VL2VDistill, self).before_epoch()

    with monkeypatch.context() as patch:
        patch.setattr(VL2VDistill, "before_epoch", die, raising=False)
        with pytest.raises(Killed):
            step_run(domains, tmp_path / "killed", "VL2VADiP")
    resumed = step_run(domains, tmp_path / "killed", "VL2VADiP")

    assert accuracies(resumed) == accuracies(whole)


def test_distill_alone_takes_the_stage_beside_it_or_says_what_is_missing(domains, tmp_path):
    with pytest.raises(ValueError, match="VL2VADiP"):
        step_run(domains, tmp_path / "distill", "VL2VDistill")
    step_run(domains, tmp_path / "run" / "align", "VL2VAlign")

    results = step_run(domains, tmp_path / "run" / "distill", "VL2VDistill")

    assert results["finished"]


def test_distill_refuses_an_align_run_that_is_unfinished_or_of_another_prompt(domains, tmp_path):
    align = tmp_path / "run" / "align"
    words = ("MODEL.INIT_WEIGHTS", str(align))
    step_run(domains, align, "VL2VAlign", "STEPS.N", "4")

    with pytest.raises(ValueError, match="prompt_style 2"):
        step_run(domains, tmp_path / "a", "VL2VDistill", *words, "TRAINER.VL2V.PROMPT_STYLE", "3")
    with pytest.raises(ValueError, match=r"templates \['a photo of a {}'\]"):
        step_run(domains, tmp_path / "t", "VL2VDistill", *words, *OWN_TEMPLATES)
    (align / "results.json").unlink()
    with pytest.raises(ValueError, match="not a finished run"):
        step_run(domains, tmp_path / "b", "VL2VDistill", *words)


def test_an_align_run_that_would_save_nothing_is_refused(domains, tmp_path):
    with pytest.raises(ValueError, match="MODEL_SAVE.ALIGN is 0"):
        step_run(domains, tmp_path, "VL2VADiP", "TRAINER.VL2V.MODEL_SAVE.ALIGN", "0")


def test_queries_count_images_and_texts(distilled):
    queries = distilled[1]["metrics"]["teacher queries"]

    assert queries["images"] == 31 * 2 * 4  # steps x source domains x images
    assert queries["texts"] == len(CLASSES)


@pytest.mark.parametrize("kind", ["kd_kl", "kd_cos", "img_only", "txt_only", "one_stage"])
def test_every_naive_distillation_runs(domains, tmp_path, kind):
    words = ("STEPS.N", "4", "TRAINER.NAIVEKD.LOSS", kind)
    results = step_run(domains, tmp_path, "NaiveKD", *words)

    asked = results["metrics"]["teacher queries"]["images"]
    assert asked == (0 if kind == "txt_only" else 4 * 8)


def test_the_temperature_of_naive_distillation_divides_both_logits():
    logits, labels = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([1])
    teacher = torch.tensor([[3.0, 1.0, 2.0]])

    losses = kd_losses(logits, labels, teacher, kind="kd_cos", weight=0.5, temperature=2.0)

    student, target = (logits / 2).softmax(-1), (teacher / 2).softmax(-1)
    expected = -student[0, 1].log() - 0.5 * torch.cosine_similarity(student, target)[0]
    torch.testing.assert_close(losses["loss"], expected)


def test_variances_of_miro_start_where_asked_and_above_their_smallest_value(domains, tmp_path):
    words = ("TRAINER.MIRO.VAR_INIT", "0.5", "TRAINER.MIRO.VAR_EPS", "0.2")
    objective = build_trainer(step_config(domains, tmp_path, "MIRO", *words)).objective

    assert objective.b[0].exp().log1p()[0].item() + 0.2 == pytest.approx(0.5)
    with pytest.raises(ValueError, match="VAR_INIT is 0.1 and VAR_EPS 0.2; expected 0 <= VAR_EPS"):
        build_trainer(step_config(domains, tmp_path, "MIRO", *words[2:]))


@pytest.mark.parametrize(
    ("trainer", "key", "value"),
    [("NaiveKD", "TRAINER.NAIVEKD.TEMPERATURE", "0"), ("ERM", "TRAINER.ERM.PROJECTED_WIDTH", "0")],
)
def test_a_temperature_or_width_of_zero_is_refused(domains, tmp_path, trainer, key, value):
    with pytest.raises(ValueError, match=f"{key} is 0"):
        build_trainer(step_config(domains, tmp_path, trainer, key, value))


@pytest.mark.parametrize("norm", ["clip", "imagenet"])
def test_zero_shot_sees_the_images_of_the_protocol(domains, tmp_path, norm):
    words = ["INPUT.TEACHER_NORM", norm, "MODEL.BACKBONE.NAME", "toy/ViT"]
    flags = ["--trainer", "ZeroshotCLIP", "--dataset", "domain_folder", "--root", str(domains)]
    flags += ["--target-domains", "paper", "--seed", "1", "--output-dir", str(tmp_path)]
    trainer = build_trainer(make_config(make_parser().parse_args([*flags, *words])))
    items, size = trainer.dm.dataset.test, trainer.clip.visual.input_resolution
    pixels = next(ResizedImages(items, size=(size, size)).batches(len(items)))

    features = trainer.bank.test(items).rows(range(len(items)))

    clip = trainer.clip
    mean, std = (MEAN, STD) if norm == "imagenet" else (clip.image_mean, clip.image_std)
    expected = clip.encode_image(normalise(unit_pixels(pixels), mean, std))
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("words", "width"), [((), 512), (("TRAINER.ERM.PROJECTED_WIDTH", "7"), 7)])
def test_a_projected_head_has_512_dimensions_or_as_many_as_asked(domains, tmp_path, words, width):
    words = ("TRAINER.ERM.HEAD", "projected", *words)
    trainer = build_trainer(step_config(domains, tmp_path, "ERM", *words))

    assert trainer.network.head.weight.shape == (len(CLASSES), width)


def test_white_box_refuses_a_student_that_is_not_the_teacher(domains, tmp_path):
    with pytest.raises(ValueError, match="clip:"):
        build_trainer(step_config(domains, tmp_path, "VL2VSD"))


def test_official_checkpoints_are_three_renames(distilled):
    model, checkpoint = load_deployed(distilled[0])
    ours = checkpoint["state_dict"]
    names = {"student.network.": "featurizer.network.", "projection.": "proj_lyr."}
    names["head."] = "classifier."
    official = {}
    for key, value in ours.items():
        prefix = next(p for p in names if key.startswith(p))
        official[names[prefix] + key[len(prefix) :]] = value
    official["clip_cls.weight"] = ours["head.weight"]

    assert set(import_official(official)) == set(ours)
    load_network(model.network, {"model_dict": official}, "file")
    with pytest.raises(ValueError, match="neither ours"):
        import_official({"layer.weight": ours["head.weight"]})


# --------------------------------------------------------------------- students
@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("rn50", "torchvision:resnet50"),
        ("vitb", "timm:vit_base_patch16_224.augreg_in21k_ft_in1k"),
        ("vits", "timm:vit_small_patch16_224.augreg_in21k_ft_in1k"),
        ("deits", "timm:deit_small_distilled_patch16_224.fb_in1k"),
    ],
)
def test_short_names_name_the_published_weights(short, full):
    assert full_name(short) == full


@pytest.mark.parametrize("name", ["RN50", "vitx", "timm:", "resnet50"])
def test_an_unknown_student_lists_the_known_ones(name):
    with pytest.raises(ValueError, match="vits"):
        full_name(name)


def test_a_timm_model_without_weight_tag_is_refused():
    with pytest.raises(ValueError, match="needs a weight tag"):
        build_student("timm:vit_tiny_patch16_224")


def test_missing_weights_are_explained(monkeypatch):
    import timm

    def offline(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(FileNotFoundError, match="MODEL.BACKBONE.PRETRAINED False"):
        build_student("vits")


def test_random_initialisation_needs_no_weights():
    student = build_student("timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k", pretrained=False)

    assert student(torch.zeros(2, 3, 224, 224)).shape == (2, 192)
    assert not student.takes_any_size


@pytest.mark.parametrize("name", ["timm:mobilenetv3_small_100.lamb_in1k", "timm:ghostnet_100.in1k"])
def test_the_width_is_that_of_what_comes_out(name):
    student = build_student(name, pretrained=False)

    assert student(torch.zeros(2, 3, 224, 224)).shape == (2, student.width)


def test_a_network_that_gives_no_row_of_features_is_refused():
    with pytest.raises(ValueError, match="expected one row of features"):
        build_student("torchvision:convnext_tiny", pretrained=False)


@pytest.mark.parametrize("model", ["timm:resnet18.a1_in1k", "torchvision:resnet18", "toy"])
def test_a_weight_file_of_something_else_is_refused(tmp_path, model):
    torch.save({"other.weight": torch.zeros(3)}, tmp_path / "other.pth")

    with pytest.raises(ValueError, match=r"other\.pth holds no weights of "):
        build_student(model, weights=str(tmp_path / "other.pth"))


def test_a_local_weight_file_takes_the_place_of_the_download(tmp_path):
    source = build_student("timm:resnet18.a1_in1k", pretrained=False).network
    torch.save(source.state_dict(), tmp_path / "mine.pth")

    student = build_student("timm:resnet18.a1_in1k", weights=str(tmp_path / "mine.pth"))

    assert torch.equal(student.network.layer4[1].conv2.weight, source.layer4[1].conv2.weight)


def test_deit_averages_class_and_distillation_tokens():
    name = "timm:deit_tiny_distilled_patch16_224.fb_in1k"
    student = build_student(name, pretrained=False).eval()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))

    tokens = student.network.forward_features(images)

    torch.testing.assert_close(student(images), (tokens[:, 0] + tokens[:, 1]) / 2)


def test_a_clip_student_is_its_image_tower_and_rebuilds_without_the_clip():
    student = build_student("clip:toy/ViT")
    size = student.input_size
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))

    again = empty_student("clip:toy/ViT", student.network.state_dict(), input_size=size)
    again.network.load_state_dict(student.network.state_dict())

    assert torch.equal(again.eval()(images), student.eval()(images))
    assert len(tap_outputs(student, images)[1]) == 5


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_an_open_clip_student_is_deployed_without_its_original_weights(
    domains, tmp_path, monkeypatch, quick_gelu
):
    name = tiny_open_clip(tmp_path, monkeypatch, quick_gelu=quick_gelu)[0]
    words = ("MODEL.BACKBONE.NAME", f"clip:{name}", "MODEL.BACKBONE.PRETRAINED", "True")
    step_run(domains, tmp_path / "run", "ERM", *words, "STEPS.N", "4")
    old = load_checkpoint(str(tmp_path / "run" / "best"))
    tower = {"heads": 2, "activation": "QuickGELU" if quick_gelu else "GELU"}
    assert old.pop("tower") == tower
    as_before = network_of(old).eval()  # files without the entry load the original weights
    next(tmp_path.glob("*.pt")).unlink()

    deployed = load_deployed(tmp_path / "run")[0].network

    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(deployed(images), as_before(images))


def test_a_clip_student_from_a_file_is_deployed_without_that_file(domains, tmp_path):
    path = tmp_path / "mine.pt"
    torch.save(load_backbone("toy/ViT").state_dict(), path)
    words = ("MODEL.BACKBONE.NAME", f"clip:{path}", "MODEL.BACKBONE.PRETRAINED", "True")
    step_run(domains, tmp_path / "run", "LP", *words, "STEPS.N", "4")
    path.unlink()

    assert load_deployed(tmp_path / "run")[1]["backbone"] == f"clip:{path}"


def test_the_texts_of_clip_fine_tuning_come_from_the_given_weights(domains, tmp_path):
    path = tmp_path / "mine.pt"
    torch.save(load_backbone("toy/ViT").state_dict(), path)
    words = ("MODEL.BACKBONE.NAME", "clip:ViT-L/14", "MODEL.BACKBONE.PRETRAINED", "True")
    words += ("MODEL.BACKBONE.WEIGHTS", str(path), "TRAINER.ERM.HEAD", "text")
    trainer = build_trainer(step_config(domains, tmp_path / "run", "ERM", *words))

    texts = class_embeddings(ClipTeacher(load_backbone("toy/ViT")), CLASSES, prompt_templates(2))
    rows = torch.nn.functional.normalize(trainer.network.head.weight.detach(), dim=-1)
    torch.testing.assert_close(rows, texts)


def test_a_student_without_a_clip_tower_is_refused(tmp_path, monkeypatch):
    vision = {"pool_type": "avg"}
    name = tiny_open_clip(tmp_path, monkeypatch, quick_gelu=True, vision=vision)[0]

    with pytest.raises(ValueError, match="no image tower of CLIP's layout"):
        build_student(f"clip:{name}")


# --------------------------------------------------------------------- teachers
def test_prompt_styles_are_those_of_the_official_code():
    assert prompt_templates(2) == ("a photo of a {}",)
    assert prompt_names(6, ["dog", "cat"]) == ["0", "1"]
    with pytest.raises(ValueError, match="PROMPT_STYLE is 4; expected one of 1, 2, 3, 5, 6"):
        prompt_templates(4)


def test_templates_of_the_command_line_replace_those_of_the_prompt_style(domains, tmp_path):
    trainer = build_trainer(step_config(domains, tmp_path, "VL2VAlign", *OWN_TEMPLATES))

    expected = class_embeddings(make_teacher(), CLASSES, ["a red {}", "{}"])
    torch.testing.assert_close(trainer.class_texts, expected)
    assert not torch.allclose(expected, class_embeddings(make_teacher(), CLASSES, ["{}"]))


def test_a_prompt_style_counts_beside_the_sentence_of_a_domain_dataset(domains, tmp_path):
    cfg = step_config(domains, tmp_path, "VL2VAlign", "TRAINER.VL2V.PROMPT_STYLE", "3")

    assert tuple(cfg.DATASET.TEMPLATES) == ("a photo of a {}",)
    assert run_templates(cfg, cfg.TRAINER.VL2V.PROMPT_STYLE) == prompt_templates(3)


def test_underscores_of_class_names_become_blanks():
    seen = []

    def encode_text(texts):
        seen.extend(texts)
        return torch.ones(len(texts), 4)

    class_embeddings(CallableTeacher(torch.flatten, encode_text), ["red_panda"], ["a {}"])

    assert seen == ["a red panda"]


def test_a_template_without_a_place_for_the_name_is_refused():
    with pytest.raises(ValueError, match="must hold exactly one"):
        class_embeddings(make_teacher(), ["red", "blue"], ["a photo"])


@pytest.mark.parametrize("spec", ["python:nowhere:make", "python:step_world:nothing"])
def test_a_teacher_that_cannot_be_imported_is_explained(domains, tmp_path, spec):
    with pytest.raises(ValueError, match="PYTHONPATH"):
        step_run(domains, tmp_path, "VL2VAlign", "TRAINER.VL2V.TEACHER", spec)


def test_renormalising_equals_normalising_anew():
    pixels = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    other = Renormalise(MEAN, STD, (0.4, 0.5, 0.6), (0.1, 0.2, 0.3))

    expected = (pixels - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor(
        [0.1, 0.2, 0.3]
    ).view(3, 1, 1)
    torch.testing.assert_close(other((pixels - mean) / std), expected)


@pytest.fixture
def endpoint():
    """A running teacher server."""
    server = TeacherServer(("127.0.0.1", 0), make_teacher(), mean=MEAN, std=STD)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def address(server):
    return f"http://127.0.0.1:{server.server_address[1]}"


def test_an_endpoint_answers_like_the_teacher_behind_it(endpoint, tmp_path):
    pixels = torch.randint(0, 256, (3, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    images = (pixels / 255 - mean) / std
    remote = HttpTeacher(address(endpoint), mean=MEAN, std=STD, cache=tmp_path / "c.sqlite")

    near = make_teacher()
    assert remote.scale == near.scale
    torch.testing.assert_close(
        remote.encode_image(images), near.encode_image(images), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(remote.encode_text(["a red"]), near.encode_text(["a red"]))


def test_an_endpoint_is_asked_for_nothing_twice(endpoint, tmp_path):
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = torch.cat([images, images[:1]])
    cache = tmp_path / "c.sqlite"
    first = HttpTeacher(address(endpoint), cache=cache)
    first.encode_image(images)
    second = HttpTeacher(address(endpoint), cache=cache)
    again = second.encode_image(images)

    assert first.queries.images == 3  # the fourth is the first one again
    assert first.queries.as_dict()["cached_images"] == 1
    assert second.queries.images == 0
    assert second.queries.as_dict()["cached_images"] == 4
    assert endpoint.teacher.queries.images == 3
    torch.testing.assert_close(again[0], again[3])


def test_a_failing_endpoint_is_tried_again(endpoint, tmp_path, monkeypatch):
    remote = HttpTeacher(address(endpoint), cache=tmp_path / "c.sqlite", wait=0.0, retries=2)
    send, failures = remote._request, [503, 503]

    def flaky(path, body):
        if failures:
            raise urllib.error.HTTPError(remote.url, failures.pop(), "busy", {}, None)
        return send(path, body)

    monkeypatch.setattr(remote, "_request", flaky)
    assert remote.encode_text(["red"]).shape == (1, 8)
    failures.extend([503, 503, 503])
    with pytest.raises(RuntimeError, match="3 tries"):
        remote.encode_text(["green"])


def test_a_refusal_is_told_in_the_words_of_the_endpoint(endpoint, tmp_path):
    remote = HttpTeacher(address(endpoint), cache=tmp_path / "c.sqlite")

    with pytest.raises(RuntimeError, match=r"/nothing refused: HTTP 404. .*no address /nothing"):
        remote._ask("nothing")


def test_an_answer_that_is_no_number_is_not_kept(endpoint, tmp_path, monkeypatch):
    remote = HttpTeacher(address(endpoint), cache=tmp_path / "c.sqlite")
    with monkeypatch.context() as patch:
        patch.setattr(remote, "_ask", lambda *_: {"embeddings": [[1.0, float("nan")]]})
        with pytest.raises(RuntimeError, match=r"\(1, D\), all finite"):
            remote.encode_text(["red"])

    assert torch.isfinite(remote.encode_text(["red"])).all()
    assert remote.queries.texts == 2  # both were answered


@pytest.mark.parametrize("keep", [0, 20])
def test_an_answer_that_was_cut_off_is_asked_for_again(endpoint, tmp_path, keep, monkeypatch):
    remote = HttpTeacher(address(endpoint), cache=tmp_path / "c.sqlite", wait=0.0)
    whole, cuts = TeacherHandler._reply, [True]

    def reply(self, status, content):
        if not cuts:
            whole(self, status, content)
            return
        cuts.pop()
        self.send_response(status)
        self.send_header("Content-Length", str(keep or 2))
        self.end_headers()
        self.wfile.write(b'{"embeddings": [[1.0'[:keep])

    monkeypatch.setattr(TeacherHandler, "_reply", reply)

    torch.testing.assert_close(remote.encode_text(["red"]), make_teacher().encode_text(["red"]))


def test_a_server_with_another_normalisation_has_another_name(tmp_path):
    names = []
    for name in ("colours, imagenet statistics", "colours, clip statistics"):
        server = TeacherServer(("127.0.0.1", 0), make_teacher(), mean=MEAN, std=STD, name=name)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        names.append(HttpTeacher(address(server), cache=tmp_path / "c.sqlite").name)
        server.shutdown()
        server.server_close()

    assert names == ["colours, imagenet statistics", "colours, clip statistics"]


def test_a_normalisation_that_the_teacher_would_not_follow_is_refused(domains, tmp_path):
    with pytest.raises(ValueError, match="TEACHER_NORM"):
        step_run(domains, tmp_path, "VL2VAlign", "INPUT.TEACHER_NORM", "clip")


def test_a_run_through_an_endpoint_pays_once(endpoint, domains, tmp_path):
    words = ("TRAINER.VL2V.TEACHER", address(endpoint), "STEPS.N", "4")
    first = step_run(domains, tmp_path / "a", "VL2VAlign", *words)
    second = step_run(domains, tmp_path / "b", "VL2VAlign", *words)

    rows = [r["metrics"]["teacher queries"] for r in (first, second)]
    assert rows[0]["images"] + rows[0]["cached_images"] == 4 * 8
    assert rows[1]["images"] == 0
    assert first["metrics"]["test"] == second["metrics"]["test"]


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("resume_seconds", ["0", "1000"])
def test_what_was_asked_before_a_kill_stays_paid(
    endpoint, domains, tmp_path, monkeypatch, resume_seconds
):
    monkeypatch.setenv("VLTUNE_RESUME_SECONDS", resume_seconds)
    words = ("TRAINER.VL2V.TEACHER", address(endpoint), "STEPS.N", "7")
    whole = step_run(domains, tmp_path / "whole", "VL2VAlign", *words)["metrics"]
    original = VL2VAlign.forward_backward

    def die(self, batch):
        losses = original(self, batch)
        if self.step == 5:  # two steps after the last resume file, if there is any
            raise Killed
        return losses

    monkeypatch.setenv("VLTUNE_CACHE", str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        patch.setattr(VL2VAlign, "forward_backward", die)
        with pytest.raises(Killed):
            step_run(domains, tmp_path / "killed", "VL2VAlign", *words)
    before = endpoint.teacher.queries.images
    resumed = step_run(domains, tmp_path / "killed", "VL2VAlign", *words)["metrics"]

    assert endpoint.teacher.queries.images - before == 8  # those of the last step, no more
    assert resumed == whole
    assert not list((tmp_path / "killed").glob("resume.*"))


def test_a_teacher_without_a_cache_is_asked_again_after_a_kill(domains, tmp_path, monkeypatch):
    monkeypatch.setenv("VLTUNE_RESUME_SECONDS", "0")
    original = VL2VAlign.forward_backward

    def die(self, batch):
        if self.step == 3:
            raise Killed
        return original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(VL2VAlign, "forward_backward", die)
        with pytest.raises(Killed):
            step_run(domains, tmp_path, "VL2VAlign", "STEPS.N", "4")
    queries = step_run(domains, tmp_path, "VL2VAlign", "STEPS.N", "4")["metrics"]["teacher queries"]

    assert queries["images"] == (4 + 2) * 8  # steps 1 and 2 twice
    assert queries["texts"] == 2 * len(CLASSES)


def test_a_run_that_is_refused_leaves_no_journal_of_queries(domains, tmp_path):
    with pytest.raises(ValueError, match="MODEL_SAVE"):
        step_run(domains, tmp_path / "a", "VL2VAlign", "TRAINER.VL2V.MODEL_SAVE.ALIGN", "99")
    with pytest.raises(ValueError, match="starts from the stage align"):
        step_run(domains, tmp_path / "b", "VL2VDistill")

    assert not list(tmp_path.rglob("resume.*"))


def test_an_evaluation_leaves_no_journal_of_queries(domains, tmp_path):
    step_run(domains, tmp_path / "run", "VL2VADiP", "STEPS.N", "4")
    words = step_args(domains, tmp_path / "eval", "VL2VADiP", "STEPS.N", "4")
    args = make_parser().parse_args(["--eval-only", "--model-dir", str(tmp_path / "run"), *words])

    run(args, make_config(args))

    assert not list(tmp_path.rglob("resume.*"))


def test_the_database_of_answers_is_closed(tmp_path):
    cache = ResponseCache(tmp_path / "c.sqlite")
    with cache._open() as database:
        database.execute("INSERT INTO answers VALUES (?, ?)", (b"key", b"row"))

    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        database.execute("SELECT 1")
    with pytest.raises(ZeroDivisionError), cache._open() as database:
        database.execute("DELETE FROM answers")
        raise ZeroDivisionError
    with cache._open() as database:
        assert database.execute("SELECT COUNT(*) FROM answers").fetchone() == (1,)


# --------------------------------------------------------------------- deployment
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_an_exported_student_gives_the_same_logits(distilled, tmp_path, suffix):
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
    output = tmp_path / f"student{suffix}"

    about = export.main(["--model-dir", str(distilled[0]), "--output", str(output)])

    assert output.is_file()
    assert about["classnames"] == list(CLASSES)
    assert about["largest_relative_difference"] <= export.TOLERANCE
    assert about["resize"] == "the whole image, whatever its aspect ratio, bilinear"


def test_a_student_is_no_bundle(distilled, tmp_path):
    with pytest.raises(ValueError, match="trains a student.*as a program: --output .*pt2"):
        export.main(["--model-dir", str(distilled[0]), "--output", str(tmp_path / "bundle")])

    assert not (tmp_path / "bundle").exists()


def test_an_export_that_disagrees_is_refused(distilled):
    model, checkpoint = load_deployed(distilled[0])

    with pytest.raises(RuntimeError, match="differ"):
        export.largest_difference(model, lambda x: model(x) + 1.0, checkpoint["input_size"])


@pytest.mark.parametrize("words", [["--template", "a {}"], ["--text-encoder", "toy/ViT"]])
def test_text_options_of_an_export_without_new_classes_are_refused(distilled, tmp_path, words):
    flags = ["--model-dir", str(distilled[0]), "--output", str(tmp_path / "s.pt2")]

    with pytest.raises(ValueError, match=f"{words[0]} has no effect without --classnames"):
        export.main([*flags, *words])


def test_what_cannot_be_exported_is_told_with_what_to_do_instead(domains, tmp_path):
    def message(folder):
        with pytest.raises((ValueError, OSError)) as info:
            export.main(["--model-dir", str(folder), "--output", str(tmp_path / "s.pt2")])
        return str(info.value)

    assert f"No checkpoint under {tmp_path / 'nowhere'}" in message(tmp_path / "nowhere")
    assert "--model-dir takes the directory of a finished run" in message(domains)
    (tmp_path / "run" / "network").mkdir(parents=True)
    file = tmp_path / "run" / "network" / "model.pth.tar-2"
    torch.save({"trainer": "ERM", "state_dict": {}}, file)
    assert "a program is made of a tuned CLIP, or of a student (" in message(file)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_class_texts_are_replaced_by_new_class_names(distilled, tmp_path):
    names = "red,green"
    about = export.main(
        ["--model-dir", str(distilled[0]), "--output", str(tmp_path / "s.pt2")]
        + ["--classnames", names]
    )
    model, _ = load_deployed(distilled[0])
    pixels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = model(pixels)
    replace_classes(model.network, make_teacher(), ["red", "green"], prompt_templates(2))
    after = model(pixels)

    assert about["classnames"] == ["red", "green"]
    torch.testing.assert_close(after, before[:, [CLASSES.index("red"), CLASSES.index("green")]])


def test_new_class_names_by_another_text_encoder_are_refused(distilled, tmp_path):
    words = ["--model-dir", str(distilled[0]), "--output", str(tmp_path / "s.pt2")]
    words += ["--classnames", "red", "--text-encoder", "python:test_vl2v_adip:another_teacher"]

    with pytest.raises(ValueError, match="not the one that the student was distilled from"):
        export.main(words)


def another_teacher():
    """Of the same width, with other texts."""
    first = make_teacher()
    return CallableTeacher(first.image_function, lambda t: first.text_function(t).roll(1, dims=1))


def test_learned_heads_take_no_new_class_names():
    student = Student(torch.nn.Flatten(), 12)
    network = StudentClassifier(student, torch.nn.Identity(), torch.nn.Linear(12, 3))

    with pytest.raises(ValueError, match="text head"):
        replace_classes(network, make_teacher(), ["a"], ["{}"])


def test_the_text_head_is_the_scaled_cosine():
    texts = torch.nn.functional.normalize(torch.randn(3, 5), dim=-1)
    rows = torch.randn(4, 5)

    expected = 7.0 * torch.nn.functional.cosine_similarity(rows[:, None], texts[None], dim=-1)
    torch.testing.assert_close(TextHead(texts, 7.0)(rows), expected)


def test_prediction_needs_the_checkpoint_only(distilled):
    from trainers.vl2v_adip import VL2VADiP

    checkpoint = load_checkpoint(str(distilled[0] / "network" / "model-best.pth.tar"))
    predictor = VL2VADiP.load_predictor(checkpoint, torch.device("cpu"))
    pixels = torch.zeros(2, 3, 32, 32)
    pixels[0, 0] = pixels[1, 2] = 0.8

    chosen = predictor(pixels).argmax(dim=-1).tolist()

    assert [predictor.classnames[i] for i in chosen] == ["red", "blue"]


def test_a_student_predicts_on_the_view_that_its_run_was_evaluated_on(domains, tmp_path):
    words = ("INPUT.INTERPOLATION", "bicubic", "STEPS.N", "4")
    step_run(domains, tmp_path, "ERM", *words)
    run = build_trainer(step_config(domains, tmp_path / "again", "ERM", *words))
    checkpoint = load_checkpoint(str(tmp_path / "best"))
    load_network(run.network, checkpoint, tmp_path / "best")
    expected = run.evaluation.logits(run.network.eval(), "test_in")[0].softmax(dim=-1)
    predictor = type(run).load_predictor(checkpoint, torch.device("cpu"))

    images = [read_image(item.impath) for item in run.dm.dataset.test]  # 28 x 24 pixels
    actual = predictor(predictor.pixels(images))

    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_a_clip_teacher_resizes_images_of_another_size():
    from clip import load_backbone

    clip = load_backbone("toy/ViT")
    teacher = ClipTeacher(clip)

    assert teacher.encode_image(torch.randn(2, 3, 48, 48)).shape == (2, clip.visual.output_dim)
