"""VL2V-ADiP's steps of 96 images: fp32 against TF32 and float16 autocast, with a ViT-B student."""

from functools import partial

import torch
from torch import nn

from dassl.modeling.heads import StudentClassifier, TextHead, build_student
from tools.benchmarks.gpu._measure import Bench, each, row, start
from tools.benchmarks.mma import build_model
from trainers.common.teachers.teacher import ClipTeacher
from trainers.vl2v_adip import VL2VObjective, VL2VSettings

IMAGES, CLASSES, DIM = 96, 7, 512
STAGES = {"1": "projection", "2": "student"}  # stage -> the part that learns


def compare(bench: Bench, student_name: str, stage: str) -> None:
    """The step in each precision; the baseline is fp32."""
    student = build_student(student_name, pretrained=False)
    texts = nn.functional.normalize(torch.randn(CLASSES, DIM), dim=-1)
    projection = nn.Linear(student.width, DIM)
    network = StudentClassifier(student, projection, TextHead(texts, 100.0)).to(bench.device)
    network.train().train_only(STAGES[stage])
    teacher = ClipTeacher(build_model().to(bench.device))
    objective = VL2VObjective(teacher, weight=VL2VSettings().lambda_)
    images = torch.randn(2 if bench.quick else IMAGES, 3, 224, 224, device=bench.device)
    labels = torch.arange(len(images), device=bench.device) % CLASSES
    optimizer = torch.optim.Adam(network.trained_parameters(), lr=5e-5)
    scaler = torch.amp.GradScaler(bench.device.type, enabled=bench.is_cuda)

    def step(precision: str) -> None:
        optimizer.zero_grad()
        with bench.precision(precision):
            loss = objective(network, images, labels)["loss"]
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    runs = {name: partial(step, name) for name in bench.precisions}
    found = dict(zip(runs, bench.seconds(*runs.values())))
    for name, run in runs.items():
        row(
            f"VL2V-ADiP step, stage {stage}, {student_name}, {len(images)} images",
            found["fp32"],
            found[name],
            precision=name,
            peak_gb=bench.peak_gb(run),
            note="baseline: fp32",
        )


if __name__ == "__main__":
    bench = start()
    students = ("rn50",) if bench.quick else ("vitb", "rn50")
    each(
        bench,
        [
            (f"VL2V-ADiP stage {stage}, {name}", partial(compare, bench, name, stage))
            for name in students
            for stage in STAGES
        ],
    )
