"""Labels videos as a peer's documentation says one does, for ``bench_peers.py``, in a process of its own.

May need another interpreter than ours. Knows nothing of the product but the bundle's networks and where its clips lie.

    python label_peers.py PEER {student,teacher} LIST ANSWERS

LIST holds one path a line, ANSWERS gets ``{path: [label, clips]}``; ``python label_peers.py`` alone prints, as JSON, the version
of each peer that can be imported here, or why it cannot.

- ``plain``: a process per core, each with its part of the list and one loop: decode, batches of 16 clips, network. Fewer
  processes than the others have would spend less CPU time on the same work: cores that share units slow one another down.
- ``ray``: ``flat_map`` from paths to clips, then ``map_batches`` with a class in a pool of actors, batches of 16. As many
  actors as cores and as many tasks that decode, each asking for half a core, so that no core waits for the other kind; where
  every actor asks for a whole one, nothing is left to decode with and Ray waits for ever.
- ``daft``: a generator function from paths to clips, then a class with a batch method, batches of 16, on the native runner.

No peer reads frames by itself here: Ray's ``read_videos`` and Daft's ``read_video_frames`` make a row of every frame, at one
size and in no clips, which takes more, not less.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from peer_clips import CLIPS_PER_BATCH, Answers, ClipModel, Pixels, Which, clip_geometry, read_clips

OBJECT_STORE_BYTES = 2**30
BLOCKS_PER_CORE = 4
MODULES = {"plain": "av", "ray": "ray", "daft": "daft"}


def main() -> None:
    if len(sys.argv) == 1:
        print(json.dumps(versions()))
        return
    peer, which, listed, answers = sys.argv[1:]
    paths = Path(listed).read_text(encoding="utf-8").splitlines()
    label = {"plain": label_plainly, "ray": label_with_ray, "daft": label_with_daft}[peer]
    Path(answers).write_text(label(paths, "student" if which == "student" else "teacher").to_json(), encoding="utf-8")


def versions() -> dict[str, dict[str, str]]:
    """Return what can be imported and what cannot, by peer."""
    found: dict[str, str] = {}
    missing: dict[str, str] = {}
    for peer, module in MODULES.items():
        try:
            found[peer] = importlib.import_module(module).__version__
        except (ImportError, OSError) as error:
            missing[peer] = str(error).splitlines()[0]
    return {"found": found, "missing": missing}


def label_plainly(paths: list[str], which: Which) -> Answers:
    cores = len(os.sched_getaffinity(0))
    parts = [paths[first::cores] for first in range(cores)]
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as processes:
        return Answers.of(processes.map(partial(label_in_a_loop, which=which), parts))


def label_in_a_loop(paths: list[str], which: Which) -> Answers:
    model, answers = ClipModel(which), Answers()
    clips = ((path, clip) for path in paths for clip in read_clips(path, which))
    while batch := list(islice(clips, CLIPS_PER_BATCH)):
        answers.add([path for path, _ in batch], model.probabilities(np.stack([clip for _, clip in batch])))
    return answers


def label_with_ray(paths: list[str], which: Which) -> Answers:
    import ray

    class Model(ClipModel):
        def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {"path": batch["path"], "probabilities": self.probabilities(batch["pixels"])}

    def decode(row: dict[str, str]) -> Iterator[dict[str, object]]:
        for clip in read_clips(row["path"], which):
            yield {"path": row["path"], "pixels": clip}

    cores = len(os.sched_getaffinity(0))
    ray.init(
        num_cpus=cores,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level="ERROR",
        _node_ip_address="127.0.0.1",
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    blocks = min(len(paths), BLOCKS_PER_CORE * cores)
    labeled = (
        ray.data.from_items([{"path": path} for path in paths], override_num_blocks=blocks)
        .flat_map(decode, num_cpus=0.5)
        .map_batches(
            Model,
            fn_constructor_args=(which,),
            batch_size=CLIPS_PER_BATCH,
            compute=ray.data.ActorPoolStrategy(size=cores),
            num_cpus=0.5,
        )
    )
    answers = Answers()
    for batch in labeled.iter_batches(batch_size=None):
        answers.add(batch["path"], batch["probabilities"])
    ray.shutdown()
    return answers


def label_with_daft(paths: list[str], which: Which) -> Answers:
    import daft

    geometry = clip_geometry(which)
    pixels = daft.DataType.tensor(daft.DataType.uint8(), (geometry.frames, 3, geometry.height, geometry.width))

    @daft.func(return_dtype=pixels)
    def decode(path: str) -> Iterator[Pixels]:
        yield from read_clips(path, which)

    @daft.cls
    class Model(ClipModel):
        @daft.method.batch(return_dtype=daft.DataType.list(daft.DataType.float32()), batch_size=CLIPS_PER_BATCH)
        def __call__(self, pixels: daft.Series) -> list[np.ndarray]:
            return list(self.probabilities(np.stack(pixels.to_pylist())))

    daft.set_runner_native()
    model = Model(which)
    clips = daft.from_pydict({"path": paths}).select("path", decode(daft.col("path")).alias("pixels"))
    labeled = clips.select("path", model(daft.col("pixels")).alias("probabilities")).to_pydict()
    answers = Answers()
    answers.add(labeled["path"], labeled["probabilities"])
    return answers


if __name__ == "__main__":
    main()
