"""Run the commands of README and docs that need no downloads, cut down to seconds each.

python tests/run_pages.py                # all, about 25 minutes on two cores
python tests/run_pages.py dmn report     # those that hold one of these words

Each is run as it stands on its page, in an empty folder that all share, with one seed, one epoch
and what the page assumes to be there: folders of one's own, and runs of earlier commands. CI reads
every command with the parser of its program (tests/docs/test_page_commands.py); this runs them.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support"), str(ROOT / "tests" / "docs")]

from test_page_commands import COMMANDS, OWN_FOLDERS, variables_of  # noqa: E402

from tools.protocols.plan import KEY  # noqa: E402

SHORT = ("OPTIM.MAX_EPOCH", "1", "DATALOADER.TEST.BATCH_SIZE", "1000")
STEPS = ("STEPS.N", "4", "STEPS.FREQ", "2")
SAVED = ("STEPS.MODEL_SAVE", "0")
STAGES = ("TRAINER.VL2V.MODEL_SAVE.ALIGN", "0", "TRAINER.VL2V.MODEL_SAVE.DISTILL", "0")
# what needs data, weights or a program that is not here, takes long by its nature, or never ends
LEFT_OUT = (
    *("/data", "/reliability", "get_data.py", "teacher_", "their_", "NAME", "RUN", "MyMethod"),
    *("open_clip:", "ViT-B", "pacs", "vits", "benchmark.py", "mutants.py", "toy_world/pretrain"),
    *("accept.py", "backbones.py", "path/to", "fuzz.py", "campaign.py", "cache.py clear"),
    *("enhanced-base FILE", "my_photos", "oxford_pets", "layer_analysis.py", "output/fewshot/dtd"),
)
READERS = ("parse_test_res", "measures", "plot_curves", "compare", "report")


def runnable(words: list[str]) -> bool:
    """Whether a command can run here."""
    program, *rest = words[len(variables_of(words)) :]
    is_name = program == "python" and len(rest) == 1 and rest[0].startswith("tools/")
    left_out = is_name or any(part in shlex.join(words) for part in LEFT_OUT)
    return program in ("python", "bash") and not left_out


def reads_runs(name: str) -> bool:
    """Whether a command is about runs of others, and so comes after them."""
    return any(word in name for word in READERS) and "--trainers" not in name


def shortened(words: list[str]) -> list[str]:
    """A command with less to train."""
    text = shlex.join(words)
    trains = "scripts/" in text or "train.py" in text or "protocol.py" in text
    if not trains or "--list" in text:
        return words
    steps = any(word in text for word in ("lodo", "vl2v_adip", "ERM", "MIRO"))
    own = ("--backbone", "toy/ViT") if "my_birds" in text or "class_folder" in text else ()
    keys = SHORT[2:] if "zeroshot" in text else SHORT
    if steps:
        keys = (*STEPS, *(STAGES if "vl2v_adip" in text else SAVED))
    place = next((i for i, word in enumerate(words) if KEY.match(word)), len(words))
    return [*words[:place], *own, *keys, *words[place:]]


def make_own_folders(folder: Path) -> None:
    """Folders and a table of one's own, with images."""
    from PIL import Image

    rows = ["path,label"]
    for name, classes in OWN_FOLDERS.items():
        for place, each in enumerate(classes):
            (folder / name / each).mkdir(parents=True)
            for number in range(40):  # 16 shots and more
                path = folder / name / each / f"{number}.jpg"
                Image.new("RGB", (40, 40), (40 * place, 6 * number, 90)).save(path)
                if name == "my_birds":
                    rows.append(f"{path.relative_to(folder)},{each}")
    (folder / "my_birds.csv").write_text("\n".join(rows), encoding="utf-8")


def is_done(name: str, words: list[str], folder: Path) -> bool:
    """Run a command in the folder and print how it ended."""
    given = variables_of(words)
    command = shortened(words[len(given) :])
    if command[0] == "python":
        command[:2] = [sys.executable, str(ROOT / command[1])]
    else:
        command[1] = str(ROOT / command[1])
    environment = {**os.environ, "SEEDS": "1", "PYTHON": sys.executable, **given}
    environment["VLTUNE_CACHE"] = str(folder / "cache")
    shutil.rmtree(folder / "output" / "mine", ignore_errors=True)  # several pages call theirs so
    start = time.monotonic()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    how = "FAILED" if done.returncode else "ok"
    print(f"{how:<7}{time.monotonic() - start:6.0f} s  {name}", flush=True)
    if done.returncode:
        print("\n".join((done.stdout + done.stderr).splitlines()[-15:]), flush=True)
    return not done.returncode


def main(wanted: list[str]) -> int:
    """Run them; returns how many failed."""
    chosen = {
        name: COMMANDS[name]
        for name in sorted(COMMANDS, key=reads_runs)
        if runnable(COMMANDS[name]) and (not wanted or any(word in name for word in wanted))
    }
    with tempfile.TemporaryDirectory() as text:
        make_own_folders(Path(text))
        done = [is_done(name, words, Path(text)) for name, words in chosen.items()]
    print(f"{sum(done)} of {len(done)} commands ran.")
    return len(done) - sum(done)


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
